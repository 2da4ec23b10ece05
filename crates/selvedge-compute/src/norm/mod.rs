//! Batch normalisation (Ioffe and Szegedy, 2015) over a batch that is made of blocks, with an activation fused in.
//!
//! A training step goes so, each pass over the blocks in parallel, each combination in the order of the blocks, which
//! keeps the bits independent of the thread count:
//!
//! 1. [`block_moments`] of each block, then [`combine_moments`]: mean and spread of each channel over the batch.
//! 2. [`rstd`] and [`affine`] make of them a and b such that y = a·x + b; [`normalise`] each block.
//!    [`update_running`] keeps the averages that inference uses instead.
//! 3. Backward, [`block_gradient_sums`] of each block, then [`combine_sums`]: the gradients of shift and scale. With
//!    them [`gradient_coefficients`] and, for each block, [`input_gradient`].
//!
//! At the end of a residual block [`normalise_and_add`] takes the place of [`normalise`].
//!
//! Where max pooling follows, [`normalise_pooled`], [`pooled_gradient_sums`] and [`pooled_input_gradient`] take the places of
//! [`normalise`], [`block_gradient_sums`] and [`input_gradient`].
//!
//! What a channel's padding holds stays zero if its scale and shift are zero there. Channel strides are multiples of
//! [`MAX_LANES`].

mod channels;
mod pooled;
mod sums;

pub use channels::{affine, combine_moments, combine_sums, gradient_coefficients, rstd, update_running};
pub use pooled::{PooledMaxima, normalise_pooled, pooled_gradient_sums, pooled_input_gradient};
pub use sums::{block_gradient_sums, block_moments};

use std::ops::Range;

use crate::Cpu;
use crate::activation::{self, Activation};
use crate::layout::{BLOCK, BlockShape};
use crate::prefetch::fetch_ahead;
use crate::simd::{Element, Kernel, MAX_LANES, Simd, dispatch};

/// What the forward pass did to each channel; all slices are of the channel stride's length.
#[derive(Clone, Copy, Debug)]
pub struct Normalisation<'a> {
    /// The mean over the batch.
    pub mean: &'a [f32],
    /// 1/√(variance + ε).
    pub rstd: &'a [f32],
    /// a of y = a·x + b ([`affine`]).
    pub factor: &'a [f32],
    /// b of y = a·x + b.
    pub offset: &'a [f32],
    /// What was applied to y in the same pass.
    pub activation: Option<Activation>,
}

/// y = f(a·x + b) with a and b of each channel, f the activation or nothing.
///
/// `x` and `y` are any whole number of the shape's pixels.
///
/// # Panics
/// If the lengths of `x` and `y` differ or are no whole pixels, or those of `factor` and `offset` are not the channel
/// stride, a multiple of [`MAX_LANES`].
///
/// ```
/// use selvedge_compute::{BlockShape, Cpu, norm};
/// let (x, mut y) = ([3.0; 32 * 16], [0.0; 32 * 16]);
/// norm::normalise(Cpu::detect()?, &BlockShape::new(1, 1, 16), [&[2.0; 16], &[-1.0; 16]], None, &x, &mut y);
/// assert_eq!(y, [5.0; 32 * 16]);
/// # Ok::<(), selvedge_compute::CpuError>(())
/// ```
pub fn normalise<E: Element>(
    cpu: Cpu,
    shape: &BlockShape,
    channels: [&[f32]; 2],
    activation: Option<Activation>,
    x: &[E],
    y: &mut [E],
) {
    check_normalise(shape, channels, x, y);
    dispatch(cpu, Normalise { shape, channels, activation, x, shortcut: None, y });
}

/// y = f(a·x + b) + shortcut: [`normalise`] at the end of a residual block, with the sum in the same pass. Its terms are rounded as
/// if the first had been stored, so the bits are those of [`normalise`] and [`crate::sum::add`].
///
/// # Panics
/// As [`normalise`], or if the length of `shortcut` is not that of `x`.
pub fn normalise_and_add<E: Element>(
    cpu: Cpu,
    shape: &BlockShape,
    channels: [&[f32]; 2],
    activation: Option<Activation>,
    x: &[E],
    shortcut: &[E],
    y: &mut [E],
) {
    check_normalise(shape, channels, x, y);
    assert_eq!(shortcut.len(), x.len(), "the shortcut has {} elements and x {}", shortcut.len(), x.len());
    dispatch(cpu, Normalise { shape, channels, activation, x, shortcut: Some(shortcut), y });
}

