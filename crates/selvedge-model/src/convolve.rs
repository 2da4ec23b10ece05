//! Convolutions and dense layers of a plan, in either precision.
//!
//! In f32 3x3 weights are transformed once a step for Winograd's algorithm; the forward pass of others reads the parameters as
//! they lie. In bf16 all but a layer next to the input that is not of the usual form ([`windows`]) runs on AMX, and weights are
//! packed once a step. For the gradient of the weights x and dy are regrouped, but for Winograd's algorithm.

use std::ops::Range;

use rayon::prelude::*;
use selvedge_compute::activation::{self, Activation};
use selvedge_compute::aligned::{view, view_mut};
use selvedge_compute::conv::winograd::Winograd;
use selvedge_compute::conv::{
    self, Blocks, ConvElement, Epilogue, Onto, PANEL, Part, Training, pack, regroup, windows,
};
use selvedge_compute::simd::Element;
use selvedge_compute::{BLOCK, Cpu, Precision, bf16, pool};

use crate::pieces::{self, Piece};
use crate::plan::{Conv, Plan, WeightGradient};
use crate::run::{Block, Context, split};

/// A form of the weights that passes read, or a part of it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Form {
    /// For [`windows`].
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
        (Form::Windows, _) => windows::pack(cpu, shape, panels, view_mut(to)),
        (Form::Rounded { first }, _) => {
            let to = view_mut::<bf16>(to);
            regroup::to_bf16(cpu, &panels[first..first + to.len()], to);
        }
        (Form::Transformed { winograd, panel }, _) => {
            let panel = &panels[panel * shape.panel_len()..][..shape.panel_len()];
            winograd.transform_weights(cpu, panel, view_mut(to));
        }
        (Form::Transposed { panel }, Precision::Bf16) => {
            regroup::transpose_to_bf16(cpu, shape, panels, panel, view_mut(to));
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
    let (x, y) = (ctx.data(*x), ctx.data(*y));
    match pool {
        Some(pool) => {
            let (height, window) = (pool.shape.output().height, pool.window);
            let mask = pool.dropout.and_then(|dropout| ctx.mask(dropout, block));
            let ([x], [y, winners]) = split(block.arena, [x], [y, &pool.winners]);
            let run = |rows, y: &mut [Y], winners: Option<&mut [u16]>| {
                let training = winners.map(|winners| Training { winners, dropout: mask.as_ref() });
                let part = Part { rows, images };
                match (conv.winograd.forward, conv.precision) {
                    (Some(winograd), _) => {
                        winograd.forward_pooled(cpu, window, view(x), view(packed), bias, part, y, training);
                    }
                    (None, Precision::Bf16) if conv.reads_windows() => {
                        windows::forward(cpu, shape, view(x), view(packed), bias, part, y, training);
                    }
                    (None, Precision::Bf16) => {
                        conv::forward_pooled_bf16(cpu, shape, window, view(x), view(packed), bias, part, y, training);
                    }
                    (None, Precision::F32) => {
                        conv::forward_pooled(cpu, shape, window, view(x), weights, bias, part, y, training);
                    }
                }
            };
            // Rows of a tile are best computed together.
            let tile = conv.winograd.forward.map_or(1, |winograd| winograd.tile() / window[0]);
            let cut = RowCut::new(ctx, conv, height, tile, images);
            let (y, winners) = (view_mut::<Y>(y), view_mut::<u16>(winners));
            match ctx.training {
                Some(_) => cut.for_each(y, winners, |rows, y, winners| run(rows, y, Some(winners))),
                None => cut.for_each(y, &mut [], |rows, y, _| run(rows, y, None)),
            }
        }
        None => {
            let ([x], [y]) = split(block.arena, [x], [y]);
            let epilogue = Epilogue { bias, relu: *relu };
            let tile = conv.winograd.forward.map_or(1, |winograd| winograd.tile());
            let cut = RowCut::new(ctx, conv, shape.output.height, tile, images);
            cut.for_each(view_mut::<Y>(y), &mut [], |rows, y, _| {
                let part = Part { rows, images };
                match (conv.winograd.forward, conv.precision) {
                    (Some(winograd), _) => winograd.forward(cpu, view(x), view(packed), epilogue, part, y),
                    (None, Precision::Bf16) => {
                        conv::forward_bf16(cpu, shape, view(x), view(packed), epilogue, part, y);
                    }
                    (None, Precision::F32) => conv::forward(cpu, shape, view(x), weights, epilogue, part, y),
                }
            });
        }
    }
}

/// The cut of one block's rows of pixels, where there are more threads than blocks. Each row is computed alone, so its bits
/// do not depend on the cut.
struct RowCut {
    height: usize,
    /// Rows of a piece.
    rows: usize,
}

