//! Sums over a block for each channel: moments forward, the gradients of shift and scale backward.
//!
//! A row of pixels is summed in f32, up to four vectors of channels at a time in registers; the rows' sums are added in
//! f64. Deviations are taken from a value near the channel's mean, the mean at the central pixel, so that squares lose
//! nothing to a mean far from zero and one pass over the block is enough.

use std::ops::Range;

use super::{Normalisation, assert_block, assert_channels, with_activation};
use crate::Cpu;
use crate::activation::Activation;
use crate::layout::BlockShape;
use crate::simd::{Element, Kernel, MAX_LANES, Simd, dispatch};

/// The mean of each channel over the valid images and all pixels of a block, and the sum of squared deviations from it;
/// zero without valid images.
///
/// # Panics
/// If a slice does not fit the shape or the channel stride, or `valid` is more than [`crate::BLOCK`].
pub fn block_moments<E: Element>(
    cpu: Cpu,
    shape: &BlockShape,
    valid: usize,
    x: &[E],
    mean: &mut [f64],
    square: &mut [f64],
) {
    assert_block(shape, valid, &[("x", x.len())]);
    assert_channels(shape.channel_stride, &[("mean", mean.len()), ("square", square.len())]);
    mean.fill(0.0);
    square.fill(0.0);
    if valid > 0 && !x.is_empty() {
        dispatch(cpu, BlockMoments { terms: Deviations { shape, valid, x }, mean, square });
    }
}

/// The sums of dy′ and of dy′·x̂ for each channel over the valid images and all pixels of a block, where dy′ is dy before
/// the activation and x̂ the normalised x.
///
/// # Panics
/// If a slice does not fit the shape or the channel stride, or `valid` is more than [`crate::BLOCK`].
pub fn block_gradient_sums<E: Element>(
    cpu: Cpu,
    shape: &BlockShape,
    valid: usize,
    norm: &Normalisation<'_>,
    x: &[E],
    dy: &[E],
    sum: &mut [f64],
    sum_normalised: &mut [f64],
) {
    assert_block(shape, valid, &[("x", x.len()), ("dy", dy.len())]);
    norm.check(shape.channel_stride);
    assert_channels(shape.channel_stride, &[("sum", sum.len()), ("sum_normalised", sum_normalised.len())]);
    sum.fill(0.0);
    sum_normalised.fill(0.0);
    dispatch(cpu, BlockGradientSums { shape, valid, norm, x, dy, sum, sum_normalised });
}

/// Two numbers for each element of a block, to be summed over each channel.
pub(super) trait Terms {
    /// What they need of a vector of channels.
    type Channels<S: Simd>: Copy;

    /// # Safety
    /// `c` + LANES must be at most the channel stride.
    unsafe fn channels<S: Simd>(&self, s: S, c: usize) -> Self::Channels<S>;

    /// # Safety
    /// A vector of channels must lie at `at` in the block, and be the one that `channels` is of.
    unsafe fn at<S: Simd>(&self, s: S, channels: Self::Channels<S>, at: usize) -> [S::V; 2];
}

/// Adds the sums over all valid elements to `sums`, two slices of the channel stride's length.
#[inline(always)]
pub(super) fn add_up<S: Simd, T: Terms>(s: S, shape: &BlockShape, valid: usize, terms: &T, sums: [&mut [f64]; 2]) {
    let [first, second] = sums;
    let rows_at_once = (ELEMENTS_AT_ONCE / shape.row()).max(1);
    for start in (0..shape.height).step_by(rows_at_once) {
        let rows = || start..(start + rows_at_once).min(shape.height);
        let mut c = 0;
        while c < shape.channel_stride {
            // As many independent sums as hide the latency of an addition: of several channels, or of several images.
            let sums = [&mut first[c..], &mut second[c..]];
            c += S::LANES
                * match (shape.channel_stride - c) / S::LANES {
                    0 | 1 => add_up_group::<S, T, 1, 4>(s, shape, rows(), valid, terms, c, sums),
                    2 | 3 => add_up_group::<S, T, 2, 2>(s, shape, rows(), valid, terms, c, sums),
                    _ => add_up_group::<S, T, 4, 1>(s, shape, rows(), valid, terms, c, sums),
                };
        }
    }
}

/// Elements of the rows that all channels are summed over before the next rows: the second group of channels finds them in
/// the second cache.
const ELEMENTS_AT_ONCE: usize = 1 << 17;

