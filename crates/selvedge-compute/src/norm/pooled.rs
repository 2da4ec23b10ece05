//! Batch normalisation followed by max pooling over windows that do not overlap: the elements that pooling drops are
//! never written, and neither are their gradients.
//!
//! The forward pass ([`normalise_pooled`]) keeps each window's argmax and the element of x there. Only these elements
//! have a gradient dy′, so its sums ([`pooled_gradient_sums`]) need nothing else of x. The gradient of x
//! ([`pooled_input_gradient`]) covers every pixel, also those outside all windows, because every pixel counts in the
//! moments.

use std::ops::Range;

use super::sums::{ChannelTerms, sum_channels};
use super::{Normalisation, assert_block, assert_coefficients, assert_stride, assert_sums};
use crate::Cpu;
use crate::activation::Activation;
use crate::conv::NO_ARGMAX;
use crate::layout::{BLOCK, BlockShape};
use crate::pool::Pool2dShape;
use crate::prefetch::begins_line;
use crate::simd::{Element, Kernel, Simd, dispatch};

/// The maxima of a block's windows, which [`normalise_pooled`] writes for the backward pass, in the layout of the
/// pooled tensor.
#[derive(Debug)]
pub struct PooledMaxima<'a, E> {
    /// Each window's argmax: the index of the first largest pixel, row by row within the window, or [`NO_ARGMAX`] where
    /// ReLU leaves no gradient.
    pub indices: &'a mut [u16],
    /// x at the argmax; where there is none, x at any pixel of the window.
    pub x: &'a mut [E],
}

/// What the backward pass reads of a block whose windows were pooled.
#[derive(Clone, Copy, Debug)]
pub struct PooledBackwardArgs<'a, E> {
    /// The windows over x.
    pub shape: &'a Pool2dShape,
    /// Images that carry data, the first of the block; the others have no gradient.
    pub valid: usize,
    /// What the forward pass did.
    pub norm: &'a Normalisation<'a>,
    /// Each window's argmax ([`PooledMaxima::indices`]), in the layout of `dy`.
    pub indices: &'a [u16],
    /// The gradient of the pooled tensor.
    pub dy: &'a [E],
}

impl<E> PooledBackwardArgs<'_, E> {
    #[track_caller]
    fn check(&self) {
        assert_windows(self.shape);
        let output = self.shape.output();
        assert_block(&output, self.valid, &[("indices", self.indices.len()), ("dy", self.dy.len())]);
        self.norm.check(output.channel_stride);
    }
}

/// The maximum of f(a·x + b) of each window, with a, b and f of `norm`; f is ReLU or nothing.
///
/// `x` is a block of the input shape, `y` one of the output shape. `maxima`, if given, receives what the backward pass
/// needs. Elements are compared after rounding to `E`. A NaN counts as the largest, as in [`crate::pool::max_forward`].
///
/// # Panics
/// If the windows overlap or have more than 65,535 pixels, a slice is not a block of its shape, a slice of `norm` is
/// not as long as the channel stride, a multiple of [`crate::simd::MAX_LANES`], or the activation is neither ReLU nor
/// nothing.
///
/// ```
/// use selvedge_compute::{BlockShape, Cpu, norm::{Normalisation, PooledMaxima, normalise_pooled}, pool::Pool2dShape};
/// let shape = Pool2dShape::new(BlockShape::new(2, 2, 16), [2, 2], [2, 2]);
/// let x: Vec<f32> = (0..shape.input().len()).map(|i| i as f32).collect();
/// // The factor is negative: the first pixel, the smallest, becomes the maximum.
/// let (mean, rstd, factor, offset) = (&[100.0; 16], &[1.0; 16], &[-1.0; 16], &[100.0; 16]);
/// let norm = Normalisation { mean, rstd, factor, offset, activation: None };
/// let (mut y, mut indices, mut kept) = ([0.0; 32 * 16], [7; 32 * 16], [0.0; 32 * 16]);
/// let maxima = PooledMaxima { indices: &mut indices, x: &mut kept };
/// normalise_pooled(Cpu::detect()?, &shape, &norm, &x, &mut y, Some(maxima));
/// assert_eq!((y[3], indices[3], kept[3]), (97.0, 0, 3.0));
/// # Ok::<(), selvedge_compute::CpuError>(())
/// ```
pub fn normalise_pooled<E: Element>(
    cpu: Cpu,
    shape: &Pool2dShape,
    norm: &Normalisation<'_>,
    x: &[E],
    y: &mut [E],
    maxima: Option<PooledMaxima<'_, E>>,
) {
    let (input, output) = (shape.input(), shape.output());
    assert_windows(shape);
    let activation = norm.activation;
    assert!(matches!(activation, None | Some(Activation::Relu)), "{activation:?} cannot be fused with max pooling");
    norm.check(input.channel_stride);
    assert_tensor("x", x.len(), &input);
    assert_tensor("y", y.len(), &output);
    if let Some(maxima) = &maxima {
        assert_tensor("the maxima's indices", maxima.indices.len(), &output);
        assert_tensor("the maxima's x", maxima.x.len(), &output);
    }
    let maxima = maxima.map(|maxima| (maxima.indices.as_mut_ptr(), maxima.x.as_mut_ptr()));
    dispatch(cpu, NormalisePooled { shape, norm, x, y, maxima });
}

