//! Batch normalisation (Ioffe and Szegedy, 2015) over a batch of blocks, with the activation that follows it in the
//! same pass.
//!
//! A training step takes these steps. Blocks run in parallel; their results are combined in the order of the blocks, so
//! the bits do not depend on the number of threads.
//!
//! 1. [`block_moments`] of each block, then [`combine_moments`]: each channel's mean and sum of squared deviations over
//!    the batch.
//! 2. [`rstd`] and [`affine`] turn them, gamma and beta into a and b of y = a·x + b; [`normalise`] each block.
//!    [`update_running`] updates the running mean and variance, which inference uses instead.
//! 3. Backward: [`block_gradient_sums`] of each block, then [`combine_sums`], give the gradients of beta and gamma.
//!    [`gradient_coefficients`] turns them into what [`input_gradient`] of each block reads.
//!
//! At the end of a residual block, [`normalise_and_add`] replaces [`normalise`].
//!
//! Where max pooling follows, [`normalise_pooled`], [`pooled_gradient_sums`] and [`pooled_input_gradient`] replace
//! [`normalise`], [`block_gradient_sums`] and [`input_gradient`].
//!
//! Padded channels stay zero if their gamma and beta are zero. Channel strides are multiples of [`MAX_LANES`].

mod channels;
mod pooled;
mod sums;

pub use channels::{affine, combine_moments, combine_sums, gradient_coefficients, rstd, update_running};
pub use pooled::{PooledBackwardArgs, PooledMaxima, normalise_pooled, pooled_gradient_sums, pooled_input_gradient};
pub use sums::{block_gradient_sums, block_moments};

use std::ops::Range;

use crate::Cpu;
use crate::activation::{self, Activation};
use crate::layout::{BLOCK, BlockShape};
use crate::prefetch::prefetch_ahead;
use crate::simd::{Element, Kernel, MAX_LANES, Simd, dispatch};

/// How each channel is normalised: y = f(a·x + b). Every slice has one number per channel of the channel stride.
#[derive(Clone, Copy, Debug)]
pub struct Normalisation<'a> {
    /// The mean over the batch. The backward passes read it, the forward passes do not.
    pub mean: &'a [f32],
    /// The reciprocal standard deviation, 1/√(variance + ε) ([`rstd()`]). Only the gradients read it.
    pub rstd: &'a [f32],
    /// a of y = f(a·x + b): gamma·rstd ([`affine`]).
    pub factor: &'a [f32],
    /// b of y = f(a·x + b): beta − a·mean.
    pub offset: &'a [f32],
    /// f, applied in the same pass.
    pub activation: Option<Activation>,
}

/// What the backward pass reads of a block.
#[derive(Clone, Copy, Debug)]
pub struct BackwardArgs<'a, E> {
    /// The shape of `x` and `dy`.
    pub shape: &'a BlockShape,
    /// Images that carry data, the first of the block; the others have no gradient.
    pub valid: usize,
    /// What the forward pass did.
    pub norm: &'a Normalisation<'a>,
    /// The forward pass's input.
    pub x: &'a [E],
    /// The gradient of the forward pass's output.
    pub dy: &'a [E],
}

/// y = f(a·x + b), with a, b and f of `norm`.
///
/// `x` and `y` are any whole number of the shape's pixels.
///
/// # Panics
/// If the lengths of `x` and `y` differ or are not whole pixels, or a slice of `norm` is not as long as the channel
/// stride, a multiple of [`MAX_LANES`].
///
/// ```
/// use selvedge_compute::{BlockShape, Cpu, norm::{Normalisation, normalise}};
/// let (mean, rstd, factor, offset) = (&[0.5; 16], &[2.0; 16], &[2.0; 16], &[-1.0; 16]);
/// let norm = Normalisation { mean, rstd, factor, offset, activation: None };
/// let (x, mut y) = ([3.0; 32 * 16], [0.0; 32 * 16]);
/// normalise(Cpu::detect()?, &BlockShape::new(1, 1, 16), &norm, &x, &mut y);
/// assert_eq!(y, [5.0; 32 * 16]);
/// # Ok::<(), selvedge_compute::CpuError>(())
/// ```
pub fn normalise<E: Element>(cpu: Cpu, shape: &BlockShape, norm: &Normalisation<'_>, x: &[E], y: &mut [E]) {
    check_normalise(shape, norm, x, y);
    dispatch(cpu, Normalise { shape, norm, x, shortcut: None, y });
}

