//! Convolutions and dense layers of a plan, in either precision.
//!
//! In f32 3x3 weights are transformed once a step for Winograd's algorithm; the forward pass of others reads the parameters as
//! they lie. In bf16 all but a layer next to the input that is not of the usual form ([`patches`]) runs on AMX, and weights are
//! packed once a step. For the gradient of the weights x and dy are repacked, but for Winograd's algorithm.

use std::ops::Range;

use selvedge_compute::activation::{self, Activation};
use selvedge_compute::aligned::{view, view_mut};
use selvedge_compute::conv::first_layer::patches;
use selvedge_compute::conv::tiles::repack;
use selvedge_compute::conv::winograd::{Share, Winograd};
use selvedge_compute::conv::{
    self, Accumulate, Blocks, Conv2dShape, ConvElement, Epilogue, PANEL, Part, Training, pack, row_buffers,
};
use selvedge_compute::simd::Element;
use selvedge_compute::{BLOCK, Cpu, Precision, bf16, pool, scratch};

use crate::exec::cut::{RowCut, Rows, elementwise};
use crate::exec::pieces::{self, Piece};
use crate::exec::run::{Block, Context, GroupSums};
use crate::plan::{Conv, Plan, WeightGradient};

/// A form of the weights that passes read, or a part of it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Form {
    /// For [`patches`].
    Windows,
    /// Rounded to bf16, from this element on.
    Rounded { first: usize },
    /// This panel, for Winograd's algorithm.
    Transformed { winograd: Winograd, panel: usize },
    /// This panel, transposed for the backward pass.
    Transposed { panel: usize },
}

/// The pieces of the network's buffer of packed weights that belong to a layer, in bytes.
pub(crate) fn packed_pieces(conv: &Conv) -> impl Iterator<Item = Piece<Form>> {
    const PIECE: usize = 8192;
    let (shape, bytes) = (&conv.shape, conv.precision.bytes());
    let (len, forward, windows) = (conv.packed.len(), conv.winograd.forward, conv.reads_windows());
    let len = match forward {
        Some(_) => len / shape.panels(),
        None if windows => len,
        None => PIECE * bytes,
    };
    let packed = move |number| match forward {
        Some(winograd) => Form::Transformed { winograd, panel: number },
        None if windows => Form::Windows,
        None => Form::Rounded { first: number * PIECE },
    };
    let panel = conv.transposed.len() / shape.input.channel_stride.div_ceil(PANEL);
    let transposed = pieces::cut(conv.transposed.clone(), panel, |panel| Form::Transposed { panel });
    pieces::cut(conv.packed.clone(), len, packed).chain(transposed)
}

/// Writes one of [`packed_pieces`].
pub(crate) fn pack(cpu: Cpu, conv: &Conv, form: Form, panels: &[f32], to: &mut [u8]) {
    let shape = &conv.shape;
    match (form, conv.precision) {
        (Form::Windows, _) => patches::pack(cpu, shape, panels, view_mut(to)),
        (Form::Rounded { first }, _) => {
            let to = view_mut::<bf16>(to);
            repack::to_bf16(cpu, &panels[first..first + to.len()], to);
        }
        (Form::Transformed { winograd, panel }, _) => {
            let panel = &panels[panel * shape.panel_len()..][..shape.panel_len()];
            winograd.transform_weights(cpu, panel, view_mut(to));
        }
        (Form::Transposed { panel }, Precision::Bf16) => {
            repack::transpose_to_bf16(cpu, shape, panels, panel, view_mut(to));
        }
        (Form::Transposed { panel }, Precision::F32) => match conv.winograd.backward {
            Some(winograd) => winograd.transpose_weights(cpu, panels, panel, view_mut(to)),
            None => pack::transpose_panel(shape, panels, panel, view_mut(to)),
        },
    }
}

/// The forward pass of one block.
pub(crate) fn forward<E: Element>(ctx: &Context<'_>, conv: &Conv, block: &mut Block<'_>) {
    // Logits are f32 in either precision.
    if conv.y == ctx.plan.logits { forward_to::<f32>(ctx, conv, block) } else { forward_to::<E>(ctx, conv, block) }
}

