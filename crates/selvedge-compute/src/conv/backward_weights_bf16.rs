//! The gradient of the weights on AMX, summed over pixels and images.
//!
//! Both tiles of a product are contiguous and aligned, and one product sums over a block's 32 images: X is transposed to
//! `[pixel][channel][image]` and dY regrouped in pairs of images before ([`super::regroup`]). A block alone
//! ([`backward_weights_of_block_bf16`]) has that done row by row, in memory that stays in the second cache; where the
//! gradient is cut by panels over many blocks ([`backward_weights_bf16`]), all pieces read what was regrouped once.

use std::ops::Range;

use half::bf16;

use super::regroup::{pair_pixels, transpose_pixels};
use super::{Blocks, Conv2dShape, Onto, PANEL};
use crate::amx::{Depth, Job, ROWS, Tiles, with_tiles};
use crate::cpu::Cpu;
use crate::layout::BLOCK;

/// Pixels, times blocks, that a tile's sum runs over before it is stored.
///
/// Fewer load and store the sums more often; more push X and dY out of the first cache. From 7 on it makes no difference
/// but for 16 channels, where 14 pixels are a fifth faster.
const PIXELS: usize = 14;

/// The gradient of panels `panels` over all blocks, in bf16 on AMX: `xᵀ ∗ dy`, added to `dweights` or in its place.
///
/// `x` is regrouped by [`super::regroup::transpose_images`], `dy` by [`super::regroup::pair_images`]; `dweights` is
/// exactly these panels in f32, as in [`super::backward_weights`].
///
/// # Panics
/// As [`super::backward_weights`], if the input's channels are not padded, or if `cpu` does not prove AMX.
pub fn backward_weights_bf16(
    cpu: Cpu,
    shape: &Conv2dShape,
    x: Blocks<'_, bf16>,
    dy: Blocks<'_, bf16>,
    panels: Range<usize>,
    onto: Onto,
    dweights: &mut [f32],
) {
    x.check(shape.input.len(), "x");
    dy.check(shape.output.len(), "dy");
    assert_eq!(x.count, dy.count, "blocks of x and of dy");
    assert!(panels.start <= panels.end && panels.end <= shape.panels(), "panels {panels:?} of {}", shape.panels());
    assert_eq!(dweights.len(), panels.len() * shape.panel_len(), "the gradient's length and that of panels {panels:?}");
    let add = start(shape, onto, x.count, dweights);
    if x.count > 0 {
        with_tiles(cpu, Depth::ThirtyTwo, |tiles| {
            let mut sum = Sum { shape, panels, add, dweights, tiles };
            for y in 0..shape.output.height {
                sum.row(
                    y,
                    Rows { blocks: x, ring: shape.input.height },
                    Rows { blocks: dy, ring: shape.output.height },
                );
            }
        });
    }
}

/// The elements of the two buffers of [`backward_weights_of_block_bf16`]: the rows of X that a row of dY meets, and
/// that row of dY.
pub fn row_buffers(shape: &Conv2dShape) -> [usize; 2] {
    [rows_of_x(shape) * shape.input.row(), shape.output.row()]
}

fn rows_of_x(shape: &Conv2dShape) -> usize {
    shape.kernel[0].min(shape.input.height)
}

/// The gradient of one block's `x` and `dy`, as they lie, in bf16 on AMX: `xᵀ ∗ dy`, added to `dweights` or in its place.
///
/// `buffers` are of any content and of the lengths of [`row_buffers`]. Against regrouping both tensors as a whole, those
/// of 28x28 pixels of 64 channels, larger than the second cache, are read and written once less.
///
/// # Panics
/// If a slice is not as long as the shape says, with both lengths, before anything is written; if the input's channels are
/// not padded, or if `cpu` does not prove AMX.
pub fn backward_weights_of_block_bf16(
    cpu: Cpu,
    shape: &Conv2dShape,
    [x, dy]: [&[bf16]; 2],
    [x_rows, dy_row]: [&mut [bf16]; 2],
    onto: Onto,
    dweights: &mut [f32],
) {
    let Conv2dShape { input, output, stride, padding, .. } = *shape;
    assert_eq!(x.len(), input.len(), "x's length and that of {input:?}");
    assert_eq!(dy.len(), output.len(), "dy's length and that of {output:?}");
    assert_eq!([x_rows.len(), dy_row.len()], row_buffers(shape), "the buffers' lengths and those of {shape:?}");
    assert_eq!(dweights.len(), shape.weights_len(), "the gradient's length and that of {shape:?}");
    let add = start(shape, onto, 1, dweights);
    let ring = rows_of_x(shape);
    // The first row of X that is not transposed yet.
    let mut next = 0;
    with_tiles(cpu, Depth::ThirtyTwo, |tiles| {
        let mut sum = Sum { shape, panels: 0..shape.panels(), add, dweights, tiles };
        for y in 0..output.height {
            let ys = shape.rows_of(y);
            if ys.count == 0 {
                continue;
            }
            let first = y * stride + ys.tap - padding[0];
            for row in next.max(first)..first + ys.count {
                let to = &mut x_rows[row % ring * input.row()..][..input.row()];
                transpose_pixels(cpu, &input, &x[row * input.row()..][..input.row()], to);
            }
            next = first + ys.count;
            pair_pixels(cpu, &output, &dy[y * output.row()..][..output.row()], dy_row);
            let rows_of = |data, ring| Rows { blocks: Blocks::one(data), ring };
            sum.row(y, rows_of(x_rows, ring), rows_of(dy_row, 1));
        }
    });
}

