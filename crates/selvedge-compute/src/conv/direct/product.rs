//! The [`Product`] in f32: each pixel value is broadcast and multiplied by vectors of output channels.

use crate::conv::PANEL;
use crate::conv::direct::microkernel::{Walk, accumulate};
use crate::conv::implicit_gemm::{PixelSum, Product, Target};
use crate::conv::panel::column;
use crate::simd::{Element, Simd, TileKernel};

/// f32 source and weights, `[to channels/16][ky][kx][from channels][16]`.
pub(in crate::conv) struct Vectors<'a> {
    pub source: &'a [f32],
    pub weights: &'a [f32],
}

impl Product for Vectors<'_> {
    #[inline(always)]
    fn panels_per_call<S: Simd>(&self, panel: usize, panels: usize) -> usize {
        if panel + S::TILE_PANELS <= panels { S::TILE_PANELS } else { 1 }
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
        // The loads and stores of `Columns` rest on the caller's promise.
        s.in_tile(panels, Columns { product: self, pixel, panel, target });
    }
}

/// The sums of one pixel: its images, ROWS at a time, and the columns that a tile spans from `panel` on.
///
/// Only [`Product::columns`] constructs it; the loads and stores rest on the promise of that function's caller.
struct Columns<'a, Y> {
    product: &'a Vectors<'a>,
    pixel: &'a PixelSum<'a>,
    panel: usize,
    target: Target<Y>,
}

impl<Y: Element> TileKernel for Columns<'_, Y> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd, const ROWS: usize, const VECTORS: usize>(self, s: S) {
        let Columns { product, pixel, panel, target } = self;
        let (tap, plane) = (pixel.from.channel_stride * PANEL, pixel.from.plane());
        let ([rows, columns], [row_step, column_step]) = (pixel.count(), pixel.pixel_steps());
        let [row_taps, column_taps] = pixel.tap_steps();
        let walk = Walk {
            count: [rows, columns, pixel.from.channel_stride / plane],
            a_step: [row_step, column_step, pixel.from.plane_len() as isize],
            b_step: [row_taps * tap, column_taps * tap, plane * PANEL],
            depth: plane,
            a_row: plane,
            b_panel: pixel.kernel[0] * pixel.kernel[1] * tap,
        };
        let a = pixel.source_offset();
        let b = panel * walk.b_panel + pixel.tap() * tap;
        for image in (0..pixel.images).step_by(ROWS) {
            // SAFETY: the caller of `Product::columns` promises that the lengths fit the shapes, the taps' pixels lie on the
            // source, and `target` has room for every image.
            unsafe {
                let mut acc = [[s.zero(); VECTORS]; ROWS];
                if let Some(bias) = pixel.epilogue.bias {
                    for (v, first) in acc[0].iter_mut().enumerate() {
                        *first = s.load(bias.as_ptr().add(panel * PANEL + column::<S>(v, PANEL)));
                    }
                    acc = [acc[0]; ROWS];
                }
                let a = product.source.as_ptr().add(a + image * plane);
                let b = product.weights.as_ptr().wrapping_add(b);
                accumulate::<S, f32, false, ROWS, VECTORS>(s, &walk, a, b, &mut acc);
                for (row, sums) in acc.iter().enumerate() {
                    for (v, &sum) in sums.iter().enumerate() {
                        let sum = if pixel.epilogue.relu { s.max(sum, s.zero()) } else { sum };
                        Y::store(s, target.at::<S>(image + row, v), sum);
                    }
                }
            }
        }
    }
}
