//! Batch normalisation with max pooling behind it, over windows that do not overlap: what is pooled away is never written,
//! and neither is its gradient.
//!
//! The forward pass ([`normalise_pooled`]) keeps of each window the number of its largest element and that element of x.
//! Only the largest elements have a gradient dy′, so its sums ([`pooled_gradient_sums`]) need nothing of the rest of x. The
//! gradient of x ([`pooled_input_gradient`]) has every pixel, also those that no window covers: all count in the
//! statistics.

use std::ops::Range;

use super::sums::{Terms, add_up};
use super::{Normalisation, assert_channels, assert_stride, assert_sums};
use crate::Cpu;
use crate::activation::Activation;
use crate::conv::NO_ARGMAX;
use crate::layout::{BLOCK, BlockShape};
use crate::pool::Pool2dShape;
use crate::prefetch::begins_line;
use crate::simd::{Element, Kernel, Simd, dispatch};

/// The largest elements of the windows of one block, as [`normalise_pooled`] found them, in the layout of the pooled tensor.
#[derive(Clone, Copy, Debug)]
pub struct PooledMaxima<'a, E> {
    /// The number of the largest element's pixel in its window, row by row, or [`NO_ARGMAX`] where the activation leaves no
    /// gradient.
    pub numbers: &'a [u16],
    /// The elements of x at these pixels; at any pixel of the window where there is no argmax.
    pub x: &'a [E],
}

impl<E> PooledMaxima<'_, E> {
    #[track_caller]
    fn check(&self, output: &BlockShape) {
        assert_tensor("the indices' numbers", self.numbers.len(), output);
        assert_tensor("the indices' x", self.x.len(), output);
    }
}

/// The largest of f(a·x + b) of each window, with a and b of each channel, f ReLU or nothing.
///
/// `x` is a block of the input shape, `y` one of the output shape. If `indices` is given, it receives in the layout of `y`
/// what [`PooledMaxima`] holds, the first largest if several are. Elements are compared as `E` stores them.
/// A NaN counts as the largest, as in [`crate::pool::max_forward`].
///
/// # Panics
/// If the windows overlap or have more than 65,535 pixels, a slice is not a block of its shape, `factor` or `offset` not a
/// channel stride long, a multiple of [`crate::simd::MAX_LANES`], or the activation another one.
///
/// ```
/// use selvedge_compute::{BlockShape, Cpu, norm, pool::Pool2dShape};
/// let shape = Pool2dShape::new(BlockShape::new(2, 2, 16), [2, 2], [2, 2]);
/// let x: Vec<f32> = (0..shape.input().len()).map(|i| i as f32).collect();
/// let (mut y, mut numbers, mut kept) = ([0.0; 32 * 16], [7; 32 * 16], [0.0; 32 * 16]);
/// // The sign turns: the first pixel is the largest.
/// let channels: [&[f32]; 2] = [&[-1.0; 16], &[100.0; 16]];
/// norm::normalise_pooled(Cpu::detect()?, &shape, channels, None, &x, &mut y, Some((&mut numbers, &mut kept)));
/// assert_eq!((y[3], numbers[3], kept[3]), (97.0, 0, 3.0));
/// # Ok::<(), selvedge_compute::CpuError>(())
/// ```
pub fn normalise_pooled<E: Element>(
    cpu: Cpu,
    shape: &Pool2dShape,
    [factor, offset]: [&[f32]; 2],
    activation: Option<Activation>,
    x: &[E],
    y: &mut [E],
    indices: Option<(&mut [u16], &mut [E])>,
) {
    let (input, output) = (shape.input(), shape.output());
    assert_windows(shape);
    assert!(matches!(activation, None | Some(Activation::Relu)), "{activation:?} is not pooled behind a normalisation");
    assert_channels(input.channel_stride, &[("factor", factor.len()), ("offset", offset.len())]);
    assert_tensor("x", x.len(), &input);
    assert_tensor("y", y.len(), &output);
    if let Some((numbers, kept)) = &indices {
        PooledMaxima { numbers, x: kept }.check(&output);
    }
    let indices = indices.map(|(numbers, kept)| (numbers.as_mut_ptr(), kept.as_mut_ptr()));
    dispatch(cpu, NormalisePooled { shape, factor, offset, relu: activation.is_some(), x, y, indices });
}

