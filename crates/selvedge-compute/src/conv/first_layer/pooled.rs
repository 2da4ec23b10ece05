//! The most common first layer in f32: a 3x3 convolution of one channel with 2x2 max pooling, forward and the gradient
//! of its weights.
//!
//! The general microkernel keeps sums in registers and reads the weights again for each pixel. Here the nine weights stay in
//! registers: for one image and one pooled pixel, the 4x4 pixels of its receptive field are broadcast into four sums (forward) or
//! nine (backward). Only the pooled result is written or read. The convolution's own result and its gradient, the largest
//! tensors of a small network, never exist. This takes 0.55 of the time of the general passes.

use std::ops::Range;

use crate::conv::first_layer::batch_norm::sees_patches;
use crate::conv::pooled::{Maxima, PooledOutput, floor, pooled_shape, store};
use crate::conv::{Conv2dShape, PANEL, Part};
use crate::cpu::Cpu;
use crate::layout::{BLOCK, BlockShape};
use crate::simd::{Element, Kernel, Simd, dispatch, math};

/// Height and width of a pooling window.
pub(in crate::conv) const WINDOW: [usize; 2] = [2, 2];

/// The widest image that [`InputRows`] holds.
const MAX_WIDTH: usize = 62;

/// Whether a convolution and the pooling after it are of this form.
///
/// ```
/// use selvedge_compute::{BlockShape, conv::{Conv2dShape, first_layer::is_first_layer}};
/// let shape = Conv2dShape::same(BlockShape::input(28, 28, 1), 16, [3, 3], 1);
/// assert!(is_first_layer(&shape, [2, 2]) && !is_first_layer(&shape, [3, 3]));
/// ```
pub fn is_first_layer(shape: &Conv2dShape, window: [usize; 2]) -> bool {
    sees_patches(shape)
        && shape.output.channel_stride.is_multiple_of(PANEL)
        && window == WINDOW
        && shape.input.width <= MAX_WIDTH
}

/// The four rows of the input that a row of windows reads, `[row][column][image]`, with a pixel of zeros on either side.
#[repr(align(64))]
struct InputRows([[f32; (MAX_WIDTH + 2) * BLOCK]; 4]);

impl InputRows {
    fn new() -> Self {
        Self([[0.0; (MAX_WIDTH + 2) * BLOCK]; 4])
    }

    /// Copies the rows that pooled row `y` reads.
    #[inline(always)]
    fn fill(&mut self, input: &BlockShape, x: &[f32], y: usize) {
        let row = input.width * BLOCK;
        for (number, to) in self.0.iter_mut().enumerate() {
            let to = &mut to[BLOCK..][..row];
            match (2 * y + number).checked_sub(1) {
                Some(from) if from < input.height => to.copy_from_slice(&x[from * row..][..row]),
                _ => to.fill(0.0),
            }
        }
        // The pixel right of the image stays zero, since all images have the same width.
    }
}

/// The arguments of [`forward_pooled`].
struct Forward<'a, Y> {
    shape: &'a Conv2dShape,
    x: &'a [f32],
    weights: &'a [f32],
    /// Pooled rows.
    rows: Range<usize>,
    images: usize,
    output: PooledOutput<'a, Y>,
}

impl<Y: Element> Forward<'_, Y> {
    /// Compares every length with the shape.
    fn check(&self) {
        assert_eq!(self.x.len(), self.shape.input.len(), "the source's length and that of {:?}", self.shape.input);
        assert_eq!(self.weights.len(), self.shape.weights_len(), "the weights' length and that of {:?}", self.shape);
        assert!((1..=BLOCK).contains(&self.images), "{} images of a block of {BLOCK}", self.images);
        self.output.check(&pooled_shape(self.shape, WINDOW), &self.rows);
    }
}

