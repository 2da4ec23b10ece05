//! A convolution with bias, ReLU and max pooling in one pass: what is pooled away is never written.

use std::ops::Range;

use super::{Conv2dShape, PANEL};
use crate::conv::implicit_gemm::{ImplicitGemm, Product, Target};
use crate::dropout::{Draws, DropoutMask};
use crate::layout::{BLOCK, BlockShape};
use crate::simd::{Element, Kernel, Simd, math};

/// The most pixels of a window that [`super::forward_pooled`] takes.
pub const MAX_WINDOW: usize = 9;

/// In place of a argmax: no pixel of the window has a gradient.
pub const NO_ARGMAX: u16 = u16::MAX;

/// What a training pass keeps of a pooled convolution, and does to it.
pub struct Training<'a> {
    /// As long as y: gets the number of each maximum's pixel in its window, row by row, the first if several are equal, or
    /// [`NO_ARGMAX`] where ReLU or dropout made it zero: what [`crate::pool::max_backward`] needs to spread the gradient.
    pub indices: &'a mut [u16],
    /// Dropout behind the pooling, whose mask counts the elements of the pooled shape.
    pub dropout: Option<&'a DropoutMask>,
}

impl Training<'_> {
    /// Compares the length with that of y.
    #[track_caller]
    pub(super) fn check(&self, y: usize) {
        assert_eq!(self.indices.len(), y, "the lengths of indices and y");
        if let Some(mask) = self.dropout {
            mask.check();
        }
    }

    /// The draws of its dropout.
    #[inline(always)]
    pub(super) fn draws<S: Simd>(training: &Option<Self>, s: S) -> Option<Draws<S>> {
        training.as_ref().and_then(|training| training.dropout).map(|mask| Draws::new(s, mask))
    }
}

/// The largest of a window's vectors of values, and the number of the first pixel that has it.
#[inline(always)]
pub(super) fn largest<S: Simd>(s: S, pixels: usize, value: impl Fn(usize) -> S::V) -> (S::V, S::U) {
    let (mut largest, mut argmax) = (value(0), s.splat_u(0));
    for pixel in 1..pixels {
        let value = value(pixel);
        let larger = s.gt(value, largest);
        largest = s.select(larger, value, largest);
        argmax = s.select_u(larger, s.splat_u(pixel as u32), argmax);
    }
    (largest, argmax)
}

/// ReLU and dropout on a vector of maxima, and their indices, to element `to`.
///
/// # Safety
/// A vector must have room at `to` in `y`, and in the indices.
#[inline(always)]
pub(super) unsafe fn store<S: Simd, Y: Element>(
    s: S,
    y: &mut [Y],
    training: &mut Option<Training<'_>>,
    to: usize,
    largest: S::V,
    argmax: S::U,
    draws: &Option<Draws<S>>,
    draw: S::U,
) {
    let alive = s.gt(largest, s.zero());
    let mut kept = s.select(alive, largest, s.zero());
    let mut argmax = s.select_u(alive, argmax, s.splat_u(NO_ARGMAX.into()));
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

/// The shape that pooling over windows of `window` pixels leaves of a convolution's output, whose channel stride it keeps.
pub(super) fn pooled_shape(shape: &Conv2dShape, window: [usize; 2]) -> BlockShape {
    let BlockShape { height, width, .. } = shape.output;
    BlockShape { height: height / window[0], width: width / window[1], ..shape.output }
}

/// Compares what a pass writes of a tensor of shape `pooled`, and its bias, with the shape.
#[track_caller]
pub(super) fn check<Y>(
    pooled: &BlockShape,
    rows: &Range<usize>,
    bias: Option<&[f32]>,
    y: &[Y],
    training: &Option<Training<'_>>,
) {
    assert!(rows.start <= rows.end && rows.end <= pooled.height, "rows {rows:?} of {pooled:?}");
    assert_eq!(y.len(), rows.len() * pooled.row(), "the length of y and that of rows {rows:?} of {pooled:?}");
    if let Some(training) = training {
        training.check(y.len());
    }
    if let Some(bias) = bias {
        assert_eq!(bias.len(), pooled.channel_stride, "the bias' length and the channel stride");
    }
}

/// Rows `rows` of the pooled output.
pub(super) struct ForwardPooled<'a, P, Y> {
    pub window: [usize; 2],
    pub gather: ImplicitGemm<'a, P>,
    pub bias: Option<&'a [f32]>,
    pub pooled: BlockShape,
    pub rows: Range<usize>,
    pub y: &'a mut [Y],
    pub training: Option<Training<'a>>,
}

