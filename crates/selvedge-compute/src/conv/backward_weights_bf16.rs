//! [`backward_weights_bf16`]: the gradient of the weights on AMX, summed over pixels and images.
//!
//! X is transposed to `[pixel][channel][image]` and dY regrouped in pairs of images before ([`super::regroup`]), so both
//! tiles of a product are contiguous and aligned, and one product sums over a block's 32 images. The f32 tiles of the
//! gradient are loaded, added to over a few pixels whose X and dY are in the first cache, and stored.

use std::ops::Range;

use half::bf16;

use super::{Blocks, Conv2dShape, Onto, PANEL};
use crate::amx::{Depth, Job, ROWS, Tiles, with_tiles};
use crate::cpu::Cpu;
use crate::layout::BLOCK;

/// Pixels, times blocks, that a tile's sum runs over before it is stored.
const PIXELS: usize = 7;

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
    let stride = shape.input.channel_stride;
    assert!(stride.is_multiple_of(PANEL), "a channel stride of {stride}: this kernel needs multiples of {PANEL}");
    assert!(panels.start <= panels.end && panels.end <= shape.panels(), "panels {panels:?} of {}", shape.panels());
    assert_eq!(dweights.len(), panels.len() * shape.panel_len(), "the gradient's length and that of panels {panels:?}");
    // A dense layer meets each weight in one sum, which can start at zero.
    let starts_at_zero = onto == Onto::Nothing && shape.output.height * shape.output.width == 1 && shape.sees_all();
    if onto == Onto::Nothing && (!starts_at_zero || x.count == 0) {
        dweights.fill(0.0);
    }
    if x.count > 0 {
        let add = usize::from(!starts_at_zero);
        with_tiles(cpu, Depth::ThirtyTwo, |tiles| Sum { shape, x, dy, panels, add, dweights, tiles }.run());
    }
}

struct Sum<'a> {
    shape: &'a Conv2dShape,
    x: Blocks<'a, bf16>,
    dy: Blocks<'a, bf16>,
    panels: Range<usize>,
    add: usize,
    dweights: &'a mut [f32],
    tiles: &'a Tiles,
}

impl Sum<'_> {
    fn run(mut self) {
        let (output, kernel) = (self.shape.output, self.shape.kernel);
        let chunk = PIXELS.div_ceil(self.x.count);
        for y in 0..output.height {
            let ys = self.shape.rows_of(y);
            for start in (0..output.width).step_by(chunk) {
                let columns = start..(start + chunk).min(output.width);
                for panel in self.panels.clone().step_by(2) {
                    for ky in ys.tap..ys.tap + ys.count {
                        for kx in 0..kernel[1] {
                            let seen = self.shape.columns_seeing(kx, &columns);
                            if !seen.is_empty() {
                                self.tap(y, [ky, kx], &seen, panel);
                            }
                        }
                    }
                }
            }
        }
    }

    /// Output pixels `columns` of row `y` through one tap, into up to two panels from `panel` on.
    #[inline(always)]
    fn tap(&mut self, y: usize, [ky, kx]: [usize; 2], columns: &Range<usize>, panel: usize) {
        const BYTES: isize = size_of::<bf16>() as isize;
        let Conv2dShape { input, output, kernel, stride, padding } = *self.shape;
        let channels = input.channel_stride;
        let panel_len = self.shape.panel_len();
        let x = input.offset(y * stride + ky - padding[0], columns.start * stride + kx - padding[1], 0);
        let dy = output.offset(y, columns.start, 0) + panel * BLOCK * PANEL;
        let first_panel = panel - self.panels.start;
        let tap = first_panel * panel_len + (ky * kernel[1] + kx) * channels * PANEL;
        let two_panels = panel + 2 <= self.panels.end;
        let mut channel = 0;
        while channel < channels {
            let two_rows = channel + 2 * ROWS <= channels;
            // SAFETY: `backward_weights_bf16` compared all lengths with the shape; ky and kx lie on the image for these
            // columns; the tiles' channels and panels lie below the strides and the panels asked for.
            unsafe {
                let mut job = Job {
                    a: self.x.data.as_ptr().add(x + channel * BLOCK),
                    b: self.dy.data.as_ptr().add(dy),
                    c: self.dweights.as_mut_ptr().add(tap + channel * PANEL),
                    a_row: BLOCK * BYTES as usize,
                    a_second: ROWS * BLOCK * BYTES as usize,
                    b_second: BLOCK * PANEL * BYTES as usize,
                    c_row: PANEL * size_of::<f32>(),
                    c_second_a: ROWS * PANEL * size_of::<f32>(),
                    c_second_b: panel_len * size_of::<f32>(),
                    add: self.add,
                    count: [0; 3],
                    a_step: [0; 3],
                    b_step: [0; 3],
                };
                job.set_runs(
                    [1, self.x.count, columns.len()],
                    [0, self.x.stride as isize * BYTES, (stride * input.pixel()) as isize * BYTES],
                    [0, self.dy.stride as isize * BYTES, output.pixel() as isize * BYTES],
                );
                match (two_rows, two_panels) {
                    (true, true) => job.run::<2, 2>(self.tiles),
                    (true, false) => job.run::<2, 1>(self.tiles),
                    (false, true) => job.run::<1, 2>(self.tiles),
                    (false, false) => job.run::<1, 1>(self.tiles),
                }
            }
            channel += if two_rows { 2 * ROWS } else { ROWS };
        }
    }
}
