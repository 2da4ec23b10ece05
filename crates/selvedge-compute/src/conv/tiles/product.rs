//! The [`Product`] in bf16 on AMX: 32 images are two A tiles, two panels of channels two B tiles.
//!
//! Activations are read in place: at one pixel, 16 images × 32 channels are a tile whose rows lie a channel stride apart.
//! The sums leave the tiles as f32, get bias and ReLU in vectors, and are rounded once.

use half::bf16;

use crate::amx::{Depth, ROWS, TileGemm, Tiles};
use crate::conv::PANEL;
use crate::conv::implicit_gemm::{Place, Product, Target};
use crate::layout::BLOCK;
use crate::simd::{Element, Simd};

/// bf16 source and weights, `[to channels/16][ky][kx][from channels/2][16][2]`.
pub(in crate::conv) struct TileProduct<'a> {
    pub source: &'a [bf16],
    pub weights: &'a [bf16],
    pub depth: Depth,
    pub tiles: &'a Tiles,
}

/// The sums of one pixel, before bias and ReLU: in the first cache. It is written and read through a pointer alone.
#[repr(align(64))]
struct Sums {
    _numbers: [f32; BLOCK * 2 * PANEL],
}

impl Product for TileProduct<'_> {
    #[inline(always)]
    fn panels_at_once<S: Simd>(&self, panel: usize, panels: usize) -> usize {
        if panel + 2 <= panels { 2 } else { 1 }
    }

    fn lens(&self) -> [usize; 2] {
        [self.source.len(), self.weights.len()]
    }

    #[inline(always)]
    unsafe fn columns<S: Simd, Y: Element>(
        &self,
        s: S,
        place: &Place<'_>,
        panel: usize,
        panels: usize,
        target: Target<Y>,
    ) {
        // SAFETY: the caller's promise; `Sums` has room for two panels of every image.
        unsafe {
            if !Y::IS_BF16 && place.epilogue.is_none() {
                self.sum(place, panel, panels, target.cast());
                return;
            }
            let mut sums = std::mem::MaybeUninit::<Sums>::uninit();
            let sums = Target::panels(sums.as_mut_ptr().cast::<f32>());
            self.sum(place, panel, panels, sums);
            for v in 0..panels * PANEL / S::LANES {
                let bias = place.epilogue.bias_at(s, panel * PANEL + v * S::LANES);
                for image in 0..place.images {
                    let sum = s.load(sums.at::<S>(image, v));
                    Y::store(s, target.at::<S>(image, v), place.epilogue.apply(s, sum, bias));
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
    unsafe fn sum(&self, place: &Place<'_>, panel: usize, panels: usize, target: Target<f32>) {
        const BYTES: usize = size_of::<bf16>();
        if place.is_empty() {
            for (image, panel) in (0..BLOCK).flat_map(|image| (0..panels).map(move |panel| (image, panel))) {
                // SAFETY: the caller promises room for every image.
                unsafe { target.first.add(image * target.image + panel * target.panel).write_bytes(0, PANEL) };
            }
            return;
        }
        let channels = place.from.channel_stride;
        let tap = channels * PANEL;
        let panel_len = place.kernel[0] * place.kernel[1] * tap;
        let depth = self.depth.steps();
        // SAFETY: the caller promises that the lengths fit the shapes and the taps' pixels lie on the source; the tiles
        // are the place's images, up to BLOCK = 2 · ROWS, and `depth` is the channels of a plane (`Depth::of`).
        unsafe {
            let mut gemm = TileGemm {
                a: self.source.as_ptr().add(place.first()),
                b: self.weights.as_ptr().add(panel * panel_len + place.tap() * tap),
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
            let [a_outer, a_middle] = place.pixel_steps();
            let [b_outer, b_middle] = place.tap_steps().map(|taps| (taps * tap) as isize);
            gemm.set_runs(
                [place.ys.count, place.xs.count, channels / depth],
                [bytes(a_outer), bytes(a_middle), bytes(place.from.plane_len() as isize)],
                [bytes(b_outer), bytes(b_middle), bytes((depth * PANEL) as isize)],
            );
            match (place.images > ROWS, panels) {
                (true, 2) => gemm.run::<2, 2>(self.tiles),
                (true, _) => gemm.run::<2, 1>(self.tiles),
                (false, 2) => gemm.run::<1, 2>(self.tiles),
                (false, _) => gemm.run::<1, 1>(self.tiles),
            }
        }
    }
}
