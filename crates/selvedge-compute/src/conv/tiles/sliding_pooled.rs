//! A convolution with max pooling in one pass on AMX, for kernels with three taps in a row: in slides, like
//! [`crate::conv::tiles::sliding`], as many rows of them as a window has.
//!
//! What a slide leaves is pooled after the next slides have begun: by then the tiles are stored, and vectors work while
//! tiles multiply.

use std::mem::MaybeUninit;

use crate::amx::{PIXELS, ROWS};
use crate::conv::pooled::{ForwardPooled, MAX_WINDOW, Training, largest, store};
use crate::conv::tiles::product::TileProduct;
use crate::conv::tiles::sliding::SlidingRows;
use crate::conv::{Conv2dShape, PANEL};
use crate::dropout::Draws;
use crate::simd::{Element, Kernel, Simd, math};

/// [`ForwardPooled`] in slides.
pub(in crate::conv) struct PooledSlidingRows<'a, Y>(ForwardPooled<'a, TileProduct<'a>, Y>);

/// The sums of a group of windows, `[row of the window][pixel][image][16]`: in the first cache. It is written and read
/// through a pointer alone.
#[repr(align(64))]
struct Sums {
    _numbers: [f32; MAX_WINDOW.isqrt() * PIXELS * ROWS * PANEL],
}

/// Windows that lie side by side, of one panel and half of the images, and their sums.
#[derive(Clone, Copy)]
struct Group {
    /// The row and the first column of windows, and how many.
    y: usize,
    x: usize,
    windows: usize,
    panel: usize,
    first_image: usize,
    sums: *const f32,
}

impl PooledSlidingRows<'_, ()> {
    /// Whether a pass with windows of this size can be cut into slides: windows of 2x2 or 3x3 pixels.
    pub(in crate::conv) fn fit(shape: &Conv2dShape, window: [usize; 2]) -> bool {
        matches!(window, [2, 2] | [3, 3]) && SlidingRows::fit(shape, crate::conv::implicit_gemm::Direction::Forward)
    }
}

impl<'a, Y: Element> PooledSlidingRows<'a, Y> {
    /// # Panics
    /// If the pass does not [`fit`](PooledSlidingRows::fit).
    pub(in crate::conv) fn new(pass: ForwardPooled<'a, TileProduct<'a>, Y>) -> Self {
        assert!(PooledSlidingRows::fit(pass.gather.shape, pass.window), "no slides for {:?}", pass.gather.shape);
        Self(pass)
    }

    /// The maxima over the windows of a group.
    ///
    /// # Safety
    /// The group's sums must have been written.
    #[inline(always)]
    unsafe fn pool<S: Simd, const WINDOW: usize>(&mut self, s: S, group: &Group, draws: &Option<Draws<S>>) {
        let Self(pass) = self;
        let (pooled, images) = (pass.pooled, pass.gather.images);
        for window in 0..group.windows {
            let number = group.y * pooled.width + group.x + window;
            let pixel =
                (number - pass.rows.start * pooled.width) * pooled.pixel() + pooled.channel(group.panel * PANEL);
            for lane in (0..PANEL).step_by(S::LANES) {
                let channel = group.panel * PANEL + lane;
                let bias = match pass.bias {
                    // SAFETY: `ForwardPooled::new` asserted that the bias is as long as the channel stride.
                    Some(bias) => unsafe { s.load(bias.as_ptr().add(channel)) },
                    None => s.zero(),
                };
                let positions = math::positions(s, (number * pooled.channels + channel) as u32);
                let mut of_pair = [positions; 2];
                for image in group.first_image..images.min(group.first_image + ROWS) {
                    if let (Some(draws), 0) = (draws, image % 2) {
                        of_pair = draws.of_pair(s, image / 2, positions);
                    }
                    let from = (window * WINDOW * ROWS + image - group.first_image) * PANEL + lane;
                    let to = pixel + image * pooled.plane() + lane;
                    debug_assert!(to + S::LANES <= pass.y.len());
                    // SAFETY: the caller's promise: the group has WINDOW rows of up to PIXELS pixels. `to` lies in the
                    // pooled pixel, whose room `ForwardPooled::new` asserted.
                    unsafe {
                        let (largest, argmax) = largest(s, WINDOW * WINDOW, |pixel| {
                            let (row, column) = (pixel / WINDOW, pixel % WINDOW);
                            s.load(group.sums.add((row * PIXELS + column) * ROWS * PANEL + from))
                        });
                        let largest = s.add(largest, bias);
                        store(s, pass.y, &mut pass.training, to, largest, argmax, draws, of_pair[image % 2]);
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn windows<S: Simd, const WINDOW: usize>(mut self, s: S) {
        let draws = Training::draws(&self.0.training, s);
        let mut sums = [const { MaybeUninit::<Sums>::uninit() }; 2];
        let sums = sums.each_mut().map(|sums| sums.as_mut_ptr().cast::<f32>());
        let (mut pending, mut turn) = (None::<Group>, 0);
        let (panels, images, width) = (self.0.pooled.channel_stride / PANEL, self.0.gather.images, self.0.pooled.width);
        for y in self.0.rows.clone() {
            for (panel, first_image) in (0..panels).flat_map(|panel| [(panel, 0), (panel, ROWS)]) {
                if first_image >= images {
                    continue;
                }
                for x in (0..width).step_by(PIXELS / WINDOW) {
                    let windows = (PIXELS / WINDOW).min(width - x);
                    for row in 0..WINDOW {
                        let gather = &self.0.gather;
                        let ys = gather.rows_of(y * WINDOW + row);
                        let pixels = windows * WINDOW;
                        let mut slide = gather.slide([x * WINDOW, pixels], &ys, first_image, panel);
                        // SAFETY: `Sums` has room for the rows of a window. `ForwardPooled::new` compared the lengths with
                        // the shape; the rows' taps lie on the input (`Span`), the columns' too, since `fit` lets at most
                        // one fall on the padding on either side, and that is left out.
                        unsafe {
                            slide.c = sums[turn].add(row * PIXELS * ROWS * PANEL);
                            slide.run(pixels, gather.product.tiles);
                        }
                    }
                    if let Some(group) = pending.replace(Group { y, x, windows, panel, first_image, sums: sums[turn] })
                    {
                        // SAFETY: the slides before these have written its sums.
                        unsafe { self.pool::<S, WINDOW>(s, &group, &draws) };
                    }
                    turn = 1 - turn;
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
        match self.0.window {
            [2, 2] => self.windows::<S, 2>(s),
            _ => self.windows::<S, 3>(s),
        }
    }
}