/// The gradients of beta and gamma from one block, as [`super::block_gradient_sums`] computes them: dy′ is `dy` of the
/// pooled tensor at each window's argmax and zero elsewhere.
///
/// `maxima` is x at each argmax ([`PooledMaxima::x`]). `channels` are whole planes; `dbeta` and `dgamma` have one
/// number for each of them.
///
/// # Panics
/// As [`super::block_moments`], or if the windows overlap or have more than 65,535 pixels.
pub fn pooled_gradient_sums<E: Element>(
    cpu: Cpu,
    args: PooledBackwardArgs<'_, E>,
    maxima: &[E],
    channels: Range<usize>,
    dbeta: &mut [f64],
    dgamma: &mut [f64],
) {
    args.check();
    let output = args.shape.output();
    assert_tensor("the maxima's x", maxima.len(), &output);
    assert_sums(&output, &channels, [dbeta.len(), dgamma.len()]);
    dbeta.fill(0.0);
    dgamma.fill(0.0);
    let sums = [dbeta, &mut *dgamma];
    dispatch(cpu, PooledGradientSums { terms: PooledGradientTerms { args, maxima }, channels: channels.clone(), sums });
    args.norm.scale_by_rstd(channels, dgamma);
}

/// dx = a·dy′ − c₀ − c₁·(x − mean) for the block's valid images, zero for the others, as [`super::input_gradient`]
/// computes it: dy′ is `dy` of the pooled tensor at each window's argmax and zero elsewhere.
///
/// `x` and `dx` are blocks of the input shape.
///
/// # Panics
/// If the windows overlap or have more than 65,535 pixels, a slice does not fit its shape or the channel stride, or
/// `valid` is more than [`BLOCK`].
pub fn pooled_input_gradient<E: Element>(
    cpu: Cpu,
    args: PooledBackwardArgs<'_, E>,
    coefficients: [&[f32]; 2],
    x: &[E],
    dx: &mut [E],
) {
    args.check();
    let input = args.shape.input();
    assert_tensor("x", x.len(), &input);
    assert_tensor("dx", dx.len(), &input);
    assert_coefficients(input.channel_stride, coefficients);
    dispatch(cpu, PooledInputGradient { args, coefficients, x, dx });
}

#[track_caller]
fn assert_windows(shape: &Pool2dShape) {
    let (size, stride) = (shape.size(), shape.stride());
    assert!(stride[0] >= size[0] && stride[1] >= size[1], "windows of {size:?} with a stride of {stride:?} overlap");
    assert!(size[0] * size[1] <= usize::from(NO_ARGMAX), "windows of {size:?} have more than {NO_ARGMAX} pixels");
    assert_stride(shape.input().channel_stride);
    // A mask finds an element's channel within its plane.
    assert!(shape.input().plane().is_power_of_two(), "planes of {} channels", shape.input().plane());
}

#[track_caller]
fn assert_tensor(name: &str, len: usize, shape: &BlockShape) {
    assert_eq!(len, shape.len(), "{name} has {len} elements and its shape {}", shape.len());
}

/// The offset, from a pixel of a window, of the plane to prefetch while the plane at `first` is read: two planes
/// further, in the same pixel or in that of the next window.
///
/// Each pixel of a window is a stream of its own that jumps from window to window; the hardware prefetcher cannot
/// predict these jumps.
#[inline(always)]
fn planes_ahead(shape: &Pool2dShape, first: usize) -> usize {
    let input = shape.input();
    let ahead = first + 2 * input.plane_len();
    if ahead < input.pixel() { ahead } else { ahead + (shape.stride()[1] - 1) * input.pixel() }
}

