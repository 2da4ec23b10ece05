//! The passes of batch normalisation over one block. Between them [`crate::exec::norm_state`] combines the blocks.

use std::ops::Range;

use selvedge_compute::BlockShape;
use selvedge_compute::aligned::{view, view_mut};
use selvedge_compute::norm::{self, BackwardArgs, PooledBackwardArgs, PooledMaxima};
use selvedge_compute::partition::{RowPartition, Rows, rows_of};
use selvedge_compute::pool::Pool2dShape;
use selvedge_compute::simd::Element;

use crate::exec::block::Block;
use crate::exec::context::Context;
use crate::plan::BatchNorm;

/// The normalisation of one block by the statistics of the batch, or in inference by the running ones.
pub(crate) fn forward<E: Element>(ctx: &Context<'_>, layer: &BatchNorm, block: &mut Block<'_>) {
    let norm = &ctx.plan.norms[layer.norm];
    let normalisation = ctx.norms.get(layer.norm).normalisation(norm);
    let (x, y) = (ctx.data(layer.x), ctx.data(layer.y));
    match (&layer.pool, layer.shortcut) {
        (None, Some(shortcut)) => {
            let ([x, shortcut], [y]) = block.arenas.split([x, ctx.data(shortcut)], [y]);
            let partition = RowPartition::of_bytes(norm.shape.height, ctx.chunks, 2 * x.len() + y.len());
            partition.for_each(Rows::of(&norm.shape, view_mut::<E>(y)), |rows, y| {
                let [x, shortcut] = [x, shortcut].map(|tensor| rows_of(&norm.shape, view(tensor), &rows));
                norm::normalise_and_add(ctx.cpu, &norm.shape, &normalisation, x, shortcut, y.data);
            });
        }
        (None, None) => {
            let ([x], [y]) = block.arenas.split([x], [y]);
            let partition = RowPartition::of_bytes(norm.shape.height, ctx.chunks, x.len() + y.len());
            partition.for_each(Rows::of(&norm.shape, view_mut::<E>(y)), |rows, y| {
                let x = rows_of(&norm.shape, view(x), &rows);
                norm::normalise(ctx.cpu, &norm.shape, &normalisation, x, y.data);
            });
        }
        (Some(pool), _) => {
            let ([x], [y, indices, kept]) = block.arenas.split([x], [y, &pool.indices, &pool.kept]);
            let (input, output) = (pool.shape.input(), pool.shape.output());
            let partition = RowPartition::of_bytes(output.height, ctx.chunks, x.len() + y.len());
            let rows = |data| Rows::of(&output, view_mut::<E>(data));
            let maxima = ctx.training.map(|_| (Rows::of(&output, view_mut(indices)), rows(kept)));
            partition.for_each((rows(y), maxima), |rows, (y, maxima)| {
                let (shape, covered) = windows_of(&pool.shape, &rows);
                let maxima = maxima.map(|(indices, kept)| PooledMaxima { indices: indices.data, x: kept.data });
                let x = rows_of(&input, view(x), &covered);
                norm::normalise_pooled(ctx.cpu, &shape, &normalisation, x, y.data, maxima);
            });
        }
    }
}

/// The gradient of x from that of y, once [`gradient_sums`] of all blocks are combined.
pub(crate) fn backward<E: Element>(ctx: &Context<'_>, layer: &BatchNorm, block: &mut Block<'_>) {
    let (norm, own) = (&ctx.plan.norms[layer.norm], ctx.norms.get(layer.norm));
    let (cpu, valid, normalisation) = (ctx.cpu, block.valid, own.normalisation(norm));
    let coefficients = own.coefficients();
    let (x, dy, dx) = (ctx.data(layer.x), ctx.grad(layer.y), ctx.grad(layer.x));
    match &layer.pool {
        None => {
            let ([x, dy], [dx]) = block.arenas.split([x, dy], [dx]);
            let partition = RowPartition::of_bytes(norm.shape.height, ctx.chunks, x.len() + dy.len() + dx.len());
            partition.for_each(Rows::of(&norm.shape, view_mut::<E>(dx)), |rows, dx| {
                let [x, dy] = [x, dy].map(|tensor| rows_of(&norm.shape, view(tensor), &rows));
                let shape = BlockShape { height: rows.len(), ..norm.shape };
                let args = BackwardArgs { shape: &shape, valid, norm: &normalisation, x, dy };
                norm::input_gradient(cpu, args, coefficients, dx.data);
            });
        }
        Some(pool) => {
            let ([x, dy, indices], [dx]) = block.arenas.split([x, dy, &pool.indices], [dx]);
            let (input, output) = (pool.shape.input(), pool.shape.output());
            let partition = RowPartition::of_bytes(output.height, ctx.chunks, x.len() + dy.len() + dx.len());
            let dx = Rows { data: view_mut::<E>(dx), row: pool.shape.stride()[0] * input.row() };
            partition.for_each(dx, |rows, dx| {
                let (shape, covered) = windows_of(&pool.shape, &rows);
                let x = rows_of(&input, view(x), &covered);
                let (indices, dy) = (rows_of(&output, view(indices), &rows), rows_of(&output, view(dy), &rows));
                let args = PooledBackwardArgs { shape: &shape, valid, norm: &normalisation, indices, dy };
                norm::pooled_input_gradient(cpu, args, coefficients, x, dx.data);
            });
        }
    }
}

