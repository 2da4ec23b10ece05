//! The gradient of the weights on AMX, summed over pixels and images.
//!
//! X is first transposed to `[pixel][channel][image]`, and dY repacked in pairs of images ([`super::repack`]). Both tiles of a
//! product are then contiguous and aligned, and one product sums over the 32 images of a block.

use std::ops::Range;

use half::bf16;

use crate::amx::{Depth, ROWS, Registers, TapRowGemm, TileGemm, Tiles, outside, with_tiles};
use crate::conv::implicit_gemm::Direction;
use crate::conv::panel::assert_padded;
use crate::conv::prefetcher::Prefetcher;
use crate::conv::tiles::repack::{pair_pixels, transpose_pixels};
use crate::conv::tiles::sliding::SlidingRows;
use crate::conv::weight_gradient::kernel_rows::{self, ByKernelRows, GradientTiles, KernelRow, KernelRowSum};
use crate::conv::weight_gradient::tap_by_tap::{self, Tap, TapByTap, TapSum};
use crate::conv::weight_gradient::{
    BlockOperands, GradientSum, Repack, RepackedRows, TILE, add_block, check_block, check_blocks, rows_per_sum,
};
use crate::conv::{Accumulate, Blocks, Conv2dShape, PANEL};
use crate::cpu::Cpu;
use crate::layout::BLOCK;

/// [`crate::conv::direct::backward_weights`] in bf16 on AMX.
///
/// `x` is repacked by [`super::repack::transpose_images`], `dy` by [`super::repack::pair_images`].
///
/// # Panics
/// As [`crate::conv::direct::backward_weights`], or if `cpu` does not prove AMX.
pub fn backward_weights(
    cpu: Cpu,
    shape: &Conv2dShape,
    x: Blocks<'_, bf16>,
    dy: Blocks<'_, bf16>,
    panels: Range<usize>,
    accumulate: Accumulate,
    dweights: &mut [f32],
) {
    check_blocks(shape, &x, &dy, &panels, dweights);
    let add = adds_from_the_start(shape, accumulate, x.count, dweights);
    if x.count == 0 {
        return;
    }
    with_tiles(cpu, Depth::ThirtyTwo, Registers::Square, ROWS, |tiles| {
        let mut sum = TileSum { cpu, shape, panels, add, dweights, tiles };
        // SAFETY: `check_blocks` has compared the lengths with the shape.
        unsafe {
            if kernel_rows_fit(shape) {
                kernel_rows::add_blocks(&mut sum, x, dy);
            } else {
                tap_by_tap::add_blocks(&mut sum, x, dy);
            }
        }
    });
}

/// [`crate::conv::direct::backward_weights_of_block`] in bf16 on AMX.
///
/// Tensors of 28x28 pixels of 64 channels exceed L2. Compared with repacking them as a whole, they are written and read once
/// less, which saves a fifth of the time.
///
/// # Panics
/// As [`crate::conv::direct::backward_weights_of_block`], or if `cpu` does not prove AMX.
pub fn backward_weights_of_block(
    cpu: Cpu,
    shape: &Conv2dShape,
    [x, dy]: [&[bf16]; 2],
    [x_rows, dy_rows]: [&mut [bf16]; 2],
    accumulate: Accumulate,
    dweights: &mut [f32],
) {
    assert_padded(shape.input.channel_stride);
    check_block(shape, [x.len(), dy.len()], [x_rows.len(), dy_rows.len()], dweights);
    let add = adds_from_the_start(shape, accumulate, 1, dweights);
    with_tiles(cpu, Depth::ThirtyTwo, Registers::Square, ROWS, |tiles| {
        let mut sum = TileSum { cpu, shape, panels: 0..shape.panels(), add, dweights, tiles };
        let block = BlockOperands { x, dy, x_rows, dy_rows };
        // SAFETY: `check_block` has compared the lengths of tensors and buffers with the shape.
        unsafe {
            if kernel_rows_fit(shape) {
                add_block::<ByKernelRows, _, _>(&mut sum, block);
            } else {
                add_block::<TapByTap, _, _>(&mut sum, block);
            }
        }
    });
}