/// y = f(a·x + b) + shortcut: [`normalise`] at the end of a residual block, with the sum in the same pass. f(a·x + b)
/// is rounded as if it were stored, so the result is bit-identical to [`normalise`] followed by [`crate::sum::add`].
///
/// # Panics
/// As [`normalise`], or if the lengths of `shortcut` and `x` differ.
pub fn normalise_and_add<E: Element>(
    cpu: Cpu,
    shape: &BlockShape,
    norm: &Normalisation<'_>,
    x: &[E],
    shortcut: &[E],
    y: &mut [E],
) {
    check_normalise(shape, norm, x, y);
    assert_eq!(shortcut.len(), x.len(), "the shortcut has {} elements and x {}", shortcut.len(), x.len());
    dispatch(cpu, Normalise { shape, norm, x, shortcut: Some(shortcut), y });
}

#[track_caller]
fn check_normalise<E>(shape: &BlockShape, norm: &Normalisation<'_>, x: &[E], y: &[E]) {
    assert_stride(shape.channel_stride);
    norm.check(shape.channel_stride);
    assert_eq!(x.len(), y.len(), "x has {} elements and y {}", x.len(), y.len());
    assert!(x.len().is_multiple_of(shape.pixel()), "x has {} elements, not whole pixels of {shape:?}", x.len());
}

/// dx = a·dy′ − c₀ − c₁·(x − mean) for the block's valid images, zero for the others. dy′ is the gradient of a·x + b:
/// `dy`, back through the activation. `coefficients` are c₀ and c₁ of each channel ([`gradient_coefficients`]).
///
/// # Panics
/// If a slice does not fit the shape or the channel stride, or `valid` is more than [`BLOCK`].
///
/// ```
/// use selvedge_compute::{BlockShape, Cpu, norm::{BackwardArgs, Normalisation, input_gradient}};
/// let (mean, rstd, factor, offset) = (&[0.5; 16], &[2.0; 16], &[2.0; 16], &[-1.0; 16]);
/// let norm = Normalisation { mean, rstd, factor, offset, activation: None };
/// let (shape, x, dy, mut dx) = (BlockShape::new(1, 1, 16), [1.5; 32 * 16], [3.0; 32 * 16], [7.0; 32 * 16]);
/// let args = BackwardArgs { shape: &shape, valid: 1, norm: &norm, x: &x, dy: &dy };
/// input_gradient(Cpu::detect()?, args, [&[0.25; 16], &[0.5; 16]], &mut dx);
/// assert_eq!(dx[0], 2.0 * 3.0 - 0.25 - 0.5 * (1.5 - 0.5));
/// assert_eq!(dx[16], 0.0); // the second image is not valid
/// # Ok::<(), selvedge_compute::CpuError>(())
/// ```
pub fn input_gradient<E: Element>(cpu: Cpu, args: BackwardArgs<'_, E>, coefficients: [&[f32]; 2], dx: &mut [E]) {
    args.check();
    assert_block(args.shape, args.valid, &[("dx", dx.len())]);
    assert_coefficients(args.shape.channel_stride, coefficients);
    dispatch(cpu, InputGradient { args, coefficients, dx });
}

impl<E> BackwardArgs<'_, E> {
    #[track_caller]
    fn check(&self) {
        assert_block(self.shape, self.valid, &[("x", self.x.len()), ("dy", self.dy.len())]);
        self.norm.check(self.shape.channel_stride);
    }
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

    /// Turns the sums of dy′·(x − mean) of `channels` into those of dy′·x̂, the gradients of gamma.
    fn scale_by_rstd(&self, channels: Range<usize>, sums: &mut [f64]) {
        for (sum, &rstd) in sums.iter_mut().zip(&self.rstd[channels]) {
            *sum *= f64::from(rstd);
        }
    }

    /// dy′: `dy` back through the activation, for the channels from `c` on.
    ///
    /// # Safety
    /// `c` + LANES must be at most the channel stride that `check` has seen.
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
        activation::backpropagate(s, kind, z, dy)
    }
}

#[track_caller]
fn assert_stride(stride: usize) {
    assert!(
        stride > 0 && stride.is_multiple_of(MAX_LANES),
        "the channel stride is {stride}, not a multiple of {MAX_LANES}"
    );
}