/// [`add_up`] over `rows` for `G` vectors of channels from `c` on, `I` images at a time. Returns `G`.
#[inline(always)]
fn add_up_group<S: Simd, T: Terms, const G: usize, const I: usize>(
    s: S,
    shape: &BlockShape,
    rows: Range<usize>,
    valid: usize,
    terms: &T,
    c: usize,
    sums: [&mut [f64]; 2],
) -> usize {
    // SAFETY of all blocks: `assert_block` saw the block's slices hold the shape, whose stride is a multiple of
    // MAX_LANES, and valid ≤ BLOCK; `add_up` keeps c + G·LANES at most the stride.
    let [first, second] = sums;
    // SAFETY: as above.
    let mut channels = [unsafe { terms.channels(s, c) }; G];
    for (g, channels) in channels.iter_mut().enumerate().skip(1) {
        // SAFETY: as above.
        *channels = unsafe { terms.channels(s, c + g * S::LANES) };
    }
    for y in rows {
        let mut sums = [[[s.zero(); 2]; G]; I];
        for x in 0..shape.width {
            let pixel = shape.offset(y, x);
            let mut image = 0;
            while image + I <= valid {
                for (i, sums) in sums.iter_mut().enumerate() {
                    for (g, sums) in sums.iter_mut().enumerate() {
                        let at = pixel + shape.channel(c + g * S::LANES) + (image + i) * shape.plane();
                        // SAFETY: as above.
                        let [a, b] = unsafe { terms.at(s, channels[g], at) };
                        *sums = [s.add(sums[0], a), s.add(sums[1], b)];
                    }
                }
                image += I;
            }
            for image in image..valid {
                for (g, sums) in sums[0].iter_mut().enumerate() {
                    let at = pixel + shape.channel(c + g * S::LANES) + image * shape.plane();
                    // SAFETY: as above.
                    let [a, b] = unsafe { terms.at(s, channels[g], at) };
                    *sums = [s.add(sums[0], a), s.add(sums[1], b)];
                }
            }
        }
        for g in 0..G {
            for sums in &sums {
                add_lanes(s, sums[g][0], &mut first[g * S::LANES..]);
                add_lanes(s, sums[g][1], &mut second[g * S::LANES..]);
            }
        }
    }
    G
}

/// Adds a vector's lanes to the first numbers of `to`.
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
struct Deviations<'a, E> {
    shape: &'a BlockShape,
    valid: usize,
    x: &'a [E],
}

impl<E: Element> Terms for Deviations<'_, E> {
    type Channels<S: Simd> = S::V;

    /// The mean over the valid images at the central pixel.
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
    unsafe fn at<S: Simd>(&self, s: S, origin: S::V, at: usize) -> [S::V; 2] {
        // SAFETY: the caller's promise, and `assert_block` saw `x` hold the shape.
        let d = s.sub(unsafe { E::load(s, self.x.as_ptr().add(at)) }, origin);
        [d, s.mul(d, d)]
    }
}

struct BlockMoments<'a, E> {
    terms: Deviations<'a, E>,
    mean: &'a mut [f64],
    square: &'a mut [f64],
}

impl<E: Element> Kernel for BlockMoments<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (shape, valid) = (self.terms.shape, self.terms.valid);
        add_up(s, shape, valid, &self.terms, [&mut *self.mean, &mut *self.square]);
        let count = (shape.height * shape.width * valid) as f64;
        for c in (0..shape.channel_stride).step_by(S::LANES) {
            for (mean, square) in self.mean[c..].iter_mut().zip(&mut self.square[c..]).take(S::LANES) {
                *square = (*square - *mean * *mean / count).max(0.0);
                *mean /= count;
            }
            // SAFETY: `block_moments` asserted the shape, whose stride is a multiple of LANES.
            let origin = unsafe { self.terms.channels(s, c) };
            add_lanes(s, origin, &mut self.mean[c..]);
        }
    }
}

/// dy′ and dy′·(x − mean).
struct Gradients<'a, E> {
    norm: &'a Normalisation<'a>,
    activation: Option<Activation>,
    x: &'a [E],
    dy: &'a [E],
}

impl<E: Element> Terms for Gradients<'_, E> {
    /// The mean, and where the channels begin.
    type Channels<S: Simd> = (S::V, usize);

    #[inline(always)]
    unsafe fn channels<S: Simd>(&self, s: S, c: usize) -> (S::V, usize) {
        // SAFETY: the caller's promise, and `check` saw `mean` hold the channel stride.
        (unsafe { s.load(self.norm.mean.as_ptr().add(c)) }, c)
    }

    #[inline(always)]
    unsafe fn at<S: Simd>(&self, s: S, (mean, c): (S::V, usize), at: usize) -> [S::V; 2] {
        // SAFETY: the caller's promise; `assert_block` saw `x` and `dy` hold the shape, `check` the channels.
        unsafe {
            let x = E::load(s, self.x.as_ptr().add(at));
            let dy = E::load(s, self.dy.as_ptr().add(at));
            let dy = self.norm.through_activation(s, self.activation, c, x, dy);
            [dy, s.mul(dy, s.sub(x, mean))]
        }
    }
}

struct BlockGradientSums<'a, E> {
    shape: &'a BlockShape,
    valid: usize,
    norm: &'a Normalisation<'a>,
    x: &'a [E],
    dy: &'a [E],
    sum: &'a mut [f64],
    sum_normalised: &'a mut [f64],
}

impl<E: Element> BlockGradientSums<'_, E> {
    #[inline(always)]
    fn pass<S: Simd>(self, s: S, activation: Option<Activation>) {
        let terms = Gradients { norm: self.norm, activation, x: self.x, dy: self.dy };
        add_up(s, self.shape, self.valid, &terms, [self.sum, &mut *self.sum_normalised]);
        for (sum, &inverse) in self.sum_normalised.iter_mut().zip(self.norm.inverse_deviation) {
            *sum *= f64::from(inverse);
        }
    }
}

impl<E: Element> Kernel for BlockGradientSums<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        with_activation!(self.norm.activation, |kind| self.pass(s, kind));
    }
}