#[track_caller]
fn check_normalise<E>(shape: &BlockShape, [factor, offset]: [&[f32]; 2], x: &[E], y: &[E]) {
    assert_stride(shape.channel_stride);
    assert_channels(shape.channel_stride, &[("factor", factor.len()), ("offset", offset.len())]);
    assert_eq!(x.len(), y.len(), "x has {} elements and y {}", x.len(), y.len());
    assert!(x.len().is_multiple_of(shape.pixel()), "x has {} elements, no pixels of {shape:?}", x.len());
}

/// dx = a·dy′ − c₀ − c₁·(x − mean), where dy′ is dy before the activation, for the valid images of a block; zero for
/// the others. c₀ and c₁ come from [`gradient_coefficients`].
///
/// # Panics
/// If a slice does not fit the shape or the channel stride, or `valid` is more than [`BLOCK`].
pub fn input_gradient<E: Element>(
    cpu: Cpu,
    shape: &BlockShape,
    valid: usize,
    norm: &Normalisation<'_>,
    coefficients: [&[f32]; 2],
    x: &[E],
    dy: &[E],
    dx: &mut [E],
) {
    assert_block(shape, valid, &[("x", x.len()), ("dy", dy.len()), ("dx", dx.len())]);
    norm.check(shape.channel_stride);
    assert_channels(shape.channel_stride, &[("c₀", coefficients[0].len()), ("c₁", coefficients[1].len())]);
    dispatch(cpu, InputGradient { shape, valid, norm, coefficients, x, dy, dx });
}

impl Normalisation<'_> {
    #[track_caller]
    fn check(&self, stride: usize) {
        let Self { mean, rstd, factor, offset, .. } = self;
        assert_channels(
            stride,
            &[("mean", mean.len()), ("rstd", rstd.len()), ("factor", factor.len()), ("offset", offset.len())],
        );
    }

    /// Sums of dy′·x̂ of some channels from those of dy′·(x − mean).
    fn scale_sums(&self, channels: Range<usize>, sums: &mut [f64]) {
        for (sum, &inverse) in sums.iter_mut().zip(&self.rstd[channels]) {
            *sum *= f64::from(inverse);
        }
    }

    /// dy before the activation, at channel `c`.
    ///
    /// # Safety
    /// `c` + LANES must be at most the channel stride, which `check` has seen.
    #[inline(always)]
    unsafe fn through_activation<S: Simd>(
        &self,
        s: S,
        activation: Option<Activation>,
        c: usize,
        x: S::V,
        dy: S::V,
    ) -> S::V {
        let Some(kind) = activation else { return dy };
        // SAFETY: the caller's promise.
        let (a, b) = unsafe { (s.load(self.factor.as_ptr().add(c)), s.load(self.offset.as_ptr().add(c))) };
        let z = s.mul_add(x, a, b);
        match kind {
            Activation::Relu => s.select(s.gt(z, s.zero()), dy, s.zero()),
            _ => s.mul(dy, activation::derivative(s, kind, z)),
        }
    }
}

#[track_caller]
fn assert_stride(stride: usize) {
    assert!(
        stride > 0 && stride.is_multiple_of(MAX_LANES),
        "the channel stride {stride} is no multiple of {MAX_LANES}"
    );
}

#[track_caller]
fn assert_channels(stride: usize, slices: &[(&str, usize)]) {
    for &(name, len) in slices {
        assert_eq!(len, stride, "{name} has {len} channels, not {stride}");
    }
}

/// Two sums for each of some planes' channels.
#[track_caller]
fn assert_sums(shape: &BlockShape, channels: &Range<usize>, lens: [usize; 2]) {
    let Range { start, end } = *channels;
    assert!(
        start <= end && end <= shape.channel_stride && [start, end].iter().all(|c| c.is_multiple_of(shape.plane())),
        "channels {channels:?} are no planes of {shape:?}"
    );
    assert_eq!(lens, [channels.len(); 2], "the sums' lengths and channels {channels:?}");
}

#[track_caller]
fn assert_block(shape: &BlockShape, valid: usize, slices: &[(&str, usize)]) {
    assert_stride(shape.channel_stride);
    assert!(valid <= BLOCK, "{valid} valid images in a block of {BLOCK}");
    for &(name, len) in slices {
        assert_eq!(len, shape.len(), "{name} has {len} elements and its shape {}", shape.len());
    }
}

