//! The steps of batch normalisation that touch each channel once: combinations over blocks, in f64.

use super::assert_channels;
use crate::layout::BLOCK;

/// Combines the moments of a batch's blocks, in their order, by the formula of Chan, Golub and LeVeque (1979), and
/// returns how many elements of a channel they are of.
///
/// `means` and `squares` hold a channel stride for each block of `images` images, as [`super::block_moments`] wrote
/// them; `pixels` is height·width. All blocks are full but the last.
///
/// # Panics
/// If the lengths do not fit the number of blocks.
pub fn combine_moments(
    images: usize,
    pixels: usize,
    means: &[f64],
    squares: &[f64],
    mean: &mut [f64],
    square: &mut [f64],
) -> usize {
    let stride = mean.len();
    let blocks = images.div_ceil(BLOCK);
    assert_channels(stride, &[("square", square.len())]);
    assert_eq!(means.len(), blocks * stride, "means has {} elements for {blocks} blocks of {stride}", means.len());
    assert_eq!(means.len(), squares.len(), "means has {} elements and squares {}", means.len(), squares.len());
    mean.fill(0.0);
    square.fill(0.0);
    let mut count = 0;
    for block in 0..blocks {
        let added = BLOCK.min(images - block * BLOCK) * pixels;
        let total = count + added;
        let share = added as f64 / total as f64;
        for c in 0..stride {
            let step = means[block * stride + c] - mean[c];
            mean[c] += step * share;
            square[c] += squares[block * stride + c] + step * step * share * count as f64;
        }
        count = total;
    }
    count
}

/// Adds up the parts of all blocks, in their order; `parts` holds a channel stride for each.
///
/// # Panics
/// If the length of `parts` is no multiple of that of `sum`.
pub fn combine_sums(parts: &[f64], sum: &mut [f64]) {
    let stride = sum.len();
    assert!(stride > 0 && parts.len().is_multiple_of(stride), "{} parts of stride {stride}", parts.len());
    sum.fill(0.0);
    for part in parts.chunks(stride) {
        for (sum, part) in sum.iter_mut().zip(part) {
            *sum += part;
        }
    }
}

/// 1/√(variance + ε) of each channel from the sum of squared deviations of its `count` elements. The variance is the
/// biased one, as in PyTorch's training mode.
///
/// # Panics
/// If the lengths differ.
pub fn rstd(count: usize, square: &[f64], epsilon: f32, out: &mut [f32]) {
    assert_channels(square.len(), &[("the result", out.len())]);
    for (out, square) in out.iter_mut().zip(square) {
        *out = (1.0 / (square / count.max(1) as f64 + f64::from(epsilon)).sqrt()) as f32;
    }
}

/// a and b such that a·x + b is the normalised x times `scale` plus `shift`; 1 and 0 if there are none.
///
/// # Panics
/// If the lengths differ.
pub fn affine(
    mean: &[f32],
    rstd: &[f32],
    scale: Option<&[f32]>,
    shift: Option<&[f32]>,
    factor: &mut [f32],
    offset: &mut [f32],
) {
    let stride = mean.len();
    assert_channels(stride, &[("rstd", rstd.len()), ("factor", factor.len())]);
    assert_channels(stride, &[("offset", offset.len())]);
    assert_channels(
        stride,
        &[("scale", scale.map_or(stride, <[_]>::len)), ("shift", shift.map_or(stride, <[_]>::len))],
    );
    for c in 0..stride {
        let a = rstd[c] * scale.map_or(1.0, |scale| scale[c]);
        let b = shift.map_or(0.0, |shift| f64::from(shift[c])) - f64::from(mean[c]) * f64::from(a);
        (factor[c], offset[c]) = (a, b as f32);
    }
}

/// The running averages that inference normalises with: running += `momentum`·(new − running), as PyTorch defines it.
/// The new variance is the unbiased one, `square` / (`count` − 1).
///
/// # Panics
/// If the lengths differ.
pub fn update_running(
    count: usize,
    mean: &[f64],
    square: &[f64],
    momentum: f32,
    running_mean: &mut [f32],
    running_variance: &mut [f32],
) {
    let stride = mean.len();
    assert_channels(stride, &[("square", square.len()), ("running_mean", running_mean.len())]);
    assert_channels(stride, &[("running_variance", running_variance.len())]);
    let blend = |old: f32, new: f64| (f64::from(old) + f64::from(momentum) * (new - f64::from(old))) as f32;
    for c in 0..stride {
        running_mean[c] = blend(running_mean[c], mean[c]);
        running_variance[c] = blend(running_variance[c], square[c] / count.saturating_sub(1).max(1) as f64);
    }
}

/// c₀ and c₁ of [`super::input_gradient`], from the sums over the batch of dy′ and of dy′·x̂, the latter of which are the
/// gradients of shift and scale.
///
/// # Panics
/// If the lengths differ.
pub fn gradient_coefficients(
    count: usize,
    norm: &super::Normalisation<'_>,
    sum: &[f64],
    sum_normalised: &[f64],
    coefficients: [&mut [f32]; 2],
) {
    let stride = sum.len();
    norm.check(stride);
    let [c0, c1] = coefficients;
    assert_channels(stride, &[("sum_normalised", sum_normalised.len()), ("c₀", c0.len()), ("c₁", c1.len())]);
    for c in 0..stride {
        let share = f64::from(norm.factor[c]) / count.max(1) as f64;
        c0[c] = (share * sum[c]) as f32;
        c1[c] = (share * sum_normalised[c] * f64::from(norm.rstd[c])) as f32;
    }
}
