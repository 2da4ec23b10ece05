//! The passes that gather, forward and backward data: tiles of the source are transformed, multiplied by the weights at each
//! point, and become tiles of results.
//!
//! One tile of 32 images at a time, or several of a few images: V, 1.2 MB for 256 channels, and the products of two panels
//! stay in the second cache.

use std::marker::PhantomData;

use super::super::PANEL;
use super::super::tile::{Walk, accumulate, column};
use super::Tensors;
use super::gathered::{Matrices, Source};
use super::outputs::{Outputs, Place};
use super::transform::{Strided, Transform};
use crate::layout::{BLOCK, BlockShape};
use crate::simd::{Kernel, Simd};

/// Rows of the matrices: images of a tile, or of several.
const ROWS: usize = BLOCK;

/// V: a row for each image, all channels.
fn transformed(from: &BlockShape) -> Matrices {
    Matrices { rows: ROWS, panels: from.channel_stride / PANEL }
}

/// The products of two panels.
const PRODUCTS: Matrices = Matrices { rows: ROWS, panels: 2 };

/// Numbers that a pass keeps: V, and the products of two panels.
pub(super) fn scratch_len(points: usize, from: &BlockShape) -> usize {
    points * (transformed(from).point() + PRODUCTS.point())
}

/// One pass over the results that `outputs` wants.
pub(super) struct TilePass<'a, O, T, const M: usize, const N: usize> {
    tensors: Tensors<'a>,
    source: Source<'a>,
    weights: &'a [f32],
    outputs: O,
    transformed: &'a mut [f32],
    products: &'a mut [f32],
    transform: PhantomData<T>,
}

impl<'a, O: Outputs, T: Transform<M, N>, const M: usize, const N: usize> TilePass<'a, O, T, M, N> {
    /// Compares the lengths with the shapes; `buffer` has [`scratch_len`] numbers.
    pub(super) fn new(
        tensors: Tensors<'a>,
        [source, weights]: [&'a [f32]; 2],
        images: usize,
        outputs: O,
        buffer: &'a mut [f32],
    ) -> Self {
        let Tensors { from, to, .. } = tensors;
        assert_eq!(source.len(), from.len(), "the source's length and that of {from:?}");
        assert!((1..=BLOCK).contains(&images), "{images} images of a block of {BLOCK}");
        let expected = to.channel_stride * N * N * from.channel_stride;
        assert_eq!(weights.len(), expected, "the transformed weights' length and that of {} points", N * N);
        assert_eq!(buffer.len(), scratch_len(N * N, from), "the buffer's length");
        let source = Source { data: source, shape: from, images };
        let (transformed, products) = buffer.split_at_mut(N * N * transformed(from).point());
        Self { tensors, source, weights, outputs, transformed, products, transform: PhantomData }
    }
}

impl<O: Outputs, T: Transform<M, N>, const M: usize, const N: usize> Kernel for TilePass<'_, O, T, M, N> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let Tensors { from, to, before } = self.tensors;
        let images = self.source.images;
        let wanted = self.outputs.rows();
        let columns = self.outputs.columns().div_ceil(M);
        let draws = self.outputs.draws(s);
        let panels = to.channel_stride / PANEL;
        let (first, end) = (wanted.start / M * columns, wanted.end.div_ceil(M) * columns);
        let at_once = ROWS / images;
        for first in (first..end).step_by(at_once) {
            let tiles = first..end.min(first + at_once);
            let place = |tile: usize| [tile / columns * M, tile % columns * M];
            for tile in tiles.clone() {
                let [y, x] = place(tile);
                let first = [y as isize - before[0] as isize, x as isize - before[1] as isize];
                let to = (self.transformed.as_mut_ptr(), transformed(from), (tile - tiles.start) * images);
                // SAFETY: `new` compared the source's length with its shape, and made room for V; there are at most ROWS
                // rows.
                unsafe { self.source.transform::<S, T::Input, N, N>(s, first, 0..from.channel_stride, to) };
            }
            let rows = tiles.len() * images;
            let mut panel = 0;
            while panel < panels {
                // Two panels fill AVX-512's registers; the others take one, of several vectors.
                let count = if S::LANES == 16 && panel + 2 <= panels { 2 } else { 1 };
                self.multiply(s, panel, count, rows);
                for tile in tiles.clone() {
                    for lane in (0..count * PANEL).step_by(S::LANES) {
                        let at = lane / PANEL * PRODUCTS.panel() + (tile - tiles.start) * images * PANEL + lane % PANEL;
                        let products = self.products.as_ptr().wrapping_add(at);
                        let products = Strided { first: products, steps: [N * PRODUCTS.point(), PRODUCTS.point()] };
                        let place = Place { first: place(tile), channel: panel * PANEL + lane, images };
                        // SAFETY: the channels are the tensor's, and at each point there is a vector for each of the tile's
                        // images from `at` on.
                        unsafe { self.outputs.write::<S, T::Output, M, N>(s, &place, &draws, products) };
                    }
                }
                panel += count;
            }
        }
    }
}

