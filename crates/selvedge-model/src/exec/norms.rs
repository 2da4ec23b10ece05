//! [`Norms`]: what the batch normalisations of a network hold during a pass.

use std::ops::Range;

use selvedge_compute::aligned::{view, view_mut};
use selvedge_compute::conv::first_layer::batch_norm::PATCH_SUMS;
use selvedge_compute::norm::{self, BackwardArgs, Normalisation, PooledBackwardArgs, PooledMaxima};
use selvedge_compute::partition::{RowPartition, Rows, rows_of};
use selvedge_compute::pool::Pool2dShape;
use selvedge_compute::simd::Element;
use selvedge_compute::{AlignedVec, BLOCK, BlockShape, Cpu};

use crate::exec::input_norm::InputNorm;
use crate::exec::run::{Block, Context};
use crate::params::ParamEntry;
use crate::params::state::State;
use crate::plan::{Norm, NormPool, Op, Plan, ValueId};

/// The batch normalisations of a plan, in its order.
pub(crate) struct Norms {
    states: Vec<NormState>,
    /// That which is computed with the layer next to the input.
    input: Option<InputNorm>,
    /// The blocks' parts of a sum, gathered from their arenas: first and second half.
    parts: [Vec<f64>; 2],
}

/// One number a channel, several times.
struct NormState {
    sums: [Vec<f64>; 2],
    mean: AlignedVec<f32>,
    rstd: AlignedVec<f32>,
    factor: AlignedVec<f32>,
    offset: AlignedVec<f32>,
    coefficients: [AlignedVec<f32>; 2],
}

impl NormState {
    fn zeroed(channels: usize) -> Self {
        let zeros = || AlignedVec::zeroed(channels);
        Self {
            sums: [vec![0.0; channels], vec![0.0; channels]],
            mean: zeros(),
            rstd: zeros(),
            factor: zeros(),
            offset: zeros(),
            coefficients: [zeros(), zeros()],
        }
    }

    fn normalisation(&self, norm: &Norm) -> Normalisation<'_> {
        Normalisation {
            mean: &self.mean,
            rstd: &self.rstd,
            factor: &self.factor,
            offset: &self.offset,
            activation: norm.activation,
        }
    }

    /// Sets factor and offset from mean and deviation, and the parameters.
    fn set_affine(&mut self, norm: &Norm, entries: &[ParamEntry], values: &[f32]) {
        let param = |index: usize| &values[entries[index].range.clone()];
        let (scale, shift) = (norm.scale.map(param), Some(param(norm.shift)));
        norm::affine(&self.mean, &self.rstd, scale, shift, &mut self.factor, &mut self.offset);
        // Without a scale the factor of padded lanes is not zero; their content is, and must stay so.
        self.factor[norm.shape.channels..].fill(0.0);
        self.offset[norm.shape.channels..].fill(0.0);
    }
}

impl Norms {
    pub(crate) fn new(plan: &Plan, blocks: usize) -> Self {
        let channels = |norm: &Norm| norm.shape.channel_stride;
        let most = blocks * plan.norms.iter().map(channels).max().unwrap_or(0).max(PATCH_SUMS);
        let parts = [Vec::with_capacity(most), Vec::with_capacity(most)];
        let states = plan.norms.iter().map(|norm| NormState::zeroed(channels(norm))).collect();
        Self { states, input: InputNorm::of(plan), parts }
    }

    /// What the layer next to the input holds that is computed with its normalisation.
    pub(crate) fn input(&self) -> &InputNorm {
        self.input.as_ref().expect("a plan with such a layer has its state")
    }

    /// Brings the first normalisation into the weights of the layer next to the input, if they are computed together.
    fn fold_input(&mut self, cpu: Cpu, plan: &Plan, state: &State) {
        if let (Some(input), Some(Op::ConvNorm(layer))) = (&mut self.input, plan.ops.first()) {
            let own = &self.states[layer.norm];
            input.fold(cpu, layer, state, [&own.factor, &own.offset]);
        }
    }

    /// Prepares inference: every normalisation by its running statistics.
    pub(crate) fn use_running(&mut self, cpu: Cpu, plan: &Plan, state: &State) {
        for (norm, own) in plan.norms.iter().zip(&mut self.states) {
            let running = |index: usize| &state.buffers[state.buffer_ranges[index].clone()];
            own.mean.copy_from_slice(running(norm.mean));
            for (inverse, variance) in own.rstd.iter_mut().zip(running(norm.mean + 1)) {
                *inverse = 1.0 / (variance + norm.epsilon).sqrt();
            }
            own.set_affine(norm, &state.params.entries, &state.params.values);
        }
        self.fold_input(cpu, plan, state);
    }