/// Whether even the first sums add to the gradient. If it is to be overwritten and the first sums cover all of it, they overwrite
/// it; otherwise it is set to zero here. Gradients of 9 MB, larger than L2, are thus written once less, and 3x3 pixels of 512
/// channels take a sixth less time.
fn adds_from_the_start(shape: &Conv2dShape, accumulate: Accumulate, blocks: usize, dweights: &mut [f32]) -> bool {
    if accumulate == Accumulate::Add {
        return true;
    }
    let covers_all = if kernel_rows_fit(shape) {
        let first = 0..rows_per_sum(shape);
        (0..shape.kernel[0]).all(|ky| !shape.rows_with_tap(ky, &first).is_empty())
    } else {
        // A dense layer has one sum for each weight.
        shape.output.height * shape.output.width == 1 && shape.has_all_taps()
    };
    if covers_all && blocks > 0 {
        return false;
    }
    dweights.fill(0.0);
    true
}

/// Whether rows of taps are summed, and not one tap at a time.
fn kernel_rows_fit(shape: &Conv2dShape) -> bool {
    SlidingRows::fit(shape, Direction::Forward)
}

struct TileSum<'a> {
    cpu: Cpu,
    shape: &'a Conv2dShape,
    panels: Range<usize>,
    /// Whether the first sums add to the gradient too.
    add: bool,
    dweights: &'a mut [f32],
    tiles: &'a Tiles,
}

impl GradientSum for TileSum<'_> {
    type Element = bf16;

    fn shape(&self) -> &Conv2dShape {
        self.shape
    }

    fn panels(&self) -> Range<usize> {
        self.panels.clone()
    }
}

impl TapSum for TileSum<'_> {
    /// With fewer, the sums are loaded and stored more often; more evict X and dY from L1. From 7 on it makes no difference,
    /// except for 16 channels, where 14 pixels are a fifth faster.
    const PIXELS: usize = 14;
    const CHANNELS: usize = 2 * ROWS;

    #[inline(always)]
    fn panels_per_call(&self, panel: usize) -> usize {
        2.min(self.panels.end - panel)
    }

    /// Up to 32 input channels and two panels: four tiles of the gradient.
    #[inline(always)]
    unsafe fn add(&mut self, x: RepackedRows<'_, bf16>, dy: RepackedRows<'_, bf16>, tap: &Tap) {
        const BYTES: isize = size_of::<bf16>() as isize;
        let Conv2dShape { input, kernel, stride, padding, .. } = *self.shape;
        let &Tap { y, ref columns, ky, kx, panel, channel } = tap;
        let channels = input.channel_stride;
        let panel_len = self.shape.panel_len();
        let x_at = x.offset(y * stride + ky - padding[0], columns.start * stride + kx - padding[1], channel / PANEL);
        let dy_at = dy.offset(y, columns.start, panel);
        let first_panel = panel - self.panels.start;
        let weight = first_panel * panel_len + ((ky * kernel[1] + kx) * channels + channel) * PANEL;
        let two_rows = channel + 2 * ROWS <= channels;
        let two_panels = panel + 2 <= self.panels.end;
        // SAFETY: the caller's promise; the tiles' channels and panels lie below the channel stride and the end of the panels.
        unsafe {
            let mut gemm = TileGemm {
                a: x.blocks.data.as_ptr().add(x_at),
                b: dy.blocks.data.as_ptr().add(dy_at),
                c: self.dweights.as_mut_ptr().add(weight),
                a_row: BLOCK * BYTES as usize,
                a_second: x.panel * BYTES as usize,
                b_second: dy.panel * BYTES as usize,
                c_row: PANEL * size_of::<f32>(),
                c_second_a: ROWS * PANEL * size_of::<f32>(),
                c_second_b: panel_len * size_of::<f32>(),
                add: usize::from(self.add),
                count: [0; 3],
                a_step: [0; 3],
                b_step: [0; 3],
            };
            gemm.set_runs(
                [1, x.blocks.count, columns.len()],
                [0, x.blocks.stride as isize * BYTES, (stride * TILE) as isize * BYTES],
                [0, dy.blocks.stride as isize * BYTES, TILE as isize * BYTES],
            );
            match (two_rows, two_panels) {
                (true, true) => gemm.run::<2, 2>(self.tiles),
                (true, false) => gemm.run::<2, 1>(self.tiles),
                (false, true) => gemm.run::<1, 2>(self.tiles),
                (false, false) => gemm.run::<1, 1>(self.tiles),
            }
        }
    }
}

