//! The gradient of the weights in f32, summed over pixels and images.
//!
//! A few output pixels at a time, so that their X and dY stay in the first cache while taps and channels take their turn;
//! a tile of the gradient is loaded, added to over 32 images a pixel, and stored. X and dY are repacked in planes of 16
//! channels before ([`crate::conv::tiles::repack::to_planes`]), in which the steps from image to image are one cache line.

use std::ops::Range;

use super::GradientTile;
use super::microkernel::{Walk, accumulate};
use super::repack::store_planes;
use crate::conv::panel::assert_padded;
use crate::conv::prefetcher::Prefetcher;
use crate::conv::weight_gradient::{
    Repack, Rows, TILE, Tap, TapRow, TapSum, add_block, add_blocks, check_block, check_blocks,
};
use crate::conv::{Accumulate, Blocks, Conv2dShape, PANEL};
use crate::cpu::Cpu;
use crate::layout::BLOCK;
use crate::simd::{Element, Kernel, Simd, TileKernel, dispatch};

/// The gradient of panels `panels` over all blocks: `xᵀ ∗ dy`, added to `dweights` or in its place.
///
/// Both tensors are repacked by [`crate::conv::tiles::repack::to_planes`]; `dweights` is exactly these panels, in the layout of the
/// packed weights. The order of the sum is fixed by the shape and the number of blocks. Images that a batch does not fill
/// must have a dY of zero.
///
/// # Panics
/// If a slice is not as long as the shape says, x and dy differ in their number of blocks, or the input's channels are not
/// padded.
pub fn backward_weights(
    cpu: Cpu,
    shape: &Conv2dShape,
    x: Blocks<'_, f32>,
    dy: Blocks<'_, f32>,
    panels: Range<usize>,
    accumulate: Accumulate,
    dweights: &mut [f32],
) {
    check_blocks(shape, &x, &dy, &panels, dweights);
    if accumulate == Accumulate::Overwrite {
        dweights.fill(0.0);
    }
    if x.count > 0 {
        dispatch(cpu, OfBlocks { x, dy, gradient: GradientTile { shape, panels, dweights } });
    }
}

/// The gradient of one block's `x` and `dy`, as they lie: `xᵀ ∗ dy`, added to `dweights` or in its place.
///
/// Their rows are repacked in `buffers` on the way, of any content and of the lengths of [`crate::conv::row_buffers`].
///
/// # Panics
/// If a slice is not as long as the shape says, with both lengths, before anything is written.
pub fn backward_weights_of_block<E: Element>(
    cpu: Cpu,
    shape: &Conv2dShape,
    x: &[f32],
    dy: &[E],
    buffers: [&mut [f32]; 2],
    accumulate: Accumulate,
    dweights: &mut [f32],
) {
    assert_padded(shape.input.channel_stride);
    check_block(shape, [x.len(), dy.len()], [buffers[0].len(), buffers[1].len()], dweights);
    if accumulate == Accumulate::Overwrite {
        dweights.fill(0.0);
    }
    let gradient = GradientTile { shape, panels: 0..shape.panels(), dweights };
    dispatch(cpu, OfBlock { x, dy, buffers, gradient });
}

struct OfBlocks<'a> {
    x: Blocks<'a, f32>,
    dy: Blocks<'a, f32>,
    gradient: GradientTile<'a>,
}

impl Kernel for OfBlocks<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut sum = VectorSum { s, gradient: self.gradient };
        // SAFETY: `check_blocks` has compared the lengths with the shape.
        unsafe { add_blocks(&mut sum, self.x, self.dy) };
    }
}

struct OfBlock<'a, E> {
    x: &'a [f32],
    dy: &'a [E],
    buffers: [&'a mut [f32]; 2],
    gradient: GradientTile<'a>,
}

impl<E: Element> Kernel for OfBlock<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut sum = VectorSum { s, gradient: self.gradient };
        // SAFETY: `check_block` has compared the lengths of tensors and buffers with the shape.
        unsafe { add_block(&mut sum, (self.x, self.dy), self.buffers) };
    }
}