impl<O, T, const M: usize, const N: usize> TilePass<'_, O, T, M, N> {
    /// The products of `count` panels from `panel` on for the first `rows` rows of V.
    #[inline(always)]
    fn multiply<S: Simd>(&mut self, s: S, panel: usize, count: usize, rows: usize) {
        let (transformed, weights, products) = (&*self.transformed, self.weights, &mut *self.products);
        let channels = self.tensors.from.channel_stride;
        match (S::LANES, count) {
            (16, 2) => s.apart(Products::<8, 2, N> { transformed, weights, products, channels, panel, rows }),
            (16, _) => s.apart(Products::<16, 1, N> { transformed, weights, products, channels, panel, rows }),
            (8, _) => s.apart(Products::<4, 2, N> { transformed, weights, products, channels, panel, rows }),
            _ => s.apart(Products::<2, 4, N> { transformed, weights, products, channels, panel, rows }),
        }
    }
}

/// The columns that VECTORS vectors span from `panel` on, for the first `rows` rows at each of N × N points.
///
/// It is made only by [`TilePass::multiply`], whose lengths [`TilePass::new`] has compared.
struct Products<'a, const HEIGHT: usize, const VECTORS: usize, const N: usize> {
    transformed: &'a [f32],
    weights: &'a [f32],
    products: &'a mut [f32],
    channels: usize,
    panel: usize,
    rows: usize,
}

impl<const HEIGHT: usize, const VECTORS: usize, const N: usize> Kernel for Products<'_, HEIGHT, VECTORS, N> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let from = Matrices { rows: ROWS, panels: self.channels / PANEL };
        let weights = self.channels * PANEL;
        let walk = Walk {
            count: [1, 1, from.panels],
            a_step: [0, 0, from.panel() as isize],
            b_step: [0, 0, PANEL * PANEL],
            depth: PANEL,
            a_row: PANEL,
            b_panel: N * N * weights,
        };
        for point in 0..N * N {
            let b = (self.panel * N * N + point) * weights;
            for row in (0..self.rows).step_by(HEIGHT) {
                // SAFETY: `TilePass::new` has compared the weights with the points, and made room for ROWS rows, a multiple
                // of HEIGHT, of V and of the products of two panels.
                unsafe {
                    let mut acc = [[s.zero(); VECTORS]; HEIGHT];
                    let a = self.transformed.as_ptr().add(point * from.point() + row * PANEL);
                    accumulate::<S, f32, false, HEIGHT, VECTORS>(s, &walk, a, self.weights.as_ptr().add(b), &mut acc);
                    let to = self.products.as_mut_ptr().add(point * PRODUCTS.point() + row * PANEL);
                    for (row, sums) in acc.iter().enumerate() {
                        for (v, &sum) in sums.iter().enumerate() {
                            s.store(to.add(row * PANEL + column::<S>(v, PRODUCTS.panel())), sum);
                        }
                    }
                }
            }
        }
    }
}
