//! The forward pass on AMX for one image or a few: the rows of a tile are adjacent pixels of one image. (In the pass over a
//! block, they are the same pixel of 16 images.)
//!
//! In the layout of a block, a tile of one image has one row, and products wait for each other. Here each image is copied to a
//! buffer where its pixels are contiguous, surrounded by zeros, `[plane][height + padding][width + padding][plane's channels]`,
//! and a product takes up to 16 pixels. A sum adds the same products in the same order as in a block, and zeros in between, so
//! its bits are the same.

use std::mem::MaybeUninit;

use half::bf16;

use crate::amx::{ROWS, TileGemm};
use crate::conv::implicit_gemm::{Direction, ImplicitGemm, Target};
use crate::conv::pooled::{ForwardPooled, MAX_WINDOW, Maxima, floor, store};
use crate::conv::tiles::product::TileProduct;
use crate::conv::tiles::sliding::SlidingRows;
use crate::conv::{Conv2dShape, PANEL};
use crate::simd::{Element, Kernel, Simd};

/// The most images for which this pass is used.
const MAX_IMAGES: usize = 4;
/// The most elements of an image with its padding, and the widest output.
const MAX_LEN: usize = 1 << 15;
const MAX_WIDTH: usize = 64;
const BYTES: usize = size_of::<bf16>();

/// Whether `images` images are computed one by one by this pass.
pub(in crate::conv) fn fit(shape: &Conv2dShape, images: usize) -> bool {
    let width = shape.output.width;
    images <= MAX_IMAGES && (2..=MAX_WIDTH).contains(&width) && padded_len(shape) <= MAX_LEN
}

/// Rows of the tiles: the pixels of a row, or of an equal part of it.
pub(in crate::conv) fn rows_of_tiles(shape: &Conv2dShape) -> usize {
    shape.output.width.div_ceil(shape.output.width.div_ceil(ROWS))
}

/// Height and width of the input with its padding, as far as taps fall on it.
fn padded_size(shape: &Conv2dShape) -> [usize; 2] {
    let size = |output: usize, d: usize| (output - 1) * shape.stride + shape.kernel[d];
    [size(shape.output.height, 0), size(shape.output.width, 1)]
}

fn padded_len(shape: &Conv2dShape) -> usize {
    let [height, width] = padded_size(shape);
    height * width * shape.input.channel_stride
}

/// A buffer for an image with its padding.
#[repr(align(64))]
struct Padded(MaybeUninit<[bf16; MAX_LEN]>);

/// The sums of the rows of a window, `[row][two panels][column][16]`. Only accessed through a pointer.
#[repr(align(64))]
struct RowSums {
    _values: [f32; MAX_WINDOW * 2 * MAX_WIDTH * PANEL],
}

impl Padded {
    /// An image of the shape, all zeros.
    fn zeros(&mut self, shape: &Conv2dShape) -> &mut [bf16] {
        let len = padded_len(shape);
        assert!(len <= MAX_LEN, "{len} elements of a padded image, and room for {MAX_LEN}");
        let first = self.0.as_mut_ptr().cast::<bf16>();
        // SAFETY: `len` elements lie in the array, and all of them are written before they are read.
        unsafe {
            first.write_bytes(0, len);
            std::slice::from_raw_parts_mut(first, len)
        }
    }
}

/// Copies `image` of a block to a padded image, whose padding stays zero.
fn fill(padded: &mut [bf16], shape: &Conv2dShape, x: &[bf16], image: usize) {
    let (input, plane, [height, width]) = (shape.input, shape.input.plane(), padded_size(shape));
    for plane_index in 0..input.channel_stride / plane {
        for y in 0..input.height.min(height.saturating_sub(shape.padding[0])) {
            let columns = input.width.min(width.saturating_sub(shape.padding[1]));
            let to = ((plane_index * height + y + shape.padding[0]) * width + shape.padding[1]) * plane;
            for (column, to) in padded[to..][..columns * plane].chunks_exact_mut(plane).enumerate() {
                let from = input.offset(y, column) + plane_index * input.plane_len() + image * plane;
                to.copy_from_slice(&x[from..][..plane]);
            }
        }
    }
}

