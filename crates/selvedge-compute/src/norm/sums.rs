//! Sums over a block for each channel: moments in the forward pass, the gradients of beta and gamma in the backward
//! pass.
//!
//! A row of pixels is summed in f32, the rows' sums in f64. Memory bounds these passes, so they read the block in
//! memory order: a row's sums stay in L1 while other channels are summed. Deviations are taken from a value near the
//! channel's mean, the mean at the central pixel. So one pass over the block is enough, and a mean far from zero costs
//! the squares no precision.
//!
//! A channel's sums take the same steps whichever other channels are summed with it, so threads may share the channels
//! of a block by whole planes.

use std::ops::Range;

use super::{BackwardArgs, Normalisation, assert_block, assert_sums, with_activation};
use crate::Cpu;
use crate::activation::Activation;
use crate::layout::BlockShape;
use crate::prefetch::prefetch_ahead;
use crate::simd::{Element, Kernel, MAX_LANES, Simd, dispatch};

/// The mean of each of `channels` over the valid images and all pixels of a block, and the sum of squared deviations
/// from it; zero without valid images.
///
/// `channels` are whole planes; `mean` and `squared_deviations` have one number for each of them.
///
/// # Panics
/// If a slice does not fit the shape or the channels, the channels are not whole planes, or `valid` is more than
/// [`crate::BLOCK`].
///
/// ```
/// use selvedge_compute::{BlockShape, Cpu, norm::block_moments};
/// let shape = BlockShape::new(1, 2, 16);
/// let mut x = vec![1.0; shape.len()];
/// x[shape.offset(0, 1)..].fill(3.0); // the second of two pixels
/// let (mut mean, mut squared_deviations) = ([0.0; 16], [0.0; 16]);
/// block_moments(Cpu::detect()?, &shape, 32, &x, 0..16, &mut mean, &mut squared_deviations);
/// assert_eq!((mean, squared_deviations), ([2.0; 16], [64.0; 16]));
/// # Ok::<(), selvedge_compute::CpuError>(())
/// ```
pub fn block_moments<E: Element>(
    cpu: Cpu,
    shape: &BlockShape,
    valid: usize,
    x: &[E],
    channels: Range<usize>,
    mean: &mut [f64],
    squared_deviations: &mut [f64],
) {
    assert_block(shape, valid, &[("x", x.len())]);
    assert_sums(shape, &channels, [mean.len(), squared_deviations.len()]);
    mean.fill(0.0);
    squared_deviations.fill(0.0);
    if valid > 0 && !x.is_empty() {
        dispatch(cpu, BlockMoments { terms: DeviationTerms { shape, valid, x }, channels, mean, squared_deviations });
    }
}

/// The gradients of beta and gamma from one block: the sums of dy′ and of dy′·x̂ for each of `channels` over the valid
/// images and all pixels. dy′ is `dy` back through the activation, x̂ the normalised x.
///
/// `channels` are whole planes; `dbeta` and `dgamma` have one number for each of them.
///
/// # Panics
/// As [`block_moments`].
pub fn block_gradient_sums<E: Element>(
    cpu: Cpu,
    args: BackwardArgs<'_, E>,
    channels: Range<usize>,
    dbeta: &mut [f64],
    dgamma: &mut [f64],
) {
    args.check();
    assert_sums(args.shape, &channels, [dbeta.len(), dgamma.len()]);
    dbeta.fill(0.0);
    dgamma.fill(0.0);
    let sums = [dbeta, &mut *dgamma];
    dispatch(cpu, BlockGradientSums { args, channels: channels.clone(), sums });
    args.norm.scale_by_rstd(channels, dgamma);
}

/// Two terms for each element of a block, to be summed for each channel.
pub(super) trait ChannelTerms {
    /// What the terms need to know of the channels from `c` on, loaded once for all their elements.
    ///
    /// # Safety
    /// `c` + LANES must be at most the channel stride.
    unsafe fn channels<S: Simd>(&self, s: S, c: usize) -> S::V;

    /// The terms of the elements at `at`.
    ///
    /// # Safety
    /// The vector of channels from `c` on must lie at `at` in the block, and `channels` must be [`Self::channels`] of
    /// `c`.
    unsafe fn at<S: Simd>(&self, s: S, channels: S::V, c: usize, at: usize) -> [S::V; 2];
}

/// Sums of a row of pixels kept at a time, in f32: they and the channels' constants fill 12 KiB of L1.
const ROW_SUMS: usize = 2048;

/// The sums of a row of pixels, for some of the channels.
#[repr(align(64))]
struct RowSums {
    /// [`ChannelTerms::channels`] of each vector of channels.
    channels: [f32; ROW_SUMS / 2],
    /// For each vector of channels, for each of a few images, the sums of both terms.
    sums: [f32; ROW_SUMS],
}