#[track_caller]
fn assert_channels(stride: usize, slices: &[(&str, usize)]) {
    for &(name, len) in slices {
        assert_eq!(len, stride, "{name} has {len} channels, not {stride}");
    }
}

#[track_caller]
fn assert_coefficients(stride: usize, [c0, c1]: [&[f32]; 2]) {
    assert_channels(stride, &[("c₀", c0.len()), ("c₁", c1.len())]);
}

/// Asserts that `channels` are whole planes and that each of two slices has a sum for each of them.
#[track_caller]
fn assert_sums(shape: &BlockShape, channels: &Range<usize>, lens: [usize; 2]) {
    let Range { start, end } = *channels;
    assert!(
        start <= end && end <= shape.channel_stride && [start, end].iter().all(|c| c.is_multiple_of(shape.plane())),
        "channels {channels:?} are not whole planes of {shape:?}"
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

/// Compiles `$body` three times: with `$kind` a constant for no activation and for ReLU, whose cost a branch in the inner
/// loop would decide, and a variable for the others: most of them take so long that the branch does not show.
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
    norm: &'a Normalisation<'a>,
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
                // SAFETY: `Normalisation::check` saw both slices hold the stride, a multiple of LANES.
                let [a, b] =
                    [self.norm.factor, self.norm.offset].map(|channels| unsafe { s.load(channels.as_ptr().add(c)) });
                let first = pixel + self.shape.channel(c);
                for image in 0..BLOCK {
                    let at = first + image * plane;
                    prefetch_ahead(s, self.x, at);
                    prefetch_ahead(s, self.y, at);
                    // SAFETY: `check_normalise` saw `x` and `y` hold whole pixels of the shape, and `normalise_and_add`
                    // that the shortcut is as long.
                    unsafe {
                        let y = s.mul_add(E::load(s, self.x.as_ptr().add(at)), a, b);
                        let y = match activation {
                            None => y,
                            Some(kind) => activation::apply(s, kind, y),
                        };
                        let y = match shortcut {
                            None => y,
                            Some(shortcut) => {
                                prefetch_ahead(s, shortcut, at);
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
            None => with_activation!(self.norm.activation, |kind| self.pass(s, kind, None)),
            Some(shortcut) => with_activation!(self.norm.activation, |kind| self.pass(s, kind, Some(shortcut))),
        }
    }
}

struct InputGradient<'a, E> {
    args: BackwardArgs<'a, E>,
    coefficients: [&'a [f32]; 2],
    dx: &'a mut [E],
}

impl<E: Element> InputGradient<'_, E> {
    #[inline(always)]
    fn pass<S: Simd>(self, s: S, activation: Option<Activation>) {
        let BackwardArgs { shape, valid, norm, x, dy } = self.args;
        let (pixel, stride, plane) = (shape.pixel(), shape.channel_stride, shape.plane());
        for start in (0..shape.len()).step_by(pixel) {
            for c in (0..stride).step_by(S::LANES) {
                let first = start + shape.channel(c);
                // SAFETY: `Normalisation::check` and `assert_coefficients` saw the slices hold the stride, a multiple
                // of LANES.
                let [mean, a, c0, c1] = unsafe {
                    [norm.mean, norm.factor, self.coefficients[0], self.coefficients[1]]
                        .map(|channels| s.load(channels.as_ptr().add(c)))
                };
                for image in 0..valid {
                    let at = first + image * plane;
                    prefetch_ahead(s, x, at);
                    prefetch_ahead(s, dy, at);
                    prefetch_ahead(s, self.dx, at);
                    // SAFETY: `assert_block` saw `x`, `dy` and `dx` hold the block and valid ≤ BLOCK.
                    unsafe {
                        let x = E::load(s, x.as_ptr().add(at));
                        let dy = E::load(s, dy.as_ptr().add(at));
                        let dy = norm.through_activation(s, activation, c, x, dy);
                        let correction = s.mul_add(s.sub(x, mean), c1, c0);
                        E::store(s, self.dx.as_mut_ptr().add(at), s.sub(s.mul(a, dy), correction));
                    }
                }
            }
            for images in self.dx[start..start + pixel].chunks_exact_mut(shape.plane_len()) {
                images[valid * plane..].fill(E::default());
            }
        }
    }
}

impl<E: Element> Kernel for InputGradient<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        with_activation!(self.args.norm.activation, |kind| self.pass(s, kind));
    }
}

#[cfg(test)]
mod tests;
