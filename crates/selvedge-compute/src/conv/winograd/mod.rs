//! Convolutions of 3x3 weights in f32 by Winograd's algorithm: 2.25 multiply-adds per result and channel instead of 9.
//!
//! A tile of the input is transformed to 6 × 6 values, one for each pair of points (`transform.rs`). At each point, the
//! convolution is a matrix product, and the products are transformed to a tile of 4 × 4 results. At one point, a tile of a block
//! is a matrix with a row for each image, so the microkernel is that of the direct convolution
//! (`direct/microkernel.rs`).
//!
//! | pass | at each point | transforms |
//! |---|---|---|
//! | forward | M\[image\]\[out\] = V\[image\]\[in\] · U\[in\]\[out\] | V = Bᵀ x B, y = Aᵀ M A |
//! | backward data | the same with the weights rotated by 180° and transposed | of dy, to dx |
//! | backward weights | dU\[in\]\[out\] = Vᵀ\[in\]\[image\] · Z\[image\]\[out\] | V = Bᵀ x B, Z = A dy Aᵀ, dW = Gᵀ dU G |
//!
//! U = G W Gᵀ is computed once per step, in panels like the weights: `[out/16][point][in][16]`.
//!
//! Tiles lie on a grid that starts at the first pixel, and each result is summed in the same order in any chunk. So its bits do
//! not depend on how many images are computed or on how threads partition a block (`partition.rs`).

mod f3;
mod f4;
mod gradient;
mod outputs;
mod partition;
mod products;
mod source;
mod transform;
mod weights;

use std::ops::Range;

use super::{Accumulate, Blocks, Conv2dShape, Epilogue, MAX_WINDOW, PANEL, PooledOutput};
use crate::conv::pooled::pooled_shape;
use crate::cpu::Cpu;
use crate::layout::{BLOCK, BlockShape};
use crate::scratch;
use crate::simd::{Element, dispatch};

use f3::F3;
use f4::F4;
use gradient::GradientPass;
use outputs::{Outputs, Pooled, Unpooled};
use partition::Partition;
use products::TilePass;
use source::Source;
use weights::{Rotation, Transformed};

/// Winograd's algorithm for a shape.
///
/// ```
/// use selvedge_compute::conv::{Conv2dShape, Epilogue, pack, winograd::{Share, Winograd}};
/// use selvedge_compute::{BlockShape, Cpu};
/// let (cpu, shape) = (Cpu::detect()?, Conv2dShape::same(BlockShape::new(4, 4, 1), 1, [3, 3], 1));
/// let winograd = Winograd::of(&shape).expect("3x3 weights, padded channels");
/// let mut panels = vec![0.0; shape.weights_len()];
/// pack::to_panels(&shape, &[1.0; 9], &mut panels);
/// let mut weights = vec![0.0; winograd.weights_len()];
/// winograd.transform_weights(cpu, &panels, &mut weights);
/// let (x, mut y) = (vec![1.0; shape.input.len()], vec![0.0; shape.output.len()]);
/// winograd.forward(cpu, &x, &weights, Epilogue::NONE, Share::ALL, &mut y);
/// // The sum over the 3x3 neighbourhood: 4 pixels at a corner, 9 in the middle.
/// assert!((y[0] - 4.0).abs() < 1e-5 && (y[shape.output.offset(1, 1)] - 9.0).abs() < 1e-5);
/// # Ok::<(), selvedge_compute::CpuError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Winograd {
    shape: Conv2dShape,
    tile: TileSize,
}

/// How many images of a block a pass computes, and in how many chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// How many images, from 1 to [`BLOCK`]; the results of the others are undefined.
    pub images: usize,
    /// Into how many chunks the pass is partitioned over the threads of the current rayon pool. There may be a few more, or fewer
    /// for small tensors.
    pub chunks: usize,
}

impl Share {
    /// All images, in one chunk.
    pub const ALL: Self = Self { images: BLOCK, chunks: 1 };
}

/// The height and width of a tile of results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TileSize {
    Three,
    Four,
}

