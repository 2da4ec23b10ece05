//! The walk of [`super::forward`] and [`super::backward_data`] over the pixels they write: both gather, for each, the
//! pixels of the other tensor that take part in it. What multiplies them is a [`Product`]: f32 vectors or bf16 tiles.

use std::ops::Range;

use super::shape::TapSpan;
use super::{Conv2dShape, Epilogue, PANEL};
use crate::conv::panel::column;
use crate::layout::{BLOCK, BlockShape};
use crate::simd::{Element, Kernel, Simd};

/// How many pixels, row by row, are computed for one or two panels before the next ones are turned to: the panels are
/// read once for all of them.
///
/// Against one pixel at a time, 3x3 pixels of 512 channels, whose weights are larger than the second cache, are 1.6 times
/// as fast on AMX and 1.2 times on AVX-512, and 7x7 pixels of 256 a tenth faster on both; with fewer channels it makes no
/// difference.
pub(super) const PIXELS_AT_ONCE: usize = 28;

/// Multiplies the pixels of `from` that take part in one pixel of `to` by their weights.
pub(super) trait Product {
    /// How many panels from `panel` on, of `panels`, are computed together: 1 or 2.
    fn panels_at_once<S: Simd>(&self, panel: usize, panels: usize) -> usize;

    /// The length of the source, and of the weights.
    fn lens(&self) -> [usize; 2];

    /// One pixel: the place's images, the columns of `panels` panels from `panel` on.
    ///
    /// # Safety
    /// [`ImplicitGemm::check`] must have passed, the spans must lie on `from`, and `target` must have room for every image.
    unsafe fn columns<S: Simd, Y: Element>(
        &self,
        s: S,
        place: &Place<'_>,
        panel: usize,
        panels: usize,
        target: Target<Y>,
    );
}

/// Where the first image's sums of the first of some panels are written, and how far from there the others are.
#[derive(Clone, Copy)]
pub(super) struct Target<Y> {
    pub first: *mut Y,
    /// From image to image.
    pub image: usize,
    /// From panel to panel.
    pub panel: usize,
}

impl<Y> Target<Y> {
    pub(super) fn cast<T>(self) -> Target<T> {
        Target { first: self.first.cast(), image: self.image, panel: self.panel }
    }

    /// A panel's images follow each other, as do the panels.
    pub(super) fn panels(first: *mut Y) -> Self {
        Self { first, image: PANEL, panel: BLOCK * PANEL }
    }

    /// Where vector `v` of `image` is written.
    ///
    /// # Safety
    /// The image and the panel must have room behind `first`.
    #[inline(always)]
    pub(super) unsafe fn at<S: Simd>(&self, image: usize, v: usize) -> *mut Y {
        // SAFETY: the caller's promise.
        unsafe { self.first.add(image * self.image + column::<S>(v, self.panel)) }
    }
}

/// Where a pixel's sum is taken, and what is done to it.
pub(super) struct Place<'a> {
    pub from: &'a BlockShape,
    pub kernel: [usize; 2],
    pub ys: TapSpan,
    pub xs: TapSpan,
    pub images: usize,
    pub epilogue: &'a Epilogue<'a>,
}

impl Place<'_> {
    /// Whether every tap falls on the padding.
    pub(super) fn is_empty(&self) -> bool {
        self.ys.count == 0 || self.xs.count == 0
    }

    /// Where the first tap's pixel begins in the source; 0 if there is none.
    pub(super) fn first(&self) -> usize {
        if self.is_empty() { 0 } else { self.from.offset(self.ys.position, self.xs.position) }
    }

    /// Elements from one tap's pixel to the next one's, vertically and horizontally.
    pub(super) fn pixel_steps(&self) -> [isize; 2] {
        [self.ys.position_step * self.from.row() as isize, self.xs.position_step * self.from.pixel() as isize]
    }

    /// The number of the first tap.
    pub(super) fn tap(&self) -> usize {
        self.ys.tap * self.kernel[1] + self.xs.tap
    }

    /// Taps from one tap to the next, vertically and horizontally.
    pub(super) fn tap_steps(&self) -> [usize; 2] {
        [self.ys.tap_step * self.kernel[1], self.xs.tap_step]
    }

    /// Taps that take part, vertically and horizontally.
    pub(super) fn count(&self) -> [usize; 2] {
        [self.ys.count, self.xs.count]
    }
}

/// Which tensor is written, and which one its pixels are gathered from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// Output pixels, each from the input pixels it sees.
    Forward,
    /// Input pixels, each from the output pixels it takes part in.
    Backward,
}