    /// Normalisation `number` of one block, from value x to value y.
    pub(crate) fn forward<E: Element>(
        &self,
        ctx: &Context<'_>,
        number: usize,
        pool: Option<&NormPool>,
        shortcut: Option<ValueId>,
        [x, y]: [ValueId; 2],
        block: &mut Block<'_>,
    ) {
        let (norm, own) = (&ctx.plan.norms[number], &self.states[number]);
        let normalisation = own.normalisation(norm);
        let (x, y) = (ctx.data(x), ctx.data(y));
        match (pool, shortcut) {
            (None, Some(shortcut)) => {
                let ([x, shortcut], [y]) = block.arenas.split([x, ctx.data(shortcut)], [y]);
                let cut = RowPartition::of_bytes(norm.shape.height, ctx.pieces, 2 * x.len() + y.len());
                cut.for_each(Rows::of(&norm.shape, view_mut::<E>(y)), |rows, y| {
                    let [x, shortcut] = [x, shortcut].map(|tensor| rows_of(&norm.shape, view(tensor), &rows));
                    norm::normalise_and_add(ctx.cpu, &norm.shape, &normalisation, x, shortcut, y.data);
                });
            }
            (None, None) => {
                let ([x], [y]) = block.arenas.split([x], [y]);
                let cut = RowPartition::of_bytes(norm.shape.height, ctx.pieces, x.len() + y.len());
                cut.for_each(Rows::of(&norm.shape, view_mut::<E>(y)), |rows, y| {
                    let x = rows_of(&norm.shape, view(x), &rows);
                    norm::normalise(ctx.cpu, &norm.shape, &normalisation, x, y.data);
                });
            }
            (Some(pool), _) => {
                let ([x], [y, indices, kept]) = block.arenas.split([x], [y, &pool.indices, &pool.kept]);
                let (input, output) = (pool.shape.input(), pool.shape.output());
                let cut = RowPartition::of_bytes(output.height, ctx.pieces, x.len() + y.len());
                let rows = |data| Rows::of(&output, view_mut::<E>(data));
                let maxima = ctx.training.map(|_| (Rows::of(&output, view_mut(indices)), rows(kept)));
                cut.for_each((rows(y), maxima), |rows, (y, maxima)| {
                    let (shape, covered) = windows_of(&pool.shape, &rows);
                    let maxima = maxima.map(|(indices, kept)| PooledMaxima { indices: indices.data, x: kept.data });
                    let x = rows_of(&input, view(x), &covered);
                    norm::normalise_pooled(ctx.cpu, &shape, &normalisation, x, y.data, maxima);
                });
            }
        }
    }

    /// The gradient of x from that of y.
    pub(crate) fn backward<E: Element>(
        &self,
        ctx: &Context<'_>,
        number: usize,
        pool: Option<&NormPool>,
        [x, y]: [ValueId; 2],
        block: &mut Block<'_>,
    ) {
        let (norm, own) = (&ctx.plan.norms[number], &self.states[number]);
        let (cpu, valid, normalisation) = (ctx.cpu, block.valid, own.normalisation(norm));
        let coefficients: [&[f32]; 2] = [&own.coefficients[0], &own.coefficients[1]];
        let (x, dy, dx) = (ctx.data(x), ctx.grad(y), ctx.grad(x));
        match pool {
            None => {
                let ([x, dy], [dx]) = block.arenas.split([x, dy], [dx]);
                let cut = RowPartition::of_bytes(norm.shape.height, ctx.pieces, x.len() + dy.len() + dx.len());
                cut.for_each(Rows::of(&norm.shape, view_mut::<E>(dx)), |rows, dx| {
                    let [x, dy] = [x, dy].map(|tensor| rows_of(&norm.shape, view(tensor), &rows));
                    let shape = BlockShape { height: rows.len(), ..norm.shape };
                    let args = BackwardArgs { shape: &shape, valid, norm: &normalisation, x, dy };
                    norm::input_gradient(cpu, args, coefficients, dx.data);
                });
            }
            Some(pool) => {
                let ([x, dy, indices], [dx]) = block.arenas.split([x, dy, &pool.indices], [dx]);
                let (input, output) = (pool.shape.input(), pool.shape.output());
                let cut = RowPartition::of_bytes(output.height, ctx.pieces, x.len() + dy.len() + dx.len());
                let dx = Rows { data: view_mut::<E>(dx), row: pool.shape.stride()[0] * input.row() };
                cut.for_each(dx, |rows, dx| {
                    let (shape, covered) = windows_of(&pool.shape, &rows);
                    let x = rows_of(&input, view(x), &covered);
                    let (indices, dy) = (rows_of(&output, view(indices), &rows), rows_of(&output, view(dy), &rows));
                    let args = PooledBackwardArgs { shape: &shape, valid, norm: &normalisation, indices, dy };
                    norm::pooled_input_gradient(cpu, args, coefficients, x, dx.data);
                });
            }
        }
    }