impl TileSize {
    const ALL: [Self; 2] = [Self::Four, Self::Three];

    fn results(self) -> usize {
        match self {
            Self::Three => 3,
            Self::Four => 4,
        }
    }

    fn points(self) -> usize {
        self.results() + 2
    }

    /// Tiles that cover so many rows and columns.
    fn tiles(self, [height, width]: [usize; 2]) -> usize {
        height.div_ceil(self.results()) * width.div_ceil(self.results())
    }
}

impl Winograd {
    /// The algorithm for the three passes of `shape`, if it fits: 3x3 weights at stride 1, padded channels, and an image large
    /// enough that few results of its tiles are discarded. Of the tile sizes, the one with the fewest products.
    pub fn of(shape: &Conv2dShape) -> Option<Self> {
        Self::for_results(shape, pixels(&shape.output), [1, 1])
    }

    /// The algorithm for [`Winograd::forward_pooled`] over windows of `window` pixels, which must divide the tiles.
    pub fn pooled(shape: &Conv2dShape, window: [usize; 2]) -> Option<Self> {
        Self::for_results(shape, outputs::pooled_pixels(&pooled_shape(shape, window), window), window)
    }

    /// [`Winograd::pooled`] if there is a window, or [`Winograd::of`].
    pub fn fused(shape: &Conv2dShape, window: Option<[usize; 2]>) -> Option<Self> {
        window.map_or_else(|| Self::of(shape), |window| Self::pooled(shape, window))
    }

    fn for_results(shape: &Conv2dShape, results: [usize; 2], window: [usize; 2]) -> Option<Self> {
        let fits = shape.kernel == [3, 3]
            && shape.stride == 1
            && shape.padding.iter().all(|&padding| padding < 3)
            && [shape.input, shape.output].iter().all(|tensor| tensor.channel_stride.is_multiple_of(PANEL));
        let holds_windows = |size: &TileSize| window.iter().all(|&w| w > 0 && size.results().is_multiple_of(w));
        let products = |size: &TileSize| size.tiles(results) * size.points().pow(2);
        let tile = TileSize::ALL.into_iter().filter(|size| fits && holds_windows(size)).min_by_key(products)?;
        // The transforms cost as much as half of the products, measured on 3x3 pixels of 512 channels. Without this, a dense
        // layer on as many pixels would be computed by tiles.
        if 3 * products(&tile) > 2 * shape.taps_on_image() {
            return None;
        }
        Some(Self { shape: *shape, tile })
    }

    /// Both tile sizes, whether they pay off or not.
    #[cfg(test)]
    pub(super) fn sizes(shape: &Conv2dShape) -> [Self; 2] {
        TileSize::ALL.map(|tile| Self { shape: *shape, tile })
    }

    /// The convolution.
    pub fn shape(&self) -> &Conv2dShape {
        &self.shape
    }

    /// Pairs of points: products per tile and pair of channels.
    pub fn points(&self) -> usize {
        self.tile.points().pow(2)
    }

    /// Height and width of a tile of results.
    pub fn tile(&self) -> usize {
        self.tile.results()
    }

    /// Elements of the transformed weights, `[out/16][point][in][16]`.
    pub fn weights_len(&self) -> usize {
        self.shape.weights_len() / self.shape.taps() * self.points()
    }

    /// Elements of the weights transformed for [`Winograd::backward_data`], `[in/16][point][out][16]`.
    pub fn transposed_len(&self) -> usize {
        self.shape.transposed_len() / self.shape.taps() * self.points()
    }

    /// Multiply-adds per image in one pass, without those of the transforms.
    pub fn multiply_adds(&self) -> usize {
        self.tile.tiles(pixels(&self.shape.output))
            * self.points()
            * self.shape.input.channels
            * self.shape.output.channels
    }

