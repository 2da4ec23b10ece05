//! The gradient of the weights of a first layer in f32. Its few channels are not padded: the rows of a tile are taps and channels
//! together, read in place.

use crate::conv::direct::GradientTile;
use crate::conv::direct::microkernel::accumulate_rows;
use crate::conv::weight_gradient::check_block;
use crate::conv::{Accumulate, Conv2dShape, PANEL};
use crate::cpu::Cpu;
use crate::layout::BLOCK;
use crate::simd::{Element, Kernel, Simd, dispatch};

/// The most channels of an input without padding, and what [`ZEROS`] holds for each image.
const MAX_INPUT_CHANNELS: usize = PANEL - 1;

/// The pixel of a block that a tap on the padding reads.
pub(in crate::conv) static ZEROS: [f32; BLOCK * MAX_INPUT_CHANNELS] = [0.0; BLOCK * MAX_INPUT_CHANNELS];

/// The gradient of the weights over one block, for an input whose channels are not padded: `xᵀ ∗ dy`, which is added to
/// `dweights` or overwrites it.
///
/// # Panics
/// If the input has more than 15 channels, or a slice is not as long as the shape says, with both lengths, before anything is
/// written.
pub fn backward_weights<E: Element>(
    cpu: Cpu,
    shape: &Conv2dShape,
    x: &[f32],
    dy: &[E],
    accumulate: Accumulate,
    dweights: &mut [f32],
) {
    let channels = shape.input.channel_stride;
    assert!(channels <= MAX_INPUT_CHANNELS, "{channels} channels that are not padded");
    check_block(shape, [x.len(), dy.len()], [0; 2], dweights);
    if accumulate == Accumulate::Overwrite {
        dweights.fill(0.0);
    }
    dispatch(cpu, InputSum { x, dy, gradient: GradientTile { shape, panels: 0..shape.panels(), dweights } });
}

/// The gradient over one block.
struct InputSum<'a, E> {
    x: &'a [f32],
    dy: &'a [E],
    gradient: GradientTile<'a>,
}

impl<E: Element> Kernel for InputSum<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let panels = self.gradient.panels.clone();
        for y in 0..self.gradient.shape.output.height {
            let (mut filter, end) = (panels.start * PANEL, panels.end * PANEL);
            while filter < end {
                if S::LANES < PANEL || filter + 2 * S::LANES <= end {
                    self.taps::<S, 2>(s, y, filter);
                    filter += 2 * S::LANES;
                } else {
                    self.taps::<S, 1>(s, y, filter);
                    filter += S::LANES;
                }
            }
        }
    }
}

impl<E: Element> InputSum<'_, E> {
    /// All taps and channels for VECTORS vectors of filters from `filter` on, over one row of pixels. Nine rows of two vectors
    /// are a kernel of 3 × 3 taps, and 18 sums.
    #[inline(always)]
    fn taps<S: Simd, const VECTORS: usize>(&mut self, s: S, y: usize, filter: usize) {
        let rows = self.gradient.shape.taps() * self.gradient.shape.input.channels;
        let mut row = 0;
        while row < rows {
            match rows - row {
                9.. => row += self.tap_rows::<S, 9, VECTORS>(s, y, filter, row),
                4.. => row += self.tap_rows::<S, 4, VECTORS>(s, y, filter, row),
                _ => row += self.tap_rows::<S, 1, VECTORS>(s, y, filter, row),
            }
        }
    }

    /// ROWS rows of the tile from `row` on.
    #[inline(always)]
    fn tap_rows<S: Simd, const ROWS: usize, const VECTORS: usize>(
        &mut self,
        s: S,
        y: usize,
        filter: usize,
        row: usize,
    ) -> usize {
        let Conv2dShape { input, output, kernel, stride, padding } = *self.gradient.shape;
        let channels = input.channels;
        let panel = filter / PANEL - self.gradient.panels.start;
        let at = (panel * self.gradient.shape.taps() * channels + row) * PANEL + filter % PANEL;
        let taps: [[usize; 3]; ROWS] = std::array::from_fn(|r| {
            let (tap, channel) = ((row + r) / channels, (row + r) % channels);
            [tap / kernel[1], tap % kernel[1], channel]
        });
        // SAFETY: `check_block` compared all lengths with the shape. A tap on the image is read there, one on the padding from
        // ZEROS, which holds the channels of every image.
        unsafe {
            let mut acc = self.gradient.load::<S, ROWS, VECTORS>(s, at);
            for column in 0..output.width {
                let a = taps.map(|[ky, kx, channel]| {
                    let (iy, ix) =
                        ((y * stride + ky).wrapping_sub(padding[0]), (column * stride + kx).wrapping_sub(padding[1]));
                    if iy < input.height && ix < input.width {
                        self.x.as_ptr().add(input.offset(iy, ix) + channel)
                    } else {
                        ZEROS.as_ptr()
                    }
                });
                let dy = self.dy.as_ptr().add(output.offset(y, column) + output.channel(filter));
                accumulate_rows(s, a, channels, dy, [output.plane(), output.channel(PANEL)], BLOCK, &mut acc);
            }
            self.gradient.store(s, at, &acc);
        }
        ROWS
    }
}
