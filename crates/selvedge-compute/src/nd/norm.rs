//! Batch normalisation of arrays: [`crate::norm`] on a batch `[image, row, column, channel]`.
//!
//! The statistics are each channel's, over images and pixels. For vectors `[image, feature]`, pass them as images of one pixel:
//! `x.insert_axis(Axis(1)).insert_axis(Axis(1))`.

use ndarray::{Array1, Array4, ArrayView1, ArrayView4, ArrayViewMut1};
use rayon::prelude::*;

use super::blocks::BlockTensor;
use super::error::{ArrayError, Call};
use super::padded;
use crate::Cpu;
use crate::layout::BlockShape;
use crate::norm::{self, BackwardArgs, Normalisation};

/// A batch's statistics of each channel, which the backward pass reads and running averages follow.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchStatistics {
    /// The mean.
    pub mean: Array1<f32>,
    /// The mean squared deviation from it: the biased variance.
    pub variance: Array1<f32>,
    /// 1/√(variance + ε).
    pub rstd: Array1<f32>,
    /// Elements of a channel: images times pixels.
    pub count: usize,
}

/// What [`forward`] gives.
#[derive(Clone, Debug, PartialEq)]
pub struct Normalised {
    /// γ·(x − mean)/√(variance + ε) + β.
    pub y: Array4<f32>,
    /// What x was normalised by.
    pub statistics: BatchStatistics,
}

/// What [`backward`] gives.
#[derive(Clone, Debug, PartialEq)]
pub struct Gradients {
    /// By the input.
    pub dx: Array4<f32>,
    /// By γ.
    pub dgamma: Array1<f32>,
    /// By β.
    pub dbeta: Array1<f32>,
}

/// Normalises by the batch's own statistics, as in training.
///
/// # Errors
/// If the batch is empty, `gamma` or `beta` are not a number for each channel, or ε is not at least 0 and finite.
///
/// ```
/// use ndarray::{Array4, array};
/// use selvedge_compute::{Cpu, nd::norm};
/// let cpu = Cpu::detect()?;
/// let x = Array4::from_shape_fn((2, 1, 1, 1), |(n, ..)| n as f32); // 0 and 1: mean ½, deviation ½
/// let (gamma, beta) = (array![2.0], array![10.0]);
/// let normalised = norm::forward(cpu, x.view(), gamma.view(), beta.view(), 0.0)?;
/// assert_eq!(normalised.y.into_raw_vec_and_offset().0, [8.0, 12.0]);
///
/// // Averages for inference, with PyTorch's momentum.
/// let (mut mean, mut variance) = (array![0.0], array![1.0]);
/// norm::update_running(&normalised.statistics, 0.1, mean.view_mut(), variance.view_mut())?;
/// let y = norm::inference(cpu, x.view(), gamma.view(), beta.view(), mean.view(), variance.view(), 1e-5)?;
/// assert_eq!(y.dim(), (2, 1, 1, 1));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn forward(
    cpu: Cpu,
    x: ArrayView4<'_, f32>,
    gamma: ArrayView1<'_, f32>,
    beta: ArrayView1<'_, f32>,
    epsilon: f32,
) -> Result<Normalised, ArrayError> {
    let call = Call("nd::norm::forward");
    call.not_empty("x", x.shape(), &[0, 1, 2, 3], "every axis")?;
    check_channels(call, x, &[("gamma", gamma), ("beta", beta)])?;
    check_epsilon(call, epsilon)?;
    let blocks = BlockTensor::packed(call, x, BlockShape::new)?;
    let (shape, stride) = (blocks.shape(), blocks.shape().channel_stride);
    let (mut means, mut squares) = (vec![0.0; blocks.count() * stride], vec![0.0; blocks.count() * stride]);
    by_planes(&blocks, [&mut means, &mut squares], |block, channels, mean, square| {
        norm::block_moments(cpu, &shape, blocks.valid(block), blocks.block(block), channels, mean, square);
    });
    let (mut mean, mut square) = (vec![0.0; stride], vec![0.0; stride]);
    let pixels = shape.height * shape.width;
    let count = norm::combine_moments(blocks.images(), pixels, &means, &squares, &mut mean, &mut square);
    let mut rstd = vec![0.0; stride];
    norm::rstd(count, &square, epsilon, &mut rstd);
    let mean: Vec<f32> = mean.iter().map(|&mean| mean as f32).collect();
    let y = normalise(cpu, call, &blocks, [&mean, &rstd], [gamma, beta])?;
    let variance = square[..shape.channels].iter().map(|square| (square / count as f64) as f32);
    let statistics = BatchStatistics {
        mean: mean[..shape.channels].to_vec().into(),
        variance: variance.collect(),
        rstd: rstd[..shape.channels].to_vec().into(),
        count,
    };
    Ok(Normalised { y, statistics })
}

