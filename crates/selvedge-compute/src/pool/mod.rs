//! Max and average pooling over windows of pixels, forward and backward; global pooling is one window of the whole
//! image.
//!
//! A block keeps the 32 images of a pixel together, so a window's pixels are compared as runs of adjacent vectors,
//! without edge cases in images or channels. The backward functions gather: each pixel of the input sums the gradients
//! of the windows that cover it, in f32 and in a fixed order, and is written once. So overlapping windows need no
//! second pass, pixels outside all windows become zero, and any partition of the rows can be computed in parallel. For
//! windows that do not overlap, [`scatter()`] reads each gradient once. [`average_max`] and [`generalized_mean`] pool whole images
//! in other ways.

pub mod average_max;
pub mod generalized_mean;
mod scatter;

use std::ops::Range;

pub use scatter::{PooledGradient, scatter};

use crate::Cpu;
use crate::layout::BlockShape;
use crate::simd::{Element, Kernel, Simd, dispatch};

/// Vectors computed at a time: a pixel has at least [`crate::BLOCK`] elements, two vectors of the widest instruction
/// set.
const UNROLL: usize = 2;

/// Windows over an image without padding. Windows that would cross the right or lower edge are left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool2dShape {
    input: BlockShape,
    size: [usize; 2],
    stride: [usize; 2],
}

impl Pool2dShape {
    /// Windows of `size` pixels with a stride of `stride` pixels, both `[vertical, horizontal]`.
    ///
    /// # Panics
    /// If a size or stride is 0, if a window is larger than the image, or if it has more than 65,536 pixels.
    pub fn new(input: BlockShape, size: [usize; 2], stride: [usize; 2]) -> Self {
        assert!(size[0] > 0 && size[1] > 0, "a window of {}x{} pixels is empty", size[0], size[1]);
        assert!(stride[0] > 0 && stride[1] > 0, "a stride of {}x{} does not move", stride[0], stride[1]);
        assert!(
            size[0] <= input.height && size[1] <= input.width,
            "a window of {}x{} does not fit into an image of {}x{}",
            size[0],
            size[1],
            input.height,
            input.width
        );
        let most = usize::from(u16::MAX) + 1;
        assert!(size[0] * size[1] <= most, "a window of {}x{} has more than {most} pixels", size[0], size[1]);
        Self { input, size, stride }
    }

    /// One window of the whole image.
    ///
    /// # Panics
    /// If the image is empty or has more than 65,536 pixels.
    pub fn global(input: BlockShape) -> Self {
        Self::new(input, [input.height, input.width], [1, 1])
    }

    /// A window's size in pixels, `[vertical, horizontal]`.
    pub fn size(&self) -> [usize; 2] {
        self.size
    }

    /// Pixels from one window to the next, `[vertical, horizontal]`.
    pub fn stride(&self) -> [usize; 2] {
        self.stride
    }

    /// The shape of the tensor that is pooled.
    pub fn input(&self) -> BlockShape {
        self.input
    }

    /// The shape of the result: a pixel for each window.
    pub fn output(&self) -> BlockShape {
        BlockShape {
            height: (self.input.height - self.size[0]) / self.stride[0] + 1,
            width: (self.input.width - self.size[1]) / self.stride[1] + 1,
            ..self.input
        }
    }
}

/// The maximum of each window, for the output rows `rows`; `y` is these rows alone.
///
/// `indices`, if given, receives each window's argmax in the layout of `y`: the index of the first largest pixel, row
/// by row within the window. Indices are u16, so a window may be a whole image. A NaN counts as the largest, as in
/// PyTorch, unless an infinity precedes it in the window.
///
/// # Panics
/// If `x` is not a block of the input shape, or `y` or `indices` not `rows` of the output shape.
///
/// ```
/// use selvedge_compute::{BlockShape, Cpu, pool::{self, Pool2dShape}};
/// let shape = Pool2dShape::new(BlockShape::new(2, 2, 16), [2, 2], [2, 2]);
/// let x: Vec<f32> = (0..shape.input().len()).map(|i| i as f32).collect();
/// let (mut y, mut indices) = (vec![0.0; shape.output().len()], vec![0; shape.output().len()]);
/// pool::max_forward(Cpu::detect()?, &shape, 0..1, &x, &mut y, Some(&mut indices));
/// assert_eq!((y[0], indices[0]), (1536.0, 3));
/// # Ok::<(), selvedge_compute::CpuError>(())
/// ```
pub fn max_forward<E: Element>(
    cpu: Cpu,
    shape: &Pool2dShape,
    rows: Range<usize>,
    x: &[E],
    y: &mut [E],
    indices: Option<&mut [u16]>,
) {
    assert_block("x", x.len(), &shape.input);
    assert_rows("y", y.len(), &rows, &shape.output());
    if let Some(indices) = &indices {
        assert_rows("indices", indices.len(), &rows, &shape.output());
    }
    let indices = indices.map(|indices| indices.as_mut_ptr());
    dispatch(cpu, MaxForward { shape, rows, x, y, indices });
}

