//! A convolution with max pooling in one pass on AMX, by the sliding 1×3 microkernel as in [`super::sliding`]: one slide for each
//! row of a group of windows.
//!
//! The sums of a group are pooled after the slides of the next group have begun: by then their tiles are stored, and vectors work
//! while tiles multiply.

use std::mem::MaybeUninit;

use crate::amx::{PIXELS, ROWS};
use crate::conv::implicit_gemm::Direction;
use crate::conv::pooled::{ForwardPooled, MAX_WINDOW, Maxima, PooledOutput, floor, store};
use crate::conv::tiles::product::TileProduct;
use crate::conv::tiles::sliding::{Slide, SlidingRows};
use crate::conv::{Conv2dShape, PANEL};
use crate::dropout::Draws;
use crate::simd::{Element, Kernel, Simd, math};

/// [`ForwardPooled`] by the sliding microkernel.
pub(in crate::conv) struct PooledSlidingRows<'a, Y>(ForwardPooled<'a, TileProduct<'a>, Y>);

/// The sums of a group of windows, `[row of the window][pixel][image][16]`, which stay in L1. Only accessed through a pointer.
#[repr(align(64))]
struct GroupSums {
    _values: [f32; MAX_WINDOW.isqrt() * PIXELS * ROWS * PANEL],
}

/// Adjacent windows of one panel and half of the images, and their sums.
#[derive(Clone, Copy)]
struct Group {
    /// The row of windows.
    y: usize,
    /// The first window of the row.
    x: usize,
    /// How many windows.
    windows: usize,
    panel: usize,
    first_image: usize,
    sums: *const f32,
}

impl PooledSlidingRows<'_, ()> {
    /// Whether the sliding microkernel can compute a pass with windows of this size: windows of 2x2 or 3x3 pixels.
    pub(in crate::conv) fn fit(shape: &Conv2dShape, window: [usize; 2]) -> bool {
        matches!(window, [2, 2] | [3, 3]) && SlidingRows::fit(shape, Direction::Forward)
    }
}

impl<'a, Y: Element> PooledSlidingRows<'a, Y> {
    /// # Panics
    /// If the pass does not [`fit`](PooledSlidingRows::fit).
    pub(in crate::conv) fn new(pass: ForwardPooled<'a, TileProduct<'a>, Y>) -> Self {
        let (shape, window) = (pass.gemm.shape, pass.output.window);
        assert!(
            PooledSlidingRows::fit(shape, window),
            "the sliding microkernel does not fit {shape:?}, {window:?} pooled"
        );
        Self(pass)
    }

    /// The maxima over the windows of a group.
    ///
    /// # Safety
    /// The group's sums must have been written.
    #[inline(always)]
    unsafe fn pool<S: Simd, const WINDOW: usize>(&mut self, s: S, group: &Group, draws: &Option<Draws<S>>) {
        let Self(pass) = self;
        let (pooled, images) = (pass.pooled, pass.gemm.images);
        for window in 0..group.windows {
            let number = group.y * pooled.width + group.x + window;
            let pixel =
                (number - pass.rows.start * pooled.width) * pooled.pixel() + pooled.channel(group.panel * PANEL);
            for lane in (0..PANEL).step_by(S::LANES) {
                let channel = group.panel * PANEL + lane;
                // SAFETY: `ForwardPooled::new` compared the bias with the channel stride.
                let bias = unsafe { pass.output.bias_at(s, channel) };
                let floor = floor(s, pass.output.relu);
                let positions = math::positions(s, (number * pooled.channels + channel) as u32);
                let mut of_pair = [positions; 2];
                for image in group.first_image..images.min(group.first_image + ROWS) {
                    if let (Some(draws), 0) = (draws, image % 2) {
                        of_pair = draws.of_pair(s, image / 2, positions);
                    }
                    let from = (window * WINDOW * ROWS + image - group.first_image) * PANEL + lane;
                    let to = pixel + image * pooled.plane() + lane;
                    debug_assert!(to + S::LANES <= pass.output.y.len());
                    // SAFETY: the caller's promise: the group has WINDOW rows of up to PIXELS pixels. `to` lies in the
                    // pooled pixel, whose room `ForwardPooled::new` asserted.
                    unsafe {
                        let maxima = Maxima::of(s, WINDOW * WINDOW, |pixel| {
                            let (row, column) = (pixel / WINDOW, pixel % WINDOW);
                            s.load(group.sums.add((row * PIXELS + column) * ROWS * PANEL + from))
                        });
                        let maxima = maxima.after(s, bias, floor);
                        let PooledOutput { y, training, .. } = &mut pass.output;
                        store(s, y, training, to, maxima, draws, of_pair[image % 2]);
                    }
                }
            }
        }
    }

    /// All windows, of WINDOW × WINDOW pixels.
    #[inline(always)]
    fn windows<S: Simd, const WINDOW: usize>(mut self, s: S) {
        let draws = self.0.output.draws(s);
        let mut sums = [const { MaybeUninit::<GroupSums>::uninit() }; 2];
        let sums = sums.each_mut().map(|sums| sums.as_mut_ptr().cast::<f32>());
        // The group whose sums are not pooled yet, and the buffer that the next group's sums go to.
        let (mut pending, mut active) = (None::<Group>, 0);
        let (panels, images, width) = (self.0.pooled.channel_stride / PANEL, self.0.gemm.images, self.0.pooled.width);
        for y in self.0.rows.clone() {
            for (panel, first_image) in (0..panels).flat_map(|panel| [(panel, 0), (panel, ROWS)]) {
                if first_image >= images {
                    continue;
                }
                for x in (0..width).step_by(PIXELS / WINDOW) {
                    let windows = (PIXELS / WINDOW).min(width - x);
                    for row in 0..WINDOW {
                        let gemm = &self.0.gemm;
                        let ys = gemm.rows_of(y * WINDOW + row);
                        let pixels = windows * WINDOW;
                        let mut sliding = gemm.slide(&Slide { ys, x: x * WINDOW, pixels, first_image, panel });
                        // SAFETY: `GroupSums` has room for the rows of a window. `ForwardPooled::new` compared the lengths with
                        // the shape. The rows' taps lie on the input (`TapSpan`), and so do the columns': `fit` lets at most
                        // one fall on the padding on either side, and that one is left out.
                        unsafe {
                            sliding.c = sums[active].add(row * PIXELS * ROWS * PANEL);
                            sliding.run(pixels, gemm.product.tiles);
                        }
                    }
                    let group = Group { y, x, windows, panel, first_image, sums: sums[active] };
                    if let Some(group) = pending.replace(group) {
                        // SAFETY: the slides before these have written its sums.
                        unsafe { self.pool::<S, WINDOW>(s, &group, &draws) };
                    }
                    active = 1 - active;
                }
            }
        }
        if let Some(group) = pending {
            // SAFETY: as above.
            unsafe { self.pool::<S, WINDOW>(s, &group, &draws) };
        }
    }
}

impl<Y: Element> Kernel for PooledSlidingRows<'_, Y> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.0.output.window {
            [2, 2] => self.windows::<S, 2>(s),
            _ => self.windows::<S, 3>(s),
        }
    }
}