impl KernelRowSum for TileSum<'_> {
    #[inline(always)]
    unsafe fn add_kernel_row(
        &mut self,
        x: RepackedRows<'_, bf16>,
        dy: RepackedRows<'_, bf16>,
        row: &KernelRow,
        prefetcher: &mut Prefetcher,
    ) {
        let &KernelRow { ref rows, tiles, next, is_first } = row;
        let (GradientTiles { ky, panel, channel }, shape) = (tiles, self.shape);
        let tap = shape.input.channel_stride * PANEL;
        let weight = |GradientTiles { ky, panel, channel }: GradientTiles| {
            (panel - self.panels.start) * shape.panel_len() + ky * shape.kernel[1] * tap + channel * PANEL
        };
        let first = -(shape.padding[1] as isize);
        let last = first + (shape.output.width + shape.kernel[1]) as isize - 2;
        let outside = outside(first, last, shape.input.width);
        let bytes = |elements: usize| (elements * size_of::<bf16>()) as isize;
        let mut y = rows.start;
        while y < rows.end {
            // Rows that are adjacent in both rings.
            let x_row = y + ky - shape.padding[0];
            let count = (rows.end - y).min(x.ring - x_row % x.ring).min(dy.ring - y % dy.ring);
            let block_step = |of: &RepackedRows<'_, bf16>| bytes(of.blocks.stride) - count as isize * bytes(of.row);
            let a = x.offset(x_row, 0, channel / PANEL) as isize + first * TILE as isize;
            let count = [x.blocks.count, count, shape.output.width];
            let (prefetch, prefetch_lines) = prefetcher.next(TapRowGemm::prefetch_points(count, outside));
            let mut gemm = TapRowGemm {
                a: x.blocks.data.as_ptr().wrapping_offset(a),
                b: dy.blocks.data.as_ptr().wrapping_add(dy.offset(y, 0, panel)),
                c: self.dweights.as_mut_ptr().wrapping_add(weight(tiles)),
                c_tap: tap * size_of::<f32>(),
                count,
                a_step: [bytes(x.row), block_step(&x)],
                b_step: [bytes(dy.row), block_step(&dy)],
                outside,
                next_c: self.dweights.as_ptr().wrapping_add(weight(next)),
                prefetch,
                prefetch_lines,
                add: usize::from(self.add || !is_first || y > rows.start),
                remaining: 0,
            };
            // SAFETY: the caller's promise; of the columns' taps at most one on either side falls on the padding
            // (`SlidingRows::fit`), and that one is left out. The gradient has the three taps of a panel.
            unsafe { gemm.run(self.tiles) }
            y += count[1];
        }
    }
}

impl Repack<bf16> for TileSum<'_> {
    fn repack_x(&self, from: &[bf16], to: &mut [bf16]) {
        transpose_pixels(self.cpu, &self.shape.input, from, to);
    }

    fn repack_dy(&self, from: &[bf16], to: &mut [bf16]) {
        pair_pixels(self.cpu, &self.shape.output, from, to);
    }
}