fn forward_to<Y: Element>(ctx: &Context<'_>, conv: &Conv, block: &mut Block<'_>) {
    let Conv { shape, weight, bias, relu, pool, x, y, .. } = conv;
    let (cpu, weights, bias) = (ctx.cpu, ctx.param(*weight), bias.map(|bias| ctx.param(bias)));
    let packed = &ctx.packed[conv.packed.clone()];
    // What images that are not there leave behind, a backward pass would multiply by zero, which is no help against NaN.
    let images = if ctx.training.is_some() { BLOCK } else { block.valid };
    let share = Share { images, pieces: pieces(ctx.pieces, conv, images) };
    let (x, y) = (ctx.data(*x), ctx.data(*y));
    match pool {
        Some(pool) => {
            let (pooled, window) = (pool.shape.output(), pool.window);
            let mask = pool.dropout.and_then(|dropout| ctx.mask(dropout, block));
            let ([x], [y, indices]) = block.arenas.split([x], [y, &pool.indices]);
            let (y, indices) = (view_mut::<Y>(y), view_mut::<u16>(indices));
            if let Some(winograd) = conv.winograd.forward {
                let training = ctx.training.map(|_| Training { indices, dropout: mask.as_ref() });
                return winograd.forward_pooled(cpu, window, view(x), view(packed), bias, share, y, training);
            }
            let indices = ctx.training.map(|_| Rows::of(&pooled, indices));
            RowCut::new(pooled.height, share.pieces).for_each((Rows::of(&pooled, y), indices), |rows, (y, indices)| {
                let training = indices.map(|indices| Training { indices: indices.data, dropout: mask.as_ref() });
                let (part, y) = (Part { rows, images }, y.data);
                match conv.precision {
                    Precision::Bf16 if conv.reads_windows() => {
                        patches::forward(cpu, shape, view(x), view(packed), bias, part, y, training);
                    }
                    Precision::Bf16 => {
                        conv::tiles::forward_pooled(cpu, shape, window, view(x), view(packed), bias, part, y, training);
                    }
                    Precision::F32 if pool.is_first_layer => {
                        conv::first_layer::forward_pooled(cpu, shape, view(x), weights, bias, part, y, training);
                    }
                    Precision::F32 => {
                        conv::direct::forward_pooled(cpu, shape, window, view(x), weights, bias, part, y, training);
                    }
                }
            });
        }
        None => {
            let ([x], [y]) = block.arenas.split([x], [y]);
            let (y, epilogue) = (view_mut::<Y>(y), Epilogue { bias, relu: *relu });
            if let Some(winograd) = conv.winograd.forward {
                return winograd.forward(cpu, view(x), view(packed), epilogue, share, y);
            }
            RowCut::new(shape.output.height, share.pieces).for_each(Rows::of(&shape.output, y), |rows, y| {
                let (part, y) = (Part { rows, images }, y.data);
                match conv.precision {
                    Precision::Bf16 => conv::tiles::forward(cpu, shape, view(x), view(packed), epilogue, part, y),
                    Precision::F32 => conv::direct::forward(cpu, shape, view(x), weights, epilogue, part, y),
                }
            });
        }
    }
}

/// In how many pieces the results of a block are to be computed: `most` if each is worth it.
fn pieces(most: usize, conv: &Conv, images: usize) -> usize {
    // To wake another thread takes some tens of microseconds: a piece has to be worth a hundred.
    let multiply_adds = conv.winograd.backward.map_or(conv.shape.multiply_adds(), |winograd| winograd.multiply_adds());
    let least = match conv.precision {
        Precision::F32 => 8 << 20,
        Precision::Bf16 => 64 << 20,
    };
    most.min(multiply_adds * images / least).max(1)
}