/// The mean of each channel of one block and the sum of squared deviations from it, into its arena.
pub(crate) fn moments<E: Element>(ctx: &Context<'_>, layer: &BatchNorm, block: &mut Block<'_>) {
    let shape = &ctx.plan.norms[layer.norm].shape;
    let ([x], [partial]) = block.arenas.split([ctx.data(layer.x)], [&layer.partial]);
    by_planes(shape, ctx.chunks, x.len(), partial, |channels, mean, square| {
        norm::block_moments::<E>(ctx.cpu, shape, block.valid, view(x), channels, mean, square);
    });
}

/// The sums of one block that the gradient needs of the batch, two numbers for each channel, into its arena.
pub(crate) fn gradient_sums<E: Element>(ctx: &Context<'_>, layer: &BatchNorm, block: &mut Block<'_>) {
    let (norm, own) = (&ctx.plan.norms[layer.norm], ctx.norms.get(layer.norm));
    let (cpu, valid, normalisation) = (ctx.cpu, block.valid, own.normalisation(norm));
    let shape = &norm.shape;
    match &layer.pool {
        None => {
            let ([x, dy], [partial]) = block.arenas.split([ctx.data(layer.x), ctx.grad(layer.y)], [&layer.partial]);
            let bytes = x.len() + dy.len();
            let args = BackwardArgs::<E> { shape, valid, norm: &normalisation, x: view(x), dy: view(dy) };
            by_planes(shape, ctx.chunks, bytes, partial, |channels, dbeta, dgamma| {
                norm::block_gradient_sums(cpu, args, channels, dbeta, dgamma);
            });
        }
        Some(pool) => {
            let reads = [&pool.indices, &pool.kept, ctx.grad(layer.y)];
            let ([indices, kept, dy], [partial]) = block.arenas.split(reads, [&layer.partial]);
            let bytes = indices.len() + kept.len() + dy.len();
            let (indices, kept, dy) = (view(indices), view::<E>(kept), view(dy));
            let args = PooledBackwardArgs { shape: &pool.shape, valid, norm: &normalisation, indices, dy };
            by_planes(&pool.shape.output(), ctx.chunks, bytes, partial, |channels, dbeta, dgamma| {
                norm::pooled_gradient_sums(cpu, args, kept, channels, dbeta, dgamma);
            });
        }
    }
}

/// Partitions the channels of a layer that reads `bytes` into up to `most` chunks of whole planes ([`RowPartition::of_bytes`]).
/// Calls `run` with the channels of each chunk and their part of both halves of `partial`, which have a number for each channel.
/// The sums of a channel do not depend on the partition.
fn by_planes(
    shape: &BlockShape,
    most: usize,
    bytes: usize,
    partial: &mut [u8],
    run: impl Fn(Range<usize>, &mut [f64], &mut [f64]) + Sync,
) {
    let plane = shape.plane();
    let (first, second) = view_mut::<f64>(partial).split_at_mut(shape.channel_stride);
    let halves = (Rows { data: first, row: plane }, Rows { data: second, row: plane });
    let partition = RowPartition::of_bytes(shape.channel_stride / plane, most, bytes);
    partition.for_each(halves, |planes, (first, second)| {
        run(planes.start * plane..planes.end * plane, first.data, second.data);
    });
}

/// The windows of pooled rows `rows`, which do not overlap, and the rows of the input that belong to them: up to the next
/// window, or to the end.
fn windows_of(shape: &Pool2dShape, rows: &Range<usize>) -> (Pool2dShape, Range<usize>) {
    let (input, stride) = (shape.input(), shape.stride());
    let end = if rows.end == shape.output().height { input.height } else { rows.end * stride[0] };
    let covered = rows.start * stride[0]..end;
    (Pool2dShape::new(BlockShape { height: covered.len(), ..input }, shape.size(), stride), covered)
}