/// A sum over taps for each pixel of `to`, read from `from`.
pub(super) struct ImplicitGemm<'a, P> {
    pub shape: &'a Conv2dShape,
    pub direction: Direction,
    pub product: P,
    pub images: usize,
    pub epilogue: Epilogue<'a>,
}

impl<P> ImplicitGemm<'_, P> {
    /// The tensor that is read.
    pub(super) fn from(&self) -> &BlockShape {
        match self.direction {
            Direction::Forward => &self.shape.input,
            Direction::Backward => &self.shape.output,
        }
    }

    /// The tensor that is written.
    pub(super) fn to(&self) -> &BlockShape {
        match self.direction {
            Direction::Forward => &self.shape.output,
            Direction::Backward => &self.shape.input,
        }
    }

    /// The taps that row `y` of `to` has on `from`.
    pub(super) fn rows_of(&self, y: usize) -> TapSpan {
        let Conv2dShape { kernel, stride, padding, output, .. } = *self.shape;
        match self.direction {
            Direction::Forward => self.shape.rows_of(y),
            Direction::Backward => TapSpan::backward(y, kernel[0], stride, padding[0], output.height),
        }
    }

    /// The taps that column `x` of `to` has on `from`.
    pub(super) fn columns_of(&self, x: usize) -> TapSpan {
        let Conv2dShape { kernel, stride, padding, output, .. } = *self.shape;
        match self.direction {
            Direction::Forward => self.shape.columns_of(x),
            Direction::Backward => TapSpan::backward(x, kernel[1], stride, padding[1], output.width),
        }
    }

    /// The place of pixel (`y`, `x`) of `to`.
    #[inline(always)]
    pub(super) fn place(&self, y: usize, x: usize) -> Place<'_> {
        Place {
            from: self.from(),
            kernel: self.shape.kernel,
            ys: self.rows_of(y),
            xs: self.columns_of(x),
            images: self.images,
            epilogue: &self.epilogue,
        }
    }
}

impl<P: Product> ImplicitGemm<'_, P> {
    /// Compares every length with the shapes.
    pub(super) fn check(&self, rows: &Range<usize>, target: usize) {
        let [source, weights] = self.product.lens();
        let (from, to) = (self.from(), self.to());
        assert_eq!(source, from.len(), "the source's length and that of {from:?}");
        assert!((1..=BLOCK).contains(&self.images), "{} images of a block of {BLOCK}", self.images);
        assert!(rows.start <= rows.end && rows.end <= to.height, "rows {rows:?} of {to:?}");
        assert_eq!(target, rows.len() * to.row(), "the target's length and that of rows {rows:?} of {to:?}");
        if let Some(bias) = self.epilogue.bias {
            assert_eq!(bias.len(), to.channel_stride, "the bias' length and the channel stride");
        }
        let taps = self.shape.taps();
        let expected = to.channel_stride * taps * from.channel_stride;
        assert_eq!(weights, expected, "the weights' length and that of {taps} taps from {from:?} to {to:?}");
    }
}

/// Rows `rows` of the tensor that is written, pixel by pixel.
pub(super) struct Pixels<'a, P, Y> {
    gather: ImplicitGemm<'a, P>,
    rows: Range<usize>,
    target: &'a mut [Y],
}

impl<'a, P: Product, Y: Element> Pixels<'a, P, Y> {
    /// # Panics
    /// If a length does not fit the shape.
    pub(super) fn new(gather: ImplicitGemm<'a, P>, rows: Range<usize>, target: &'a mut [Y]) -> Self {
        gather.check(&rows, target.len());
        Self { gather, rows, target }
    }
}

impl<P: Product, Y: Element> Kernel for Pixels<'_, P, Y> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (gather, to) = (&self.gather, *self.gather.to());
        let all_panels = to.channel_stride / PANEL;
        for (chunk, target) in self.target.chunks_mut(PIXELS_AT_ONCE * to.pixel()).enumerate() {
            let first = self.rows.start * to.width + chunk * PIXELS_AT_ONCE;
            let mut panel = 0;
            while panel < all_panels {
                let panels = gather.product.panels_at_once::<S>(panel, all_panels);
                for (i, target) in target.chunks_exact_mut(to.pixel()).enumerate() {
                    let place = gather.place((first + i) / to.width, (first + i) % to.width);
                    // SAFETY: `new` ran `check`, spans lie on `from` by construction, and `target` has room for all
                    // images' channels of a pixel.
                    unsafe {
                        let target = Target {
                            first: target.as_mut_ptr().add(to.channel(panel * PANEL)),
                            image: to.plane(),
                            panel: to.channel(PANEL),
                        };
                        gather.product.columns(s, &place, panel, panels, target);
                    }
                }
                panel += panels;
            }
        }
    }
}