/// The backward pass of one block. Gradients that each group sums apart are added to `sums`.
pub(crate) fn backward<E: Element>(ctx: &Context<'_>, conv: &Conv, block: &mut Block<'_>, sums: GroupSums<'_>) {
    let GroupSums { sums, accumulate } = sums;
    let (cpu, shape) = (ctx.cpu, &conv.shape);
    let dropout = conv.pool.as_ref().and_then(|pool| pool.dropout);
    let scale = dropout.and_then(|dropout| ctx.mask(dropout, block)).map_or(1.0, |mask| mask.scale());
    match &conv.pool {
        Some(pool) if pool.is_first_layer => {
            let part = |place: &Range<usize>| block.arenas.at(place);
            let (x, dy, indices) = (part(ctx.data(conv.x)), part(ctx.grad(conv.y)), part(&pool.indices));
            let weight = ctx.sum_ranges[conv.weight].clone();
            let bias = conv.bias.map_or(0..0, |bias| ctx.sum_ranges[bias].clone());
            let [dweights, dbias] =
                sums.get_disjoint_mut([weight, bias]).expect("the sums of different parameters do not overlap");
            let dbias = conv.bias.map(|_| dbias);
            if conv.reads_windows() {
                patches::backward(cpu, shape, view(x), view(dy), view(indices), scale, dweights, dbias);
            } else {
                conv::first_layer::backward_pooled(
                    cpu,
                    shape,
                    view(x),
                    view(dy),
                    view(indices),
                    scale,
                    dweights,
                    dbias,
                );
            }
            return;
        }
        Some(pool) => {
            let ([dy, indices], [full]) = block.arenas.split([ctx.grad(conv.y), &pool.indices], [ctx.grad(pool.full)]);
            let dbias = conv.bias.map(|bias| &mut sums[ctx.sum_ranges[bias].clone()]);
            pool::scatter::<E>(cpu, &pool.shape, view(dy), view(indices), scale, view_mut(full), dbias);
        }
        None if conv.relu => {
            let ([y], [dy]) = block.arenas.split([ctx.data(conv.y)], [ctx.grad(conv.y)]);
            // y > 0 just where the convolution's result was.
            elementwise(ctx.pieces, [y], dy, |[y], dy| {
                activation::backward_in_place::<E>(cpu, Activation::Relu, view(y), view_mut(dy));
            });
        }
        None => {}
    }
    let dy = ctx.grad(conv.result());
    if let (Some(bias), None) = (conv.bias, &conv.pool) {
        conv::backward_bias::<E>(
            cpu,
            &shape.output,
            view(block.arenas.at(dy)),
            &mut sums[ctx.sum_ranges[bias].clone()],
        );
    }
    let [x_place, dy_place] = &conv.repacked;
    let ([x, dy], [x_to, dy_to, dx]) =
        block.arenas.split([ctx.data(conv.x), dy], [x_place, dy_place, ctx.grad(conv.x)]);
    let mut weights_pass = || match (conv.winograd.backward, conv.gradient, conv.precision) {
        (Some(winograd), WeightGradient::PerGroup, _) => {
            let sums = &mut sums[ctx.sum_ranges[conv.weight].clone()];
            let (x, dy) = (Blocks::one(view(x)), Blocks::one(view(dy)));
            winograd.backward_weights(cpu, x, dy, 0..shape.panels(), accumulate, sums);
        }
        // Tensors are read as they lie when all blocks have theirs.
        (Some(_), WeightGradient::PerPanel, _) => {}
        (None, WeightGradient::PerGroup, Precision::Bf16) => {
            let sums = &mut sums[ctx.sum_ranges[conv.weight].clone()];
            with_rows(shape, |rows| {
                conv::tiles::backward_weights_of_block(cpu, shape, [view(x), view(dy)], rows, accumulate, sums);
            });
        }
        (None, WeightGradient::PerGroup, Precision::F32) => {
            let sums = &mut sums[ctx.sum_ranges[conv.weight].clone()];
            if !shape.input.channel_stride.is_multiple_of(PANEL) {
                return conv::first_layer::backward_weights(cpu, shape, view(x), view::<E>(dy), accumulate, sums);
            }
            with_rows(shape, |rows| {
                conv::direct::backward_weights_of_block(cpu, shape, view(x), view::<E>(dy), rows, accumulate, sums);
            });
        }
        (None, WeightGradient::PerPanel, Precision::Bf16) => {
            bf16::repack(cpu, shape, [view(x), view(dy)], [view_mut(x_to), view_mut(dy_to)]);
        }
        (None, WeightGradient::PerPanel, Precision::F32) => {
            f32::repack(cpu, shape, [view(x), view(dy)], [view_mut(x_to), view_mut(dy_to)]);
        }
    };
    if conv.transposed.is_empty() {
        weights_pass();
        return;
    }
    let transposed = &ctx.packed[conv.transposed.clone()];
    let (pieces, dx) = (pieces(ctx.pieces, conv, BLOCK), view_mut::<E>(dx));
    let mut data_pass = || {
        if let Some(winograd) = conv.winograd.backward {
            return winograd.backward_data(cpu, view(dy), view(transposed), pieces, dx);
        }
        RowCut::new(shape.input.height, pieces).for_each(Rows::of(&shape.input, dx), |rows, dx| match conv.precision {
            Precision::Bf16 => conv::tiles::backward_data(cpu, shape, view(dy), view(transposed), rows, dx.data),
            Precision::F32 => conv::direct::backward_data(cpu, shape, view(dy), view(transposed), rows, dx.data),
        });
    };
    if pieces > 1 {
        rayon::join(weights_pass, data_pass);
    } else {
        weights_pass();
        data_pass();
    }
}

/// Runs `f` with this thread's buffers for the rows of a block that are repacked for the gradient of weights.
pub(crate) fn with_rows<E: Element>(shape: &Conv2dShape, f: impl FnOnce([&mut [E]; 2])) {
    let [x, dy] = row_buffers(shape);
    scratch::with(x + dy, |buffer: &mut [E]| f(buffer.split_at_mut(x).into()));
}

/// The pieces of the gradient of weights that are summed by panel, which lies at `range`, each with its first panel.
pub(crate) fn panel_pieces(conv: &Conv, range: Range<usize>, threads: usize) -> impl Iterator<Item = Piece<usize>> {
    let reread = conv.winograd.backward.is_some() || conv.precision == Precision::Bf16;
    let at_once = panels_at_once(&conv.shape, reread, threads);
    pieces::cut(range, at_once * conv.shape.panel_len(), move |number| at_once * number)
}