struct NormalisePooled<'a, E> {
    shape: &'a Pool2dShape,
    norm: &'a Normalisation<'a>,
    x: &'a [E],
    y: &'a mut [E],
    /// Indices and x of [`PooledMaxima`], as long as `y`.
    maxima: Option<(*mut u16, *mut E)>,
}

impl<E: Element> NormalisePooled<'_, E> {
    #[inline(always)]
    fn pass<S: Simd>(self, s: S, [height, width]: [usize; 2]) {
        let (input, output, stride) = (self.shape.input(), self.shape.output(), self.shape.stride());
        let (plane, plane_len) = (input.plane(), input.plane_len());
        let pixel = |k: usize| k / width * input.row() + k % width * input.pixel();
        let (infinity, no_argmax) = (s.splat(f32::INFINITY), s.splat_u(NO_ARGMAX.into()));
        let is_relu = self.norm.activation.is_some();
        for (y, x) in (0..output.height).flat_map(|y| (0..output.width).map(move |x| (y, x))) {
            let corner = input.offset(y * stride[0], x * stride[1]);
            let to = output.offset(y, x);
            for first in (0..input.pixel()).step_by(plane_len) {
                let ahead = planes_ahead(self.shape, first);
                for element in (0..plane_len).step_by(S::LANES) {
                    let (at, channel) = (first + element, first / BLOCK + (element & (plane - 1)));
                    if begins_line::<E>(element) {
                        for k in 0..height * width {
                            s.prefetch(self.x.as_ptr().wrapping_add(corner + pixel(k) + ahead + element));
                        }
                    }
                    // SAFETY: `normalise_pooled` saw `factor` and `offset` hold the channel stride, `x` the whole
                    // input, in which every window lies, and `y` and the maxima the whole output; a plane is a
                    // multiple of LANES.
                    unsafe {
                        let a = s.load(self.norm.factor.as_ptr().add(channel));
                        let b = s.load(self.norm.offset.as_ptr().add(channel));
                        let from = self.x.as_ptr().add(corner + at);
                        let mut kept = E::load(s, from);
                        let mut best = E::round(s, s.mul_add(kept, a, b));
                        let mut argmax = s.splat_u(0);
                        for k in 1..height * width {
                            let v = E::load(s, from.add(pixel(k)));
                            let z = E::round(s, s.mul_add(v, a, b));
                            // `min` returns its second argument for a NaN, which thus counts as infinity.
                            let larger = s.gt(s.min(z, infinity), best);
                            best = s.select(larger, z, best);
                            kept = s.select(larger, v, kept);
                            argmax = s.select_u(larger, s.splat_u(k as u32), argmax);
                        }
                        if is_relu {
                            argmax = s.select_u(s.gt(best, s.zero()), argmax, no_argmax);
                            // `max` returns its second argument for a NaN, which passes.
                            best = s.max(s.zero(), best);
                        }
                        E::store(s, self.y.as_mut_ptr().add(to + at), best);
                        if let Some((indices, maxima)) = self.maxima {
                            s.store_u16(indices.add(to + at), argmax);
                            E::store(s, maxima.add(to + at), kept);
                        }
                    }
                }
            }
        }
    }
}

impl<E: Element> Kernel for NormalisePooled<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // As a constant, the usual window is unrolled.
        match self.shape.size() {
            [2, 2] => self.pass(s, [2, 2]),
            size => self.pass(s, size),
        }
    }
}

/// dy′ and dy′·(x − mean) at each window's argmax.
struct PooledGradientTerms<'a, E> {
    args: PooledBackwardArgs<'a, E>,
    maxima: &'a [E],
}

impl<E: Element> ChannelTerms for PooledGradientTerms<'_, E> {
    /// The mean.
    #[inline(always)]
    unsafe fn channels<S: Simd>(&self, s: S, c: usize) -> S::V {
        // SAFETY: the caller's promise, and `Normalisation::check` saw `mean` hold the channel stride.
        unsafe { s.load(self.args.norm.mean.as_ptr().add(c)) }
    }

    #[inline(always)]
    unsafe fn at<S: Simd>(&self, s: S, mean: S::V, _: usize, at: usize) -> [S::V; 2] {
        // SAFETY: the caller's promise; `PooledBackwardArgs::check` saw `dy` and the indices hold the shape, and
        // `pooled_gradient_sums` the maxima.
        unsafe {
            let x = E::load(s, self.maxima.as_ptr().add(at));
            let dy = E::load(s, self.args.dy.as_ptr().add(at));
            let argmax = s.load_u16(self.args.indices.as_ptr().add(at));
            let dy = s.select(s.eq_u(argmax, s.splat_u(NO_ARGMAX.into())), s.zero(), dy);
            [dy, s.mul(dy, s.sub(x, mean))]
        }
    }
}

