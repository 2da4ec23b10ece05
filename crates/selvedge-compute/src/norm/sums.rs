//! Sums over a block for each channel: moments forward, the gradients of shift and scale backward.
//!
//! A row of pixels is summed in f32, the rows' sums in f64. The block is read in the order in which it lies in memory, which
//! is what bounds these passes: a row's sums wait in the first cache while other channels have their turn. Deviations are taken
//! from a value near the channel's mean, the mean at the central pixel, so that squares lose nothing to a mean far from zero and
//! one pass over the block is enough.
//!
//! A channel's sums take the same steps whichever others are asked for, so several threads may have some planes of channels
//! each.

use std::ops::Range;

use super::{Normalisation, assert_block, assert_sums, with_activation};
use crate::Cpu;
use crate::activation::Activation;
use crate::layout::BlockShape;
use crate::prefetch::fetch_ahead;
use crate::simd::{Element, Kernel, MAX_LANES, Simd, dispatch};

/// The mean of each of `channels`, whole planes, over the valid images and all pixels of a block, and the sum of squared
/// deviations from it; zero without valid images.
///
/// # Panics
/// If a slice does not fit the shape or the channels, these are no whole planes, or `valid` is more than [`crate::BLOCK`].
pub fn block_moments<E: Element>(
    cpu: Cpu,
    shape: &BlockShape,
    valid: usize,
    x: &[E],
    channels: Range<usize>,
    mean: &mut [f64],
    square: &mut [f64],
) {
    assert_block(shape, valid, &[("x", x.len())]);
    assert_sums(shape, &channels, [mean.len(), square.len()]);
    mean.fill(0.0);
    square.fill(0.0);
    if valid > 0 && !x.is_empty() {
        dispatch(cpu, BlockMoments { terms: Deviations { shape, valid, x }, channels, mean, square });
    }
}

/// The sums of dy′ and of dy′·x̂ for each of `channels`, whole planes, over the valid images and all pixels of a block, where
/// dy′ is dy before the activation and x̂ the normalised x.
///
/// # Panics
/// As [`block_moments`].
pub fn block_gradient_sums<E: Element>(
    cpu: Cpu,
    shape: &BlockShape,
    valid: usize,
    norm: &Normalisation<'_>,
    x: &[E],
    dy: &[E],
    channels: Range<usize>,
    sum: &mut [f64],
    sum_normalised: &mut [f64],
) {
    assert_block(shape, valid, &[("x", x.len()), ("dy", dy.len())]);
    norm.check(shape.channel_stride);
    assert_sums(shape, &channels, [sum.len(), sum_normalised.len()]);
    sum.fill(0.0);
    sum_normalised.fill(0.0);
    let sums = [sum, &mut *sum_normalised];
    dispatch(cpu, BlockGradientSums { shape, valid, norm, x, dy, channels: channels.clone(), sums });
    norm.scale_sums(channels, sum_normalised);
}

/// Two numbers for each element of a block, to be summed over each channel.
pub(super) trait Terms {
    /// What they need of the vector of channels from `c` on, beside its place.
    ///
    /// # Safety
    /// `c` + LANES must be at most the channel stride.
    unsafe fn channels<S: Simd>(&self, s: S, c: usize) -> S::V;

    /// # Safety
    /// The vector of channels from `c` on must lie at `at` in the block, and be the one that `channels` is of.
    unsafe fn at<S: Simd>(&self, s: S, channels: S::V, c: usize, at: usize) -> [S::V; 2];
}

/// f32 that the sums of a row of pixels take, in the first cache.
const SUMS: usize = 2048;

/// For some of the channels, what their terms need of them, and the sums of a row: of each vector of channels, of each of a
/// few images, both sums.
#[repr(align(64))]
struct Row {
    channels: [f32; SUMS / 2],
    sums: [f32; SUMS],
}

/// Adds the sums over all valid elements of `channels`, whole planes, to `sums`, two slices of as many numbers.
#[inline(always)]
pub(super) fn add_up<S: Simd, T: Terms>(
    s: S,
    shape: &BlockShape,
    valid: usize,
    terms: &T,
    channels: Range<usize>,
    sums: [&mut [f64]; 2],
) {
    // As many independent sums as hide the latency of an addition: of several channels, or of several images.
    match shape.plane() / S::LANES {
        1 => add_up_planes::<S, T, 1, 4>(s, shape, valid, terms, channels, sums),
        2 => add_up_planes::<S, T, 2, 2>(s, shape, valid, terms, channels, sums),
        _ => add_up_planes::<S, T, 4, 1>(s, shape, valid, terms, channels, sums),
    }
}

