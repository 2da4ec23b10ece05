//! The steps of batch normalisation that run once per channel: results combined over the batch's blocks, in f64.

use super::assert_channels;
use crate::layout::BLOCK;

/// Combines the moments of a batch's blocks in order, by the formula of Chan, Golub and LeVeque (1979), and returns the
/// number of elements of a channel.
///
/// `block_means` and `block_squared_deviations` hold one channel stride per block, as [`super::block_moments`] wrote
/// them. `pixels` is height·width. All blocks are full, except that the last one has what remains of `images`.
///
/// # Panics
/// If the lengths do not fit the number of blocks.
///
/// ```
/// use selvedge_compute::norm::combine_moments;
/// // Two blocks of one channel: 32 images with the values 1 and 3, equally often, and 16 with the value 5.
/// let (mut mean, mut squared_deviations) = ([0.0], [0.0]);
/// let count = combine_moments(48, 1, &[2.0, 5.0], &[32.0, 0.0], &mut mean, &mut squared_deviations);
/// assert_eq!((count, mean, squared_deviations), (48, [3.0], [128.0]));
/// ```
pub fn combine_moments(
    images: usize,
    pixels: usize,
    block_means: &[f64],
    block_squared_deviations: &[f64],
    mean: &mut [f64],
    squared_deviations: &mut [f64],
) -> usize {
    let stride = mean.len();
    let blocks = images.div_ceil(BLOCK);
    assert_channels(stride, &[("squared_deviations", squared_deviations.len())]);
    let (means, squares) = (block_means.len(), block_squared_deviations.len());
    assert_eq!(means, blocks * stride, "block_means has {means} elements for {blocks} blocks of {stride}");
    assert_eq!(means, squares, "block_means has {means} elements and block_squared_deviations {squares}");
    mean.fill(0.0);
    squared_deviations.fill(0.0);
    let mut count = 0;
    for block in 0..blocks {
        let added = BLOCK.min(images - block * BLOCK) * pixels;
        let total = count + added;
        let share = added as f64 / total as f64;
        for c in 0..stride {
            let delta = block_means[block * stride + c] - mean[c];
            mean[c] += delta * share;
            squared_deviations[c] +=
                block_squared_deviations[block * stride + c] + delta * delta * share * count as f64;
        }
        count = total;
    }
    count
}

/// Adds the blocks' sums in order; `block_sums` holds one channel stride per block.
///
/// # Panics
/// If the length of `block_sums` is not a multiple of that of `sum`.
///
/// ```
/// let mut sum = [0.0; 2];
/// selvedge_compute::norm::combine_sums(&[1.0, 2.0, 10.0, 20.0], &mut sum);
/// assert_eq!(sum, [11.0, 22.0]);
/// ```
pub fn combine_sums(block_sums: &[f64], sum: &mut [f64]) {
    let (stride, len) = (sum.len(), block_sums.len());
    assert!(stride > 0 && len.is_multiple_of(stride), "block_sums has {len} elements, not a multiple of {stride}");
    sum.fill(0.0);
    for of_block in block_sums.chunks(stride) {
        for (sum, of_block) in sum.iter_mut().zip(of_block) {
            *sum += of_block;
        }
    }
}

/// The reciprocal standard deviation 1/√(variance + ε) of each channel, from the sum of squared deviations of its
/// `count` elements. The variance is the biased one, as in PyTorch's training mode.
///
/// # Panics
/// If the lengths differ.
pub fn rstd(count: usize, squared_deviations: &[f64], epsilon: f32, out: &mut [f32]) {
    assert_channels(squared_deviations.len(), &[("the result", out.len())]);
    for (out, squared) in out.iter_mut().zip(squared_deviations) {
        *out = (1.0 / (squared / count.max(1) as f64 + f64::from(epsilon)).sqrt()) as f32;
    }
}

/// a = gamma·rstd into `factor` and b = beta − a·mean into `offset`, so that a·x + b = gamma·x̂ + beta, where x̂ is the
/// normalised x. Without gamma or beta, 1 or 0 takes its place.
///
/// # Panics
/// If the lengths differ.
///
/// ```
/// let (mut factor, mut offset) = ([0.0], [0.0]);
/// selvedge_compute::norm::affine(&[3.0], &[0.5], Some(&[4.0]), Some(&[1.0]), &mut factor, &mut offset);
/// assert_eq!((factor, offset), ([2.0], [-5.0]));
/// ```
pub fn affine(
    mean: &[f32],
    rstd: &[f32],
    gamma: Option<&[f32]>,
    beta: Option<&[f32]>,
    factor: &mut [f32],
    offset: &mut [f32],
) {
    let stride = mean.len();
    assert_channels(stride, &[("rstd", rstd.len()), ("factor", factor.len())]);
    assert_channels(stride, &[("offset", offset.len())]);
    assert_channels(stride, &[("gamma", gamma.map_or(stride, <[_]>::len)), ("beta", beta.map_or(stride, <[_]>::len))]);
    for c in 0..stride {
        let a = rstd[c] * gamma.map_or(1.0, |gamma| gamma[c]);
        let b = beta.map_or(0.0, |beta| f64::from(beta[c])) - f64::from(mean[c]) * f64::from(a);
        (factor[c], offset[c]) = (a, b as f32);
    }
}

/// Updates the running mean and variance, which inference normalises by: running += `momentum`·(new − running), as
/// PyTorch defines it. The new variance is the unbiased one, `squared_deviations` / (`count` − 1). One element has none, and
/// leaves the running variance as it is: PyTorch refuses such a batch.
///
/// # Panics
/// If the lengths differ.
///
/// ```
/// let (mut mean, mut variance) = ([0.0], [1.0]);
/// selvedge_compute::norm::update_running(5, &[2.0], &[8.0], 0.5, &mut mean, &mut variance);
/// assert_eq!((mean, variance), ([1.0], [1.5]));
/// ```
pub fn update_running(
    count: usize,
    mean: &[f64],
    squared_deviations: &[f64],
    momentum: f32,
    running_mean: &mut [f32],
    running_variance: &mut [f32],
) {
    let stride = mean.len();
    let deviations = squared_deviations.len();
    assert_channels(stride, &[("squared_deviations", deviations), ("running_mean", running_mean.len())]);
    assert_channels(stride, &[("running_variance", running_variance.len())]);
    let blend = |old: f32, new: f64| (f64::from(old) + f64::from(momentum) * (new - f64::from(old))) as f32;
    for c in 0..stride {
        running_mean[c] = blend(running_mean[c], mean[c]);
        if count > 1 {
            running_variance[c] = blend(running_variance[c], squared_deviations[c] / (count - 1) as f64);
        }
    }
}

/// c₀ and c₁ of [`super::input_gradient`], into `coefficients`, from the gradients of beta and gamma: the sums over the
/// batch of dy′ and of dy′·x̂. `count` is the number of elements of a channel.
///
/// # Panics
/// If the lengths differ.
pub fn gradient_coefficients(
    count: usize,
    norm: &super::Normalisation<'_>,
    dbeta: &[f64],
    dgamma: &[f64],
    coefficients: [&mut [f32]; 2],
) {
    let stride = dbeta.len();
    norm.check(stride);
    let [c0, c1] = coefficients;
    assert_channels(stride, &[("dgamma", dgamma.len()), ("c₀", c0.len()), ("c₁", c1.len())]);
    for c in 0..stride {
        let share = f64::from(norm.factor[c]) / count.max(1) as f64;
        c0[c] = (share * dbeta[c]) as f32;
        c1[c] = (share * dgamma[c] * f64::from(norm.rstd[c])) as f32;
    }
}
