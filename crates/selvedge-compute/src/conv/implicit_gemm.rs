//! The forward and the data pass as an implicit GEMM: for each pixel that is written, a sum of matrix products of pixels of the
//! other tensor, which are read in place, and panels of weights. A [`Product`] multiplies them: f32 vectors
//! ([`crate::conv::direct`]) or bf16 tiles ([`crate::conv::tiles`]).

use std::ops::Range;

use super::shape::TapSpan;
use super::{Conv2dShape, Epilogue, PANEL};
use crate::conv::panel::column;
use crate::layout::{BLOCK, BlockShape};
use crate::simd::{Element, Kernel, Simd};

/// Pixels, row by row, that are computed with one or two panels before the next panels: the panels are read once for all of
/// them.
///
/// Compared with one pixel at a time, 3x3 pixels of 512 channels, whose weights are larger than L2, are 1.6 times as fast on AMX
/// and 1.2 times on AVX-512, and 7x7 pixels of 256 channels a tenth faster on both. With fewer channels it makes no difference.
pub(super) const PIXELS_PER_PANEL: usize = 28;

/// Multiplies the source pixels that contribute to one pixel by their weights.
pub(super) trait Product {
    /// How many panels from `panel` on, of `panels`, are computed together: 1 or 2.
    fn panels_per_call<S: Simd>(&self, panel: usize, panels: usize) -> usize;

    /// The length of the source.
    fn source_len(&self) -> usize;

    /// The length of the weights.
    fn weights_len(&self) -> usize;

    /// The sums of one pixel: its images, the columns of `panels` panels from `panel` on.
    ///
    /// # Safety
    /// [`ImplicitGemm::check`] must have passed, the tap spans must lie on the source, and `target` must have room for every
    /// image.
    unsafe fn columns<S: Simd, Y: Element>(
        &self,
        s: S,
        pixel: &PixelSum<'_>,
        panel: usize,
        panels: usize,
        target: Target<Y>,
    );
}

/// Where the sums of a pixel are written.
#[derive(Clone, Copy)]
pub(super) struct Target<Y> {
    /// The first image's first panel.
    pub first: *mut Y,
    /// Elements from image to image.
    pub image: usize,
    /// Elements from panel to panel.
    pub panel: usize,
}

impl<Y> Target<Y> {
    pub(super) fn cast<T>(self) -> Target<T> {
        Target { first: self.first.cast(), image: self.image, panel: self.panel }
    }

    /// Panels whose images are contiguous.
    pub(super) fn panels(first: *mut Y) -> Self {
        Self { first, image: PANEL, panel: BLOCK * PANEL }
    }

    /// Where vector `v` of `image` is written.
    ///
    /// # Safety
    /// There must be room for the image and the panel from `first` on.
    #[inline(always)]
    pub(super) unsafe fn at<S: Simd>(&self, image: usize, v: usize) -> *mut Y {
        // SAFETY: the caller's promise.
        unsafe { self.first.add(image * self.image + column::<S>(v, self.panel)) }
    }
}

/// The sum of one pixel: its taps on the source, and its epilogue.
pub(super) struct PixelSum<'a> {
    /// The shape of the source.
    pub from: &'a BlockShape,
    pub kernel: [usize; 2],
    pub ys: TapSpan,
    pub xs: TapSpan,
    pub images: usize,
    pub epilogue: &'a Epilogue<'a>,
}

impl PixelSum<'_> {
    /// Whether every tap falls on the padding.
    pub(super) fn is_empty(&self) -> bool {
        self.ys.count == 0 || self.xs.count == 0
    }

    /// Offset of the first tap's pixel in the source; 0 if there is none.
    pub(super) fn source_offset(&self) -> usize {
        if self.is_empty() { 0 } else { self.from.offset(self.ys.position, self.xs.position) }
    }

    /// Elements from one tap's pixel to the next one's, vertically and horizontally.
    pub(super) fn pixel_steps(&self) -> [isize; 2] {
        [self.ys.position_step * self.from.row() as isize, self.xs.position_step * self.from.pixel() as isize]
    }

    /// The index of the first tap.
    pub(super) fn tap(&self) -> usize {
        self.ys.tap * self.kernel[1] + self.xs.tap
    }

    /// By how much the index of a tap grows from one to the next, vertically and horizontally.
    pub(super) fn tap_steps(&self) -> [usize; 2] {
        [self.ys.tap_step * self.kernel[1], self.xs.tap_step]
    }

    /// Taps on the source, vertically and horizontally.
    pub(super) fn count(&self) -> [usize; 2] {
        [self.ys.count, self.xs.count]
    }
}

/// Which tensor is written, and which one is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// The forward pass: each output pixel from the input pixels that its taps fall on.
    Forward,
    /// The data pass: the gradient of each input pixel from the gradients of the output pixels that read it.
    Backward,
}

/// A convolution in one direction: for each pixel that is written, a sum over taps.
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

    /// The taps of row `y` of the written tensor that fall on the source.
    pub(super) fn rows_of(&self, y: usize) -> TapSpan {
        let Conv2dShape { kernel, stride, padding, output, .. } = *self.shape;
        match self.direction {
            Direction::Forward => self.shape.rows_of(y),
            Direction::Backward => TapSpan::backward(y, kernel[0], stride, padding[0], output.height),
        }
    }

    /// The taps of column `x` of the written tensor that fall on the source.
    pub(super) fn columns_of(&self, x: usize) -> TapSpan {
        let Conv2dShape { kernel, stride, padding, output, .. } = *self.shape;
        match self.direction {
            Direction::Forward => self.shape.columns_of(x),
            Direction::Backward => TapSpan::backward(x, kernel[1], stride, padding[1], output.width),
        }
    }

    /// The sum of pixel (`y`, `x`) of the written tensor.
    #[inline(always)]
    pub(super) fn pixel(&self, y: usize, x: usize) -> PixelSum<'_> {
        PixelSum {
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
        let (source, weights) = (self.product.source_len(), self.product.weights_len());
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
    gemm: ImplicitGemm<'a, P>,
    rows: Range<usize>,
    target: &'a mut [Y],
}

impl<'a, P: Product, Y: Element> Pixels<'a, P, Y> {
    /// # Panics
    /// If a length does not fit the shape.
    pub(super) fn new(gemm: ImplicitGemm<'a, P>, rows: Range<usize>, target: &'a mut [Y]) -> Self {
        gemm.check(&rows, target.len());
        Self { gemm, rows, target }
    }
}

impl<P: Product, Y: Element> Kernel for Pixels<'_, P, Y> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (gemm, to) = (&self.gemm, *self.gemm.to());
        let all_panels = to.channel_stride / PANEL;
        for (chunk, target) in self.target.chunks_mut(PIXELS_PER_PANEL * to.pixel()).enumerate() {
            let first = self.rows.start * to.width + chunk * PIXELS_PER_PANEL;
            let mut panel = 0;
            while panel < all_panels {
                let panels = gemm.product.panels_per_call::<S>(panel, all_panels);
                for (i, target) in target.chunks_exact_mut(to.pixel()).enumerate() {
                    let pixel = gemm.pixel((first + i) / to.width, (first + i) % to.width);
                    // SAFETY: `new` ran `check`, tap spans lie on the source by construction, and `target` has room for all
                    // channels of all images of a pixel.
                    unsafe {
                        let target = Target {
                            first: target.as_mut_ptr().add(to.channel(panel * PANEL)),
                            image: to.plane(),
                            panel: to.channel(PANEL),
                        };
                        gemm.product.columns(s, &pixel, panel, panels, target);
                    }
                }
                panel += panels;
            }
        }
    }
}
