//! The operations of a plan on one block of images, forward and backward.
//!
//! Each arm hands its operation to the module that has its passes, or to a kernel.

use selvedge_compute::activation;
use selvedge_compute::aligned::{view, view_mut};
use selvedge_compute::dropout::{self, DropoutMask};
use selvedge_compute::partition::{RowPartition, Rows, elementwise, rows_of};
use selvedge_compute::pool::{average_max, generalized_mean};
use selvedge_compute::simd::Element;
use selvedge_compute::{BlockShape, gate, pool, stochastic_depth, sum};

use crate::exec::block::Block;
use crate::exec::context::Context;
use crate::exec::gradients::GroupSums;
use crate::exec::{conv, conv_norm, norm};
use crate::plan::Op;

/// Runs operation `op` forward on `block`; activations are stored as `E`.
pub(crate) fn forward<E: Element>(ctx: &Context<'_>, op: &Op, block: &mut Block<'_>) {
    let cpu = ctx.cpu;
    match op {
        Op::Conv(conv) => conv::forward(ctx, conv, block),
        Op::ConvNorm(layer) => conv_norm::forward(ctx, layer, block),
        Op::Round { x, y } => {
            let ([x], [y]) = block.arenas.split([ctx.data(*x)], [ctx.data(*y)]);
            sum::convert::<f32, E>(cpu, view(x), view_mut(y));
        }
        Op::Widen { x, y } => {
            let ([x], [y]) = block.arenas.split([ctx.data(*x)], [ctx.data(*y)]);
            sum::convert::<E, f32>(cpu, view(x), view_mut(y));
        }
        Op::Activate { kind, x, y } => {
            let ([x], [y]) = block.arenas.split([ctx.data(*x)], [ctx.data(*y)]);
            elementwise(ctx.chunks, [x], y, |[x], y| activation::forward::<E>(cpu, *kind, view(x), view_mut(y)));
        }
        Op::MaxPool { shape, x, y, indices } => {
            let ([x], [y, indices]) = block.arenas.split([ctx.data(*x)], [ctx.data(*y), indices]);
            let output = shape.output();
            let partition = RowPartition::of_bytes(output.height, ctx.chunks, x.len() + y.len());
            let indices = ctx.training.map(|_| Rows::of(&output, view_mut(indices)));
            let tensors = (Rows::of(&output, view_mut::<E>(y)), indices);
            partition.for_each(tensors, |rows, (y, indices)| {
                pool::max_forward(cpu, shape, rows, view(x), y.data, indices.map(|indices| indices.data));
            });
        }
        Op::AvgPool { shape, x, y } => {
            let ([x], [y]) = block.arenas.split([ctx.data(*x)], [ctx.data(*y)]);
            let output = shape.output();
            let partition = RowPartition::of_bytes(output.height, ctx.chunks, x.len() + y.len());
            partition.for_each(Rows::of(&output, view_mut::<E>(y)), |rows, y| {
                pool::average_forward(cpu, shape, rows, view(x), y.data)
            });
        }
        Op::AvgMaxPool { x, y, indices } => {
            let shape = &ctx.plan.values[*x].shape;
            let ([x], [y, indices]) = block.arenas.split([ctx.data(*x)], [ctx.data(*y), indices]);
            let indices = ctx.training.map(|_| view_mut(indices));
            average_max::forward::<E>(cpu, shape, view(x), view_mut(y), indices);
        }
        Op::GemPool { p, x, y } => {
            let shape = &ctx.plan.values[*x].shape;
            let ([x], [y]) = block.arenas.split([ctx.data(*x)], [ctx.data(*y)]);
            generalized_mean::forward::<E>(cpu, shape, *p, view(x), view_mut(y));
        }
        Op::Gate { x, z, y } => {
            let shape = &ctx.plan.values[*x].shape;
            let ([x, z], [y]) = block.arenas.split([ctx.data(*x), ctx.data(*z)], [ctx.data(*y)]);
            apply_gate::<E>(ctx, shape, [x, z], y);
        }
        Op::Norm(layer) => norm::forward::<E>(ctx, layer, block),
        Op::Dropout { dropout, x, y } => {
            let shape = &ctx.plan.values[*x].shape;
            let mask = ctx.mask(*dropout, block);
            let ([x], [y]) = block.arenas.split([ctx.data(*x)], [ctx.data(*y)]);
            match mask {
                Some(mask) => apply_dropout::<E>(ctx, shape, &mask, x, y),
                None => elementwise(ctx.chunks, [x], y, |[x], y| y.copy_from_slice(x)),
            }
        }
        Op::Fork { .. } => {}
        Op::Add { shortcut, body, y, drop } => {
            let plane = ctx.plan.values[*y].shape.plane();
            let mask = drop.and_then(|drop| ctx.mask(drop, block));
            let ([a, b], [y]) = block.arenas.split([ctx.data(*shortcut), ctx.data(*body)], [ctx.data(*y)]);
            elementwise(ctx.chunks, [a, b], y, |[a, b], y| match &mask {
                Some(mask) => stochastic_depth::add::<E>(cpu, plane, mask, [view(a), view(b)], view_mut(y)),
                None => sum::add::<E>(cpu, view(a), view(b), view_mut(y)),
            });
        }
    }
}

