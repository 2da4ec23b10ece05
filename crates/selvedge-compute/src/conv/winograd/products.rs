//! The passes that gather, forward and backward data: tiles of the source are transformed, multiplied by the weights at each
//! point, and become tiles of results.
//!
//! One tile of 32 images at a time, or several of a few images: V, .6 MB for 128 channels, and the products of two panels
//! stay in the second cache.

use std::marker::PhantomData;
use std::ops::Range;

use super::super::PANEL;
use super::Tensors;
use super::gathered::{Matrices, Source};
use super::outputs::{Outputs, Place};
use super::partition::Chunk;
use super::transform::{Strided, Transform};
use crate::conv::direct::microkernel::{Walk, accumulate};
use crate::conv::panel::column;
use crate::layout::{BLOCK, BlockShape};
use crate::simd::{Kernel, Simd, TileKernel};

/// Elements of V that do not stay in the second cache beside the weights of two panels: then it is read for eight at once,
/// whose products take more. On one core 7x7 pixels of 256 channels went from 393 to 425 nominal GFLOP/s, 3x3 of 512 from 403
/// to 485; with fewer channels more panels, or rows of several tiles, are slower.
const LARGE: usize = 1 << 18;

/// How much is computed at a time.
#[derive(Clone, Copy)]
struct Portion {
    /// V: a row for each image of some tiles, all channels.
    transformed: Matrices,
    /// The products of some panels.
    products: Matrices,
}

impl Portion {
    fn of(points: usize, from: &BlockShape, to: &BlockShape) -> Self {
        let transformed = Matrices { rows: BLOCK, panels: from.channel_stride / PANEL };
        let panels = if points * transformed.point() > LARGE { 8 } else { 2 };
        Self { transformed, products: Matrices { rows: BLOCK, panels: panels.min(to.channel_stride / PANEL) } }
    }
}

/// Numbers that a pass keeps.
pub(super) fn scratch_len(points: usize, from: &BlockShape, to: &BlockShape) -> usize {
    let Portion { transformed, products } = Portion::of(points, from, to);
    points * (transformed.point() + products.point())
}

/// One chunk of a pass.
pub(super) struct TilePass<'a, O, T, const M: usize, const N: usize> {
    tensors: Tensors<'a>,
    source: Source<'a>,
    portion: Portion,
    weights: &'a [f32],
    outputs: O,
    chunk: Chunk,
    transformed: &'a mut [f32],
    products: &'a mut [f32],
    transform: PhantomData<T>,
}

impl<'a, O: Outputs, T: Transform<M, N>, const M: usize, const N: usize> TilePass<'a, O, T, M, N> {
    /// Compares the lengths with the shapes, and the chunk with what `outputs` wants; `buffer` has [`scratch_len`] numbers.
    ///
    /// # Safety
    /// While it runs, no pass to the same outputs may run of a chunk that has a tile and a panel in common with this one.
    pub(super) unsafe fn new(
        tensors: Tensors<'a>,
        [source, weights]: [&'a [f32]; 2],
        images: usize,
        (outputs, chunk): (O, Chunk),
        buffer: &'a mut [f32],
    ) -> Self {
        let Tensors { from, to, .. } = tensors;
        assert_eq!(source.len(), from.len(), "the source's length and that of {from:?}");
        assert!((1..=BLOCK).contains(&images), "{images} images of a block of {BLOCK}");
        let expected = to.channel_stride * N * N * from.channel_stride;
        assert_eq!(weights.len(), expected, "the transformed weights' length and that of {} points", N * N);
        assert_eq!(buffer.len(), scratch_len(N * N, from, to), "the buffer's length");
        assert!(chunk.panels.end <= to.channel_stride / PANEL, "{chunk:?} of {to:?}");
        let source = Source { data: source, shape: from, images };
        let portion = Portion::of(N * N, from, to);
        let (transformed, products) = buffer.split_at_mut(N * N * portion.transformed.point());
        Self { tensors, source, portion, weights, outputs, chunk, transformed, products, transform: PhantomData }
    }
}

impl<O: Outputs, T: Transform<M, N>, const M: usize, const N: usize> Kernel for TilePass<'_, O, T, M, N> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let Tensors { from, before, .. } = self.tensors;
        let images = self.source.images;
        let columns = self.outputs.pixels()[1].div_ceil(M);
        let draws = self.outputs.draws(s);
        let Chunk { tiles: Range { start: first, end }, panels } = self.chunk.clone();
        let Portion { transformed, products } = self.portion;
        let at_once = transformed.rows / images;
        for first in (first..end).step_by(at_once) {
            let tiles = first..end.min(first + at_once);
            let place = |tile: usize| [tile / columns * M, tile % columns * M];
            for tile in tiles.clone() {
                let [y, x] = place(tile);
                let first = [y as isize - before[0] as isize, x as isize - before[1] as isize];
                let to = (self.transformed.as_mut_ptr(), transformed, (tile - tiles.start) * images);
                // SAFETY: `new` compared the source's length with its shape, and made room for V; there are at most ROWS
                // rows.
                unsafe { self.source.transform::<S, T::Input, N, N>(s, first, 0..from.channel_stride, to) };
            }
            let rows = tiles.len() * images;
            for panel in panels.clone().step_by(products.panels) {
                let count = products.panels.min(panels.end - panel);
                self.multiply(s, panel..panel + count, rows);
                for tile in tiles.clone() {
                    for lane in (0..count * PANEL).step_by(S::LANES) {
                        let at = lane / PANEL * products.panel() + (tile - tiles.start) * images * PANEL + lane % PANEL;
                        let first = self.products.as_ptr().wrapping_add(at);
                        let products = Strided {
                            first,
                            steps: [N * products.point(), products.point()].map(|step| step as isize),
                        };
                        let place = Place { first: place(tile), channel: panel * PANEL + lane, images };
                        // SAFETY: the channels are the tensor's (`new`), and at each point there is a vector for each of the
                        // tile's images from `at` on; who called `new` promised that no other pass writes these.
                        unsafe { self.outputs.write::<S, T::Output, M, N>(s, &place, &draws, products) };
                    }
                }
            }
        }
    }
}

