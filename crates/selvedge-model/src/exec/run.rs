//! Running a plan's operations on one block of images, forward and backward.

use std::ops::Range;

use selvedge_compute::activation;
use selvedge_compute::aligned::{view, view_mut};
use selvedge_compute::conv::Accumulate;
use selvedge_compute::dropout::{self, DropoutMask};
use selvedge_compute::simd::Element;
use selvedge_compute::{BlockShape, Cpu, pool, sum};

use crate::exec::input_norm::InputNorm;
use crate::exec::norms::Norms;
use crate::params::ParamEntry;
use crate::plan::{Dropout, Op, Plan, ValueId};
use selvedge_compute::partition::{RowPartition, Rows, elementwise, rows_of};

/// What operations read beside the block's arena.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    pub cpu: Cpu,
    pub plan: &'a Plan,
    /// Where each parameter lies.
    pub entries: &'a [ParamEntry],
    /// [`crate::Params::values`].
    pub params: &'a [f32],
    /// The weights as passes read them that cannot read the parameters.
    pub packed: &'a [u8],
    /// Where each parameter's gradient lies in a group's sums.
    pub sum_ranges: &'a [Range<usize>],
    pub norms: &'a Norms,
    /// Into how many pieces large layers cut a block: for threads that would have no block.
    pub pieces: usize,
    /// Whether this is a training pass, and the key of its dropout masks.
    pub training: Option<u32>,
}

impl<'a> Context<'a> {
    pub(crate) fn param(&self, index: usize) -> &'a [f32] {
        &self.params[self.entries[index].range.clone()]
    }

    pub(crate) fn data(&self, id: ValueId) -> &'a Range<usize> {
        &self.plan.values[id].data
    }

    pub(crate) fn grad(&self, id: ValueId) -> &'a Range<usize> {
        &self.plan.values[id].grad
    }

    /// The mask of a dropout layer in a training pass.
    pub(crate) fn mask(&self, dropout: Dropout, block: &Block<'_>) -> Option<DropoutMask> {
        let Dropout { rate, key } = dropout;
        // The operation's key is spread, so that masks of neighbouring steps and operations have nothing in common.
        let mask = |step: u32| DropoutMask {
            key: step ^ (key + 1).wrapping_mul(0x9e37_79b9),
            first_image: block.first_image as u64,
            rate,
        };
        self.training.map(mask)
    }
}

/// The memory of one block, where the plan's places lie ([`Plan::place`]).
pub(crate) struct Arenas<'a> {
    /// The block's own, for what is needed beyond a phase.
    pub block: &'a mut [u8],
    /// That of the worker that has the block; its places begin where the other's end.
    pub worker: &'a mut [u8],
}

impl Arenas<'_> {
    /// The memory at a place.
    pub(crate) fn at(&self, place: &Range<usize>) -> &[u8] {
        match place.start.checked_sub(self.block.len()) {
            Some(start) => &self.worker[start..][..place.len()],
            None => &self.block[place.clone()],
        }
    }

    /// The memory at `reads`, and at `writes`, which overlap with nothing.
    pub(crate) fn split<'a, const READS: usize, const WRITES: usize>(
        &'a mut self,
        reads: [&Range<usize>; READS],
        writes: [&Range<usize>; WRITES],
    ) -> ([&'a [u8]; READS], [&'a mut [u8]; WRITES]) {
        // The writes in ascending order cut both arenas into pieces; a read lies within one of those between.
        let mut order: [usize; WRITES] = std::array::from_fn(|i| i);
        order.sort_unstable_by_key(|&i| (writes[i].start, writes[i].end));
        let mut found_reads: [&'a [u8]; READS] = [&[]; READS];
        let mut found_writes: [&'a mut [u8]; WRITES] = std::array::from_fn(|_| Default::default());
        let end = self.block.len();
        let (of_block, of_worker) = order.split_at(order.partition_point(|&i| writes[i].start < end));
        for (arena, mut at, order) in [(&mut *self.block, 0, of_block), (&mut *self.worker, end, of_worker)] {
            let mut rest = arena;
            for &i in order {
                let (before, from) = rest.split_at_mut(writes[i].start - at);
                take_reads(before, at, &reads, &mut found_reads);
                let (write, after) = from.split_at_mut(writes[i].len());
                found_writes[i] = write;
                (rest, at) = (after, writes[i].end);
            }
            take_reads(rest, at, &reads, &mut found_reads);
        }
        for (read, found) in reads.iter().zip(&found_reads) {
            assert_eq!(
                read.len(),
                found.len(),
                "the place {read:?} of a plan overlaps with what is written, {writes:?}"
            );
        }
        (found_reads, found_writes)
    }
}

fn take_reads<'a, const READS: usize>(
    piece: &'a [u8],
    at: usize,
    reads: &[&Range<usize>; READS],
    found: &mut [&'a [u8]; READS],
) {
    for (read, found) in reads.iter().zip(found) {
        if read.start >= at && read.end <= at + piece.len() {
            *found = &piece[read.start - at..read.end - at];
        }
    }
}

/// One block of a batch.
pub(crate) struct Block<'a> {
    pub arenas: Arenas<'a>,
    /// The number of the block's first image in the batch.
    pub first_image: usize,
    /// Images that carry data.
    pub valid: usize,
}