/// Normalises by given statistics, as in inference: y = γ·(x − mean)/√(variance + ε) + β.
///
/// # Errors
/// If x has no pixels or channels, `gamma`, `beta`, `mean` or `variance` are not a number for each channel, or ε is not at
/// least 0 and finite.
pub fn inference(
    cpu: Cpu,
    x: ArrayView4<'_, f32>,
    gamma: ArrayView1<'_, f32>,
    beta: ArrayView1<'_, f32>,
    mean: ArrayView1<'_, f32>,
    variance: ArrayView1<'_, f32>,
    epsilon: f32,
) -> Result<Array4<f32>, ArrayError> {
    let call = Call("nd::norm::inference");
    call.images("x", x.shape())?;
    check_channels(call, x, &[("gamma", gamma), ("beta", beta), ("mean", mean), ("variance", variance)])?;
    check_epsilon(call, epsilon)?;
    let blocks = BlockTensor::packed(call, x, BlockShape::new)?;
    let rstd: Vec<f32> = padded(variance).iter().map(|variance| 1.0 / (variance + epsilon).sqrt()).collect();
    normalise(cpu, call, &blocks, [&padded(mean), &rstd], [gamma, beta])
}

/// The gradients of x, γ and β from that of y, where `statistics` are what [`forward`] gave for `x`.
///
/// # Errors
/// If the shapes do not fit x, or `statistics.count` is not that of x.
pub fn backward(
    cpu: Cpu,
    x: ArrayView4<'_, f32>,
    gamma: ArrayView1<'_, f32>,
    statistics: &BatchStatistics,
    dy: ArrayView4<'_, f32>,
) -> Result<Gradients, ArrayError> {
    let call = Call("nd::norm::backward");
    call.not_empty("x", x.shape(), &[0, 1, 2, 3], "every axis")?;
    call.shape("dy", dy.shape(), x.shape(), "the shape of x")?;
    let (mean, rstd) = (statistics.mean.view(), statistics.rstd.view());
    check_channels(call, x, &[("gamma", gamma), ("statistics.mean", mean), ("statistics.rstd", rstd)])?;
    let count = x.len() / x.dim().3;
    call.shape("statistics.count", &[statistics.count], &[count], "images times pixels of x")?;
    let (x, dy) = (BlockTensor::packed(call, x, BlockShape::new)?, BlockTensor::packed(call, dy, BlockShape::new)?);
    let (shape, stride) = (x.shape(), x.shape().channel_stride);

    let (mean, rstd, gamma) = (padded(mean), padded(rstd), padded(gamma));
    let (mut factor, mut offset) = (vec![0.0; stride], vec![0.0; stride]);
    norm::affine(&mean, &rstd, Some(&gamma), None, &mut factor, &mut offset);
    let norm = Normalisation { mean: &mean, rstd: &rstd, factor: &factor, offset: &offset, activation: None };

    let (mut dbetas, mut dgammas) = (vec![0.0; x.count() * stride], vec![0.0; x.count() * stride]);
    by_planes(&x, [&mut dbetas, &mut dgammas], |block, channels, dbeta, dgamma| {
        let (valid, x, dy) = (x.valid(block), x.block(block), dy.block(block));
        let args = BackwardArgs { shape: &shape, valid, norm: &norm, x, dy };
        norm::block_gradient_sums(cpu, args, channels, dbeta, dgamma);
    });
    let (mut dbeta, mut dgamma) = (vec![0.0; stride], vec![0.0; stride]);
    norm::combine_sums(&dbetas, &mut dbeta);
    norm::combine_sums(&dgammas, &mut dgamma);
    let [mut c0, mut c1] = [vec![0.0; stride], vec![0.0; stride]];
    norm::gradient_coefficients(count, &norm, &dbeta, &dgamma, [&mut c0, &mut c1]);

    let mut dx = BlockTensor::allocate(call, shape, x.images())?;
    let row = BlockShape { height: 1, ..shape };
    let rows = dx.as_mut_slice().par_chunks_mut(row.len()).enumerate();
    rows.zip(x.as_slice().par_chunks(row.len()).zip(dy.as_slice().par_chunks(row.len()))).for_each(
        |((number, dx), (x_row, dy))| {
            let valid = x.valid(number / shape.height);
            let args = BackwardArgs { shape: &row, valid, norm: &norm, x: x_row, dy };
            norm::input_gradient(cpu, args, [&c0, &c1], dx);
        },
    );
    let of_channels = |sums: &[f64]| sums[..shape.channels].iter().map(|&sum| sum as f32).collect();
    Ok(Gradients { dx: dx.to_array(), dgamma: of_channels(&dgamma), dbeta: of_channels(&dbeta) })
}