impl<O, T, const M: usize, const N: usize> TilePass<'_, O, T, M, N> {
    /// The products of some panels for the first `rows` rows of V.
    #[inline(always)]
    fn multiply<S: Simd>(&mut self, s: S, panels: Range<usize>, rows: usize) {
        let Portion { transformed, products } = self.portion;
        let (a, b) = (self.transformed.as_ptr(), self.weights.as_ptr());
        let to = self.products.as_mut_ptr();
        let product = |columns: Range<usize>| Products::<N> {
            a,
            b,
            to,
            transformed,
            products,
            first: panels.start,
            columns,
            rows,
        };
        let whole = panels.len() / S::TILE_PANELS * S::TILE_PANELS;
        s.in_tile(S::TILE_PANELS, product(0..whole));
        if whole < panels.len() {
            s.in_tile(1, product(whole..panels.len()));
        }
    }
}

/// Panels `columns`, of those from `first` on whose products are kept, for the first `rows` rows at each of N × N points.
///
/// It is made only by [`TilePass::multiply`], whose lengths [`TilePass::new`] has compared.
struct Products<const N: usize> {
    a: *const f32,
    b: *const f32,
    to: *mut f32,
    transformed: Matrices,
    products: Matrices,
    first: usize,
    columns: Range<usize>,
    rows: usize,
}

impl<const N: usize> TileKernel for Products<N> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd, const HEIGHT: usize, const VECTORS: usize>(self, s: S) {
        let Products { a, b, to, transformed, products, first, columns, rows } = self;
        let matrix = transformed.panels * PANEL * PANEL;
        let walk = Walk {
            count: [1, 1, transformed.panels],
            a_step: [0, 0, transformed.panel() as isize],
            b_step: [0, 0, PANEL * PANEL],
            depth: PANEL,
            a_row: PANEL,
            b_panel: N * N * matrix,
        };
        for point in 0..N * N {
            for panel in columns.clone().step_by(VECTORS * S::LANES / PANEL) {
                for row in (0..rows).step_by(HEIGHT) {
                    // SAFETY: `TilePass::new` has compared the weights with the points, and made room for the rows, a multiple
                    // of HEIGHT, of V and of the products.
                    unsafe {
                        let mut acc = [[s.zero(); VECTORS]; HEIGHT];
                        let a = a.add(point * transformed.point() + row * PANEL);
                        let b = b.add(((first + panel) * N * N + point) * matrix);
                        accumulate::<S, f32, false, HEIGHT, VECTORS>(s, &walk, a, b, &mut acc);
                        let to = to.add(point * products.point() + panel * products.panel() + row * PANEL);
                        for (row, sums) in acc.iter().enumerate() {
                            for (v, &sum) in sums.iter().enumerate() {
                                s.store(to.add(row * PANEL + column::<S>(v, products.panel())), sum);
                            }
                        }
                    }
                }
            }
        }
    }
}