/// Adds the sums of both terms over all valid elements of `channels`, whole planes, to `sums`: one slice per term, one
/// number per channel.
#[inline(always)]
pub(super) fn sum_channels<S: Simd, T: ChannelTerms>(
    s: S,
    shape: &BlockShape,
    valid: usize,
    terms: &T,
    channels: Range<usize>,
    sums: [&mut [f64]; 2],
) {
    // Enough independent sums to hide the latency of an addition: of several channels, or of several images.
    match shape.plane() / S::LANES {
        1 => sum_planes::<S, T, 1, 4>(s, shape, valid, terms, channels, sums),
        2 => sum_planes::<S, T, 2, 2>(s, shape, valid, terms, channels, sums),
        _ => sum_planes::<S, T, 4, 1>(s, shape, valid, terms, channels, sums),
    }
}

/// [`sum_channels`] in memory order, `G` vectors of channels and `I` images at a time.
#[inline(always)]
fn sum_planes<S: Simd, T: ChannelTerms, const G: usize, const I: usize>(
    s: S,
    shape: &BlockShape,
    valid: usize,
    terms: &T,
    all: Range<usize>,
    sums: [&mut [f64]; 2],
) {
    let [first, second] = sums;
    let most = ROW_SUMS / (2 * I);
    let mut row = RowSums { channels: [0.0; ROW_SUMS / 2], sums: [0.0; ROW_SUMS] };
    for start in all.clone().step_by(most) {
        let channels = start..(start + most).min(all.end);
        for c in channels.clone().step_by(S::LANES) {
            // SAFETY: the stride is a multiple of MAX_LANES (`assert_block`), and `row` has room for `most` channels.
            unsafe { s.store(row.channels.as_mut_ptr().add(c - start), terms.channels(s, c)) };
        }
        for y in 0..shape.height {
            row.sums[..2 * I * channels.len()].fill(0.0);
            for x in 0..shape.width {
                for c in channels.clone().step_by(G * S::LANES) {
                    let at = shape.offset(y, x) + shape.channel(c);
                    let group = ChannelGroup { channel: c, index: c - start, at };
                    // SAFETY: `assert_block` saw the block's slices hold the shape and valid ≤ BLOCK; a plane, and so
                    // the stride and `most`, is a multiple of G·LANES.
                    unsafe { sum_images::<S, T, G, I>(s, shape.plane(), valid, terms, group, &mut row) };
                }
            }
            for (i, c) in channels.clone().step_by(S::LANES).enumerate() {
                for sums in row.sums[i * 2 * I * S::LANES..][..2 * I * S::LANES].chunks_exact(2 * S::LANES) {
                    for lane in 0..S::LANES {
                        first[c - all.start + lane] += f64::from(sums[lane]);
                        second[c - all.start + lane] += f64::from(sums[S::LANES + lane]);
                    }
                }
            }
        }
    }
}

/// Vectors of adjacent channels at a pixel.
#[derive(Clone, Copy)]
struct ChannelGroup {
    /// The first channel.
    channel: usize,
    /// Its index among the channels of [`RowSums`].
    index: usize,
    /// The index of its first image's element in the block.
    at: usize,
}

/// Adds the terms of `G` vectors of channels of the valid images to the row's sums. Each image's channels lie `plane`
/// elements after the previous image's.
///
/// # Safety
/// The group's channels must lie in the block as it says, and the row must hold them.
#[inline(always)]
unsafe fn sum_images<S: Simd, T: ChannelTerms, const G: usize, const I: usize>(
    s: S,
    plane: usize,
    valid: usize,
    terms: &T,
    group: ChannelGroup,
    row: &mut RowSums,
) {
    let ChannelGroup { channel, index, at } = group;
    debug_assert!(2 * I * (index + G * S::LANES) <= ROW_SUMS);
    let mut channels = [s.zero(); G];
    let mut sums = [[[s.zero(); 2]; I]; G];
    // SAFETY: the caller's promise.
    unsafe {
        let stored = row.sums.as_mut_ptr().add(2 * I * index);
        let address = |g: usize, i: usize, n: usize| stored.add(((g * I + i) * 2 + n) * S::LANES);
        for (g, (channels, sums)) in channels.iter_mut().zip(&mut sums).enumerate() {
            *channels = s.load(row.channels.as_ptr().add(index + g * S::LANES));
            for (i, sums) in sums.iter_mut().enumerate() {
                *sums = [s.load(address(g, i, 0)), s.load(address(g, i, 1))];
            }
        }
        let mut image = 0;
        while image + I <= valid {
            for i in 0..I {
                for (g, (channels, sums)) in channels.iter().zip(&mut sums).enumerate() {
                    let at = at + (image + i) * plane + g * S::LANES;
                    let [a, b] = terms.at(s, *channels, channel + g * S::LANES, at);
                    sums[i] = [s.add(sums[i][0], a), s.add(sums[i][1], b)];
                }
            }
            image += I;
        }
        for image in image..valid {
            for (g, (channels, sums)) in channels.iter().zip(&mut sums).enumerate() {
                let at = at + image * plane + g * S::LANES;
                let [a, b] = terms.at(s, *channels, channel + g * S::LANES, at);
                sums[0] = [s.add(sums[0][0], a), s.add(sums[0][1], b)];
            }
        }
        for (g, sums) in sums.iter().enumerate() {
            for (i, &[a, b]) in sums.iter().enumerate() {
                s.store(address(g, i, 0), a);
                s.store(address(g, i, 1), b);
            }
        }
    }
}