impl ImplicitGemm<'_, TileProduct<'_>> {
    /// The sums of output row `y` without epilogue, for `panels` panels from `panel` on: pixels of a panel are [`PANEL`] elements
    /// apart, panels [`MAX_WIDTH`] times as many.
    ///
    /// # Safety
    /// `sums` must have room for two panels. The lengths must have been compared with the shape, which must [`fit`].
    #[inline(always)]
    unsafe fn row_of_image(&self, padded: &[bf16], y: usize, panel: usize, panels: usize, sums: *mut f32) {
        let ImplicitGemm { shape, product, .. } = self;
        let (plane, [height, width], [ky, kx]) = (shape.input.plane(), padded_size(shape), shape.kernel);
        let (rows, planes, tap) =
            (rows_of_tiles(shape), shape.input.channel_stride / plane, shape.input.channel_stride * PANEL);
        let bytes = |elements: usize| (elements * BYTES) as isize;
        // In the same order as the pass over blocks.
        let (a_plane, a_tap) = (bytes(height * width * plane), bytes(plane));
        let (b_plane, b_tap) = (bytes(plane * PANEL), bytes(tap));
        let (count, a, b) = if SlidingRows::fit(shape, Direction::Forward) {
            ([ky, planes, kx], [a_plane, a_tap], [b_plane, b_tap])
        } else {
            ([ky, kx, planes], [a_tap, a_plane], [b_tap, b_plane])
        };
        for first in (0..shape.output.width).step_by(rows) {
            let first = first.min(shape.output.width - rows);
            let mut gemm = TileGemm {
                a: padded[(y * width + first) * shape.stride * plane..].as_ptr(),
                b: product.weights[panel * shape.panel_len()..].as_ptr(),
                c: sums.wrapping_add(first * PANEL),
                a_row: shape.stride * plane * BYTES,
                a_second: 0,
                b_second: shape.panel_len() * BYTES,
                c_row: PANEL * size_of::<f32>(),
                c_second_a: 0,
                c_second_b: MAX_WIDTH * PANEL * size_of::<f32>(),
                add: 0,
                count: [0; 3],
                a_step: [0; 3],
                b_step: [0; 3],
            };
            gemm.set_runs(count, [bytes(width * plane), a[0], a[1]], [bytes(kx * tap), b[0], b[1]]);
            // SAFETY: the pixels lie in the padded image, which has room for every tap of every output pixel; the panels lie in
            // the weights; the caller promises room for the sums.
            unsafe {
                match panels {
                    2 => gemm.run::<1, 2>(product.tiles),
                    _ => gemm.run::<1, 1>(product.tiles),
                }
            }
        }
    }
}

/// Rows of the output, image by image.
pub(in crate::conv) struct FewImages<'a, Y> {
    pub gemm: ImplicitGemm<'a, TileProduct<'a>>,
    pub rows: std::ops::Range<usize>,
    pub target: &'a mut [Y],
}