/// Moves running averages towards a batch's statistics, as PyTorch defines it: running += `momentum`·(batch − running), with
/// the unbiased variance; a single element has none and leaves the running one as it is. Keras' momentum is 1 minus this one.
///
/// # Errors
/// If the averages are not a number for each channel of the statistics.
pub fn update_running(
    statistics: &BatchStatistics,
    momentum: f32,
    mut mean: ArrayViewMut1<'_, f32>,
    mut variance: ArrayViewMut1<'_, f32>,
) -> Result<(), ArrayError> {
    let (call, channels) = (Call("nd::norm::update_running"), statistics.mean.shape());
    call.shape("mean", mean.shape(), channels, "a number for each channel")?;
    call.shape("variance", variance.shape(), channels, "a number for each channel")?;
    call.shape("statistics.variance", statistics.variance.shape(), channels, "a number for each channel")?;
    let wide = |numbers: &Array1<f32>| -> Vec<f64> { numbers.iter().map(|&x| f64::from(x)).collect() };
    let square: Vec<f64> =
        wide(&statistics.variance).iter().map(|variance| variance * statistics.count as f64).collect();
    let (mut new_mean, mut new_variance) = (mean.to_vec(), variance.to_vec());
    norm::update_running(
        statistics.count,
        &wide(&statistics.mean),
        &square,
        momentum,
        &mut new_mean,
        &mut new_variance,
    );
    mean.assign(&ArrayView1::from(&new_mean));
    variance.assign(&ArrayView1::from(&new_variance));
    Ok(())
}

fn check_channels(
    call: Call,
    x: ArrayView4<'_, f32>,
    arrays: &[(&'static str, ArrayView1<'_, f32>)],
) -> Result<(), ArrayError> {
    arrays
        .iter()
        .try_for_each(|(name, array)| call.shape(name, array.shape(), &[x.dim().3], "a number for each channel of x"))
}

fn check_epsilon(call: Call, epsilon: f32) -> Result<(), ArrayError> {
    call.value("epsilon", epsilon, epsilon >= 0.0 && epsilon.is_finite(), "a finite number of at least 0")
}

/// γ·(x − mean)·rstd + β as an array.
fn normalise(
    cpu: Cpu,
    call: Call,
    x: &BlockTensor<f32>,
    [mean, rstd]: [&[f32]; 2],
    [gamma, beta]: [ArrayView1<'_, f32>; 2],
) -> Result<Array4<f32>, ArrayError> {
    let (shape, stride) = (x.shape(), x.shape().channel_stride);
    let (mut factor, mut offset) = (vec![0.0; stride], vec![0.0; stride]);
    norm::affine(mean, rstd, Some(&padded(gamma)), Some(&padded(beta)), &mut factor, &mut offset);
    let mut y = BlockTensor::allocate(call, shape, x.images())?;
    let rows = y.as_mut_slice().par_chunks_mut(shape.row()).zip(x.as_slice().par_chunks(shape.row()));
    let norm = Normalisation { mean, rstd, factor: &factor, offset: &offset, activation: None };
    rows.for_each(|(y, x)| norm::normalise(cpu, &shape, &norm, x, y));
    Ok(y.to_array())
}

/// Calls `run` for each plane of channels of each block, with the block's number, the channels, and their place in two lists
/// of a number for each channel of each block.
fn by_planes(
    blocks: &BlockTensor<f32>,
    [first, second]: [&mut [f64]; 2],
    run: impl Fn(usize, std::ops::Range<usize>, &mut [f64], &mut [f64]) + Sync,
) {
    let (stride, plane) = (blocks.shape().channel_stride, blocks.shape().plane());
    let parts = first.par_chunks_mut(plane).zip(second.par_chunks_mut(plane));
    parts.enumerate().for_each(|(number, (first, second))| {
        let at = number * plane;
        let channel = at % stride;
        run(at / stride, channel..channel + plane, first, second);
    });
}
