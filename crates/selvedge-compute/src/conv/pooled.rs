//! A convolution with bias and max pooling in one pass, and a ReLU if there is one: the unpooled result is never written.

use std::ops::Range;

use super::{Conv2dShape, PANEL};
use crate::conv::implicit_gemm::{ImplicitGemm, Product, Target};
use crate::dropout::{Draws, DropoutMask};
use crate::layout::{BLOCK, BlockShape};
use crate::simd::{Element, Kernel, Simd, math};

/// The most pixels of a window that a fused pooling takes.
pub const MAX_WINDOW: usize = 9;

/// In place of an index: no pixel of the window has a gradient.
pub const NO_ARGMAX: u16 = u16::MAX;

/// What a training pass adds to a convolution with fused pooling.
pub struct Training<'a> {
    /// As long as y: receives the argmax of each window, the index of its pixel row by row, the first if several are equal, or
    /// [`NO_ARGMAX`] where a ReLU or dropout made the maximum zero. [`crate::pool::scatter`] routes the gradient by it.
    pub indices: &'a mut [u16],
    /// Dropout after the pooling, whose mask counts the elements of the pooled shape.
    pub dropout: Option<&'a DropoutMask>,
}

impl Training<'_> {
    /// Compares the length with that of y.
    #[track_caller]
    fn check(&self, y: usize) {
        assert_eq!(self.indices.len(), y, "the lengths of indices and y");
        if let Some(mask) = self.dropout {
            mask.check();
        }
    }
}

/// What a convolution with max pooling in the same pass does to the sums, and where it writes the maxima.
pub struct PooledOutput<'a, Y> {
    /// Height and width of the windows, which do not overlap.
    pub window: [usize; 2],
    /// One number per channel, as many as the output's channel stride; its padding is zero.
    pub bias: Option<&'a [f32]>,
    /// Whether negative maxima become zero. ReLU and maxima are taken in any order.
    pub relu: bool,
    /// Exactly the rows of the pooled output that are computed.
    pub y: &'a mut [Y],
    /// What a training pass adds.
    pub training: Option<Training<'a>>,
}

impl<Y> PooledOutput<'_, Y> {
    /// Compares the lengths with those of `rows` of the pooled output of shape `pooled`.
    #[track_caller]
    pub(super) fn check(&self, pooled: &BlockShape, rows: &Range<usize>) {
        assert!(rows.start <= rows.end && rows.end <= pooled.height, "rows {rows:?} of {pooled:?}");
        assert_eq!(self.y.len(), rows.len() * pooled.row(), "the length of y and that of rows {rows:?} of {pooled:?}");
        if let Some(training) = &self.training {
            training.check(self.y.len());
        }
        if let Some(bias) = self.bias {
            assert_eq!(bias.len(), pooled.channel_stride, "the bias' length and the channel stride");
        }
    }

    /// A vector of the bias from `channel` on, zeros if there is none.
    ///
    /// # Safety
    /// `channel` + LANES must be at most the output's channel stride, which [`check`](Self::check) compared the bias with.
    #[inline(always)]
    pub(super) unsafe fn bias_at<S: Simd>(&self, s: S, channel: usize) -> S::V {
        match self.bias {
            // SAFETY: the caller's promise.
            Some(bias) => unsafe { s.load(bias.as_ptr().add(channel)) },
            None => s.zero(),
        }
    }

    /// The random numbers of the dropout.
    #[inline(always)]
    pub(super) fn draws<S: Simd>(&self, s: S) -> Option<Draws<S>> {
        self.training.as_ref().and_then(|training| training.dropout).map(|mask| Draws::new(s, mask))
    }
}

/// What maxima must be above to pass: 0 with a ReLU; −∞ without, so that there is no branch in the inner loop.
#[inline(always)]
pub(super) fn floor<S: Simd>(s: S, relu: bool) -> S::V {
    s.splat(if relu { 0.0 } else { f32::NEG_INFINITY })
}

/// A vector of the maxima of a window.
pub(super) struct Maxima<S: Simd> {
    pub values: S::V,
    /// The first pixel that has the value.
    pub argmax: S::U,
}

impl<S: Simd> Maxima<S> {
    /// The maxima over `pixels` vectors of a window.
    #[inline(always)]
    pub(super) fn of(s: S, pixels: usize, value: impl Fn(usize) -> S::V) -> Self {
        let (mut values, mut argmax) = (value(0), s.splat_u(0));
        for pixel in 1..pixels {
            let value = value(pixel);
            let larger = s.gt(value, values);
            values = s.select(larger, value, values);
            argmax = s.select_u(larger, s.splat_u(pixel as u32), argmax);
        }
        Self { values, argmax }
    }

    /// The maxima plus the bias. Those that are not above [`floor`] become it, and have no argmax.
    #[inline(always)]
    pub(super) fn after(self, s: S, bias: S::V, floor: S::V) -> Self {
        let values = s.add(self.values, bias);
        let above = s.gt(values, floor);
        Self {
            values: s.select(above, values, floor),
            argmax: s.select_u(above, self.argmax, s.splat_u(NO_ARGMAX.into())),
        }
    }
}