    /// Elements of [`scratch`] memory that a thread needs for the largest of the passes.
    pub fn scratch_len(&self) -> usize {
        let Conv2dShape { input, output, .. } = self.shape;
        let of_rows =
            [[&input, &output], [&output, &input]].map(|[from, to]| products::scratch_len(self.points(), from, to));
        let of_gradient = gradient::scratch_len(self.points(), &self.shape, self.shape.panels());
        of_rows[0].max(of_rows[1]).max(of_gradient).max(self.transposed_panel_len())
    }

    /// U = G W Gᵀ of whole panels of weights.
    ///
    /// # Panics
    /// If the slices are not whole panels, or not the same number of panels.
    pub fn transform_weights(&self, cpu: Cpu, panels: &[f32], to: &mut [f32]) {
        self.transform(cpu, panels, to, self.shape.input.channel_stride, Rotation::None);
    }

    fn transform(&self, cpu: Cpu, panels: &[f32], to: &mut [f32], channels: usize, rotation: Rotation) {
        weights::check(self, channels, panels.len(), to.len());
        match self.tile {
            TileSize::Three => dispatch(cpu, Transformed::<F3, 3, 5>::new(panels, to, channels, rotation)),
            TileSize::Four => dispatch(cpu, Transformed::<F4, 4, 6>::new(panels, to, channels, rotation)),
        }
    }

    /// Elements of a panel of transposed weights before they are transformed, `[tap][out][16]`.
    fn transposed_panel_len(&self) -> usize {
        self.shape.taps() * self.shape.output.channel_stride * PANEL
    }

    /// Panel `panel`, of `shape.input.channel_stride / 16`, of the weights for [`Winograd::backward_data`] from all panels.
    ///
    /// # Panics
    /// If a slice is not as long as the shape says.
    pub fn transpose_weights(&self, cpu: Cpu, panels: &[f32], panel: usize, to: &mut [f32]) {
        scratch::with(self.transposed_panel_len(), |transposed: &mut [f32]| {
            crate::conv::pack::transpose_panel(&self.shape, panels, panel, transposed);
            // In the data pass, a result sees the taps in opposite order.
            self.transform(cpu, transposed, to, self.shape.output.channel_stride, Rotation::HalfTurn);
        });
    }

    /// How many chunks [`Winograd::forward`], or with a window [`Winograd::forward_pooled`], computes if `wanted` are requested.
    pub fn forward_chunks(&self, window: Option<[usize; 2]>, wanted: usize) -> usize {
        let window = window.unwrap_or([1, 1]);
        let pixels = outputs::pooled_pixels(&pooled_shape(&self.shape, window), window);
        self.partition(&self.shape.output, pixels, wanted).count()
    }

    /// How many chunks [`Winograd::backward_data`] computes if `wanted` are requested.
    pub fn backward_data_chunks(&self, wanted: usize) -> usize {
        self.partition(&self.shape.input, pixels(&self.shape.input), wanted).count()
    }

    /// [`crate::conv::direct::forward`] of a whole block, with weights from [`Winograd::transform_weights`].
    ///
    /// # Panics
    /// If a slice is not as long as the shape says, with both lengths, before anything is written.
    pub fn forward<Y: Element>(
        &self,
        cpu: Cpu,
        x: &[f32],
        weights: &[f32],
        epilogue: Epilogue<'_>,
        share: Share,
        y: &mut [Y],
    ) {
        let outputs = Unpooled::new(&self.shape.output, epilogue, y);
        self.run(cpu, self.forward_pass(x, weights, share.images), share.chunks, outputs);
    }

    /// [`crate::conv::direct::forward_pooled`] of a whole block, with weights from [`Winograd::transform_weights`].
    ///
    /// # Panics
    /// As [`Winograd::forward`], or if this is not the algorithm for `window` ([`Winograd::pooled`]).
    pub fn forward_pooled<Y: Element>(
        &self,
        cpu: Cpu,
        x: &[f32],
        weights: &[f32],
        share: Share,
        output: PooledOutput<'_, Y>,
    ) {
        let window = output.window;
        assert!(
            window.iter().all(|&w| w > 0 && self.tile().is_multiple_of(w)) && window[0] * window[1] <= MAX_WINDOW,
            "windows of {window:?} on tiles of {} pixels",
            self.tile()
        );
        let outputs = Pooled::new(&self.shape, output);
        self.run(cpu, self.forward_pass(x, weights, share.images), share.chunks, outputs);
    }

