//! The walk of [`super::forward`] and [`super::backward_data`] over the pixels they write: both gather, for each, the
//! pixels of the other tensor that take part in it. What multiplies them is a [`Product`]: f32 vectors or bf16 tiles.

use std::ops::Range;

use super::tile::column;
use super::{Conv2dShape, PANEL, Span};
use crate::layout::{BLOCK, BlockShape};
use crate::simd::{Element, Kernel, Simd};

/// What is done to a sum before it is written.
#[derive(Clone, Copy)]
pub struct Epilogue<'a> {
    /// Added to every pixel; as long as the output's channel stride, its padded lanes zero.
    pub bias: Option<&'a [f32]>,
    /// Whether negative results become zero.
    pub relu: bool,
}

impl Epilogue<'_> {
    /// The bare sum.
    pub const NONE: Epilogue<'static> = Epilogue { bias: None, relu: false };

    /// Whether the bare sum is written.
    pub(super) fn is_none(&self) -> bool {
        self.bias.is_none() && !self.relu
    }
}

/// The part of a block's result that a call computes: rows of pixels, and of images the first ones.
///
/// ```
/// use selvedge_compute::conv::Part;
/// assert_eq!(Part::from(3..7).images, 32);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The rows of pixels; a result has room for just these.
    pub rows: Range<usize>,
    /// How many images, from 1 to [`BLOCK`]; whatever is left in the place of the others means nothing.
    pub images: usize,
}

impl From<Range<usize>> for Part {
    /// These rows of all images.
    fn from(rows: Range<usize>) -> Self {
        Self { rows, images: BLOCK }
    }
}

/// How many pixels, row by row, are computed for one or two panels before the next ones are turned to: the panels are
/// read once for all of them.
///
/// Against one pixel at a time, 3x3 pixels of 512 channels, whose weights are larger than the second cache, are 1.6 times
/// as fast on AMX and 1.2 times on AVX-512, and 7x7 pixels of 256 a tenth faster on both; with fewer channels it makes no
/// difference.
const PIXELS_AT_ONCE: usize = 28;

/// Multiplies the pixels of `from` that take part in one pixel of `to` by their weights.
pub(super) trait Product {
    /// How many panels from `panel` on, of `panels`, are computed together: 1 or 2.
    fn panels_at_once<S: Simd>(&self, panel: usize, panels: usize) -> usize;

    /// The length of the source, and of the weights.
    fn lens(&self) -> [usize; 2];

    /// One pixel: the place's images, the columns of `panels` panels from `panel` on.
    ///
    /// # Safety
    /// [`Gather::check`] must have passed, the spans must lie on `from`, and `target` must have room for every image.
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
    pub ys: Span,
    pub xs: Span,
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

/// A sum over taps for each pixel of `to`, read from `from`.
pub(super) struct Gather<'a, P> {
    pub from: BlockShape,
    pub to: BlockShape,
    pub kernel: [usize; 2],
    pub product: P,
    pub images: usize,
    pub epilogue: Epilogue<'a>,
}

impl<P: Product> Gather<'_, P> {
    /// Compares every length with the shapes.
    pub(super) fn check(&self, rows: &Range<usize>, target: usize) {
        let [source, weights] = self.product.lens();
        let (from, to) = (&self.from, &self.to);
        assert_eq!(source, from.len(), "the source's length and that of {from:?}");
        assert!((1..=BLOCK).contains(&self.images), "{} images of a block of {BLOCK}", self.images);
        assert!(rows.start <= rows.end && rows.end <= to.height, "rows {rows:?} of {to:?}");
        assert_eq!(target, rows.len() * to.row(), "the target's length and that of rows {rows:?} of {to:?}");
        if let Some(bias) = self.epilogue.bias {
            assert_eq!(bias.len(), to.channel_stride, "the bias' length and the channel stride");
        }
        let taps = self.kernel[0] * self.kernel[1];
        let expected = to.channel_stride * taps * from.channel_stride;
        assert_eq!(weights, expected, "the weights' length and that of {taps} taps from {from:?} to {to:?}");
    }

    /// The place of the pixel with taps `ys` and `xs`.
    #[inline(always)]
    pub(super) fn place(&self, ys: Span, xs: Span) -> Place<'_> {
        Place { from: &self.from, kernel: self.kernel, ys, xs, images: self.images, epilogue: &self.epilogue }
    }

    #[inline(always)]
    fn run<S: Simd, Y: Element>(
        &self,
        s: S,
        rows: Range<usize>,
        target: &mut [Y],
        rows_of: impl Fn(usize) -> Span,
        columns_of: impl Fn(usize) -> Span,
    ) {
        let (width, all_panels) = (self.to.width, self.to.channel_stride / PANEL);
        let chunks = target.chunks_mut(PIXELS_AT_ONCE * self.to.pixel());
        for (chunk, target) in chunks.enumerate() {
            let first = rows.start * width + chunk * PIXELS_AT_ONCE;
            let mut panel = 0;
            while panel < all_panels {
                let panels = self.product.panels_at_once::<S>(panel, all_panels);
                for (i, target) in target.chunks_exact_mut(self.to.pixel()).enumerate() {
                    let (row, column) = ((first + i) / width, (first + i) % width);
                    let place = self.place(rows_of(row), columns_of(column));
                    // SAFETY: `check` has passed, spans lie on `from` by construction, and `target` has room for all
                    // images' channels of a pixel.
                    unsafe {
                        let target = Target {
                            first: target.as_mut_ptr().add(self.to.channel(panel * PANEL)),
                            image: self.to.plane(),
                            panel: self.to.channel(PANEL),
                        };
                        self.product.columns(s, &place, panel, panels, target);
                    }
                }
                panel += panels;
            }
        }
    }
}

/// Output rows `rows`, each from the input pixels it sees.
pub(super) struct Forward<'a, P, Y> {
    pub shape: &'a Conv2dShape,
    pub gather: Gather<'a, P>,
    pub rows: Range<usize>,
    pub y: &'a mut [Y],
}

impl<P: Product, Y: Element> Kernel for Forward<'_, P, Y> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let shape = self.shape;
        self.gather.run(s, self.rows, self.y, |y| shape.rows_of(y), |x| shape.columns_of(x));
    }
}

/// Input rows `rows`, each from the output pixels it takes part in.
pub(super) struct BackwardData<'a, P, Y> {
    pub shape: &'a Conv2dShape,
    pub gather: Gather<'a, P>,
    pub rows: Range<usize>,
    pub dx: &'a mut [Y],
}

impl<P: Product, Y: Element> Kernel for BackwardData<'_, P, Y> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Conv2dShape { kernel, stride, padding, output, .. } = *self.shape;
        self.gather.run(
            s,
            self.rows,
            self.dx,
            |y| Span::backward(y, kernel[0], stride, padding[0], output.height),
            |x| Span::backward(x, kernel[1], stride, padding[1], output.width),
        );
    }
}