/// The convolution's results for one window: `[pixel][two panels][image][16]`, in the first cache.
#[repr(align(64))]
struct Window([f32; MAX_WINDOW * BLOCK * 2 * PANEL]);

impl<'a, P: Product, Y: Element> ForwardPooled<'a, P, Y> {
    /// Compares every length with the shape; `gather` has no epilogue.
    pub(super) fn new(
        window: [usize; 2],
        gather: ImplicitGemm<'a, P>,
        bias: Option<&'a [f32]>,
        rows: Range<usize>,
        y: &'a mut [Y],
        training: Option<Training<'a>>,
    ) -> Self {
        assert!((1..=MAX_WINDOW).contains(&(window[0] * window[1])), "a window of {window:?}");
        let shape = gather.shape;
        let pooled = pooled_shape(shape, window);
        check(&pooled, &rows, bias, y, &training);
        gather.check(&(0..shape.output.height), shape.output.len());
        Self { window, gather, bias, pooled, rows, y, training }
    }

    /// The maxima over window `number` of the channels from `channel` on, `columns` of them.
    #[inline(always)]
    fn pool<S: Simd>(
        &mut self,
        s: S,
        results: &Window,
        channel: usize,
        columns: usize,
        number: usize,
        draws: &Option<Draws<S>>,
    ) {
        let pixel = (number - self.rows.start * self.pooled.width) * self.pooled.pixel();
        let pixels = self.window[0] * self.window[1];
        for column in (0..columns).step_by(S::LANES) {
            let bias = match self.bias {
                // SAFETY: `new` asserted that the bias is as long as the channel stride.
                Some(bias) => unsafe { s.load(bias.as_ptr().add(channel + column)) },
                None => s.zero(),
            };
            let positions = math::positions(s, (number * self.pooled.channels + channel + column) as u32);
            let mut of_pair = [positions; 2];
            for image in 0..self.gather.images {
                if let (Some(draws), 0) = (draws, image % 2) {
                    of_pair = draws.of_pair(s, image / 2, positions);
                }
                let from = column / PANEL * BLOCK * PANEL + image * PANEL + column % PANEL;
                let to = pixel + self.pooled.channel(channel + column) + image * self.pooled.plane();
                debug_assert!(to + S::LANES <= self.y.len() && pixels * BLOCK * columns <= results.0.len());
                // SAFETY: `results` holds `pixels` times BLOCK rows of `columns`, and `run` keeps `to` inside of the
                // pooled pixel, whose room `new` asserted.
                unsafe {
                    let load = |pixel: usize| s.load(results.0.as_ptr().add(pixel * BLOCK * columns + from));
                    let (largest, argmax) = largest(s, pixels, load);
                    let largest = s.add(largest, bias);
                    store(s, self.y, &mut self.training, to, largest, argmax, draws, of_pair[image % 2]);
                }
            }
        }
    }
}

impl<P: Product, Y: Element> Kernel for ForwardPooled<'_, P, Y> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let mut results = Window([0.0; MAX_WINDOW * BLOCK * 2 * PANEL]);
        let all_panels = self.pooled.channel_stride / PANEL;
        let draws = Training::draws(&self.training, s);
        for y in self.rows.clone() {
            for x in 0..self.pooled.width {
                let mut panel = 0;
                while panel < all_panels {
                    let panels = self.gather.product.panels_at_once::<S>(panel, all_panels);
                    let columns = panels * PANEL;
                    for pixel in 0..self.window[0] * self.window[1] {
                        let (dy, dx) = (pixel / self.window[1], pixel % self.window[1]);
                        let target = &mut results.0[pixel * BLOCK * columns..][..BLOCK * columns];
                        let place = self.gather.place(y * self.window[0] + dy, x * self.window[1] + dx);
                        // SAFETY: `new` ran `check`, spans lie on the input by construction, and `target` has room for
                        // all images' panels.
                        unsafe {
                            let target = Target::panels(target.as_mut_ptr());
                            self.gather.product.columns(s, &place, panel, panels, target);
                        }
                    }
                    self.pool(s, &results, panel * PANEL, columns, y * self.pooled.width + x, &draws);
                    panel += panels;
                }
            }
        }
    }
}