/// The sums of dy′ and of dy′·x̂ for each of `channels`, whole planes, over the valid images of a block, as
/// [`super::block_gradient_sums`], where dy′ is `dy` of the pooled tensor at the windows' indices and zero elsewhere.
///
/// `shape` is that of the pooled tensor.
///
/// # Panics
/// As [`super::block_moments`].
pub fn pooled_gradient_sums<E: Element>(
    cpu: Cpu,
    shape: &BlockShape,
    valid: usize,
    norm: &Normalisation<'_>,
    indices: PooledMaxima<'_, E>,
    dy: &[E],
    channels: Range<usize>,
    sum: &mut [f64],
    sum_normalised: &mut [f64],
) {
    super::assert_block(shape, valid, &[("dy", dy.len())]);
    indices.check(shape);
    norm.check(shape.channel_stride);
    assert_sums(shape, &channels, [sum.len(), sum_normalised.len()]);
    sum.fill(0.0);
    sum_normalised.fill(0.0);
    let terms = PooledGradients { mean: norm.mean, indices, dy };
    let sums = [sum, &mut *sum_normalised];
    dispatch(cpu, PooledGradientSums { shape, valid, terms, channels: channels.clone(), sums });
    norm.scale_sums(channels, sum_normalised);
}

/// dx = a·dy′ − c₀ − c₁·(x − mean) for the valid images of a block, zero for the others, as [`super::input_gradient`], where
/// dy′ is `dy` of the pooled tensor at the pixels that `indices` names and zero elsewhere.
///
/// `x` and `dx` are blocks of the input shape, `dy` and `indices` of the output shape.
///
/// # Panics
/// If the windows overlap or have more than 65,535 pixels, a slice does not fit its shape or the channel stride, or `valid`
/// is more than [`BLOCK`].
pub fn pooled_input_gradient<E: Element>(
    cpu: Cpu,
    shape: &Pool2dShape,
    valid: usize,
    norm: &Normalisation<'_>,
    coefficients: [&[f32]; 2],
    x: &[E],
    indices: &[u16],
    dy: &[E],
    dx: &mut [E],
) {
    let (input, output) = (shape.input(), shape.output());
    assert_windows(shape);
    super::assert_block(&input, valid, &[("x", x.len()), ("dx", dx.len())]);
    assert_tensor("indices", indices.len(), &output);
    assert_tensor("dy", dy.len(), &output);
    norm.check(input.channel_stride);
    assert_channels(input.channel_stride, &[("c₀", coefficients[0].len()), ("c₁", coefficients[1].len())]);
    dispatch(cpu, PooledInputGradient { shape, valid, norm, coefficients, x, indices, dy, dx });
}

#[track_caller]
fn assert_windows(shape: &Pool2dShape) {
    let (size, stride) = (shape.size(), shape.stride());
    assert!(stride[0] >= size[0] && stride[1] >= size[1], "windows of {size:?}, {stride:?} apart, overlap");
    assert!(size[0] * size[1] <= usize::from(NO_ARGMAX), "windows of {size:?} have more than {NO_ARGMAX} pixels");
    assert_stride(shape.input().channel_stride);
    // Within a plane, channels are found by a mask.
    assert!(shape.input().plane().is_power_of_two(), "planes of {} channels", shape.input().plane());
}

#[track_caller]
fn assert_tensor(name: &str, len: usize, shape: &BlockShape) {
    assert_eq!(len, shape.len(), "{name} has {len} elements and its shape {}", shape.len());
}