impl<Y: Element> Kernel for FewImages<'_, Y> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { gemm, rows, target } = self;
        gemm.check(&rows, target.len());
        assert!(fit(gemm.shape, gemm.images), "{} images of {:?}", gemm.images, gemm.shape);
        let (to, epilogue) = (*gemm.to(), gemm.epilogue);
        let mut padded = Padded(MaybeUninit::uninit());
        let padded = padded.zeros(gemm.shape);
        let mut sums = MaybeUninit::<RowSums>::uninit();
        let sums = sums.as_mut_ptr().cast::<f32>();
        let all_panels = to.channel_stride / PANEL;
        for image in 0..gemm.images {
            fill(padded, gemm.shape, gemm.product.source, image);
            for (y, panel) in rows.clone().flat_map(|y| (0..all_panels).step_by(2).map(move |panel| (y, panel))) {
                let panels = 2.min(all_panels - panel);
                // SAFETY: `RowSums` has room for two panels of a row; the lengths have been compared.
                unsafe { gemm.row_of_image(padded, y, panel, panels, sums) };
                for x in 0..to.width {
                    let at = to.offset(y - rows.start, x) + image * to.plane() + to.channel(panel * PANEL);
                    let target =
                        Target { first: target[at..].as_mut_ptr(), image: to.plane(), panel: to.channel(PANEL) };
                    for lane in (0..panels * PANEL).step_by(S::LANES) {
                        let from = (lane / PANEL * MAX_WIDTH + x) * PANEL + lane % PANEL;
                        // SAFETY: the sums have been written. `check` compared the target with the rows and the bias with the
                        // channel stride.
                        unsafe {
                            let bias = epilogue.bias_at(s, panel * PANEL + lane);
                            let sum = epilogue.apply(s, s.load(sums.add(from)), bias);
                            Y::store(s, target.at::<S>(0, lane / S::LANES), sum);
                        }
                    }
                }
            }
        }
    }
}

/// [`ForwardPooled`], image by image, for inference.
pub(in crate::conv) struct FewImagesPooled<'a, Y>(pub ForwardPooled<'a, TileProduct<'a>, Y>);

impl<Y: Element> Kernel for FewImagesPooled<'_, Y> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self(pass) = self;
        let (gemm, window, pooled, rows) = (&pass.gemm, pass.output.window, pass.pooled, pass.rows.clone());
        assert!(fit(gemm.shape, gemm.images), "{} images of {:?}", gemm.images, gemm.shape);
        assert!(pass.output.training.is_none(), "training computes whole blocks");
        let mut padded = Padded(MaybeUninit::uninit());
        let padded = padded.zeros(gemm.shape);
        let mut sums = MaybeUninit::<RowSums>::uninit();
        let sums = sums.as_mut_ptr().cast::<f32>();
        let (row_len, all_panels) = (2 * MAX_WIDTH * PANEL, pooled.channel_stride / PANEL);
        for image in 0..gemm.images {
            fill(padded, gemm.shape, gemm.product.source, image);
            for (y, panel) in rows.clone().flat_map(|y| (0..all_panels).step_by(2).map(move |panel| (y, panel))) {
                let panels = 2.min(all_panels - panel);
                for row in 0..window[0] {
                    // SAFETY: `RowSums` has room for the rows of a window, of which there are at most MAX_WINDOW;
                    // `ForwardPooled::new` has compared the lengths.
                    unsafe {
                        let sums = sums.add(row * row_len);
                        gemm.row_of_image(padded, y * window[0] + row, panel, panels, sums);
                    }
                }
                for (x, lane) in
                    (0..pooled.width).flat_map(|x| (0..panels * PANEL).step_by(S::LANES).map(move |lane| (x, lane)))
                {
                    let channel = panel * PANEL + lane;
                    let to = pooled.offset(y - rows.start, x) + image * pooled.plane() + pooled.channel(channel);
                    // SAFETY: the sums have been written. `ForwardPooled::new` compared y with the rows and the bias with the
                    // channel stride.
                    unsafe {
                        let load = |pixel: usize| {
                            let (row, column) = (pixel / window[1], x * window[1] + pixel % window[1]);
                            let at = (lane / PANEL * MAX_WIDTH + column) * PANEL + lane % PANEL;
                            s.load(sums.add(row * row_len + at))
                        };
                        let maxima = Maxima::of(s, window[0] * window[1], load);
                        let maxima = maxima.after(s, pass.output.bias_at(s, channel), floor(s, pass.output.relu));
                        store(s, pass.output.y, &mut None, to, maxima, &None, s.splat_u(0));
                    }
                }
            }
        }
    }
}