/// The gradient of [`max_forward`]: each window's `dy` goes to its argmax, the pixel that `indices` names.
///
/// `dy` and `indices` are whole blocks of the output shape, `dx` is the input rows `rows` alone.
///
/// # Panics
/// If `dy` or `indices` is not a block of the output shape, or `dx` not `rows` of the input shape.
pub fn max_backward<E: Element>(
    cpu: Cpu,
    shape: &Pool2dShape,
    rows: Range<usize>,
    dy: &[E],
    indices: &[u16],
    dx: &mut [E],
) {
    assert_block("dy", dy.len(), &shape.output());
    assert_block("indices", indices.len(), &shape.output());
    assert_rows("dx", dx.len(), &rows, &shape.input);
    dispatch(cpu, PoolBackward { shape, rows, dy, indices: Some(indices), dx });
}

/// The mean of each window, for the output rows `rows`; `y` is these rows alone.
///
/// # Panics
/// If `x` is not a block of the input shape, or `y` not `rows` of the output shape.
///
/// ```
/// use selvedge_compute::{BlockShape, Cpu, pool::{self, Pool2dShape}};
/// let shape = Pool2dShape::global(BlockShape::new(1, 2, 16));
/// let x = [[1.0; 512], [4.0; 512]].concat(); // two pixels of 32 images and 16 channels
/// let mut y = [0.0; 512];
/// pool::average_forward(Cpu::detect()?, &shape, 0..1, &x, &mut y);
/// assert_eq!(y, [2.5; 512]);
/// # Ok::<(), selvedge_compute::CpuError>(())
/// ```
pub fn average_forward<E: Element>(cpu: Cpu, shape: &Pool2dShape, rows: Range<usize>, x: &[E], y: &mut [E]) {
    assert_block("x", x.len(), &shape.input);
    assert_rows("y", y.len(), &rows, &shape.output());
    dispatch(cpu, AverageForward { shape, rows, x, y });
}

/// The gradient of [`average_forward`]: each pixel of a window receives an equal share of its `dy`.
///
/// `dy` is a whole block of the output shape, `dx` is the input rows `rows` alone.
///
/// # Panics
/// If `dy` is not a block of the output shape, or `dx` not `rows` of the input shape.
pub fn average_backward<E: Element>(cpu: Cpu, shape: &Pool2dShape, rows: Range<usize>, dy: &[E], dx: &mut [E]) {
    assert_block("dy", dy.len(), &shape.output());
    assert_rows("dx", dx.len(), &rows, &shape.input);
    dispatch(cpu, PoolBackward { shape, rows, dy, indices: None, dx });
}

#[track_caller]
fn assert_block(name: &str, len: usize, shape: &BlockShape) {
    assert_eq!(len, shape.len(), "{name} has {len} elements and its shape {}", shape.len());
}

#[track_caller]
fn assert_rows(name: &str, len: usize, rows: &Range<usize>, shape: &BlockShape) {
    assert!(
        rows.start <= rows.end && rows.end <= shape.height,
        "rows {rows:?} of {name} are not within its {} rows",
        shape.height
    );
    let need = rows.len() * shape.row();
    assert_eq!(len, need, "{name} has {len} elements and its rows {rows:?} {need}");
}

struct MaxForward<'a, E> {
    shape: &'a Pool2dShape,
    rows: Range<usize>,
    x: &'a [E],
    y: &'a mut [E],
    /// As long as `y`.
    indices: Option<*mut u16>,
}

impl<E: Element> MaxForward<'_, E> {
    #[inline(always)]
    fn pass<S: Simd>(self, s: S, [height, width]: [usize; 2]) {
        let Pool2dShape { input, stride, .. } = *self.shape;
        let output = self.shape.output();
        let infinity = s.splat(f32::INFINITY);
        for (row, y) in self.rows.enumerate() {
            for x in 0..output.width {
                let corner = input.offset(y * stride[0], x * stride[1]);
                let to = output.offset(row, x);
                for i in (0..input.pixel()).step_by(UNROLL * S::LANES) {
                    // SAFETY: `assert_block` saw `x` hold the whole input, in which every window lies (`output`), and
                    // `assert_rows` saw `y` and `indices` hold `rows`; a pixel's elements are a multiple of
                    // UNROLL · LANES (`BLOCK`).
                    unsafe {
                        let from = self.x.as_ptr().add(corner + i);
                        let mut best = [s.zero(); UNROLL];
                        let mut argmax = [s.splat_u(0); UNROLL];
                        for (n, best) in best.iter_mut().enumerate() {
                            *best = E::load(s, from.add(n * S::LANES));
                        }
                        for k in 1..height * width {
                            let at = from.add((k / width) * input.row() + (k % width) * input.pixel());
                            for n in 0..UNROLL {
                                let v = E::load(s, at.add(n * S::LANES));
                                // `min` returns its second argument for a NaN, which thus counts as infinity.
                                let larger = s.gt(s.min(v, infinity), best[n]);
                                best[n] = s.select(larger, v, best[n]);
                                argmax[n] = s.select_u(larger, s.splat_u(k as u32), argmax[n]);
                            }
                        }
                        for n in 0..UNROLL {
                            E::store(s, self.y.as_mut_ptr().add(to + i + n * S::LANES), best[n]);
                            if let Some(indices) = self.indices {
                                s.store_u16(indices.add(to + i + n * S::LANES), argmax[n]);
                            }
                        }
                    }
                }
            }
        }
    }
}

