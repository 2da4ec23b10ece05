//! The forward and the data pass on AMX for kernels with three taps in a row, 3x3 above all, by the sliding 1×3 microkernel
//! ([`SlidingGemm`]): a slide computes up to four adjacent pixels.
//!
//! One panel of weights stays in L1 for the pixels of half the images of a block. Output in bf16 is finished one slide later,
//! between the products of the next slide.

use std::mem::MaybeUninit;
use std::ops::Range;

use half::bf16;

use crate::amx::{DeferredEpilogue, PIXELS, ROWS, SlidingGemm, outside};
use crate::conv::implicit_gemm::{Direction, ImplicitGemm, PIXELS_PER_PANEL};
use crate::conv::prefetcher::{Prefetcher, Region};
use crate::conv::shape::TapSpan;
use crate::conv::tiles::product::TileProduct;
use crate::conv::{Conv2dShape, PANEL};
use crate::simd::{Element, Kernel, Simd};

/// Taps in a row.
const TAPS: usize = 3;
/// From so many channels on, the rows of the source that one panel is multiplied by do not stay in L1 until the next panel. Their
/// loads bypass L1 then, and the panel stays there: 3 to 13 % faster. With 16 channels the rows do stay, and bypassing L1 is an
/// eighth slower.
const STREAM_CHANNELS: usize = 32;
/// Weights of more bytes do not stay in L2 from one chunk of rows to the next, so each panel is prefetched: 3x3 pixels of 512
/// channels are up to a tenth faster.
const MAX_CACHED_WEIGHTS: usize = 1 << 19;
const BYTES: usize = size_of::<bf16>();

/// Rows `rows` of the tensor that is written, by the sliding microkernel.
pub(in crate::conv) struct SlidingRows<'a, Y> {
    gemm: ImplicitGemm<'a, TileProduct<'a>>,
    rows: Range<usize>,
    target: &'a mut [Y],
}

/// The sums of a slide, `[pixel][image][16]`, which stay in L1. Only accessed through a pointer.
#[repr(align(64))]
struct SlideSums {
    _values: [f32; PIXELS * ROWS * PANEL],
}

/// Zeros in place of a missing bias.
static NO_BIAS: [f32; PANEL] = [0.0; PANEL];

impl SlidingRows<'_, ()> {
    /// Whether the sliding microkernel can compute a pass: kernel rows have three taps, one pixel apart, of which at most one on
    /// either side falls on the padding, and every row of pixels has a tap on the image.
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

/// The column of the source that the leftmost tap of column 0 falls on.
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
        gemm: ImplicitGemm<'a, TileProduct<'a>>,
        rows: Range<usize>,
        target: &'a mut [Y],
    ) -> Self {
        gemm.check(&rows, target.len());
        assert!(SlidingRows::fit(gemm.shape, gemm.direction), "the sliding microkernel does not fit {:?}", gemm.shape);
        assert!(Y::IS_BF16 || gemm.epilogue.is_none(), "f32 output is stored from the tiles without an epilogue");
        Self { gemm, rows, target }
    }
}

/// The pixels that one slide computes.
pub(in crate::conv) struct Slide {
    /// The taps of the row of pixels.
    pub ys: TapSpan,
    /// The first column.
    pub x: usize,
    /// How many pixels.
    pub pixels: usize,
    /// The first image: 0 or 16.
    pub first_image: usize,
    /// The panel of weights.
    pub panel: usize,
}

