//! Convolutions and dense layers of a plan, in either precision.
//!
//! In f32 the forward pass reads the parameters as they lie. In bf16 all but a layer next to the input that is not of the
//! usual form ([`windows`]) runs on AMX, and weights are packed once a step. In both, x and dy are regrouped for the gradient of the weights.

use std::ops::Range;

use rayon::prelude::*;
use selvedge_compute::activation::{self, Activation};
use selvedge_compute::aligned::{view, view_mut};
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
    /// This panel, transposed for the backward pass.
    Transposed { panel: usize },
}

/// The pieces of the network's buffer of packed weights that belong to a layer, in bytes.
pub(crate) fn packed_pieces(conv: &Conv) -> impl Iterator<Item = Piece<Form>> {
    const PIECE: usize = 8192;
    let (shape, bytes, windows) = (&conv.shape, conv.precision.bytes(), conv.reads_windows());
    let len = if windows { conv.packed.len() } else { PIECE * bytes };
    let packed = move |number| if windows { Form::Windows } else { Form::Rounded { first: number * PIECE } };
    let panel = shape.taps() * shape.output.channel_stride * PANEL * bytes;
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
        (Form::Transposed { panel }, Precision::Bf16) => {
            regroup::transpose_to_bf16(cpu, shape, panels, panel, view_mut(to));
        }
        (Form::Transposed { panel }, Precision::F32) => pack::transpose_panel(shape, panels, panel, view_mut(to)),
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
    let packed = view::<bf16>(&ctx.packed[conv.packed.clone()]);
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
                if conv.reads_windows() {
                    windows::forward(cpu, shape, view(x), packed, bias, part, y, training);
                } else if conv.precision == Precision::Bf16 {
                    conv::forward_pooled_bf16(cpu, shape, window, view(x), packed, bias, part, y, training);
                } else {
                    conv::forward_pooled(cpu, shape, window, view(x), weights, bias, part, y, training);
                }
            };
            let cut = RowCut::new(ctx, conv, height, images);
            let (y, winners) = (view_mut::<Y>(y), view_mut::<u16>(winners));
            match ctx.training {
                Some(_) => cut.for_each(y, winners, |rows, y, winners| run(rows, y, Some(winners))),
                None => cut.for_each(y, &mut [], |rows, y, _| run(rows, y, None)),
            }
        }
        None => {
            let ([x], [y]) = split(block.arena, [x], [y]);
            let epilogue = Epilogue { bias, relu: *relu };
            RowCut::new(ctx, conv, shape.output.height, images).for_each(view_mut::<Y>(y), &mut [], |rows, y, _| {
                let part = Part { rows, images };
                if conv.precision == Precision::Bf16 {
                    conv::forward_bf16(cpu, shape, view(x), packed, epilogue, part, y);
                } else {
                    conv::forward(cpu, shape, view(x), weights, epilogue, part, y);
                }
            });
        }
    }
}

/// The cut of one block's rows of pixels, where there are more threads than blocks. Each row is computed alone, so its bits
/// do not depend on the cut.
struct RowCut {
    height: usize,
    pieces: usize,
}

impl RowCut {
    fn new(ctx: &Context<'_>, conv: &Conv, height: usize, images: usize) -> Self {
        // To wake another thread takes some tens of microseconds: a piece has to be worth a hundred.
        let least = match conv.precision {
            Precision::F32 => 8 << 20,
            Precision::Bf16 => 64 << 20,
        };
        let worth = conv.shape.multiply_adds() * images / least;
        Self { height, pieces: ctx.pieces.min(height).min(worth) }
    }