/// Panels in a piece of the gradient; whether all of x is read once more for each piece, and does not stay in a cache.
///
/// Two panels fill the registers of AVX-512 and the tiles of AMX. Where x is read again, or even transformed by Winograd's
/// algorithm, four take a tenth to a seventh less at 3x3 pixels of 512 channels: there are four where that leaves each thread
/// a piece. A panel's bits are the same in any piece.
pub(crate) fn panels_at_once(shape: &Conv2dShape, reread: bool, threads: usize) -> usize {
    if reread && shape.panels() >= 4 * threads { 4 } else { 2 }
}

/// The gradient of the panels from `first` on that `dweights` has room for, summed over all blocks of the batch.
pub(crate) fn panel_gradients(
    cpu: Cpu,
    plan: &Plan,
    conv: &Conv,
    first: usize,
    arenas: &[u8],
    blocks: usize,
    dweights: &mut [f32],
) {
    let shape = &conv.shape;
    let panels = first..first + dweights.len() / shape.panel_len();
    let [x, dy] = &conv.repacked;
    match (conv.winograd.backward, conv.precision) {
        (Some(winograd), _) => {
            let stack = |place: &Range<usize>| blocks_at::<f32>(plan, arenas, blocks, place);
            let (x, dy) = (stack(&plan.values[conv.x].data), stack(&plan.values[conv.result()].grad));
            winograd.backward_weights(cpu, x, dy, panels, Accumulate::Overwrite, dweights);
        }
        (None, Precision::F32) => {
            let stack = |place: &Range<usize>| blocks_at::<f32>(plan, arenas, blocks, place);
            conv::direct::backward_weights(cpu, shape, stack(x), stack(dy), panels, Accumulate::Overwrite, dweights);
        }
        (None, Precision::Bf16) => {
            let stack = |place: &Range<usize>| blocks_at::<bf16>(plan, arenas, blocks, place);
            conv::tiles::backward_weights(cpu, shape, stack(x), stack(dy), panels, Accumulate::Overwrite, dweights);
        }
    }
}

/// A tensor at the same place of each block's arena.
fn blocks_at<'a, E: Element>(plan: &Plan, arenas: &'a [u8], blocks: usize, place: &Range<usize>) -> Blocks<'a, E> {
    Blocks { data: view(&arenas[place.start..]), stride: plan.arena_bytes / size_of::<E>(), count: blocks }
}

#[cfg(test)]
mod tests {
    use selvedge_compute::BlockShape;

    use super::*;
    use crate::plan::Op;
    use crate::plan::lower::lower;
    use crate::spec::shape::NetworkShape;
    use crate::test_support::resnet9;

    /// Pieces of forward and backward_data of all convolutions but the first, for a batch of 128 on 16 threads.
    fn pieces_of_a_batch(precision: Precision) -> Vec<[usize; 2]> {
        let (spec, blocks, most) = (resnet9(), 4, 4);
        let plan = lower(&spec, &NetworkShape::infer(&spec).unwrap(), precision);
        let convolutions = plan.ops.iter().filter_map(|op| match op {
            Op::Conv(conv) if conv.shape.kernel == [3, 3] && conv.shape.input.channels > 1 => Some(conv),
            _ => None,
        });
        let of_block = |conv: &Conv| {
            let (shape, wanted) = (&conv.shape, pieces(most, conv, BLOCK));
            let rows = |height| RowCut::new(height, wanted).pieces;
            [
                conv.winograd.forward.map_or_else(|| rows(shape.output.height), |w| w.forward_pieces(None, wanted)),
                conv.winograd.backward.map_or_else(|| rows(shape.input.height), |w| w.backward_data_pieces(wanted)),
            ]
        };
        convolutions.map(|conv| of_block(conv).map(|pieces| blocks * pieces)).collect()
    }

    #[test]
    fn sixteen_threads_have_a_piece_each() {
        // 28x28 pixels, 14x14 three times, 7x7, 3x3 twice. By rows there are three pieces of 3x3 pixels.
        assert_eq!(pieces_of_a_batch(Precision::F32), [[16, 16]; 7]);
        let by_rows = [[16, 16], [16, 16], [16, 16], [16, 16], [16, 16], [12, 12], [12, 12]];
        assert_eq!(pieces_of_a_batch(Precision::Bf16), by_rows);
    }

    #[test]
    fn sixteen_threads_have_panels_each() {
        let shape = Conv2dShape::same(BlockShape::new(3, 3, 512), 512, [3, 3], 1);
        let at_once = |reread| [1, 8, 9, 16].map(|threads| panels_at_once(&shape, reread, threads));
        assert_eq!(at_once(true), [4, 4, 2, 2]);
        assert_eq!(at_once(false), [2; 4]);
    }
}