/// Adds a vector's lanes to the first LANES numbers of `to`.
#[inline(always)]
fn add_lanes<S: Simd>(s: S, v: S::V, to: &mut [f64]) {
    let mut lanes = [0.0; MAX_LANES];
    // SAFETY: `lanes` has MAX_LANES elements, at least LANES.
    unsafe { s.store(lanes.as_mut_ptr(), v) }
    for (to, &lane) in to.iter_mut().zip(&lanes[..S::LANES]) {
        *to += f64::from(lane);
    }
}

/// Deviations from a value near the mean, and their squares.
struct DeviationTerms<'a, E> {
    shape: &'a BlockShape,
    valid: usize,
    x: &'a [E],
}

impl<E: Element> ChannelTerms for DeviationTerms<'_, E> {
    /// The value near the mean: the mean over the valid images at the central pixel.
    #[inline(always)]
    unsafe fn channels<S: Simd>(&self, s: S, c: usize) -> S::V {
        let mut sum = s.zero();
        for image in 0..self.valid {
            let at = self.shape.offset(self.shape.height / 2, self.shape.width / 2)
                + self.shape.channel(c)
                + image * self.shape.plane();
            // SAFETY: the caller's promise, and `assert_block` saw `x` hold the shape and valid ≤ BLOCK.
            sum = s.add(sum, unsafe { E::load(s, self.x.as_ptr().add(at)) });
        }
        s.mul(sum, s.splat(1.0 / self.valid as f32))
    }

    #[inline(always)]
    unsafe fn at<S: Simd>(&self, s: S, origin: S::V, _: usize, at: usize) -> [S::V; 2] {
        prefetch_ahead(s, self.x, at);
        // SAFETY: the caller's promise, and `assert_block` saw `x` hold the shape.
        let d = s.sub(unsafe { E::load(s, self.x.as_ptr().add(at)) }, origin);
        [d, s.mul(d, d)]
    }
}

struct BlockMoments<'a, E> {
    terms: DeviationTerms<'a, E>,
    channels: Range<usize>,
    mean: &'a mut [f64],
    squared_deviations: &'a mut [f64],
}

impl<E: Element> Kernel for BlockMoments<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (shape, valid) = (self.terms.shape, self.terms.valid);
        let sums = [&mut *self.mean, &mut *self.squared_deviations];
        sum_channels(s, shape, valid, &self.terms, self.channels.clone(), sums);
        let count = (shape.height * shape.width * valid) as f64;
        let vectors = self.mean.chunks_exact_mut(S::LANES).zip(self.squared_deviations.chunks_exact_mut(S::LANES));
        for (c, (means, squares)) in self.channels.step_by(S::LANES).zip(vectors) {
            for (mean, square) in means.iter_mut().zip(squares) {
                *square = (*square - *mean * *mean / count).max(0.0);
                *mean /= count;
            }
            // SAFETY: `block_moments` asserted that the channels are whole planes of the shape, multiples of LANES.
            let origin = unsafe { self.terms.channels(s, c) };
            add_lanes(s, origin, means);
        }
    }
}

/// dy′ and dy′·(x − mean).
struct GradientTerms<'a, E> {
    norm: &'a Normalisation<'a>,
    activation: Option<Activation>,
    x: &'a [E],
    dy: &'a [E],
}

impl<E: Element> ChannelTerms for GradientTerms<'_, E> {
    /// The mean.
    #[inline(always)]
    unsafe fn channels<S: Simd>(&self, s: S, c: usize) -> S::V {
        // SAFETY: the caller's promise, and `Normalisation::check` saw `mean` hold the channel stride.
        unsafe { s.load(self.norm.mean.as_ptr().add(c)) }
    }

    #[inline(always)]
    unsafe fn at<S: Simd>(&self, s: S, mean: S::V, c: usize, at: usize) -> [S::V; 2] {
        // SAFETY: the caller's promise; `BackwardArgs::check` saw `x` and `dy` hold the shape, and the norm its
        // channels.
        unsafe {
            let x = E::load(s, self.x.as_ptr().add(at));
            let dy = E::load(s, self.dy.as_ptr().add(at));
            let dy = self.norm.through_activation(s, self.activation, c, x, dy);
            [dy, s.mul(dy, s.sub(x, mean))]
        }
    }
}

struct BlockGradientSums<'a, E> {
    args: BackwardArgs<'a, E>,
    channels: Range<usize>,
    sums: [&'a mut [f64]; 2],
}

impl<E: Element> BlockGradientSums<'_, E> {
    #[inline(always)]
    fn pass<S: Simd>(self, s: S, activation: Option<Activation>) {
        let BackwardArgs { shape, valid, norm, x, dy } = self.args;
        sum_channels(s, shape, valid, &GradientTerms { norm, activation, x, dy }, self.channels, self.sums);
    }
}

impl<E: Element> Kernel for BlockGradientSums<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        with_activation!(self.args.norm.activation, |kind| self.pass(s, kind));
    }
}
