//! The layer next to a network's input where it is what it usually is: a 3x3 convolution of one channel with ReLU and 2x2
//! max pooling, forward and the gradient of its weights.
//!
//! A general tile keeps sums in registers and reads weights again and again. Here the weights are the nine that stay: for
//! one image and one pooled pixel, the 4x4 pixels that its window sees are broadcast into four sums (forward) or into
//! nine (backward), and nothing but the pooled result is written or read. The convolution's own result and its gradient,
//! the largest tensors of a small network, never exist. Against the general passes this takes 0.55 of the time.

use std::ops::Range;

use crate::conv::first_layer::batch_norm::sees_patches;
use crate::conv::pooled::{Training, check, largest, pooled_shape, store};
use crate::conv::{Conv2dShape, PANEL, Part};
use crate::cpu::Cpu;
use crate::layout::{BLOCK, BlockShape};
use crate::simd::{Element, Kernel, Simd, dispatch, math};

/// Pixels of a window.
pub(in crate::conv) const WINDOW: [usize; 2] = [2, 2];

/// The widest image that [`Rows`] holds.
const MAX_WIDTH: usize = 62;

/// Whether a convolution and the pooling behind it are of this form.
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

/// The four rows that a row of windows sees, `[row][column][image]`, with a pixel of zeros on either side.
#[repr(align(64))]
struct Rows([[f32; (MAX_WIDTH + 2) * BLOCK]; 4]);

impl Rows {
    fn new() -> Self {
        Self([[0.0; (MAX_WIDTH + 2) * BLOCK]; 4])
    }

    /// Takes the rows that pooled row `y` sees.
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
        // The pixel right of the image, which a wider image may have filled before, stays zero: widths do not change.
    }
}

/// What [`crate::conv::forward_pooled`] runs for this layer.
pub(in crate::conv) struct ForwardFirst<'a, Y> {
    pub shape: &'a Conv2dShape,
    pub x: &'a [f32],
    pub weights: &'a [f32],
    pub bias: Option<&'a [f32]>,
    /// Pooled rows.
    pub rows: Range<usize>,
    pub images: usize,
    pub y: &'a mut [Y],
    pub training: Option<Training<'a>>,
}

impl<Y: Element> ForwardFirst<'_, Y> {
    /// Compares every length with the shape.
    pub(in crate::conv) fn check(&self) {
        assert_eq!(self.x.len(), self.shape.input.len(), "the source's length and that of {:?}", self.shape.input);
        assert_eq!(self.weights.len(), self.shape.weights_len(), "the weights' length and that of {:?}", self.shape);
        assert!((1..=BLOCK).contains(&self.images), "{} images of a block of {BLOCK}", self.images);
        check(&pooled_shape(self.shape, WINDOW), &self.rows, self.bias, self.y, &self.training);
    }
}

impl<Y: Element> Kernel for ForwardFirst<'_, Y> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let pooled = pooled_shape(self.shape, WINDOW);
        let draws = Training::draws(&self.training, s);
        let mut rows = Rows::new();
        for y in self.rows.clone() {
            rows.fill(&self.shape.input, self.x, y);
            for channel in (0..pooled.channel_stride).step_by(S::LANES) {
                let panel = channel / PANEL * self.shape.panel_len() + channel % PANEL;
                // SAFETY: `check` compared the lengths of weights and bias with the shape; a panel has 9 rows of 16.
                let (taps, bias) = unsafe {
                    let tap = |t: usize| s.load(self.weights.as_ptr().add(panel + t * PANEL));
                    let bias = self.bias.map_or(s.zero(), |bias| s.load(bias.as_ptr().add(channel)));
                    (std::array::from_fn::<S::V, 9, _>(tap), bias)
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
                        debug_assert!(to + S::LANES <= self.y.len());
                        // SAFETY: column 2x + 3 is at most the width + 1, which `Rows` holds; `check` saw `y` and
                        // `indices` hold `rows`.
                        unsafe {
                            let sums = window_sums(s, &rows, 2 * x * BLOCK + image, &taps);
                            let (largest, argmax) = largest(s, sums.len(), |pixel| sums[pixel]);
                            let largest = s.add(largest, bias);
                            store(s, self.y, &mut self.training, to, largest, argmax, &draws, of_pair[image % 2]);
                        }
                    }
                }
            }
        }
    }
}