impl<Y: Element> Kernel for Forward<'_, Y> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let pooled = pooled_shape(self.shape, WINDOW);
        let draws = self.output.draws(s);
        let floor = floor(s, self.output.relu);
        let mut rows = InputRows::new();
        for y in self.rows.clone() {
            rows.fill(&self.shape.input, self.x, y);
            for channel in (0..pooled.channel_stride).step_by(S::LANES) {
                let panel = channel / PANEL * self.shape.panel_len() + channel % PANEL;
                // SAFETY: `check` compared weights and bias with the shape; a panel has 9 rows of 16.
                let (taps, bias) = unsafe {
                    let tap = |t: usize| s.load(self.weights.as_ptr().add(panel + t * PANEL));
                    (std::array::from_fn::<S::V, 9, _>(tap), self.output.bias_at(s, channel))
                };
                for x in 0..pooled.width {
                    let to = ((y - self.rows.start) * pooled.width + x) * pooled.pixel() + pooled.channel(channel);
                    let positions = math::positions(s, ((y * pooled.width + x) * pooled.channels + channel) as u32);
                    let mut of_pair = [positions; 2];
                    for image in 0..self.images {
                        if let (Some(draws), 0) = (&draws, image % 2) {
                            of_pair = draws.of_pair(s, image / 2, positions);
                        }
                        let to = to + image * pooled.plane();
                        debug_assert!(to + S::LANES <= self.output.y.len());
                        // SAFETY: column 2x + 3 is at most the width + 1, which `InputRows` holds; `check` compared `y` and
                        // the indices with `rows`.
                        unsafe {
                            let sums = window_sums(s, &rows, 2 * x * BLOCK + image, &taps);
                            let maxima = Maxima::of(s, sums.len(), |pixel| sums[pixel]);
                            let maxima = maxima.after(s, bias, floor);
                            let PooledOutput { y, training, .. } = &mut self.output;
                            store(s, y, training, to, maxima, &draws, of_pair[image % 2]);
                        }
                    }
                }
            }
        }
    }
}

/// The convolution at the four pixels of a window whose 4x4 input pixels start at `at` in each row.
///
/// # Safety
/// `at` + 3·[`BLOCK`] must lie within the rows.
#[inline(always)]
unsafe fn window_sums<S: Simd>(s: S, rows: &InputRows, at: usize, taps: &[S::V; 9]) -> [S::V; 4] {
    let mut sums = [s.zero(); 4];
    for ky in 0..3 {
        for kx in 0..3 {
            for (pixel, sum) in sums.iter_mut().enumerate() {
                let (py, px) = (pixel / 2, pixel % 2);
                // SAFETY: the caller's promise; kx + px is at most 3.
                let value = unsafe { *rows.0[py + ky].as_ptr().add(at + (px + kx) * BLOCK) };
                *sum = s.mul_add(s.splat(value), taps[ky * 3 + kx], *sum);
            }
        }
    }
    sums
}

/// [`crate::conv::direct::forward_pooled`] for a first layer ([`is_first_layer`]).
///
/// # Panics
/// If the layer is not of this form, or a slice is not as long as the shape says, with both lengths.
pub fn forward_pooled<Y: Element>(
    cpu: Cpu,
    shape: &Conv2dShape,
    x: &[f32],
    weights: &[f32],
    part: impl Into<Part>,
    output: PooledOutput<'_, Y>,
) {
    assert!(is_first_layer(shape, output.window), "a first layer is needed, not {shape:?}");
    let Part { rows, images } = part.into();
    let forward = Forward { shape, x, weights, rows, images, output };
    forward.check();
    dispatch(cpu, forward);
}

/// What the gradients of a first layer with fused pooling are computed from, and what they are added to, for one block.
pub struct PooledBackward<'a, E> {
    /// The input as the forward pass reads it.
    pub x: &'a [E],
    /// The gradient of the pooled output.
    pub dy: &'a [E],
    /// As the forward pass left them ([`crate::conv::Training`]).
    pub indices: &'a [u16],
    /// What dropout multiplied in the forward pass ([`crate::dropout::DropoutMask::scale`]), or 1.
    pub scale: f32,
    /// The gradient of the weights, in panels.
    pub dweights: &'a mut [f32],
    /// The gradient of the bias, one number per channel.
    pub dbias: Option<&'a mut [f32]>,
}

