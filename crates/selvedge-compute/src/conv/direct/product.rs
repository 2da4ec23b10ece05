//! The [`Product`] in f32: vectors of output channels, one broadcast pixel value at a time.

use crate::conv::PANEL;
use crate::conv::direct::microkernel::{Walk, accumulate};
use crate::conv::implicit_gemm::{Place, Product, Target};
use crate::conv::panel::column;
use crate::simd::{Element, Simd, TileKernel};

/// f32 source and weights, `[to channels/16][ky][kx][from channels][16]`.
pub(in crate::conv) struct Vectors<'a> {
    pub source: &'a [f32],
    pub weights: &'a [f32],
}

impl Product for Vectors<'_> {
    #[inline(always)]
    fn panels_at_once<S: Simd>(&self, panel: usize, panels: usize) -> usize {
        if panel + S::TILE_PANELS <= panels { S::TILE_PANELS } else { 1 }
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
        // What the loads and stores of a `Pixel` rest on is the caller's promise.
        s.in_tile(panels, Pixel { product: self, place, panel, target });
    }
}

/// One pixel: the place's images, the columns of the panels from `panel` on that a tile spans.
///
/// It is made only by [`Product::columns`], whose caller promises what its loads and stores rest on.
struct Pixel<'a, Y> {
    product: &'a Vectors<'a>,
    place: &'a Place<'a>,
    panel: usize,
    target: Target<Y>,
}

impl<Y: Element> TileKernel for Pixel<'_, Y> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd, const ROWS: usize, const VECTORS: usize>(self, s: S) {
        let Pixel { product, place, panel, target } = self;
        let (tap, plane) = (place.from.channel_stride * PANEL, place.from.plane());
        let ([rows, columns], [row_step, column_step]) = (place.count(), place.pixel_steps());
        let [row_taps, column_taps] = place.tap_steps();
        let walk = Walk {
            count: [rows, columns, place.from.channel_stride / plane],
            a_step: [row_step, column_step, place.from.plane_len() as isize],
            b_step: [row_taps * tap, column_taps * tap, plane * PANEL],
            depth: plane,
            a_row: plane,
            b_panel: place.kernel[0] * place.kernel[1] * tap,
        };
        let a = place.first();
        let b = panel * walk.b_panel + place.tap() * tap;
        for image in (0..place.images).step_by(ROWS) {
            // SAFETY: `Product::columns`' caller promises that the lengths fit the shapes, the taps' pixels lie on the
            // source and `target` has room for every image.
            unsafe {
                let mut acc = [[s.zero(); VECTORS]; ROWS];
                if let Some(bias) = place.epilogue.bias {
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
                        let sum = if place.epilogue.relu { s.max(sum, s.zero()) } else { sum };
                        Y::store(s, target.at::<S>(image + row, v), sum);
                    }
                }
            }
        }
    }
}