impl RowCut {
    /// Pieces of a multiple of `tile` rows each.
    fn new(ctx: &Context<'_>, conv: &Conv, height: usize, tile: usize, images: usize) -> Self {
        // To wake another thread takes some tens of microseconds: a piece has to be worth a hundred.
        let multiply_adds =
            conv.winograd.backward.map_or(conv.shape.multiply_adds(), |winograd| winograd.multiply_adds());
        let least = match conv.precision {
            Precision::F32 => 8 << 20,
            Precision::Bf16 => 64 << 20,
        };
        let pieces = ctx.pieces.min(height.div_ceil(tile)).min(multiply_adds * images / least).max(1);
        Self { height, rows: height.div_ceil(pieces).next_multiple_of(tile) }
    }

    fn is_one_piece(&self) -> bool {
        self.rows >= self.height
    }

    /// Calls `run` with the rows of each piece, and what of `y` and of `beside` belongs to them; `beside` is as long as `y`,
    /// or empty.
    fn for_each<Y: Send>(
        self,
        y: &mut [Y],
        beside: &mut [u16],
        run: impl Fn(Range<usize>, &mut [Y], &mut [u16]) + Sync,
    ) {
        if self.is_one_piece() {
            return run(0..self.height, y, beside);
        }
        let chunk = self.rows * (y.len() / self.height);
        let rows_of = |piece: usize| piece * self.rows..((piece + 1) * self.rows).min(self.height);
        if beside.is_empty() {
            y.par_chunks_mut(chunk).enumerate().for_each(|(piece, y)| run(rows_of(piece), y, &mut []));
        } else {
            let chunks = y.par_chunks_mut(chunk).zip(beside.par_chunks_mut(chunk)).enumerate();
            chunks.for_each(|(piece, (y, beside))| run(rows_of(piece), y, beside));
        }
    }
}

/// The backward pass of one block. Gradients that each group sums apart are added to `sums`.
pub(crate) fn backward<E: Element>(ctx: &Context<'_>, conv: &Conv, block: &mut Block<'_>, sums: &mut [f32]) {
    let (cpu, shape) = (ctx.cpu, &conv.shape);
    let dropout = conv.pool.as_ref().and_then(|pool| pool.dropout);
    let scale = dropout.and_then(|dropout| ctx.mask(dropout, block)).map_or(1.0, |mask| mask.scale());
    match &conv.pool {
        Some(pool) if pool.is_first_layer => {
            let part = |place: &Range<usize>| &block.arena[place.clone()];
            let (x, dy, winners) = (part(ctx.data(conv.x)), part(ctx.grad(conv.y)), part(&pool.winners));
            let weight = ctx.sum_ranges[conv.weight].clone();
            let bias = conv.bias.map_or(0..0, |bias| ctx.sum_ranges[bias].clone());
            let [dweights, dbias] =
                sums.get_disjoint_mut([weight, bias]).expect("the sums of different parameters do not overlap");
            let dbias = conv.bias.map(|_| dbias);
            if conv.reads_windows() {
                windows::backward(cpu, shape, view(x), view(dy), view(winners), scale, dweights, dbias);
            } else {
                conv::backward_first_layer(cpu, shape, view(x), view(dy), view(winners), scale, dweights, dbias);
            }
            return;
        }
        Some(pool) => {
            let ([dy, winners], [full]) = split(block.arena, [ctx.grad(conv.y), &pool.winners], [ctx.grad(pool.full)]);
            let dbias = conv.bias.map(|bias| &mut sums[ctx.sum_ranges[bias].clone()]);
            pool::spread::<E>(cpu, &pool.shape, view(dy), view(winners), scale, view_mut(full), dbias);
        }
        None if conv.relu => {
            let ([y], [dy]) = split(block.arena, [ctx.data(conv.y)], [ctx.grad(conv.y)]);
            // y > 0 just where the convolution's result was.
            activation::backward_in_place::<E>(cpu, Activation::Relu, view(y), view_mut(dy));
        }
        None => {}
    }
    let dy = ctx.grad(conv.result());
    if let (Some(bias), None) = (conv.bias, &conv.pool) {
        conv::backward_bias::<E>(
            cpu,
            &shape.output,
            view(&block.arena[dy.clone()]),
            &mut sums[ctx.sum_ranges[bias].clone()],
        );
    }
    let [x_place, dy_place] = &conv.regrouped;
    let ([x, dy], [x_to, dy_to, dx]) =
        split(block.arena, [ctx.data(conv.x), dy], [x_place, dy_place, ctx.grad(conv.x)]);
    let mut weights_pass = || match (conv.winograd.backward, conv.gradient, conv.precision) {
        (Some(winograd), WeightGradient::PerGroup, _) => {
            let sums = &mut sums[ctx.sum_ranges[conv.weight].clone()];
            let (x, dy) = (Blocks::one(view(x)), Blocks::one(view(dy)));
            winograd.backward_weights(cpu, x, dy, 0..shape.panels(), Onto::Content, sums);
        }
        // Tensors are read as they lie when all blocks have theirs.
        (Some(_), WeightGradient::PerPanel, _) => {}
        (None, WeightGradient::PerGroup, Precision::Bf16) => {
            let sums = &mut sums[ctx.sum_ranges[conv.weight].clone()];
            let (operands, buffers) = ([view(x), view(dy)], [view_mut(x_to), view_mut(dy_to)]);
            conv::backward_weights_of_block_bf16(cpu, shape, operands, buffers, Onto::Content, sums);
        }
        (None, WeightGradient::PerGroup, Precision::F32) => {
            let sums = &mut sums[ctx.sum_ranges[conv.weight].clone()];
            let buffers = [view_mut(x_to), view_mut(dy_to)];
            conv::backward_weights_of_block(cpu, shape, view(x), view::<E>(dy), buffers, Onto::Content, sums);
        }
        (None, WeightGradient::PerPanel, Precision::Bf16) => {
            bf16::regroup(cpu, shape, [view(x), view(dy)], [view_mut(x_to), view_mut(dy_to)]);
        }
        (None, WeightGradient::PerPanel, Precision::F32) => {
            f32::regroup(cpu, shape, [view(x), view(dy)], [view_mut(x_to), view_mut(dy_to)]);
        }
    };
    if conv.transposed.is_empty() {
        weights_pass();
        return;
    }
    let transposed = &ctx.packed[conv.transposed.clone()];
    let tile = conv.winograd.backward.map_or(1, |winograd| winograd.tile());
    let cut = RowCut::new(ctx, conv, shape.input.height, tile, BLOCK);
    let both_at_once = !cut.is_one_piece();
    let data_pass = || {
        cut.for_each(view_mut::<E>(dx), &mut [], |rows, dx, _| match (conv.winograd.backward, conv.precision) {
            (Some(winograd), _) => winograd.backward_data(cpu, view(dy), view(transposed), rows, dx),
            (None, Precision::Bf16) => conv::backward_data_bf16(cpu, shape, view(dy), view(transposed), rows, dx),
            (None, Precision::F32) => conv::backward_data(cpu, shape, view(dy), view(transposed), rows, dx),
        });
    };
    if both_at_once {
        rayon::join(weights_pass, data_pass);
    } else {
        weights_pass();
        data_pass();
    }
}