    /// [`crate::conv::direct::backward_data`] of a whole block in `chunks` chunks ([`Share::chunks`]), with weights from
    /// [`Winograd::transpose_weights`].
    ///
    /// # Panics
    /// As [`Winograd::forward`].
    pub fn backward_data<Y: Element>(&self, cpu: Cpu, dy: &[f32], transposed: &[f32], chunks: usize, dx: &mut [Y]) {
        let outputs = Unpooled::new(&self.shape.input, Epilogue::NONE, dx);
        let source = Source { data: dy, shape: &self.shape.output, images: BLOCK };
        let padding = self.shape.padding.map(|padding| 2 - padding);
        let pass = Pass { source, weights: transposed, to: &self.shape.input, padding };
        self.run(cpu, pass, chunks, outputs);
    }

    fn forward_pass<'a>(&'a self, x: &'a [f32], weights: &'a [f32], images: usize) -> Pass<'a> {
        let Conv2dShape { input, output, padding, .. } = &self.shape;
        Pass { source: Source { data: x, shape: input, images }, weights, to: output, padding: *padding }
    }

    /// The partition of a pass that writes `pixels` of `to`.
    fn partition(&self, to: &BlockShape, pixels: [usize; 2], chunks: usize) -> Partition {
        Partition::new(self.tile.tiles(pixels), to.channel_stride / PANEL, chunks)
    }

    fn run<O: Outputs>(&self, cpu: Cpu, pass: Pass<'_>, chunks: usize, outputs: O) {
        let len = products::scratch_len(self.points(), pass.source.shape, pass.to);
        self.partition(pass.to, outputs.pixels(), chunks).for_each(|chunk| {
            // No buffer is held while a thread waits for others: meanwhile it may run another chunk, which needs one.
            scratch::with(len, |buffer: &mut [f32]| {
                // SAFETY: no two chunks of a partition have a tile and a panel in common, and no other pass has these outputs.
                unsafe {
                    match self.tile {
                        TileSize::Three => {
                            dispatch(cpu, TilePass::<_, F3, 3, 5>::new(pass, outputs, chunk, buffer));
                        }
                        TileSize::Four => {
                            dispatch(cpu, TilePass::<_, F4, 4, 6>::new(pass, outputs, chunk, buffer));
                        }
                    }
                }
            });
        });
    }

    /// [`crate::conv::direct::backward_weights`] of tensors as layers store them, without repacking.
    ///
    /// # Panics
    /// As [`crate::conv::direct::backward_weights`].
    pub fn backward_weights(
        &self,
        cpu: Cpu,
        x: Blocks<'_, f32>,
        dy: Blocks<'_, f32>,
        panels: Range<usize>,
        accumulate: Accumulate,
        dweights: &mut [f32],
    ) {
        let buffer = gradient::scratch_len(self.points(), &self.shape, panels.len());
        scratch::with(buffer, |buffer: &mut [f32]| match self.tile {
            TileSize::Three => {
                dispatch(cpu, GradientPass::<F3, 3, 5>::new(&self.shape, [x, dy], panels, accumulate, dweights, buffer))
            }
            TileSize::Four => {
                dispatch(cpu, GradientPass::<F4, 4, 6>::new(&self.shape, [x, dy], panels, accumulate, dweights, buffer))
            }
        });
    }
}

/// Rows and columns of pixels of a tensor.
fn pixels(shape: &BlockShape) -> [usize; 2] {
    [shape.height, shape.width]
}

/// The operands of the forward or the data pass.
#[derive(Clone, Copy)]
struct Pass<'a> {
    source: Source<'a>,
    /// The transformed weights.
    weights: &'a [f32],
    /// The shape of the tensor that is written.
    to: &'a BlockShape,
    /// Rows of zeros above and columns of zeros left of the source.
    padding: [usize; 2],
}