/// `$body` in three copies with `$kind` a constant in the two whose cost it decides: nothing and ReLU. The others take so
/// long that a choice in the inner loop does not show.
macro_rules! with_activation {
    ($activation:expr, |$kind:ident| $body:expr) => {
        match $activation {
            None => {
                let $kind = None;
                $body
            }
            Some(Activation::Relu) => {
                let $kind = Some(Activation::Relu);
                $body
            }
            $kind => $body,
        }
    };
}
use with_activation;

struct Normalise<'a, E> {
    shape: &'a BlockShape,
    /// a and b.
    channels: [&'a [f32]; 2],
    activation: Option<Activation>,
    x: &'a [E],
    shortcut: Option<&'a [E]>,
    y: &'a mut [E],
}

impl<E: Element> Normalise<'_, E> {
    #[inline(always)]
    fn pass<S: Simd>(self, s: S, activation: Option<Activation>, shortcut: Option<&[E]>) {
        let (stride, plane) = (self.shape.channel_stride, self.shape.plane());
        for pixel in (0..self.x.len()).step_by(self.shape.pixel()) {
            for c in (0..stride).step_by(S::LANES) {
                // SAFETY: `assert_channels` saw both slices hold the stride, a multiple of LANES.
                let [a, b] = self.channels.map(|channels| unsafe { s.load(channels.as_ptr().add(c)) });
                let first = pixel + self.shape.channel(c);
                for image in 0..BLOCK {
                    let at = first + image * plane;
                    fetch_ahead(s, self.x, at);
                    fetch_ahead(s, self.y, at);
                    // SAFETY: `check_normalise` saw `x` and `y` hold whole pixels of the shape, and `normalise_and_add` that the
                    // shortcut is as long.
                    unsafe {
                        let y = s.mul_add(E::load(s, self.x.as_ptr().add(at)), a, b);
                        let y = match activation {
                            None => y,
                            Some(kind) => activation::apply(s, kind, y),
                        };
                        let y = match shortcut {
                            None => y,
                            Some(shortcut) => {
                                fetch_ahead(s, shortcut, at);
                                s.add(E::round(s, y), E::load(s, shortcut.as_ptr().add(at)))
                            }
                        };
                        E::store(s, self.y.as_mut_ptr().add(at), y);
                    }
                }
            }
        }
    }
}

impl<E: Element> Kernel for Normalise<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.shortcut {
            None => with_activation!(self.activation, |kind| self.pass(s, kind, None)),
            Some(shortcut) => with_activation!(self.activation, |kind| self.pass(s, kind, Some(shortcut))),
        }
    }
}

struct InputGradient<'a, E> {
    shape: &'a BlockShape,
    valid: usize,
    norm: &'a Normalisation<'a>,
    coefficients: [&'a [f32]; 2],
    x: &'a [E],
    dy: &'a [E],
    dx: &'a mut [E],
}

impl<E: Element> InputGradient<'_, E> {
    #[inline(always)]
    fn pass<S: Simd>(self, s: S, activation: Option<Activation>) {
        let (pixel, stride, plane) = (self.shape.pixel(), self.shape.channel_stride, self.shape.plane());
        for start in (0..self.shape.len()).step_by(pixel) {
            for c in (0..stride).step_by(S::LANES) {
                let first = start + self.shape.channel(c);
                // SAFETY: `check` and `assert_channels` saw the channels' slices hold the stride, a multiple of LANES.
                let [mean, a, c0, c1] = unsafe {
                    [self.norm.mean, self.norm.factor, self.coefficients[0], self.coefficients[1]]
                        .map(|channels| s.load(channels.as_ptr().add(c)))
                };
                for image in 0..self.valid {
                    let at = first + image * plane;
                    fetch_ahead(s, self.x, at);
                    fetch_ahead(s, self.dy, at);
                    fetch_ahead(s, self.dx, at);
                    // SAFETY: `assert_block` saw `x`, `dy` and `dx` hold the block and valid ≤ BLOCK.
                    unsafe {
                        let x = E::load(s, self.x.as_ptr().add(at));
                        let dy = E::load(s, self.dy.as_ptr().add(at));
                        let dy = self.norm.through_activation(s, activation, c, x, dy);
                        let correction = s.mul_add(s.sub(x, mean), c1, c0);
                        E::store(s, self.dx.as_mut_ptr().add(at), s.sub(s.mul(a, dy), correction));
                    }
                }
            }
            for plane in self.dx[start..start + pixel].chunks_exact_mut(self.shape.plane_len()) {
                plane[self.valid * self.shape.plane()..].fill(E::default());
            }
        }
    }
}

impl<E: Element> Kernel for InputGradient<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        with_activation!(self.norm.activation, |kind| self.pass(s, kind));
    }
}

#[cfg(test)]
mod tests;