/// The convolution at the four pixels of a window whose 4x4 input pixels begin at `at` in each row.
///
/// # Safety
/// `at` + 3·[`BLOCK`] must lie within the rows.
#[inline(always)]
unsafe fn window_sums<S: Simd>(s: S, rows: &Rows, at: usize, taps: &[S::V; 9]) -> [S::V; 4] {
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

/// The pooled rows of `part`: convolution, bias, ReLU and 2x2 max pooling in one pass, as
/// [`crate::conv::direct::forward_pooled`] but for a first layer ([`is_first_layer`]).
///
/// # Panics
/// If the layer is not of this form, or a slice is not as long as the shape says, with both lengths.
pub fn forward_pooled<Y: Element>(
    cpu: Cpu,
    shape: &Conv2dShape,
    x: &[f32],
    weights: &[f32],
    bias: Option<&[f32]>,
    part: impl Into<Part>,
    y: &mut [Y],
    training: Option<Training<'_>>,
) {
    assert!(is_first_layer(shape, WINDOW), "a first layer is needed, not {shape:?}");
    let Part { rows, images } = part.into();
    let first = ForwardFirst { shape, x, weights, bias, rows, images, y, training };
    first.check();
    dispatch(cpu, first);
}

/// Adds the gradients of weights and bias of a first layer ([`is_first_layer`]) over one block, from the gradient of its
/// pooled output.
///
/// `dy` and `indices` have the pooled shape, `indices` as [`crate::conv::forward_pooled`] left it; `scale` is what dropout
/// multiplied in that pass ([`crate::dropout::DropoutMask::scale`]), or 1; `dweights` is in the layout of
/// the packed weights, `dbias` one number a channel.
///
/// # Panics
/// If the layer is not of this form, or a slice is not as long as the shape says.
pub fn backward_pooled(
    cpu: Cpu,
    shape: &Conv2dShape,
    x: &[f32],
    dy: &[f32],
    indices: &[u16],
    scale: f32,
    dweights: &mut [f32],
    dbias: Option<&mut [f32]>,
) {
    assert!(is_first_layer(shape, WINDOW), "a first layer is needed, not {shape:?}");
    let pooled = pooled_shape(shape, WINDOW);
    assert_eq!(x.len(), shape.input.len(), "the length of x and that of {:?}", shape.input);
    assert_eq!(dy.len(), pooled.len(), "the length of dy and that of {pooled:?}");
    assert_eq!(indices.len(), pooled.len(), "the length of indices and that of {pooled:?}");
    assert_eq!(dweights.len(), shape.weights_len(), "the gradient's length and that of {shape:?}");
    if let Some(dbias) = &dbias {
        assert_eq!(dbias.len(), pooled.channel_stride, "the length of dbias and the channel stride");
    }
    dispatch(cpu, BackwardFirst { shape, x, dy, indices, scale, dweights, dbias });
}

struct BackwardFirst<'a> {
    shape: &'a Conv2dShape,
    x: &'a [f32],
    dy: &'a [f32],
    indices: &'a [u16],
    scale: f32,
    dweights: &'a mut [f32],
    dbias: Option<&'a mut [f32]>,
}

impl Kernel for BackwardFirst<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let pooled = pooled_shape(self.shape, WINDOW);
        let mut rows = Rows::new();
        let scale = s.splat(self.scale);
        for y in 0..pooled.height {
            rows.fill(&self.shape.input, self.x, y);
            for channel in (0..pooled.channel_stride).step_by(S::LANES) {
                let mut taps = [s.zero(); 9];
                let mut bias = s.zero();
                for x in 0..pooled.width {
                    for image in 0..BLOCK {
                        let from = pooled.offset(y, x) + pooled.channel(channel) + image * pooled.plane();
                        let at = 2 * x * BLOCK + image;
                        // SAFETY: `backward_pooled` saw `dy` and `indices` hold the pooled shape; column 2x + 3 is
                        // at most the width + 1, which `Rows` holds.
                        unsafe {
                            let argmax = s.load_u16(self.indices.as_ptr().add(from));
                            let dy = s.mul(s.load(self.dy.as_ptr().add(from)), scale);
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
                // SAFETY: `backward_pooled` compared the lengths of both gradients with the shape.
                unsafe {
                    for (tap, &sum) in taps.iter().enumerate() {
                        let to = self.dweights.as_mut_ptr().add(panel + tap * PANEL);
                        s.store(to, s.add(s.load(to), sum));
                    }
                    if let Some(dbias) = &mut self.dbias {
                        let to = dbias.as_mut_ptr().add(channel);
                        s.store(to, s.add(s.load(to), bias));
                    }
                }
            }
        }
    }
}