/// Where the plane that comes two planes after that which begins at `first` begins, seen from the window's pixel: in the same
/// pixel, or in that of the next window.
///
/// A window has a stream for each of its pixels, and these jump from window to window, which no processor foresees.
#[inline(always)]
fn planes_ahead(shape: &Pool2dShape, first: usize) -> usize {
    let input = shape.input();
    let ahead = first + 2 * input.plane_len();
    if ahead < input.pixel() { ahead } else { ahead + (shape.stride()[1] - 1) * input.pixel() }
}

struct NormalisePooled<'a, E> {
    shape: &'a Pool2dShape,
    factor: &'a [f32],
    offset: &'a [f32],
    relu: bool,
    x: &'a [E],
    y: &'a mut [E],
    /// Numbers and x, as long as `y`.
    indices: Option<(*mut u16, *mut E)>,
}

impl<E: Element> NormalisePooled<'_, E> {
    #[inline(always)]
    fn pass<S: Simd>(self, s: S, [height, width]: [usize; 2]) {
        let (input, output, stride) = (self.shape.input(), self.shape.output(), self.shape.stride());
        let (plane, plane_len) = (input.plane(), input.plane_len());
        let pixel = |k: usize| k / width * input.row() + k % width * input.pixel();
        let (infinity, nobody) = (s.splat(f32::INFINITY), s.splat_u(NO_ARGMAX.into()));
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
                    // input, in which every window lies, and `y` and `indices` the whole output; a plane is a
                    // multiple of LANES.
                    unsafe {
                        let a = s.load(self.factor.as_ptr().add(channel));
                        let b = s.load(self.offset.as_ptr().add(channel));
                        let from = self.x.as_ptr().add(corner + at);
                        let mut kept = E::load(s, from);
                        let mut best = E::round(s, s.mul_add(kept, a, b));
                        let mut argmax = s.splat_u(0);
                        for k in 1..height * width {
                            let v = E::load(s, from.add(pixel(k)));
                            let z = E::round(s, s.mul_add(v, a, b));
                            // `min` gives its second argument for a NaN, which so counts as an infinity.
                            let larger = s.gt(s.min(z, infinity), best);
                            best = s.select(larger, z, best);
                            kept = s.select(larger, v, kept);
                            argmax = s.select_u(larger, s.splat_u(k as u32), argmax);
                        }
                        if self.relu {
                            argmax = s.select_u(s.gt(best, s.zero()), argmax, nobody);
                            // The order of the arguments lets a NaN pass.
                            best = s.max(s.zero(), best);
                        }
                        E::store(s, self.y.as_mut_ptr().add(to + at), best);
                        if let Some((numbers, xs)) = self.indices {
                            s.store_u16(numbers.add(to + at), argmax);
                            E::store(s, xs.add(to + at), kept);
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
        // The usual window is a constant, which unrolls it.
        match self.shape.size() {
            [2, 2] => self.pass(s, [2, 2]),
            size => self.pass(s, size),
        }
    }
}

/// dy′ and dy′·(x − mean) of each window's argmax.
struct PooledGradients<'a, E> {
    mean: &'a [f32],
    indices: PooledMaxima<'a, E>,
    dy: &'a [E],
}

impl<E: Element> Terms for PooledGradients<'_, E> {
    /// The mean.
    #[inline(always)]
    unsafe fn channels<S: Simd>(&self, s: S, c: usize) -> S::V {
        // SAFETY: the caller's promise, and `Normalisation::check` saw `mean` hold the channel stride.
        unsafe { s.load(self.mean.as_ptr().add(c)) }
    }

    #[inline(always)]
    unsafe fn at<S: Simd>(&self, s: S, mean: S::V, _: usize, at: usize) -> [S::V; 2] {
        // SAFETY: the caller's promise; `assert_block` and `PooledMaxima::check` saw `dy` and the indices hold the shape.
        unsafe {
            let x = E::load(s, self.indices.x.as_ptr().add(at));
            let dy = E::load(s, self.dy.as_ptr().add(at));
            let argmax = s.load_u16(self.indices.numbers.as_ptr().add(at));
            let dy = s.select(s.eq_u(argmax, s.splat_u(NO_ARGMAX.into())), s.zero(), dy);
            [dy, s.mul(dy, s.sub(x, mean))]
        }
    }
}