/// x·sigmoid(z), or the gradient of x from that of the result.
fn apply_gate<E: Element>(ctx: &Context<'_>, shape: &BlockShape, [x, z]: [&[u8]; 2], y: &mut [u8]) {
    let partition = RowPartition::of_bytes(shape.height, ctx.chunks, x.len() + y.len());
    partition.for_each(Rows::of(shape, view_mut::<E>(y)), |rows, y| {
        let x = rows_of(shape, view(x), &rows);
        gate::apply(ctx.cpu, shape, rows, x, view(z), y.data);
    });
}

/// Dropout of a whole tensor, forward or backward.
fn apply_dropout<E: Element>(ctx: &Context<'_>, shape: &BlockShape, mask: &DropoutMask, x: &[u8], y: &mut [u8]) {
    let partition = RowPartition::of_bytes(shape.height, ctx.chunks, x.len() + y.len());
    partition.for_each(Rows::of(shape, view_mut::<E>(y)), |rows, y| {
        let x = rows_of(shape, view(x), &rows);
        dropout::apply(ctx.cpu, shape, rows, mask, x, y.data);
    });
}

/// Runs operation `op` backward on `block`: computes the gradient of its input from that of its output. Gradients of weights
/// that each group of blocks sums on its own go to `sums`.
pub(crate) fn backward<E: Element>(ctx: &Context<'_>, op: &Op, block: &mut Block<'_>, sums: GroupSums<'_>) {
    let cpu = ctx.cpu;
    // The network's input has no gradient. A convolution that reads it has gradients of weights.
    if ctx.grad(op.ends().0).is_empty() && !matches!(op, Op::Conv(_) | Op::ConvNorm(_)) {
        return;
    }
    match op {
        Op::Conv(conv) => conv::backward(ctx, conv, block, sums),
        Op::ConvNorm(layer) => conv_norm::backward(ctx, layer, block, sums),
        Op::Round { .. } => {}
        // The gradient of the logits has the precision of the other values.
        Op::Widen { x, y } => {
            let ([dy], [dx]) = block.arenas.split([ctx.grad(*y)], [ctx.grad(*x)]);
            dx.copy_from_slice(dy);
        }
        Op::Activate { kind, x, y } => {
            let ([x, dy], [dx]) = block.arenas.split([ctx.data(*x), ctx.grad(*y)], [ctx.grad(*x)]);
            elementwise(ctx.chunks, [x, dy], dx, |[x, dy], dx| {
                activation::backward::<E>(cpu, *kind, view(x), view(dy), view_mut(dx));
            });
        }
        Op::MaxPool { shape, x, y, indices } => {
            let ([dy, indices], [dx]) = block.arenas.split([ctx.grad(*y), indices], [ctx.grad(*x)]);
            let input = shape.input();
            let partition = RowPartition::of_bytes(input.height, ctx.chunks, dx.len() + dy.len());
            partition.for_each(Rows::of(&input, view_mut::<E>(dx)), |rows, dx| {
                pool::max_backward(cpu, shape, rows, view(dy), view(indices), dx.data)
            });
        }
        Op::AvgPool { shape, x, y } => {
            let ([dy], [dx]) = block.arenas.split([ctx.grad(*y)], [ctx.grad(*x)]);
            let input = shape.input();
            let partition = RowPartition::of_bytes(input.height, ctx.chunks, dx.len() + dy.len());
            partition.for_each(Rows::of(&input, view_mut::<E>(dx)), |rows, dx| {
                pool::average_backward(cpu, shape, rows, view(dy), dx.data)
            });
        }
        Op::AvgMaxPool { x, y, indices } => {
            let shape = &ctx.plan.values[*x].shape;
            let ([dy, indices], [dx]) = block.arenas.split([ctx.grad(*y), indices], [ctx.grad(*x)]);
            let partition = RowPartition::of_bytes(shape.height, ctx.chunks, dx.len() + dy.len());
            partition.for_each(Rows::of(shape, view_mut::<E>(dx)), |rows, dx| {
                average_max::backward(cpu, shape, rows, view(dy), view(indices), dx.data);
            });
        }
        Op::GemPool { p, x, y } => {
            let shape = &ctx.plan.values[*x].shape;
            let ([x, y, dy], [dx]) = block.arenas.split([ctx.data(*x), ctx.data(*y), ctx.grad(*y)], [ctx.grad(*x)]);
            let partition = RowPartition::of_bytes(shape.height, ctx.chunks, x.len() + dx.len());
            partition.for_each(Rows::of(shape, view_mut::<E>(dx)), |rows, dx| {
                generalized_mean::backward(cpu, shape, rows, *p, view(x), [view(y), view(dy)], dx.data);
            });
        }
        Op::Gate { x, z, y } => {
            let shape = &ctx.plan.values[*x].shape;
            let reads = [ctx.data(*x), ctx.data(*z), ctx.grad(*y)];
            let ([x, z, dy], [dx, dz]) = block.arenas.split(reads, [ctx.grad(*x), ctx.grad(*z)]);
            apply_gate::<E>(ctx, shape, [dy, z], dx);
            let plane = shape.plane_len();
            let partition = RowPartition::of_bytes(shape.pixel() / plane, ctx.chunks, x.len() + dy.len());
            partition.for_each(Rows { data: view_mut::<E>(dz), row: plane }, |planes, dz| {
                let elements = planes.start * plane..planes.end * plane;
                let z = &view(z)[elements.clone()];
                gate::gradient(cpu, shape, elements, [view(x), view(dy)], z, dz.data);
            });
        }
        Op::Norm(layer) => norm::backward::<E>(ctx, layer, block),
        Op::Dropout { dropout, x, y } => {
            let shape = &ctx.plan.values[*x].shape;
            let mask = ctx.mask(*dropout, block).expect("only training passes run backward");
            let ([dy], [dx]) = block.arenas.split([ctx.grad(*y)], [ctx.grad(*x)]);
            apply_dropout::<E>(ctx, shape, &mask, dy, dx);
        }
        Op::Fork { x, body, other } => {
            let ([a, b], [dx]) = block.arenas.split([ctx.grad(*body), ctx.grad(*other)], [ctx.grad(*x)]);
            elementwise(ctx.chunks, [a, b], dx, |[a, b], dx| sum::add::<E>(cpu, view(a), view(b), view_mut(dx)));
        }
        Op::Add { body, y, drop, .. } => {
            let plane = ctx.plan.values[*y].shape.plane();
            let mask = drop.and_then(|drop| ctx.mask(drop, block));
            // A copy: the passes of the body change its gradient in place, and the fork still needs that of the sum.
            let ([dy], [dx]) = block.arenas.split([ctx.grad(*y)], [ctx.grad(*body)]);
            elementwise(ctx.chunks, [dy], dx, |[dy], dx| match &mask {
                Some(mask) => stochastic_depth::body_gradient::<E>(cpu, plane, mask, view(dy), view_mut(dx)),
                None => dx.copy_from_slice(dy),
            });
        }
    }
}

/// Writes the statistics of `block` that the forward pass of operation `op` needs of all blocks into the block's arena.
pub(crate) fn moments<E: Element>(ctx: &Context<'_>, op: &Op, block: &mut Block<'_>) {
    match op {
        Op::Norm(layer) => norm::moments::<E>(ctx, layer, block),
        Op::ConvNorm(layer) => conv_norm::patch_sums(ctx, layer, block),
        _ => unreachable!("the phases of a plan have moments of normalisations alone"),
    }
}

/// Writes the sums of `block` that the backward pass of operation `op` needs of all blocks into the block's arena.
pub(crate) fn gradient_sums<E: Element>(ctx: &Context<'_>, op: &Op, block: &mut Block<'_>) {
    match op {
        Op::Norm(layer) => norm::gradient_sums::<E>(ctx, layer, block),
        _ => unreachable!("the phases of a plan have gradient sums of normalisations alone"),
    }
}
