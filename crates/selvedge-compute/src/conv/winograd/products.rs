//! The forward and the data pass: tiles of the source are transformed, multiplied by the weights at each point, and transformed to
//! tiles of results.
//!
//! One tile of 32 images at a time, or several tiles of fewer images: V, .6 MB for 128 channels, and the products of two panels
//! stay in L2.

use std::marker::PhantomData;
use std::ops::Range;

use super::super::PANEL;
use super::Pass;
use super::outputs::{Outputs, Place};
use super::partition::Chunk;
use super::source::{Matrices, MatrixRows};
use super::transform::{Strided, Transform};
use crate::conv::direct::microkernel::{Walk, accumulate};
use crate::conv::panel::column;
use crate::layout::{BLOCK, BlockShape};
use crate::simd::{Kernel, Simd, TileKernel};

/// A V of more elements does not stay in L2 beside the weights of two panels. It is then multiplied by eight panels at a time,
/// whose products take more memory. On one core, 7x7 pixels of 256 channels went from 393 to 425 nominal GFLOP/s, 3x3 of 512 from
/// 403 to 485. With fewer channels, more panels, or rows of several tiles, are slower.
const MAX_CACHED_V: usize = 1 << 18;

/// The sizes of the matrices in the buffer.
#[derive(Clone, Copy)]
struct Buffers {
    /// V: a row for each image of some tiles, all channels.
    transformed: Matrices,
    /// The products of some panels.
    products: Matrices,
}

impl Buffers {
    fn of(points: usize, from: &BlockShape, to: &BlockShape) -> Self {
        let transformed = Matrices { rows: BLOCK, panels: from.channel_stride / PANEL };
        let panels = if points * transformed.point() > MAX_CACHED_V { 8 } else { 2 };
        Self { transformed, products: Matrices { rows: BLOCK, panels: panels.min(to.channel_stride / PANEL) } }
    }
}

/// Elements of scratch memory for a pass.
pub(super) fn scratch_len(points: usize, from: &BlockShape, to: &BlockShape) -> usize {
    let Buffers { transformed, products } = Buffers::of(points, from, to);
    points * (transformed.point() + products.point())
}

/// One chunk of a pass.
pub(super) struct TilePass<'a, O, T, const M: usize, const N: usize> {
    pass: Pass<'a>,
    buffers: Buffers,
    outputs: O,
    chunk: Chunk,
    transformed: &'a mut [f32],
    products: &'a mut [f32],
    transform: PhantomData<T>,
}

impl<'a, O: Outputs, T: Transform<M, N>, const M: usize, const N: usize> TilePass<'a, O, T, M, N> {
    /// Compares the lengths, and the chunk's panels, with the shapes; `buffer` has [`scratch_len`] elements.
    ///
    /// # Safety
    /// While it runs, no pass to the same outputs may run on a chunk that has a tile and a panel in common with this one.
    pub(super) unsafe fn new(pass: Pass<'a>, outputs: O, chunk: Chunk, buffer: &'a mut [f32]) -> Self {
        let Pass { source, weights, to, .. } = pass;
        let (from, images) = (source.shape, source.images);
        assert_eq!(source.data.len(), from.len(), "the source's length and that of {from:?}");
        assert!((1..=BLOCK).contains(&images), "{images} images of a block of {BLOCK}");
        let expected = to.channel_stride * N * N * from.channel_stride;
        assert_eq!(weights.len(), expected, "the transformed weights' length and that of {} points", N * N);
        assert_eq!(buffer.len(), scratch_len(N * N, from, to), "the buffer's length");
        assert!(chunk.panels.end <= to.channel_stride / PANEL, "{chunk:?} of {to:?}");
        let buffers = Buffers::of(N * N, from, to);
        let (transformed, products) = buffer.split_at_mut(N * N * buffers.transformed.point());
        Self { pass, buffers, outputs, chunk, transformed, products, transform: PhantomData }
    }
}

impl<O: Outputs, T: Transform<M, N>, const M: usize, const N: usize> Kernel for TilePass<'_, O, T, M, N> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let Pass { source, padding, .. } = self.pass;
        let images = source.images;
        let columns = self.outputs.pixels()[1].div_ceil(M);
        let draws = self.outputs.draws(s);
        let Chunk { tiles: Range { start: first, end }, panels } = self.chunk.clone();
        let Buffers { transformed, products } = self.buffers;
        let tiles_per_product = transformed.rows / images;
        for first in (first..end).step_by(tiles_per_product) {
            let tiles = first..end.min(first + tiles_per_product);
            let first_result = |tile: usize| [tile / columns * M, tile % columns * M];
            for tile in tiles.clone() {
                let [y, x] = first_result(tile);
                let first = [y as isize - padding[0] as isize, x as isize - padding[1] as isize];
                let row = (tile - tiles.start) * images;
                let to = MatrixRows { to: self.transformed.as_mut_ptr(), matrices: transformed, row };
                // SAFETY: `new` compared the source's length with its shape and made room for V, whose BLOCK rows suffice for
                // the images of these tiles.
                unsafe { source.transform::<S, T::Input, N, N>(s, first, 0..source.shape.channel_stride, to) };
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
                        let place = Place { first: first_result(tile), channel: panel * PANEL + lane, images };
                        // SAFETY: the channels lie in the tensor (`new`), and at each point there is a vector for each image of
                        // the tile from `at` on; the caller of `new` promised that no other pass writes these results.
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
        let Buffers { transformed, products } = self.buffers;
        let (a, b) = (self.transformed.as_ptr(), self.pass.weights.as_ptr());
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

/// The products at each of N × N points: the first `rows` rows, and panels `columns` of those in the buffer, which start at panel
/// `first` of the weights.
///
/// Only [`TilePass::multiply`] constructs it; [`TilePass::new`] has compared the lengths.
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