struct PooledGradientSums<'a, E> {
    shape: &'a BlockShape,
    valid: usize,
    terms: PooledGradients<'a, E>,
    channels: Range<usize>,
    sums: [&'a mut [f64]; 2],
}

impl<E: Element> Kernel for PooledGradientSums<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        add_up(s, self.shape, self.valid, &self.terms, self.channels, self.sums);
    }
}

struct PooledInputGradient<'a, E> {
    shape: &'a Pool2dShape,
    valid: usize,
    norm: &'a Normalisation<'a>,
    coefficients: [&'a [f32]; 2],
    x: &'a [E],
    indices: &'a [u16],
    dy: &'a [E],
    dx: &'a mut [E],
}

impl<E: Element> PooledInputGradient<'_, E> {
    #[inline(always)]
    fn pass<S: Simd>(mut self, s: S, [height, width]: [usize; 2]) {
        let (input, output, stride) = (self.shape.input(), self.shape.output(), self.shape.stride());
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

    /// The pixels of the window whose first pixel begins at `corner` and whose pooled pixel at `from`; dy′ is zero if there
    /// is none.
    #[inline(always)]
    fn window<S: Simd>(&mut self, s: S, corner: usize, from: Option<usize>, [height, width]: [usize; 2]) {
        let input = self.shape.input();
        let (plane, plane_len) = (input.plane(), input.plane_len());
        let place = |k: usize| corner + k / width * input.row() + k % width * input.pixel();
        for first in (0..input.pixel()).step_by(plane_len) {
            let ahead = planes_ahead(self.shape, first);
            for element in (0..self.valid * plane).step_by(S::LANES) {
                let (at, channel) = (first + element, first / BLOCK + (element & (plane - 1)));
                if begins_line::<E>(element) {
                    for k in 0..height * width {
                        s.prefetch(self.x.as_ptr().wrapping_add(place(k) + ahead + element));
                        s.prefetch(self.dx.as_ptr().wrapping_add(place(k) + ahead + element));
                    }
                }
                // SAFETY: `check` and `assert_channels` saw the channels' slices hold the channel stride, `assert_block`
                // `x` and `dx` the whole input, in which `pass` keeps every window, and valid ≤ BLOCK; `assert_tensor`
                // saw `dy` and `indices` hold the whole output; a plane is a multiple of LANES.
                unsafe {
                    let [mean, a, c0, c1] =
                        [self.norm.mean, self.norm.factor, self.coefficients[0], self.coefficients[1]]
                            .map(|channels| s.load(channels.as_ptr().add(channel)));
                    let (dy, argmax) = match from {
                        None => (s.zero(), s.splat_u(NO_ARGMAX.into())),
                        Some(from) => (
                            s.mul(a, E::load(s, self.dy.as_ptr().add(from + at))),
                            s.load_u16(self.indices.as_ptr().add(from + at)),
                        ),
                    };
                    for k in 0..height * width {
                        let x = E::load(s, self.x.as_ptr().add(place(k) + at));
                        let dy = s.select(s.eq_u(argmax, s.splat_u(k as u32)), dy, s.zero());
                        let correction = s.mul_add(s.sub(x, mean), c1, c0);
                        E::store(s, self.dx.as_mut_ptr().add(place(k) + at), s.sub(dy, correction));
                    }
                }
            }
            for k in 0..height * width {
                let rest = place(k) + first + self.valid * plane..place(k) + first + plane_len;
                self.dx[rest].fill(E::default());
            }
        }
    }
}

impl<E: Element> Kernel for PooledInputGradient<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.shape.size() {
            [2, 2] => self.pass(s, [2, 2]),
            size => self.pass(s, size),
        }
    }
}

#[cfg(test)]
mod tests;
