//! The forward and the data pass on AMX for kernels with three taps in a row, 3x3 above all: up to four adjacent pixels at
//! a time ([`SlidingGemm`]).
//!
//! One panel of weights stays where it is while the pixels of half a block's images go by. What is written in bf16 is
//! finished one slide later, between the products of the next.

use std::mem::MaybeUninit;
use std::ops::Range;

use half::bf16;

use crate::amx::{DeferredEpilogue, PIXELS, ROWS, SlidingGemm, outside};
use crate::conv::implicit_gemm::{Direction, ImplicitGemm, PIXELS_AT_ONCE};
use crate::conv::prefetcher::{Prefetcher, Region};
use crate::conv::shape::TapSpan;
use crate::conv::tiles::product::TileProduct;
use crate::conv::{Conv2dShape, PANEL};
use crate::simd::{Element, Kernel, Simd};

/// Taps in a row.
const TAPS: usize = 3;
/// From so many channels on, the rows that a panel meets do not stay in the first cache until the next panel meets them. They
/// are loaded past it then, and the panel stays there: 3 to 13 % faster. With 16 channels they do stay, and it is an eighth
/// slower.
const STREAMED_FROM: usize = 32;
/// Bytes of weights that do not stay in the second cache from one part of the rows to the next, so that each panel is asked for
/// before its turn: 3x3 pixels of 512 channels are up to a tenth faster.
const LARGE: usize = 1 << 19;
const BYTES: usize = size_of::<bf16>();

/// Rows `rows` of the tensor that is written, in slides.
pub(in crate::conv) struct SlidingRows<'a, Y> {
    gather: ImplicitGemm<'a, TileProduct<'a>>,
    rows: Range<usize>,
    target: &'a mut [Y],
}

/// The sums of a slide, `[pixel][image][16]`: in the first cache. It is written and read through a pointer alone.
#[repr(align(64))]
struct Sums {
    _numbers: [f32; PIXELS * ROWS * PANEL],
}

/// The bias where there is none.
static NO_BIAS: [f32; PANEL] = [0.0; PANEL];