/// Writes a vector of maxima after dropout, and their indices, to the elements from `to` on.
///
/// # Safety
/// `y` and the indices must have room for a vector at `to`.
#[inline(always)]
pub(super) unsafe fn store<S: Simd, Y: Element>(
    s: S,
    y: &mut [Y],
    training: &mut Option<Training<'_>>,
    to: usize,
    maxima: Maxima<S>,
    draws: &Option<Draws<S>>,
    draw: S::U,
) {
    let Maxima { values: mut kept, mut argmax } = maxima;
    if let Some(draws) = draws {
        let dropped = draws.drops(s, draw);
        kept = draws.keep(s, dropped, kept);
        argmax = s.select_u(dropped, s.splat_u(NO_ARGMAX.into()), argmax);
    }
    // SAFETY: the caller's promise.
    unsafe {
        Y::store(s, y.as_mut_ptr().add(to), kept);
        if let Some(training) = training {
            s.store_u16(training.indices.as_mut_ptr().add(to), argmax);
        }
    }
}

/// The shape of a convolution's output after pooling over windows of `window` pixels; the channel stride stays.
pub(super) fn pooled_shape(shape: &Conv2dShape, window: [usize; 2]) -> BlockShape {
    let BlockShape { height, width, .. } = shape.output;
    BlockShape { height: height / window[0], width: width / window[1], ..shape.output }
}

/// Rows `rows` of the pooled output of an implicit GEMM.
pub(super) struct ForwardPooled<'a, P, Y> {
    pub gemm: ImplicitGemm<'a, P>,
    pub pooled: BlockShape,
    pub rows: Range<usize>,
    pub output: PooledOutput<'a, Y>,
}

/// The sums of one window, `[pixel][two panels][image][16]`, which stay in L1.
#[repr(align(64))]
struct Window([f32; MAX_WINDOW * BLOCK * 2 * PANEL]);

impl<'a, P: Product, Y: Element> ForwardPooled<'a, P, Y> {
    /// Compares every length with the shape; `gemm` has no epilogue.
    pub(super) fn new(gemm: ImplicitGemm<'a, P>, rows: Range<usize>, output: PooledOutput<'a, Y>) -> Self {
        let window = output.window;
        assert!((1..=MAX_WINDOW).contains(&(window[0] * window[1])), "a window of {window:?}");
        let shape = gemm.shape;
        let pooled = pooled_shape(shape, window);
        output.check(&pooled, &rows);
        gemm.check(&(0..shape.output.height), shape.output.len());
        Self { gemm, pooled, rows, output }
    }

    /// The maxima over window `number` of `columns` channels from `channel` on.
    #[inline(always)]
    fn pool<S: Simd>(
        &mut self,
        s: S,
        sums: &Window,
        channel: usize,
        columns: usize,
        number: usize,
        draws: &Option<Draws<S>>,
    ) {
        let pixel = (number - self.rows.start * self.pooled.width) * self.pooled.pixel();
        let pixels = self.output.window[0] * self.output.window[1];
        for column in (0..columns).step_by(S::LANES) {
            // SAFETY: `new` ran `check`, and the channels lie within the stride.
            let bias = unsafe { self.output.bias_at(s, channel + column) };
            let floor = floor(s, self.output.relu);
            let positions = math::positions(s, (number * self.pooled.channels + channel + column) as u32);
            let mut of_pair = [positions; 2];
            for image in 0..self.gemm.images {
                if let (Some(draws), 0) = (draws, image % 2) {
                    of_pair = draws.of_pair(s, image / 2, positions);
                }
                let from = column / PANEL * BLOCK * PANEL + image * PANEL + column % PANEL;
                let to = pixel + self.pooled.channel(channel + column) + image * self.pooled.plane();
                debug_assert!(to + S::LANES <= self.output.y.len() && pixels * BLOCK * columns <= sums.0.len());
                // SAFETY: `sums` holds `pixels` times BLOCK rows of `columns`, and `run` keeps `to` inside of the pooled
                // pixel, whose room `new` asserted.
                unsafe {
                    let load = |pixel: usize| s.load(sums.0.as_ptr().add(pixel * BLOCK * columns + from));
                    let maxima = Maxima::of(s, pixels, load);
                    let maxima = maxima.after(s, bias, floor);
                    let PooledOutput { y, training, .. } = &mut self.output;
                    store(s, y, training, to, maxima, draws, of_pair[image % 2]);
                }
            }
        }
    }
}

impl<P: Product, Y: Element> Kernel for ForwardPooled<'_, P, Y> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let mut sums = Window([0.0; MAX_WINDOW * BLOCK * 2 * PANEL]);
        let (window, all_panels) = (self.output.window, self.pooled.channel_stride / PANEL);
        let draws = self.output.draws(s);
        for y in self.rows.clone() {
            for x in 0..self.pooled.width {
                let mut panel = 0;
                while panel < all_panels {
                    let panels = self.gemm.product.panels_per_call::<S>(panel, all_panels);
                    let columns = panels * PANEL;
                    for pixel in 0..window[0] * window[1] {
                        let (dy, dx) = (pixel / window[1], pixel % window[1]);
                        let target = &mut sums.0[pixel * BLOCK * columns..][..BLOCK * columns];
                        let pixel = self.gemm.pixel(y * window[0] + dy, x * window[1] + dx);
                        // SAFETY: `new` ran `check`, tap spans lie on the input by construction, and `target` has room for
                        // the panels of all images.
                        unsafe {
                            let target = Target::panels(target.as_mut_ptr());
                            self.gemm.product.columns(s, &pixel, panel, panels, target);
                        }
                    }
                    self.pool(s, &sums, panel * PANEL, columns, y * self.pooled.width + x, &draws);
                    panel += panels;
                }
            }
        }
    }
}