struct VectorSum<'a, S> {
    s: S,
    gradient: GradientTile<'a>,
}

impl<S: Simd> TapSum for VectorSum<'_, S> {
    type Element = f32;

    /// 128 steps for 16 loads and stores.
    const PIXELS: usize = 4;
    const CHANNELS: usize = PANEL;

    #[inline(always)]
    fn by_rows(&self) -> bool {
        false
    }

    #[inline(always)]
    fn shape(&self) -> &Conv2dShape {
        self.gradient.shape
    }

    #[inline(always)]
    fn panels(&self) -> Range<usize> {
        self.gradient.panels.clone()
    }

    #[inline(always)]
    fn panels_at_once(&self, panel: usize) -> usize {
        if panel + S::TILE_PANELS <= self.gradient.panels.end { S::TILE_PANELS } else { 1 }
    }

    #[inline(always)]
    unsafe fn add(&mut self, x: Rows<'_, f32>, dy: Rows<'_, f32>, tap: &Tap) {
        let panels = self.panels_at_once(tap.panel);
        let gradient = &mut self.gradient;
        // What the loads and stores of `Channels` rest on is the caller's promise.
        self.s.in_tile(panels, Channels { gradient, x, dy, tap });
    }

    unsafe fn add_row(&mut self, _: Rows<'_, f32>, _: Rows<'_, f32>, _: &TapRow, _: &mut Prefetcher) {
        unreachable!("vectors add up one tap at a time")
    }
}

impl<S: Simd, E: Element> Repack<E> for VectorSum<'_, S> {
    #[inline(always)]
    fn repack_x(&self, from: &[f32], to: &mut [f32]) {
        store_planes(self.s, &self.gradient.shape.input, from, to);
    }

    #[inline(always)]
    fn repack_dy(&self, from: &[E], to: &mut [f32]) {
        store_planes(self.s, &self.gradient.shape.output, from, to);
    }
}

/// One tap of 16 input channels, the rows of the tiles.
///
/// It is made only by [`TapSum::add`], whose caller promises what its loads and stores rest on.
struct Channels<'a, 'g> {
    gradient: &'a mut GradientTile<'g>,
    x: Rows<'a, f32>,
    dy: Rows<'a, f32>,
    tap: &'a Tap,
}

impl TileKernel for Channels<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd, const ROWS: usize, const VECTORS: usize>(self, s: S) {
        let Channels { gradient, x, dy, tap } = self;
        let Conv2dShape { input, kernel, stride, padding, .. } = *gradient.shape;
        let &Tap { y, ref columns, ky, kx, panel, channel } = tap;
        let walk = Walk {
            count: [1, x.blocks.count, columns.len()],
            a_step: [0, x.blocks.stride as isize, (stride * TILE) as isize],
            b_step: [0, dy.blocks.stride, TILE],
            depth: BLOCK,
            a_row: 1,
            b_panel: dy.panel,
        };
        let a = x.offset(y * stride + ky - padding[0], columns.start * stride + kx - padding[1], channel / PANEL);
        let b = dy.offset(y, columns.start, panel);
        let first_panel = panel - gradient.panels.start;
        let weight =
            ((first_panel * gradient.shape.taps() + ky * kernel[1] + kx) * input.channel_stride + channel) * PANEL;
        for row in (0..PANEL).step_by(ROWS) {
            // SAFETY: `TapSum::add`'s caller promises the lengths and the taps' pixels; `row + ROWS` does not pass the 16
            // channels of a plane.
            unsafe {
                let at = weight + row * PANEL;
                let mut acc = gradient.load::<S, ROWS, VECTORS>(s, at);
                let (a, b) = (x.blocks.data.as_ptr().add(a + row), dy.blocks.data.as_ptr().add(b));
                accumulate::<S, f32, true, ROWS, VECTORS>(s, &walk, a, b, &mut acc);
                gradient.store(s, at, &acc);
            }
        }
    }
}