impl SlidingRows<'_, ()> {
    /// Whether a pass can be cut into slides: three taps in a row, one pixel apart, of which no more than one falls on the
    /// padding on either side, and some tap of every row on the image.
    pub(in crate::conv) fn fit(shape: &Conv2dShape, direction: Direction) -> bool {
        let (from, to) = match direction {
            Direction::Forward => (&shape.input, &shape.output),
            Direction::Backward => (&shape.output, &shape.input),
        };
        let first = first_position(shape, direction);
        let end = to.width as isize - 1 + first + TAPS as isize;
        let columns = shape.kernel[1] == TAPS && to.width > 1 && first >= -1 && end <= from.width as isize + 1;
        columns && shape.stride == 1 && shape.padding[0] < shape.kernel[0]
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

impl<'a, Y: Element> SlidingRows<'a, Y> {
    /// # Panics
    /// If a length does not fit the shape, the pass does not [`fit`](SlidingRows::fit), or f32 is to be written with an epilogue.
    pub(in crate::conv) fn new(
        gather: ImplicitGemm<'a, TileProduct<'a>>,
        rows: Range<usize>,
        target: &'a mut [Y],
    ) -> Self {
        gather.check(&rows, target.len());
        assert!(SlidingRows::fit(gather.shape, gather.direction), "no slides for {:?}", gather.shape);
        assert!(Y::IS_BF16 || gather.epilogue.is_none(), "f32 is written as it leaves the tiles");
        Self { gather, rows, target }
    }
}

impl ImplicitGemm<'_, TileProduct<'_>> {
    /// The slide whose pixels begin at column `x` of a row with taps `ys`, but for what depends on the slides before it.
    /// `first_image` is 0 or 16.
    #[inline(always)]
    pub(in crate::conv) fn slide(
        &self,
        [x, pixels]: [usize; 2],
        ys: &TapSpan,
        first_image: usize,
        panel: usize,
    ) -> SlidingGemm {
        let ImplicitGemm { shape, direction, product, .. } = self;
        let from = self.from();
        let first = x as isize + first_position(shape, *direction);
        let last = first + (pixels + TAPS - 2) as isize;
        let (planes, tap) = (from.channel_stride / from.plane(), from.channel_stride * PANEL);
        let (first_tap, tap_step) = match direction {
            Direction::Forward => (0, 1),
            Direction::Backward => (TAPS - 1, -1),
        };
        let bytes = |elements: usize| (elements * BYTES) as isize;
        let (a_plane, b_plane) = (bytes(from.plane_len()), bytes(from.plane() * PANEL));
        let (a_row, b_row) = (ys.position_step * bytes(from.row()), bytes(ys.tap_step * TAPS * tap));
        let a = (from.offset(ys.position, 0) + first_image * from.plane()) as isize + first * from.pixel() as isize;
        let b = ((panel * shape.kernel[0] + ys.tap) * TAPS + first_tap) * tap;
        SlidingGemm {
            a: product.source.as_ptr().wrapping_offset(a),
            b: product.weights.as_ptr().wrapping_add(b),
            c: std::ptr::null_mut(),
            a_row: from.plane() * BYTES,
            c_row: PANEL * size_of::<f32>(),
            a_pixel: from.pixel() * BYTES,
            c_pixel: ROWS * PANEL * size_of::<f32>(),
            b_tap: tap_step * bytes(tap),
            count: [ys.count, planes],
            a_step: [a_plane, a_row - planes as isize * a_plane],
            b_step: [b_plane, b_row - planes as isize * b_plane],
            outside: outside(first, last, from.width),
            remaining: [0; 2],
            epilogue: DeferredEpilogue::NONE,
            prefetch: std::ptr::null(),
            prefetch_lines: 0,
            stream_a: from.channel_stride >= STREAMED_FROM,
        }
    }

    /// The epilogue that turns the sums of `panel` at `pixels` pixels into bf16.
    #[inline(always)]
    fn deferred_epilogue(
        &self,
        pixels: usize,
        sums: *const f32,
        target: *mut bf16,
        images: usize,
        panel: usize,
    ) -> DeferredEpilogue {
        let row = self.to().plane();
        let bias = self.epilogue.bias.map_or(NO_BIAS.as_ptr(), |bias| bias[panel * PANEL..][..PANEL].as_ptr());
        DeferredEpilogue {
            pixels,
            sums,
            target,
            images,
            target_row: row * BYTES,
            target_skip: (self.to().pixel() - images * row) * BYTES,
            sums_skip: (ROWS - images) * PANEL * size_of::<f32>(),
            bias,
            relu: if self.epilogue.relu { 0xffff } else { 0 },
        }
    }
}

impl DeferredEpilogue {
    /// Nothing.
    const NONE: Self = Self {
        pixels: 0,
        sums: std::ptr::null(),
        target: std::ptr::null_mut(),
        images: 0,
        target_row: 0,
        target_skip: 0,
        sums_skip: 0,
        bias: NO_BIAS.as_ptr(),
        relu: 0,
    };

    /// Runs the epilogue by itself: that of the last sums, which no later ones follow.
    ///
    /// # Safety
    /// The sums and the bias must be readable and the target writable.
    #[inline(always)]
    unsafe fn run<S: Simd>(self, s: S) {
        for (pixel, image) in (0..self.pixels).flat_map(|number| (0..self.images).map(move |image| (number, image))) {
            let sums = (pixel * ROWS + image) * PANEL;
            let target = (pixel * (self.images * self.target_row + self.target_skip) + image * self.target_row) / BYTES;
            for lane in (0..PANEL).step_by(S::LANES) {
                // SAFETY: the caller's promise.
                unsafe {
                    let sum = s.add(s.load(self.sums.add(sums + lane)), s.load(self.bias.add(lane)));
                    let sum = if self.relu > 0 { s.max(sum, s.zero()) } else { sum };
                    s.store_bf16(self.target.add(target + lane), sum);
                }
            }
        }
    }
}

/// What is read behind `panels` of `part`, spread over their slides, so many of each panel: of the rows of the source that the
/// part after this one reads and this one does not, the panels' share, and the weights of the next panel if these are not all.
fn ahead_of(
    gather: &ImplicitGemm<'_, TileProduct<'_>>,
    [part, rows, panels]: [&Range<usize>; 3],
    slides: usize,
) -> Prefetcher {
    let (from, shape) = (gather.from(), gather.shape);
    let lowest = |y: usize| {
        let ys = gather.rows_of(y);
        ys.position.max(ys.position.saturating_add_signed(ys.position_step * (ys.count as isize - 1)))
    };
    let next = (part.end + part.len()).min(rows.end);
    let (first, end) = (lowest(part.end - 1) + 1, lowest(next - 1) + 1);
    let all_panels = gather.to().channel_stride / PANEL;
    let share = |panel: usize| end.saturating_sub(first) * from.row() / PANEL * panel / all_panels * PANEL;
    let source = gather.product.source.as_ptr().wrapping_add(first * from.row() + share(panels.start));
    let source = Region::new(source, share(panels.end) - share(panels.start), 0, 1);
    let panel = shape.taps() * from.channel_stride * PANEL;
    let weights = gather.product.weights.as_ptr().wrapping_add(panels.end % all_panels * panel);
    let weights = if panels.len() < all_panels { Region::new(weights, panel, 0, 1) } else { Region::NONE };
    let points = panels.len() * slides * shape.kernel[0] * (from.channel_stride / from.plane());
    Prefetcher::new([source, weights], points)
}

impl<Y: Element> Kernel for SlidingRows<'_, Y> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let SlidingRows { gather, rows, target } = self;
        let to = *gather.to();
        // One pointer for all writes: what is pending is written after later pixels' places have been found.
        let (len, target) = (target.len(), target.as_mut_ptr());
        let (panels, slides) = (to.channel_stride / PANEL, to.width.div_ceil(PIXELS));
        let mut sums = [const { MaybeUninit::<Sums>::uninit() }; 2];
        let sums = sums.each_mut().map(|sums| sums.as_mut_ptr().cast::<f32>());
        let (mut pending, mut turn) = (DeferredEpilogue::NONE, 0);
        let rows_at_once = (PIXELS_AT_ONCE / to.width).max(1);
        let panels_ahead = if size_of_val(gather.product.weights) > LARGE { 1 } else { panels };
        for start in rows.clone().step_by(rows_at_once) {
            let part = start..(start + rows_at_once).min(rows.end);
            let slides_of_panel = gather.images.div_ceil(ROWS) * part.len() * slides;
            for first_panel in (0..panels).step_by(panels_ahead) {
                let together = first_panel..panels.min(first_panel + panels_ahead);
                let mut ahead = ahead_of(&gather, [&part, &rows, &together], slides_of_panel);
                let halves = |panel| (0..gather.images).step_by(ROWS).map(move |first_image| (panel, first_image));
                for (panel, first_image) in together.flat_map(halves) {
                    let images = ROWS.min(gather.images - first_image);
                    for y in part.clone() {
                        let ys = gather.rows_of(y);
                        for number in 0..slides {
                            // Slides of a row differ by a pixel at most: none has less than two.
                            let x = number * to.width / slides;
                            let pixels = (number + 1) * to.width / slides - x;
                            let at =
                                to.offset(y - rows.start, x) + to.channel(panel * PANEL) + first_image * to.plane();
                            debug_assert!(at + (pixels - 1) * to.pixel() < len);
                            // SAFETY: `new` saw the target hold the rows, of which this is a pixel.
                            let first = unsafe { target.add(at) };
                            let mut slide = gather.slide([x, pixels], &ys, first_image, panel);
                            (slide.prefetch, slide.prefetch_lines) = ahead.next(slide.count[0] * slide.count[1]);
                            if Y::IS_BF16 {
                                let epilogue =
                                    gather.deferred_epilogue(pixels, sums[turn], first.cast(), images, panel);
                                slide.epilogue = std::mem::replace(&mut pending, epilogue);
                                slide.c = sums[turn];
                                turn = 1 - turn;
                            } else {
                                slide.c = first.cast();
                                slide.c_row = to.plane() * size_of::<f32>();
                                slide.c_pixel = to.pixel() * size_of::<f32>();
                            }
                            // SAFETY: `new` ran `check`, which compared the lengths with the shape; the rows' taps lie on the
                            // source (`Span`), the columns' too, since `fit` lets at most one fall on the padding on either
                            // side, and that is left out. C is the target, or the sums that are not pending; those were
                            // written by the slide before.
                            unsafe { slide.run(pixels, gather.product.tiles) }
                        }
                    }
                }
            }
        }
        // SAFETY: as above; these are the sums of the last slide.
        unsafe { pending.run(s) }
    }
}