impl<E: Element> Kernel for MaxForward<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // As a constant, the usual window is unrolled.
        match self.shape.size {
            [2, 2] => self.pass(s, [2, 2]),
            size => self.pass(s, size),
        }
    }
}

struct AverageForward<'a, E> {
    shape: &'a Pool2dShape,
    rows: Range<usize>,
    x: &'a [E],
    y: &'a mut [E],
}

impl<E: Element> AverageForward<'_, E> {
    #[inline(always)]
    fn pass<S: Simd>(self, s: S, [height, width]: [usize; 2]) {
        let Pool2dShape { input, stride, .. } = *self.shape;
        let output = self.shape.output();
        let share = s.splat(1.0 / (height * width) as f32);
        for (row, y) in self.rows.enumerate() {
            for x in 0..output.width {
                let corner = input.offset(y * stride[0], x * stride[1]);
                let to = output.offset(row, x);
                for i in (0..input.pixel()).step_by(UNROLL * S::LANES) {
                    // SAFETY: as in `MaxForward::pass`, whose assertions `average_forward` shares.
                    unsafe {
                        let from = self.x.as_ptr().add(corner + i);
                        let mut total = [s.zero(); UNROLL];
                        for window_row in 0..height {
                            // Summing rows first keeps rounding errors of large windows small.
                            let mut sum = [s.zero(); UNROLL];
                            for window_column in 0..width {
                                let at = from.add(window_row * input.row() + window_column * input.pixel());
                                for (n, sum) in sum.iter_mut().enumerate() {
                                    *sum = s.add(*sum, E::load(s, at.add(n * S::LANES)));
                                }
                            }
                            for (total, sum) in total.iter_mut().zip(sum) {
                                *total = s.add(*total, sum);
                            }
                        }
                        for (n, total) in total.into_iter().enumerate() {
                            let at = self.y.as_mut_ptr().add(to + i + n * S::LANES);
                            E::store(s, at, s.mul(total, share));
                        }
                    }
                }
            }
        }
    }
}

impl<E: Element> Kernel for AverageForward<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.shape.size {
            [2, 2] => self.pass(s, [2, 2]),
            size => self.pass(s, size),
        }
    }
}

struct PoolBackward<'a, E> {
    shape: &'a Pool2dShape,
    rows: Range<usize>,
    dy: &'a [E],
    /// Each window's argmax for max pooling; nothing for average pooling.
    indices: Option<&'a [u16]>,
    dx: &'a mut [E],
}

/// The windows that cover position `at` of an axis, of `count` windows of `size` with a stride of `stride`.
#[inline(always)]
fn covering(at: usize, size: usize, stride: usize, count: usize) -> Range<usize> {
    let first = if at < size { 0 } else { (at - size) / stride + 1 };
    first..(at / stride + 1).min(count)
}

impl<E: Element> Kernel for PoolBackward<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Pool2dShape { input, size, stride } = *self.shape;
        let output = self.shape.output();
        let share = s.splat(if self.indices.is_some() { 1.0 } else { 1.0 / (size[0] * size[1]) as f32 });
        for (row, y) in self.rows.enumerate() {
            let window_rows = covering(y, size[0], stride[0], output.height);
            for x in 0..input.width {
                let window_columns = covering(x, size[1], stride[1], output.width);
                let to = input.offset(row, x);
                for i in (0..input.pixel()).step_by(UNROLL * S::LANES) {
                    let mut sum = [s.zero(); UNROLL];
                    for oy in window_rows.clone() {
                        for ox in window_columns.clone() {
                            let own_index = s.splat_u(((y - oy * stride[0]) * size[1] + x - ox * stride[1]) as u32);
                            for (n, sum) in sum.iter_mut().enumerate() {
                                let at = output.offset(oy, ox) + i + n * S::LANES;
                                // SAFETY: `assert_block` saw `dy` and `indices` hold the whole output, in which
                                // `covering` keeps the window; a pixel's elements are a multiple of UNROLL · LANES.
                                unsafe {
                                    let v = E::load(s, self.dy.as_ptr().add(at));
                                    let v = match self.indices {
                                        Some(indices) => {
                                            let argmax = s.load_u16(indices.as_ptr().add(at));
                                            s.select(s.eq_u(argmax, own_index), v, s.zero())
                                        }
                                        None => v,
                                    };
                                    *sum = s.add(*sum, v);
                                }
                            }
                        }
                    }
                    for (n, &sum) in sum.iter().enumerate() {
                        // SAFETY: `assert_rows` saw `dx` hold `rows` of the input.
                        unsafe {
                            let at = self.dx.as_mut_ptr().add(to + i + n * S::LANES);
                            E::store(s, at, s.mul(sum, share));
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