    /// The statistics of one block, into its arena.
    pub(crate) fn block_moments<E: Element>(&self, ctx: &Context<'_>, op: usize, block: &mut Block<'_>) {
        let (norm, x, partial) = match &ctx.plan.ops[op] {
            Op::ConvNorm(layer) => return InputNorm::block_sums(ctx, layer, block),
            Op::Norm { norm, x, partial, .. } => (norm, x, partial),
            _ => unreachable!("only norms have moments"),
        };
        let shape = &ctx.plan.norms[*norm].shape;
        let ([x], [partial]) = block.arenas.split([&ctx.plan.values[*x].data], [partial]);
        by_planes(shape, [ctx.pieces, x.len()], partial, |channels, mean, square| {
            norm::block_moments::<E>(ctx.cpu, shape, block.valid, view(x), channels, mean, square);
        });
    }

    /// The sums that the gradient needs of one block, into its arena.
    pub(crate) fn block_gradient_sums<E: Element>(&self, ctx: &Context<'_>, op: usize, block: &mut Block<'_>) {
        let Op::Norm { norm, pool, x, y, partial, .. } = &ctx.plan.ops[op] else {
            unreachable!("only norms have sums")
        };
        let (constants, own) = (&ctx.plan.norms[*norm], &self.states[*norm]);
        let (cpu, valid, normalisation) = (ctx.cpu, block.valid, own.normalisation(constants));
        let shape = &constants.shape;
        match pool {
            None => {
                let ([x, dy], [partial]) = block.arenas.split([ctx.data(*x), ctx.grad(*y)], [partial]);
                let bytes = x.len() + dy.len();
                let args = BackwardArgs::<E> { shape, valid, norm: &normalisation, x: view(x), dy: view(dy) };
                by_planes(shape, [ctx.pieces, bytes], partial, |channels, dbeta, dgamma| {
                    norm::block_gradient_sums(cpu, args, channels, dbeta, dgamma);
                });
            }
            Some(pool) => {
                let reads = [&pool.indices, &pool.kept, ctx.grad(*y)];
                let ([indices, maxima, dy], [partial]) = block.arenas.split(reads, [partial]);
                let bytes = indices.len() + maxima.len() + dy.len();
                let (indices, dy, maxima) = (view(indices), view(dy), view::<E>(maxima));
                let args = PooledBackwardArgs { shape: &pool.shape, valid, norm: &normalisation, indices, dy };
                by_planes(&pool.shape.output(), [ctx.pieces, bytes], partial, |channels, dbeta, dgamma| {
                    norm::pooled_gradient_sums(cpu, args, maxima, channels, dbeta, dgamma);
                });
            }
        }
    }

    /// Between the phases: the batch's statistics from the blocks', and the running ones moved along.
    pub(crate) fn combine_moments(
        &mut self,
        cpu: Cpu,
        plan: &Plan,
        op: usize,
        state: &mut State,
        arenas: &[u8],
        images: usize,
    ) {
        let (number, count) = match &plan.ops[op] {
            Op::ConvNorm(layer) => {
                self.gather(&layer.partial, arenas, plan.arena_bytes, images, PATCH_SUMS);
                let [mean, square] = &mut self.states[layer.norm].sums;
                let input = self.input.as_mut().expect("a plan with such a layer has its state");
                (layer.norm, input.combine(layer, state, &self.parts[0], [mean, square], images))
            }
            Op::Norm { norm, partial, .. } => {
                let BlockShape { height, width, channel_stride, .. } = plan.norms[*norm].shape;
                self.gather(partial, arenas, plan.arena_bytes, images, channel_stride);
                let [mean, square] = &mut self.states[*norm].sums;
                let [means, squares] = &self.parts;
                (*norm, norm::combine_moments(images, height * width, means, squares, mean, square))
            }
            _ => unreachable!("only norms have moments"),
        };
        let (norm, own) = (&plan.norms[number], &mut self.states[number]);
        let [mean, square] = &mut own.sums;
        norm::rstd(count, square, norm.epsilon, &mut own.rstd);
        own.mean.iter_mut().zip(mean.iter()).for_each(|(to, from)| *to = *from as f32);
        let (mean_range, variance_range) = (&state.buffer_ranges[norm.mean], &state.buffer_ranges[norm.mean + 1]);
        let (before, from_variance) = state.buffers.split_at_mut(variance_range.start);
        let running_variance = &mut from_variance[..variance_range.len()];
        norm::update_running(count, mean, square, norm.momentum, &mut before[mean_range.clone()], running_variance);
        own.set_affine(norm, &state.params.entries, &state.params.values);
        if matches!(plan.ops[op], Op::ConvNorm(_)) {
            self.fold_input(cpu, plan, state);
        }
    }

