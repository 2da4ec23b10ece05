//! Batch normalisation, with ReLU, alone and with max pooling in the same pass.

use std::sync::Arc;

use selvedge_compute::activation::Activation;
use selvedge_compute::cost;
use selvedge_compute::norm::{self, BackwardArgs, Normalisation, PooledBackwardArgs, PooledMaxima};
use selvedge_compute::pool::Pool2dShape;
use selvedge_compute::simd::Element;
use selvedge_compute::{BLOCK, BlockShape};

use super::blocks::by_block;
use super::{Make, numbers};

const ACTIVATION: Option<Activation> = Some(Activation::Relu);

/// A normalisation of which each channel's numbers are all `c`.
fn normalisation(c: &[f32]) -> Normalisation<'_> {
    Normalisation { mean: c, rstd: c, factor: c, offset: c, activation: ACTIVATION }
}

/// With the block's statistics and what the gradient needs of the whole batch.
pub(super) fn alone<E: Element>(shape: BlockShape) -> Vec<Make> {
    let (len, channels) = (shape.len(), shape.channel_stride);
    let per_channel = Arc::new(numbers::<f32>(channels));
    let constants = Arc::clone(&per_channel);
    let forward = by_block::<E>(
        "forward",
        [len, len],
        channels,
        move |images| cost::norm(&shape, images, size_of::<E>()).forward,
        move |cpu, t| {
            let (mean, square) = t.sums.split_at_mut(channels);
            norm::block_moments(cpu, &shape, BLOCK, t.read[0], 0..channels, mean, square);
            norm::normalise(cpu, &shape, &normalisation(&constants), t.read[0], t.written);
        },
    );
    let backward = by_block::<E>(
        "backward",
        [len, len],
        channels,
        move |images| cost::norm(&shape, images, size_of::<E>()).backward,
        move |cpu, t| {
            let c = &per_channel[..];
            let norm = normalisation(c);
            let args = BackwardArgs { shape: &shape, valid: BLOCK, norm: &norm, x: t.read[0], dy: t.read[1] };
            let (dbeta, dgamma) = t.sums.split_at_mut(channels);
            norm::block_gradient_sums(cpu, args, 0..channels, dbeta, dgamma);
            norm::input_gradient(cpu, args, [c, c], t.written);
        },
    );
    vec![forward, backward]
}

/// The same with max pooling. The indices that the gradient goes to are the first pixels.
pub(super) fn pooled<E: Element>(shape: Pool2dShape) -> Vec<Make> {
    let (input, output) = (shape.input(), shape.output());
    let (large, small, channels) = (input.len(), output.len(), input.channel_stride);
    let per_channel = Arc::new(numbers::<f32>(channels));
    let constants = Arc::clone(&per_channel);
    let forward = by_block::<E>(
        "forward",
        [large, 2 * small],
        channels,
        move |images| cost::norm_pooled(&shape, images, size_of::<E>()).forward,
        move |cpu, t| {
            let (mean, square) = t.sums.split_at_mut(channels);
            norm::block_moments(cpu, &input, BLOCK, t.read[0], 0..channels, mean, square);
            let (y, kept) = t.written.split_at_mut(small);
            let maxima = PooledMaxima { indices: &mut t.indices[..small], x: kept };
            norm::normalise_pooled(cpu, &shape, &normalisation(&constants), t.read[0], y, Some(maxima));
        },
    );
    let backward = by_block::<E>(
        "backward",
        [large, large],
        channels,
        move |images| cost::norm_pooled(&shape, images, size_of::<E>()).backward,
        move |cpu, t| {
            let (c, dy, indices) = (&per_channel[..], &t.read[1][..small], &t.indices[..small]);
            let norm = normalisation(c);
            let args = PooledBackwardArgs { shape: &shape, valid: BLOCK, norm: &norm, indices, dy };
            let (dbeta, dgamma) = t.sums.split_at_mut(channels);
            norm::pooled_gradient_sums(cpu, args, &t.read[0][..small], 0..channels, dbeta, dgamma);
            norm::pooled_input_gradient(cpu, args, [c, c], t.read[0], t.written);
        },
    );
    vec![forward, backward]
}