/// A group's sums of gradients.
pub(crate) struct GroupSums<'a> {
    pub sums: &'a mut [f32],
    /// What the gradients of weights are added to: nothing for the group's first block. Those of bias and shift, and of weights
    /// next to the input ([`Op::adds_to_sums`]), are always added to what the sums hold.
    pub accumulate: Accumulate,
}

/// Runs operation `op` forward on `block`; activations are stored as `E`.
pub(crate) fn forward<E: Element>(ctx: &Context<'_>, op: &Op, block: &mut Block<'_>) {
    let cpu = ctx.cpu;
    match op {
        Op::Conv(conv) => crate::exec::conv::forward(ctx, conv, block),
        Op::ConvNorm(layer) => ctx.norms.input().forward(ctx, layer, block),
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
            elementwise(ctx.pieces, [x], y, |[x], y| activation::forward::<E>(cpu, *kind, view(x), view_mut(y)));
        }
        Op::MaxPool { shape, x, y, indices } => {
            let ([x], [y, indices]) = block.arenas.split([ctx.data(*x)], [ctx.data(*y), indices]);
            let output = shape.output();
            let cut = RowPartition::of_bytes(output.height, ctx.pieces, x.len() + y.len());
            let indices = ctx.training.map(|_| Rows::of(&output, view_mut(indices)));
            let tensors = (Rows::of(&output, view_mut::<E>(y)), indices);
            cut.for_each(tensors, |rows, (y, indices)| {
                pool::max_forward(cpu, shape, rows, view(x), y.data, indices.map(|indices| indices.data));
            });
        }
        Op::AvgPool { shape, x, y } => {
            let ([x], [y]) = block.arenas.split([ctx.data(*x)], [ctx.data(*y)]);
            let output = shape.output();
            let cut = RowPartition::of_bytes(output.height, ctx.pieces, x.len() + y.len());
            cut.for_each(Rows::of(&output, view_mut::<E>(y)), |rows, y| {
                pool::average_forward(cpu, shape, rows, view(x), y.data)
            });
        }
        Op::Norm { norm, pool, shortcut, x, y, .. } => {
            ctx.norms.forward::<E>(ctx, *norm, pool.as_ref(), *shortcut, [*x, *y], block);
        }
        Op::Dropout { dropout, x, y } => {
            let shape = &ctx.plan.values[*x].shape;
            let mask = ctx.mask(*dropout, block);
            let ([x], [y]) = block.arenas.split([ctx.data(*x)], [ctx.data(*y)]);
            match mask {
                Some(mask) => apply_dropout::<E>(ctx, shape, &mask, x, y),
                None => elementwise(ctx.pieces, [x], y, |[x], y| y.copy_from_slice(x)),
            }
        }
        Op::Fork { .. } => {}
        Op::Add { shortcut, body, y } => {
            let ([a, b], [y]) = block.arenas.split([ctx.data(*shortcut), ctx.data(*body)], [ctx.data(*y)]);
            elementwise(ctx.pieces, [a, b], y, |[a, b], y| sum::add::<E>(cpu, view(a), view(b), view_mut(y)));
        }
    }
}

