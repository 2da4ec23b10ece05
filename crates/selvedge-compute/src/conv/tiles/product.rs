//! The [`Product`] in bf16 on AMX: 32 images are two A tiles, two panels of channels are two B tiles.
//!
//! Activations are read in place: at one pixel, 16 images × 32 channels are a tile whose rows lie a channel stride apart.
//! The sums are stored from the tiles as f32. Vectors add the bias, apply ReLU and round once.

use half::bf16;

use crate::amx::{Depth, ROWS, TileGemm, Tiles};
use crate::conv::PANEL;
use crate::conv::implicit_gemm::{PixelSum, Product, Target};
use crate::layout::BLOCK;
use crate::simd::{Element, Simd};

/// bf16 source and weights, `[to channels/16][ky][kx][from channels/2][16][2]`.
pub(in crate::conv) struct TileProduct<'a> {
    pub source: &'a [bf16],
    pub weights: &'a [bf16],
    pub depth: Depth,
    pub tiles: &'a Tiles,
}

/// The sums of one pixel before bias and ReLU, which stay in L1. Only accessed through a pointer.
#[repr(align(64))]
struct PixelSums {
    _values: [f32; BLOCK * 2 * PANEL],
}

impl Product for TileProduct<'_> {
    #[inline(always)]
    fn panels_per_call<S: Simd>(&self, panel: usize, panels: usize) -> usize {
        if panel + 2 <= panels { 2 } else { 1 }
    }

    fn source_len(&self) -> usize {
        self.source.len()
    }

    fn weights_len(&self) -> usize {
        self.weights.len()
    }

    #[inline(always)]
    unsafe fn columns<S: Simd, Y: Element>(
        &self,
        s: S,
        pixel: &PixelSum<'_>,
        panel: usize,
        panels: usize,
        target: Target<Y>,
    ) {
        // SAFETY: the caller's promise; `PixelSums` has room for two panels of every image.
        unsafe {
            if !Y::IS_BF16 && pixel.epilogue.is_none() {
                self.sum(pixel, panel, panels, target.cast());
                return;
            }
            let mut sums = std::mem::MaybeUninit::<PixelSums>::uninit();
            let sums = Target::panels(sums.as_mut_ptr().cast::<f32>());
            self.sum(pixel, panel, panels, sums);
            for v in 0..panels * PANEL / S::LANES {
                let bias = pixel.epilogue.bias_at(s, panel * PANEL + v * S::LANES);
                for image in 0..pixel.images {
                    let sum = s.load(sums.at::<S>(image, v));
                    Y::store(s, target.at::<S>(image, v), pixel.epilogue.apply(s, sum, bias));
                }
            }
        }
    }
}

impl TileProduct<'_> {
    /// The bare sums of one pixel.
    ///
    /// # Safety
    /// As for [`Product::columns`].
    #[inline(always)]
    unsafe fn sum(&self, pixel: &PixelSum<'_>, panel: usize, panels: usize, target: Target<f32>) {
        const BYTES: usize = size_of::<bf16>();
        if pixel.is_empty() {
            for (image, panel) in (0..BLOCK).flat_map(|image| (0..panels).map(move |panel| (image, panel))) {
                // SAFETY: the caller promises room for every image.
                unsafe { target.first.add(image * target.image + panel * target.panel).write_bytes(0, PANEL) };
            }
            return;
        }
        let channels = pixel.from.channel_stride;
        let tap = channels * PANEL;
        let panel_len = pixel.kernel[0] * pixel.kernel[1] * tap;
        let depth = self.depth.steps();
        // SAFETY: the caller promises that the lengths fit the shapes and the taps' pixels lie on the source; the tiles
        // are the pixel's images, up to BLOCK = 2 · ROWS, and `depth` is the channels of a plane (`Depth::of`).
        unsafe {
            let mut gemm = TileGemm {
                a: self.source.as_ptr().add(pixel.source_offset()),
                b: self.weights.as_ptr().add(panel * panel_len + pixel.tap() * tap),
                c: target.first,
                a_row: depth * BYTES,
                a_second: ROWS * depth * BYTES,
                b_second: panel_len * BYTES,
                c_row: target.image * size_of::<f32>(),
                c_second_a: ROWS * target.image * size_of::<f32>(),
                c_second_b: target.panel * size_of::<f32>(),
                add: 0,
                count: [0; 3],
                a_step: [0; 3],
                b_step: [0; 3],
            };
            let bytes = |elements: isize| elements * BYTES as isize;
            let [a_outer, a_middle] = pixel.pixel_steps();
            let [b_outer, b_middle] = pixel.tap_steps().map(|taps| (taps * tap) as isize);
            gemm.set_runs(
                [pixel.ys.count, pixel.xs.count, channels / depth],
                [bytes(a_outer), bytes(a_middle), bytes(pixel.from.plane_len() as isize)],
                [bytes(b_outer), bytes(b_middle), bytes((depth * PANEL) as isize)],
            );
            match (pixel.images > ROWS, panels) {
                (true, 2) => gemm.run::<2, 2>(self.tiles),
                (true, _) => gemm.run::<2, 1>(self.tiles),
                (false, 2) => gemm.run::<1, 2>(self.tiles),
                (false, _) => gemm.run::<1, 1>(self.tiles),
            }
        }
    }
}
