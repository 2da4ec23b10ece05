//! The forward and the data pass on AMX for kernels with three taps in a row, 3x3 above all: up to four adjacent pixels at
//! a time ([`Slide`]).
//!
//! One panel of weights stays where it is while the pixels of half a block's images go by.

use std::ops::Range;

use half::bf16;

use super::gather::{Direction, Gather, PIXELS_AT_ONCE, Target};
use super::tiles::TileProduct;
use super::{Conv2dShape, PANEL};
use crate::amx::{LEFT, PIXELS, RIGHT, ROWS, Slide};
use crate::simd::{Element, Kernel, Simd};

/// Taps in a row.
const TAPS: usize = 3;

/// Rows `rows` of the tensor that is written, in slides.
pub(super) struct Slides<'a, Y> {
    gather: Gather<'a, TileProduct<'a>>,
    rows: Range<usize>,
    target: &'a mut [Y],
}

/// The sums of a slide, `[pixel][image][16]`: in the first cache. It is written and read through a pointer alone.
#[repr(align(64))]
struct Sums {
    _numbers: [f32; PIXELS * ROWS * PANEL],
}

/// The pixels `columns` of row `y` for half of the images.
struct Part {
    y: usize,
    columns: Range<usize>,
    first_image: usize,
}

impl Slides<'_, ()> {
    /// Whether a pass can be cut into slides: three taps in a row, one pixel apart, of which no more than one falls on the
    /// padding on either side.
    pub(super) fn fit(shape: &Conv2dShape, direction: Direction) -> bool {
        let (from, to) = match direction {
            Direction::Forward => (&shape.input, &shape.output),
            Direction::Backward => (&shape.output, &shape.input),
        };
        let first = first_position(shape, direction);
        let end = to.width as isize - 1 + first + TAPS as isize;
        shape.kernel[1] == TAPS && shape.stride == 1 && to.width > 1 && first >= -1 && end <= from.width as isize + 1
    }
}

/// The column that the leftmost of the taps of column 0 falls on.
fn first_position(shape: &Conv2dShape, direction: Direction) -> isize {
    let padding = shape.padding[1] as isize;
    match direction {
        Direction::Forward => -padding,
        Direction::Backward => padding - (TAPS as isize - 1),
    }
}

impl<'a, Y: Element> Slides<'a, Y> {
    /// # Panics
    /// If a length does not fit the shape, or the pass does not [`fit`](Slides::fit).
    pub(super) fn new(gather: Gather<'a, TileProduct<'a>>, rows: Range<usize>, target: &'a mut [Y]) -> Self {
        gather.check(&rows, target.len());
        assert!(Slides::fit(gather.shape, gather.direction), "no slides for {:?}", gather.shape);
        Self { gather, rows, target }
    }
}

impl Gather<'_, TileProduct<'_>> {
    /// One panel of some pixels.
    ///
    /// # Safety
    /// `target` must have room for the pixels' images.
    #[inline(always)]
    unsafe fn slide<S: Simd, Y: Element>(&self, s: S, part: &Part, panel: usize, target: Target<Y>) {
        let (to, epilogue) = (self.to(), &self.epilogue);
        let pixel = to.pixel();
        // SAFETY: the caller's promise; `Sums` has room for every pixel of a slide.
        unsafe {
            if !Y::IS_BF16 && epilogue.is_none() {
                return self.slide_sum(part, panel, target.cast(), pixel);
            }
            let mut sums = std::mem::MaybeUninit::<Sums>::uninit();
            let sums = Target { first: sums.as_mut_ptr().cast::<f32>(), image: PANEL, panel: 0 };
            self.slide_sum(part, panel, sums, ROWS * PANEL);
            for lane in (0..PANEL).step_by(S::LANES) {
                let bias = match epilogue.bias {
                    Some(bias) => s.load(bias.as_ptr().add(panel * PANEL + lane)),
                    None => s.zero(),
                };
                for number in 0..part.columns.len() {
                    let (sums, target) = (sums.first.add(number * ROWS * PANEL), target.first.add(number * pixel));
                    for image in 0..ROWS.min(self.images - part.first_image) {
                        let sum = s.add(s.load(sums.add(image * PANEL + lane)), bias);
                        let sum = if epilogue.relu { s.max(sum, s.zero()) } else { sum };
                        Y::store(s, target.add(image * to.plane() + lane), sum);
                    }
                }
            }
        }
    }