impl ImplicitGemm<'_, TileProduct<'_>> {
    /// The arguments of the microkernel for a slide, except for C, the pending epilogue and prefetching.
    #[inline(always)]
    pub(in crate::conv) fn slide(&self, slide: &Slide) -> SlidingGemm {
        let ImplicitGemm { shape, direction, product, .. } = self;
        let (&Slide { ref ys, x, pixels, first_image, panel }, from) = (slide, self.from());
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
            stream_a: from.channel_stride >= STREAM_CHANNELS,
        }
    }

    /// The epilogue of `pixels` pixels of `panel`, which also rounds their sums to bf16.
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
    /// No pixels.
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

    /// Runs the epilogue by itself: that of the last sums, after which there is no slide.
    ///
    /// # Safety
    /// The sums and the bias must be readable and the target writable.
    #[inline(always)]
    unsafe fn run<S: Simd>(self, s: S) {
        for (pixel, image) in (0..self.pixels).flat_map(|pixel| (0..self.images).map(move |image| (pixel, image))) {
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

/// The prefetcher for `panels` of the rows `chunk`, of which each panel has `slides` slides.
///
/// It fetches these panels' share of the rows of the source that the next chunk of `rows` reads and this one does not, and the
/// weights of the next panel unless `panels` are all.
fn prefetcher(
    gemm: &ImplicitGemm<'_, TileProduct<'_>>,
    rows: &Range<usize>,
    chunk: &Range<usize>,
    panels: &Range<usize>,
    slides: usize,
) -> Prefetcher {
    let (from, shape) = (gemm.from(), gemm.shape);
    let last_row = |y: usize| {
        let ys = gemm.rows_of(y);
        ys.position.max(ys.position.saturating_add_signed(ys.position_step * (ys.count as isize - 1)))
    };
    let next_end = (chunk.end + chunk.len()).min(rows.end);
    let (first, end) = (last_row(chunk.end - 1) + 1, last_row(next_end - 1) + 1);
    let all_panels = gemm.to().channel_stride / PANEL;
    let share = |panel: usize| end.saturating_sub(first) * from.row() / PANEL * panel / all_panels * PANEL;
    let source = gemm.product.source.as_ptr().wrapping_add(first * from.row() + share(panels.start));
    let source = Region::new(source, share(panels.end) - share(panels.start), 0, 1);
    let panel = shape.taps() * from.channel_stride * PANEL;
    let weights = gemm.product.weights.as_ptr().wrapping_add(panels.end % all_panels * panel);
    let weights = if panels.len() < all_panels { Region::new(weights, panel, 0, 1) } else { Region::NONE };
    let points = panels.len() * slides * shape.kernel[0] * (from.channel_stride / from.plane());
    Prefetcher::new([source, weights], points)
}

impl<Y: Element> Kernel for SlidingRows<'_, Y> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let SlidingRows { gemm, rows, target } = self;
        let to = *gemm.to();
        // One pointer for all writes: pending sums are written after the places of later pixels have been found.
        let (len, target) = (target.len(), target.as_mut_ptr());
        let (panels, slides) = (to.channel_stride / PANEL, to.width.div_ceil(PIXELS));
        let mut sums = [const { MaybeUninit::<SlideSums>::uninit() }; 2];
        let sums = sums.each_mut().map(|sums| sums.as_mut_ptr().cast::<f32>());
        // The sums that are not finished yet, and the buffer that the next slide's sums go to.
        let (mut pending, mut active) = (DeferredEpilogue::NONE, 0);
        let rows_per_chunk = (PIXELS_PER_PANEL / to.width).max(1);
        let panels_per_group = if size_of_val(gemm.product.weights) > MAX_CACHED_WEIGHTS { 1 } else { panels };
        for start in rows.clone().step_by(rows_per_chunk) {
            let chunk = start..(start + rows_per_chunk).min(rows.end);
            let slides_of_panel = gemm.images.div_ceil(ROWS) * chunk.len() * slides;
            for first_panel in (0..panels).step_by(panels_per_group) {
                let group = first_panel..panels.min(first_panel + panels_per_group);
                let mut prefetcher = prefetcher(&gemm, &rows, &chunk, &group, slides_of_panel);
                let halves = |panel| (0..gemm.images).step_by(ROWS).map(move |first_image| (panel, first_image));
                for (panel, first_image) in group.flat_map(halves) {
                    let images = ROWS.min(gemm.images - first_image);
                    for y in chunk.clone() {
                        let ys = gemm.rows_of(y);
                        for number in 0..slides {
                            // Slides of a row differ by a pixel at most: each has at least two.
                            let x = number * to.width / slides;
                            let pixels = (number + 1) * to.width / slides - x;
                            let at =
                                to.offset(y - rows.start, x) + to.channel(panel * PANEL) + first_image * to.plane();
                            debug_assert!(at + (pixels - 1) * to.pixel() < len);
                            // SAFETY: `new` compared the target with the rows, of which this is a pixel.
                            let first = unsafe { target.add(at) };
                            let mut sliding = gemm.slide(&Slide { ys, x, pixels, first_image, panel });
                            (sliding.prefetch, sliding.prefetch_lines) =
                                prefetcher.next(sliding.count[0] * sliding.count[1]);
                            if Y::IS_BF16 {
                                let epilogue =
                                    gemm.deferred_epilogue(pixels, sums[active], first.cast(), images, panel);
                                sliding.epilogue = std::mem::replace(&mut pending, epilogue);
                                sliding.c = sums[active];
                                active = 1 - active;
                            } else {
                                sliding.c = first.cast();
                                sliding.c_row = to.plane() * size_of::<f32>();
                                sliding.c_pixel = to.pixel() * size_of::<f32>();
                            }
                            // SAFETY: `new` ran `check`, which compared the lengths with the shape. The rows' taps lie on the
                            // source (`TapSpan`), and so do the columns': `fit` lets at most one fall on the padding on either
                            // side, and that one is left out. C is the target, or the sums that are not pending; the pending
                            // ones were written by the slide before.
                            unsafe { sliding.run(pixels, gemm.product.tiles) }
                        }
                    }
                }
            }
        }
        // SAFETY: as above; these are the sums of the last slide.
        unsafe { pending.run(s) }
    }
}