/// Clears the gradient if nothing is to be added to and the sums do not begin at zero by themselves; whether they add.
fn start(shape: &Conv2dShape, onto: Onto, blocks: usize, dweights: &mut [f32]) -> bool {
    let stride = shape.input.channel_stride;
    assert!(stride.is_multiple_of(PANEL), "a channel stride of {stride}: this kernel needs multiples of {PANEL}");
    // A dense layer meets each weight in one sum.
    let starts_at_zero = onto == Onto::Nothing && shape.output.height * shape.output.width == 1 && shape.sees_all();
    if onto == Onto::Nothing && (!starts_at_zero || blocks == 0) {
        dweights.fill(0.0);
    }
    !starts_at_zero
}

/// Rows of pixels of blocks, of which `ring` are kept, each at its number modulo `ring`.
#[derive(Clone, Copy)]
struct Rows<'a> {
    blocks: Blocks<'a, bf16>,
    ring: usize,
}

struct Sum<'a> {
    shape: &'a Conv2dShape,
    panels: Range<usize>,
    add: bool,
    dweights: &'a mut [f32],
    tiles: &'a Tiles,
}

impl Sum<'_> {
    /// Adds what output row `y` brings.
    fn row(&mut self, y: usize, x: Rows<'_>, dy: Rows<'_>) {
        let (output, kernel) = (self.shape.output, self.shape.kernel);
        let chunk = PIXELS.div_ceil(x.blocks.count);
        let ys = self.shape.rows_of(y);
        for start in (0..output.width).step_by(chunk) {
            let columns = start..(start + chunk).min(output.width);
            for panel in self.panels.clone().step_by(2) {
                // All taps of a pair of tiles before the next channels: dY and these channels of X stay in the first
                // cache, which is worth a tenth from 128 channels on.
                for channel in (0..self.shape.input.channel_stride).step_by(2 * ROWS) {
                    for ky in ys.tap..ys.tap + ys.count {
                        for kx in 0..kernel[1] {
                            let seen = self.shape.columns_seeing(kx, &columns);
                            if !seen.is_empty() {
                                self.tap([x, dy], y, [ky, kx], &seen, panel, channel);
                            }
                        }
                    }
                }
            }
        }
    }

    /// Output pixels `columns` of row `y` through one tap: up to 32 input channels from `channel` on, up to two panels
    /// from `panel` on.
    #[inline(always)]
    fn tap(
        &mut self,
        [x, dy]: [Rows<'_>; 2],
        y: usize,
        [ky, kx]: [usize; 2],
        columns: &Range<usize>,
        panel: usize,
        channel: usize,
    ) {
        const BYTES: isize = size_of::<bf16>() as isize;
        let Conv2dShape { input, output, kernel, stride, padding } = *self.shape;
        let channels = input.channel_stride;
        let panel_len = self.shape.panel_len();
        let x_row = (y * stride + ky - padding[0]) % x.ring;
        let x_at = input.offset(x_row, columns.start * stride + kx - padding[1], 0) + channel * BLOCK;
        let dy_at = output.offset(y % dy.ring, columns.start, 0) + panel * BLOCK * PANEL;
        let first_panel = panel - self.panels.start;
        let tap = first_panel * panel_len + (ky * kernel[1] + kx) * channels * PANEL;
        let two_rows = channel + 2 * ROWS <= channels;
        let two_panels = panel + 2 <= self.panels.end;
        // SAFETY: the entries compared all lengths with the shape and the rings; ky and kx lie on the image for these
        // columns; the tiles' channels and panels lie below the strides and the panels asked for.
        unsafe {
            let mut job = Job {
                a: x.blocks.data.as_ptr().add(x_at),
                b: dy.blocks.data.as_ptr().add(dy_at),
                c: self.dweights.as_mut_ptr().add(tap + channel * PANEL),
                a_row: BLOCK * BYTES as usize,
                a_second: ROWS * BLOCK * BYTES as usize,
                b_second: BLOCK * PANEL * BYTES as usize,
                c_row: PANEL * size_of::<f32>(),
                c_second_a: ROWS * PANEL * size_of::<f32>(),
                c_second_b: panel_len * size_of::<f32>(),
                add: usize::from(self.add),
                count: [0; 3],
                a_step: [0; 3],
                b_step: [0; 3],
            };
            job.set_runs(
                [1, x.blocks.count, columns.len()],
                [0, x.blocks.stride as isize * BYTES, (stride * input.pixel()) as isize * BYTES],
                [0, dy.blocks.stride as isize * BYTES, output.pixel() as isize * BYTES],
            );
            match (two_rows, two_panels) {
                (true, true) => job.run::<2, 2>(self.tiles),
                (true, false) => job.run::<2, 1>(self.tiles),
                (false, true) => job.run::<1, 2>(self.tiles),
                (false, false) => job.run::<1, 1>(self.tiles),
            }
        }
    }
}