/// [`add_up`] in the order in which the block lies in memory, `G` vectors of channels and `I` images at a time.
#[inline(always)]
fn add_up_planes<S: Simd, T: Terms, const G: usize, const I: usize>(
    s: S,
    shape: &BlockShape,
    valid: usize,
    terms: &T,
    all: Range<usize>,
    sums: [&mut [f64]; 2],
) {
    let [first, second] = sums;
    let most = SUMS / (2 * I);
    let mut row = Row { channels: [0.0; SUMS / 2], sums: [0.0; SUMS] };
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
                    // SAFETY: `assert_block` saw the block's slices hold the shape and valid ≤ BLOCK; a plane, and so the
                    // stride and `most`, is a multiple of G·LANES.
                    unsafe {
                        add_up_images::<S, T, G, I>(s, shape.plane(), valid, terms, [c, c - start], at, &mut row)
                    };
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

/// Adds `G` vectors of the valid images to a row's sums: those of channels `c`, number `number` of the row's, at `at`, the
/// next image `plane` elements further.
///
/// # Safety
/// They must lie there, and the row must hold the channels.
#[inline(always)]
unsafe fn add_up_images<S: Simd, T: Terms, const G: usize, const I: usize>(
    s: S,
    plane: usize,
    valid: usize,
    terms: &T,
    [c, number]: [usize; 2],
    at: usize,
    row: &mut Row,
) {
    debug_assert!(2 * I * (number + G * S::LANES) <= SUMS);
    let mut channels = [s.zero(); G];
    let mut sums = [[[s.zero(); 2]; I]; G];
    // SAFETY: the caller's promise.
    unsafe {
        let kept = row.sums.as_mut_ptr().add(2 * I * number);
        let place = |g: usize, i: usize, n: usize| kept.add(((g * I + i) * 2 + n) * S::LANES);
        for (g, (channels, sums)) in channels.iter_mut().zip(&mut sums).enumerate() {
            *channels = s.load(row.channels.as_ptr().add(number + g * S::LANES));
            for (i, sums) in sums.iter_mut().enumerate() {
                *sums = [s.load(place(g, i, 0)), s.load(place(g, i, 1))];
            }
        }
        let mut image = 0;
        while image + I <= valid {
            for i in 0..I {
                for (g, (channels, sums)) in channels.iter().zip(&mut sums).enumerate() {
                    let at = at + (image + i) * plane + g * S::LANES;
                    let [a, b] = terms.at(s, *channels, c + g * S::LANES, at);
                    sums[i] = [s.add(sums[i][0], a), s.add(sums[i][1], b)];
                }
            }
            image += I;
        }
        for image in image..valid {
            for (g, (channels, sums)) in channels.iter().zip(&mut sums).enumerate() {
                let at = at + image * plane + g * S::LANES;
                let [a, b] = terms.at(s, *channels, c + g * S::LANES, at);
                sums[0] = [s.add(sums[0][0], a), s.add(sums[0][1], b)];
            }
        }
        for (g, sums) in sums.iter().enumerate() {
            for (i, &[a, b]) in sums.iter().enumerate() {
                s.store(place(g, i, 0), a);
                s.store(place(g, i, 1), b);
            }
        }
    }
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
    unsafe fn at<S: Simd>(&self, s: S, origin: S::V, _: usize, at: usize) -> [S::V; 2] {
        fetch_ahead(s, self.x, at);
        // SAFETY: the caller's promise, and `assert_block` saw `x` hold the shape.
        let d = s.sub(unsafe { E::load(s, self.x.as_ptr().add(at)) }, origin);
        [d, s.mul(d, d)]
    }
}

struct BlockMoments<'a, E> {
    terms: Deviations<'a, E>,
    channels: Range<usize>,
    mean: &'a mut [f64],
    square: &'a mut [f64],
}

impl<E: Element> Kernel for BlockMoments<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (shape, valid) = (self.terms.shape, self.terms.valid);
        add_up(s, shape, valid, &self.terms, self.channels.clone(), [&mut *self.mean, &mut *self.square]);
        let count = (shape.height * shape.width * valid) as f64;
        let parts = self.mean.chunks_exact_mut(S::LANES).zip(self.square.chunks_exact_mut(S::LANES));
        for (c, (means, squares)) in self.channels.step_by(S::LANES).zip(parts) {
            for (mean, square) in means.iter_mut().zip(squares) {
                *square = (*square - *mean * *mean / count).max(0.0);
                *mean /= count;
            }
            // SAFETY: `block_moments` asserted that the channels are planes, multiples of LANES, of the shape.
            let origin = unsafe { self.terms.channels(s, c) };
            add_lanes(s, origin, means);
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
    /// The mean.
    #[inline(always)]
    unsafe fn channels<S: Simd>(&self, s: S, c: usize) -> S::V {
        // SAFETY: the caller's promise, and `check` saw `mean` hold the channel stride.
        unsafe { s.load(self.norm.mean.as_ptr().add(c)) }
    }

    #[inline(always)]
    unsafe fn at<S: Simd>(&self, s: S, mean: S::V, c: usize, at: usize) -> [S::V; 2] {
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
    channels: Range<usize>,
    sums: [&'a mut [f64]; 2],
}

impl<E: Element> BlockGradientSums<'_, E> {
    #[inline(always)]
    fn pass<S: Simd>(self, s: S, activation: Option<Activation>) {
        let terms = Gradients { norm: self.norm, activation, x: self.x, dy: self.dy };
        add_up(s, self.shape, self.valid, &terms, self.channels, self.sums);
    }
}

impl<E: Element> Kernel for BlockGradientSums<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        with_activation!(self.norm.activation, |kind| self.pass(s, kind));
    }
}