impl<E> PooledBackward<'_, E> {
    /// Compares the lengths with the shape, that of x with `input`.
    #[track_caller]
    pub(super) fn check(&self, shape: &Conv2dShape, input: &BlockShape) {
        assert!(is_first_layer(shape, WINDOW), "a first layer is needed, not {shape:?}");
        let pooled = pooled_shape(shape, WINDOW);
        assert_eq!(self.x.len(), input.len(), "the length of x and that of {input:?}");
        assert_eq!(self.dy.len(), pooled.len(), "the length of dy and that of {pooled:?}");
        assert_eq!(self.indices.len(), pooled.len(), "the length of indices and that of {pooled:?}");
        assert_eq!(self.dweights.len(), shape.weights_len(), "the gradient's length and that of {shape:?}");
        if let Some(dbias) = &self.dbias {
            assert_eq!(dbias.len(), pooled.channel_stride, "the length of dbias and the channel stride");
        }
    }
}

/// Adds the gradients of weights and bias of a first layer ([`is_first_layer`]) over one block.
///
/// # Panics
/// If the layer is not of this form, or a slice is not as long as the shape says.
pub fn backward_pooled(cpu: Cpu, shape: &Conv2dShape, args: PooledBackward<'_, f32>) {
    args.check(shape, &shape.input);
    dispatch(cpu, Backward { shape, args });
}

struct Backward<'a> {
    shape: &'a Conv2dShape,
    args: PooledBackward<'a, f32>,
}

impl Kernel for Backward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let PooledBackward { x: input, dy, indices, scale, dweights, mut dbias } = self.args;
        let pooled = pooled_shape(self.shape, WINDOW);
        let mut rows = InputRows::new();
        let scale = s.splat(scale);
        for y in 0..pooled.height {
            rows.fill(&self.shape.input, input, y);
            for channel in (0..pooled.channel_stride).step_by(S::LANES) {
                let mut taps = [s.zero(); 9];
                let mut bias = s.zero();
                for x in 0..pooled.width {
                    for image in 0..BLOCK {
                        let from = pooled.offset(y, x) + pooled.channel(channel) + image * pooled.plane();
                        let at = 2 * x * BLOCK + image;
                        // SAFETY: `check` compared `dy` and `indices` with the pooled shape; column 2x + 3 is at most the
                        // width + 1, which `InputRows` holds.
                        unsafe {
                            let argmax = s.load_u16(indices.as_ptr().add(from));
                            let dy = s.mul(s.load(dy.as_ptr().add(from)), scale);
                            for pixel in 0..4 {
                                let (py, px) = (pixel / 2, pixel % 2);
                                let dy = s.select(s.eq_u(argmax, s.splat_u(pixel as u32)), dy, s.zero());
                                bias = s.add(bias, dy);
                                for (tap, sum) in taps.iter_mut().enumerate() {
                                    let (ky, kx) = (tap / 3, tap % 3);
                                    let value = *rows.0[py + ky].as_ptr().add(at + (px + kx) * BLOCK);
                                    *sum = s.mul_add(s.splat(value), dy, *sum);
                                }
                            }
                        }
                    }
                }
                let panel = channel / PANEL * self.shape.panel_len() + channel % PANEL;
                // SAFETY: `check` compared both gradients with the shape.
                unsafe {
                    for (tap, &sum) in taps.iter().enumerate() {
                        let to = dweights.as_mut_ptr().add(panel + tap * PANEL);
                        s.store(to, s.add(s.load(to), sum));
                    }
                    if let Some(dbias) = &mut dbias {
                        let to = dbias.as_mut_ptr().add(channel);
                        s.store(to, s.add(s.load(to), bias));
                    }
                }
            }
        }
    }
}