/// The pieces of the gradient of weights that are summed by panel, which lies at `range`, each with its first panel.
///
/// Two panels fill the registers of AVX-512 and the tiles of AMX. Winograd's algorithm transforms x for each piece, which with
/// four panels takes a seventh less at 3x3 pixels of 512 channels: it has four where that leaves each thread a piece. A panel's
/// bits are the same in any piece.
pub(crate) fn panel_pieces(conv: &Conv, range: Range<usize>, threads: usize) -> impl Iterator<Item = Piece<usize>> {
    let four = conv.winograd.backward.is_some() && conv.shape.panels() >= 4 * threads;
    let at_once = if four { 4 } else { 2 };
    pieces::cut(range, at_once * conv.shape.panel_len(), move |number| at_once * number)
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
    let [x, dy] = &conv.regrouped;
    match (conv.winograd.backward, conv.precision) {
        (Some(winograd), _) => {
            let stack = |place: &Range<usize>| blocks_at::<f32>(plan, arenas, blocks, place);
            let (x, dy) = (stack(&plan.values[conv.x].data), stack(&plan.values[conv.result()].grad));
            winograd.backward_weights(cpu, x, dy, panels, Onto::Nothing, dweights);
        }
        (None, Precision::F32) => {
            let stack = |place: &Range<usize>| blocks_at::<f32>(plan, arenas, blocks, place);
            conv::backward_weights(cpu, shape, stack(x), stack(dy), panels, Onto::Nothing, dweights);
        }
        (None, Precision::Bf16) => {
            let stack = |place: &Range<usize>| blocks_at::<bf16>(plan, arenas, blocks, place);
            conv::backward_weights_bf16(cpu, shape, stack(x), stack(dy), panels, Onto::Nothing, dweights);
        }
    }
}

/// A tensor at the same place of each block's arena.
fn blocks_at<'a, E: Element>(plan: &Plan, arenas: &'a [u8], blocks: usize, place: &Range<usize>) -> Blocks<'a, E> {
    Blocks { data: view(&arenas[place.start..]), stride: plan.arena_bytes / size_of::<E>(), count: blocks }
}