/// Dropout of a whole tensor, forward or backward.
fn apply_dropout<E: Element>(ctx: &Context<'_>, shape: &BlockShape, mask: &DropoutMask, x: &[u8], y: &mut [u8]) {
    let cut = RowPartition::of_bytes(shape.height, ctx.pieces, x.len() + y.len());
    cut.for_each(Rows::of(shape, view_mut::<E>(y)), |rows, y| {
        let x = rows_of(shape, view(x), &rows);
        dropout::apply(ctx.cpu, shape, rows, mask, x, y.data);
    });
}

/// Runs operation `op` backward on `block`: the gradient of its input from that of its output. Gradients of weights
/// that each group sums apart are added to `sums`.
pub(crate) fn backward<E: Element>(ctx: &Context<'_>, op: &Op, block: &mut Block<'_>, sums: GroupSums<'_>) {
    let cpu = ctx.cpu;
    // The network's input has no gradient, and only a convolution there has others to compute.
    if ctx.grad(op.ends().0).is_empty() && !matches!(op, Op::Conv(_) | Op::ConvNorm(_)) {
        return;
    }
    match op {
        Op::Conv(conv) => crate::exec::conv::backward(ctx, conv, block, sums),
        Op::ConvNorm(layer) => InputNorm::backward(ctx, layer, block, sums),
        Op::Round { .. } => {}
        // The gradient of logits is stored as any other.
        Op::Widen { x, y } => {
            let ([dy], [dx]) = block.arenas.split([ctx.grad(*y)], [ctx.grad(*x)]);
            dx.copy_from_slice(dy);
        }
        Op::Activate { kind, x, y } => {
            let ([x, dy], [dx]) = block.arenas.split([ctx.data(*x), ctx.grad(*y)], [ctx.grad(*x)]);
            elementwise(ctx.pieces, [x, dy], dx, |[x, dy], dx| {
                activation::backward::<E>(cpu, *kind, view(x), view(dy), view_mut(dx));
            });
        }
        Op::MaxPool { shape, x, y, indices } => {
            let ([dy, indices], [dx]) = block.arenas.split([ctx.grad(*y), indices], [ctx.grad(*x)]);
            let input = shape.input();
            let cut = RowPartition::of_bytes(input.height, ctx.pieces, dx.len() + dy.len());
            cut.for_each(Rows::of(&input, view_mut::<E>(dx)), |rows, dx| {
                pool::max_backward(cpu, shape, rows, view(dy), view(indices), dx.data)
            });
        }
        Op::AvgPool { shape, x, y } => {
            let ([dy], [dx]) = block.arenas.split([ctx.grad(*y)], [ctx.grad(*x)]);
            let input = shape.input();
            let cut = RowPartition::of_bytes(input.height, ctx.pieces, dx.len() + dy.len());
            cut.for_each(Rows::of(&input, view_mut::<E>(dx)), |rows, dx| {
                pool::average_backward(cpu, shape, rows, view(dy), dx.data)
            });
        }
        Op::Norm { norm, pool, x, y, .. } => ctx.norms.backward::<E>(ctx, *norm, pool.as_ref(), [*x, *y], block),
        Op::Dropout { dropout, x, y } => {
            let shape = &ctx.plan.values[*x].shape;
            let mask = ctx.mask(*dropout, block).expect("only training passes run backward");
            let ([dy], [dx]) = block.arenas.split([ctx.grad(*y)], [ctx.grad(*x)]);
            apply_dropout::<E>(ctx, shape, &mask, dy, dx);
        }
        Op::Fork { x, body, sum } => {
            let ([a, b], [dx]) = block.arenas.split([ctx.grad(*body), ctx.grad(*sum)], [ctx.grad(*x)]);
            elementwise(ctx.pieces, [a, b], dx, |[a, b], dx| sum::add::<E>(cpu, view(a), view(b), view_mut(dx)));
        }
        Op::Add { body, y, .. } => {
            // A copy, since what follows changes the body's gradient, and the fork still needs the sum's.
            let ([dy], [dx]) = block.arenas.split([ctx.grad(*y)], [ctx.grad(*body)]);
            elementwise(ctx.pieces, [dy], dx, |[dy], dx| dx.copy_from_slice(dy));
        }
    }
}