struct PooledGradientSums<'a, E> {
    terms: PooledGradientTerms<'a, E>,
    channels: Range<usize>,
    sums: [&'a mut [f64]; 2],
}

impl<E: Element> Kernel for PooledGradientSums<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let PooledBackwardArgs { shape, valid, .. } = self.terms.args;
        sum_channels(s, &shape.output(), valid, &self.terms, self.channels, self.sums);
    }
}

struct PooledInputGradient<'a, E> {
    args: PooledBackwardArgs<'a, E>,
    coefficients: [&'a [f32]; 2],
    x: &'a [E],
    dx: &'a mut [E],
}

impl<E: Element> PooledInputGradient<'_, E> {
    #[inline(always)]
    fn pass<S: Simd>(mut self, s: S, [height, width]: [usize; 2]) {
        let shape = self.args.shape;
        let (input, output, stride) = (shape.input(), shape.output(), shape.stride());
        for y in 0..input.height {
            for x in 0..input.width {
                let (top, left) = (y % stride[0], x % stride[1]);
                let (row, column) = (y / stride[0], x / stride[1]);
                let covered = row < output.height && top < height && column < output.width && left < width;
                if !covered {
                    self.window(s, input.offset(y, x), None, [1, 1]);
                } else if top + left == 0 {
                    self.window(s, input.offset(y, x), Some(output.offset(row, column)), [height, width]);
                }
            }
        }
    }

    /// The pixels of the window that begins at `corner`. Its pooled pixel begins at `from`; without one, dy′ is zero.
    #[inline(always)]
    fn window<S: Simd>(&mut self, s: S, corner: usize, from: Option<usize>, [height, width]: [usize; 2]) {
        let PooledBackwardArgs { shape, valid, norm, indices, dy } = self.args;
        let input = shape.input();
        let (plane, plane_len) = (input.plane(), input.plane_len());
        let pixel = |k: usize| corner + k / width * input.row() + k % width * input.pixel();
        for first in (0..input.pixel()).step_by(plane_len) {
            let ahead = planes_ahead(shape, first);
            for element in (0..valid * plane).step_by(S::LANES) {
                let (at, channel) = (first + element, first / BLOCK + (element & (plane - 1)));
                if begins_line::<E>(element) {
                    for k in 0..height * width {
                        s.prefetch(self.x.as_ptr().wrapping_add(pixel(k) + ahead + element));
                        s.prefetch(self.dx.as_ptr().wrapping_add(pixel(k) + ahead + element));
                    }
                }
                // SAFETY: `Normalisation::check` and `assert_coefficients` saw the slices hold the channel stride,
                // `assert_tensor` `x` and `dx` the whole input, in which `pass` keeps every window, and
                // `PooledBackwardArgs::check` `dy` and `indices` the whole output and valid ≤ BLOCK; a plane is a
                // multiple of LANES.
                unsafe {
                    let [mean, a, c0, c1] = [norm.mean, norm.factor, self.coefficients[0], self.coefficients[1]]
                        .map(|channels| s.load(channels.as_ptr().add(channel)));
                    let (dy, argmax) = match from {
                        None => (s.zero(), s.splat_u(NO_ARGMAX.into())),
                        Some(from) => (
                            s.mul(a, E::load(s, dy.as_ptr().add(from + at))),
                            s.load_u16(indices.as_ptr().add(from + at)),
                        ),
                    };
                    for k in 0..height * width {
                        let x = E::load(s, self.x.as_ptr().add(pixel(k) + at));
                        let dy = s.select(s.eq_u(argmax, s.splat_u(k as u32)), dy, s.zero());
                        let correction = s.mul_add(s.sub(x, mean), c1, c0);
                        E::store(s, self.dx.as_mut_ptr().add(pixel(k) + at), s.sub(dy, correction));
                    }
                }
            }
            for k in 0..height * width {
                let rest = pixel(k) + first + valid * plane..pixel(k) + first + plane_len;
                self.dx[rest].fill(E::default());
            }
        }
    }
}

impl<E: Element> Kernel for PooledInputGradient<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.args.shape.size() {
            [2, 2] => self.pass(s, [2, 2]),
            size => self.pass(s, size),
        }
    }
}

#[cfg(test)]
mod tests;
