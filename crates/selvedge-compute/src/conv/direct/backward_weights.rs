//! The gradient of the weights in f32 vectors, summed over pixels and images.
//!
//! It is summed over a few output pixels at a time: their X and dY stay in L1 for all taps and channels. For each tap, a tile of
//! the gradient is loaded, the products of 32 images per pixel are added, and the tile is stored. X and dY are first repacked in
//! planes of 16 channels ([`super::repack::to_planes`]), where the step from image to image is one cache line.

use std::ops::Range;

use super::GradientTile;
use super::microkernel::{Walk, accumulate};
use super::repack::store_planes;
use crate::conv::panel::assert_padded;
use crate::conv::weight_gradient::tap_by_tap::{Tap, TapByTap, TapSum, add_blocks};
use crate::conv::weight_gradient::{
    BlockOperands, GradientSum, Repack, RepackedRows, TILE, add_block, check_block, check_blocks,
};
use crate::conv::{Accumulate, Blocks, Conv2dShape, PANEL};
use crate::cpu::Cpu;
use crate::layout::BLOCK;
use crate::simd::{Element, Kernel, Simd, TileKernel, dispatch};

/// The gradient of panels `panels` over all blocks, `xᵀ ∗ dy`, which is added to `dweights` or overwrites it.
///
/// Both tensors are repacked by [`super::repack::to_planes`]. `dweights` holds just these panels, in the layout of the packed
/// weights. The order of the sum depends only on the shape and the number of blocks. Images beyond the end of the batch must
/// have a dY of zero.
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

/// The gradient over one block, `xᵀ ∗ dy`, which is added to `dweights` or overwrites it.
///
/// `x` and `dy` are blocks as layers store them. Their rows are repacked on the way, in `buffers` of any content, one for x and
/// one for dY, whose lengths [`crate::conv::ConvPlan::scratch_bytes`] counts.
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
        let [x_rows, dy_rows] = self.buffers;
        let block = BlockOperands { x: self.x, dy: self.dy, x_rows, dy_rows };
        // SAFETY: `check_block` has compared the lengths of tensors and buffers with the shape.
        unsafe { add_block::<TapByTap, _, _>(&mut sum, block) };
    }
}

struct VectorSum<'a, S> {
    s: S,
    gradient: GradientTile<'a>,
}

impl<S: Simd> GradientSum for VectorSum<'_, S> {
    type Element = f32;

    #[inline(always)]
    fn shape(&self) -> &Conv2dShape {
        self.gradient.shape
    }

    #[inline(always)]
    fn panels(&self) -> Range<usize> {
        self.gradient.panels.clone()
    }
}

impl<S: Simd> TapSum for VectorSum<'_, S> {
    /// 128 steps for 16 loads and stores.
    const PIXELS: usize = 4;
    const CHANNELS: usize = PANEL;

    #[inline(always)]
    fn panels_per_call(&self, panel: usize) -> usize {
        if panel + S::TILE_PANELS <= self.gradient.panels.end { S::TILE_PANELS } else { 1 }
    }

    #[inline(always)]
    unsafe fn add(&mut self, x: RepackedRows<'_, f32>, dy: RepackedRows<'_, f32>, tap: &Tap) {
        let panels = self.panels_per_call(tap.panel);
        let gradient = &mut self.gradient;
        // The loads and stores of `Channels` rest on the caller's promise.
        self.s.in_tile(panels, Channels { gradient, x, dy, tap });
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

/// One tap of 16 input channels, which are the rows of the tiles.
///
/// Only [`TapSum::add`] constructs it; the loads and stores rest on the promise of that function's caller.
struct Channels<'a, 'g> {
    gradient: &'a mut GradientTile<'g>,
    x: RepackedRows<'a, f32>,
    dy: RepackedRows<'a, f32>,
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