    /// Between the phases: the gradients of scale and shift, and what the input's gradient needs.
    pub(crate) fn combine_gradients(
        &mut self,
        plan: &Plan,
        op: usize,
        state: &mut State,
        arenas: &[u8],
        images: usize,
    ) {
        let Op::Norm { norm: number, partial, .. } = &plan.ops[op] else { unreachable!("only norms have sums") };
        let norm = &plan.norms[*number];
        self.gather(partial, arenas, plan.arena_bytes, images, norm.shape.channel_stride);
        let own = &mut self.states[*number];
        let [sum, sum_normalised] = &mut own.sums;
        norm::combine_sums(&self.parts[0], sum);
        norm::combine_sums(&self.parts[1], sum_normalised);
        let params = &mut state.params;
        let mut write = |index: usize, sums: &[f64]| {
            let grads = &mut params.grads[params.entries[index].range.clone()];
            grads.iter_mut().zip(sums).for_each(|(grad, sum)| *grad = *sum as f32);
            grads[norm.shape.channels..].fill(0.0);
        };
        write(norm.shift, sum);
        if let Some(scale) = norm.scale {
            write(scale, sum_normalised);
        }
        let count = images * norm.shape.height * norm.shape.width;
        let NormState { sums: [sum, sum_normalised], mean, rstd, factor, offset, coefficients } = own;
        let activation = norm.activation;
        let normalisation = Normalisation { mean, rstd, factor, offset, activation };
        let [c0, c1] = coefficients;
        norm::gradient_coefficients(count, &normalisation, sum, sum_normalised, [c0, c1]);
    }

    /// After the backward pass: the gradients of the layer next to the input that is computed with its normalisation, if there
    /// is one.
    pub(crate) fn finish_input(&self, plan: &Plan, state: &mut State) {
        if let (Some(input), Some(Op::ConvNorm(layer))) = (&self.input, plan.ops.first()) {
            let norm = &plan.norms[layer.norm];
            input.finish(layer, norm, &self.states[layer.norm].normalisation(norm), state);
        }
    }

    /// Copies the first `len` numbers of each block's `partial` together, and the others.
    fn gather(&mut self, partial: &Range<usize>, arenas: &[u8], arena_bytes: usize, images: usize, len: usize) {
        self.parts.iter_mut().for_each(Vec::clear);
        for arena in arenas.chunks_exact(arena_bytes).take(images.div_ceil(BLOCK)) {
            let (first, second) = view::<f64>(&arena[partial.clone()]).split_at(len);
            self.parts[0].extend_from_slice(first);
            self.parts[1].extend_from_slice(second);
        }
    }
}

/// Calls `run` with the channels of each of up to `most` pieces of a layer that reads `bytes` ([`RowPartition::of_bytes`]), whole planes,
/// and what of both halves of `partial`, a number a channel, belongs to them. A channel's sums are the same in any piece.
fn by_planes(
    shape: &BlockShape,
    [most, bytes]: [usize; 2],
    partial: &mut [u8],
    run: impl Fn(Range<usize>, &mut [f64], &mut [f64]) + Sync,
) {
    let plane = shape.plane();
    let (first, second) = view_mut::<f64>(partial).split_at_mut(shape.channel_stride);
    let halves = (Rows { data: first, row: plane }, Rows { data: second, row: plane });
    let cut = RowPartition::of_bytes(shape.channel_stride / plane, most, bytes);
    cut.for_each(halves, |planes, (first, second)| {
        run(planes.start * plane..planes.end * plane, first.data, second.data);
    });
}

/// The windows of pooled rows `rows`, which do not overlap with others, and the rows of the input that are theirs: up to the
/// next window, or to the end.
fn windows_of(shape: &Pool2dShape, rows: &Range<usize>) -> (Pool2dShape, Range<usize>) {
    let (input, stride) = (shape.input(), shape.stride());
    let end = if rows.end == shape.output().height { input.height } else { rows.end * stride[0] };
    let covered = rows.start * stride[0]..end;
    (Pool2dShape::new(BlockShape { height: covered.len(), ..input }, shape.size(), stride), covered)
}