    /// The bare sums of some pixels, `pixel` elements apart.
    ///
    /// # Safety
    /// `target` must have room for the pixels' images.
    #[inline(always)]
    unsafe fn slide_sum(&self, part: &Part, panel: usize, target: Target<f32>, pixel: usize) {
        const BYTES: usize = size_of::<bf16>();
        let Gather { shape, direction, product, .. } = self;
        let (from, ys) = (self.from(), self.rows_of(part.y));
        let pixels = part.columns.len();
        if ys.count == 0 {
            for row in (0..pixels).flat_map(|number| (0..ROWS).map(move |image| number * pixel + image * target.image))
            {
                // SAFETY: the caller's promise.
                unsafe { target.first.add(row).write_bytes(0, PANEL) };
            }
            return;
        }
        let first = part.columns.start as isize + first_position(shape, *direction);
        let last = first + (pixels + TAPS - 2) as isize;
        let outside = if first < 0 { LEFT } else { 0 } | if last >= from.width as isize { RIGHT } else { 0 };
        let (planes, tap) = (from.channel_stride / from.plane(), from.channel_stride * PANEL);
        let (first_tap, tap_step) = match direction {
            Direction::Forward => (0, 1),
            Direction::Backward => (TAPS - 1, -1),
        };
        let bytes = |elements: usize| (elements * BYTES) as isize;
        let (a_plane, b_plane) = (bytes(from.plane_len()), bytes(from.plane() * PANEL));
        let (a_row, b_row) = (ys.position_step * bytes(from.row()), bytes(ys.tap_step * TAPS * tap));
        let a = from.offset(ys.position, 0) as isize
            + first * from.pixel() as isize
            + (part.first_image * from.plane()) as isize;
        let b = (panel * shape.kernel[0] + ys.tap) * TAPS * tap + first_tap * tap;
        let slide = Slide {
            a: product.source.as_ptr().wrapping_offset(a),
            b: product.weights.as_ptr().wrapping_add(b),
            c: target.first,
            a_row: from.plane() * BYTES,
            c_row: target.image * size_of::<f32>(),
            a_pixel: from.pixel() * BYTES,
            c_pixel: pixel * size_of::<f32>(),
            b_tap: tap_step * bytes(tap),
            count: [ys.count, planes],
            a_step: [a_plane, a_row - planes as isize * a_plane],
            b_step: [b_plane, b_row - planes as isize * b_plane],
            outside,
        };
        // SAFETY: `new` ran `check`, which compared the lengths with the shape; the rows' taps lie on the source
        // (`Span`), the columns' too, since `fit` lets at most one fall on the padding on either side, and that is left
        // out; the caller promises room for C.
        unsafe { slide.run(pixels, product.tiles) }
    }
}

impl<Y: Element> Kernel for Slides<'_, Y> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Slides { gather, rows, target } = self;
        let to = *gather.to();
        let rows_at_once = (PIXELS_AT_ONCE / to.width).max(1);
        let slides = to.width.div_ceil(PIXELS);
        for start in rows.clone().step_by(rows_at_once) {
            for panel in 0..to.channel_stride / PANEL {
                for first_image in (0..gather.images).step_by(ROWS) {
                    for y in start..(start + rows_at_once).min(rows.end) {
                        for slide in 0..slides {
                            // Slides of a row differ by a pixel at most: none has less than two.
                            let columns = slide * to.width / slides..(slide + 1) * to.width / slides;
                            let at = to.offset(y - rows.start, columns.start)
                                + to.channel(panel * PANEL)
                                + first_image * to.plane();
                            debug_assert!(at + (columns.len() - 1) * to.pixel() < target.len());
                            // SAFETY: `new` saw the target hold the rows, of which these are pixels and images.
                            unsafe {
                                let target = Target { first: target.as_mut_ptr().add(at), image: to.plane(), panel: 0 };
                                gather.slide(s, &Part { y, columns, first_image }, panel, target);
                            }
                        }
                    }
                }
            }
        }
    }
}