    /// Calls `run` with the rows of each piece, and what of `y` and of `beside` belongs to them; `beside` is as long as `y`,
    /// or empty.
    fn for_each<Y: Send>(
        self,
        y: &mut [Y],
        beside: &mut [u16],
        run: impl Fn(Range<usize>, &mut [Y], &mut [u16]) + Sync,
    ) {
        if self.pieces <= 1 {
            return run(0..self.height, y, beside);
        }
        let rows = self.height.div_ceil(self.pieces);
        let chunk = rows * (y.len() / self.height);
        let rows_of = |piece: usize| piece * rows..((piece + 1) * rows).min(self.height);
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
                conv::backward_first_layer::<E>(cpu, shape, view(x), view(dy), view(winners), scale, dweights, dbias);
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
    let mut weights_pass = || match (conv.gradient, conv.precision) {
        (WeightGradient::PerGroup, Precision::Bf16) => {
            let sums = &mut sums[ctx.sum_ranges[conv.weight].clone()];
            let (operands, buffers) = ([view(x), view(dy)], [view_mut(x_to), view_mut(dy_to)]);
            conv::backward_weights_of_block_bf16(cpu, shape, operands, buffers, Onto::Content, sums);
        }
        (WeightGradient::PerGroup, Precision::F32) => {
            let sums = &mut sums[ctx.sum_ranges[conv.weight].clone()];
            let buffers = [view_mut(x_to), view_mut(dy_to)];
            conv::backward_weights_of_block(cpu, shape, view(x), view::<E>(dy), buffers, Onto::Content, sums);
        }
        (WeightGradient::PerPanel, Precision::Bf16) => {
            bf16::regroup(cpu, shape, [view(x), view(dy)], [view_mut(x_to), view_mut(dy_to)]);
        }
        (WeightGradient::PerPanel, Precision::F32) => {
            f32::regroup(cpu, shape, [view(x), view(dy)], [view_mut(x_to), view_mut(dy_to)]);
        }
    };
    if conv.transposed.is_empty() {
        weights_pass();
        return;
    }
    let transposed = &ctx.packed[conv.transposed.clone()];
    let cut = RowCut::new(ctx, conv, shape.input.height, BLOCK);
    let both_at_once = cut.pieces > 1;
    let data_pass = || {
        cut.for_each(view_mut::<E>(dx), &mut [], |rows, dx, _| {
            if conv.precision == Precision::Bf16 {
                conv::backward_data_bf16(cpu, shape, view(dy), view(transposed), rows, dx);
            } else {
                conv::backward_data(cpu, shape, view(dy), view(transposed), rows, dx);
            }
        });
    };
    if both_at_once {
        rayon::join(weights_pass, data_pass);
    } else {
        weights_pass();
        data_pass();
    }
}

/// The pieces of the gradient of weights that are summed by panel, which lies at `range`: two panels fill the registers of AVX-512
/// and the tiles of AMX.
pub(crate) fn panel_pieces(conv: &Conv, range: Range<usize>) -> impl Iterator<Item = Piece<usize>> {
    pieces::cut(range, 2 * conv.shape.panel_len(), |number| number)
}

/// Piece `number` of the gradient of weights that are summed by panel over all blocks of the batch.
pub(crate) fn panel_gradients(
    cpu: Cpu,
    plan: &Plan,
    conv: &Conv,
    number: usize,
    arenas: &[u8],
    blocks: usize,
    dweights: &mut [f32],
) {
    let shape = &conv.shape;
    let panels = 2 * number..(2 * number + 2).min(shape.panels());
    let [x, dy] = &conv.regrouped;
    match conv.precision {
        Precision::F32 => {
            let stack = |place: &Range<usize>| blocks_at::<f32>(plan, arenas, blocks, place);
            conv::backward_weights(cpu, shape, stack(x), stack(dy), panels, Onto::Nothing, dweights);
        }
        Precision::Bf16 => {
            let stack = |place: &Range<usize>| blocks_at::<bf16>(plan, arenas, blocks, place);
            conv::backward_weights_bf16(cpu, shape, stack(x), stack(dy), panels, Onto::Nothing, dweights);
        }
    }
}

/// A tensor at the same place of each block's arena.
fn blocks_at<'a, E: Element>(plan: &Plan, arenas: &'a [u8], blocks: usize, place: &Range<usize>) -> Blocks<'a, E> {
    Blocks { data: view(&arenas[place.start..]), stride: plan.arena_bytes / size_of::<E>(), count: blocks }
}
