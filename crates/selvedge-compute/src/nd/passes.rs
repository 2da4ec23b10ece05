//! [`Passes`]: the three passes of a convolution over a batch in blocks, cut over the threads of rayon's current pool.
//!
//! Blocks are computed in parallel, and cut by rows of pixels where there are fewer of them than threads. The gradient of the
//! weights is summed by groups of blocks, whose number depends on the batch alone, or, where the weights are larger than the
//! activations, by panels over all blocks: so its bits do not depend on the threads.

use std::ops::Range;

use ndarray::{Array1, Array4, ArrayView4};
use rayon::prelude::*;

use super::blocks::BlockTensor;
use super::conv::WeightGradients;
use crate::conv::direct::{self, repack};
use crate::conv::winograd::{Share, Winograd};
use crate::conv::{Accumulate, Blocks, Conv2dShape, Epilogue, PANEL, Part, backward_bias, pack, row_buffers};
use crate::layout::BLOCK;
use crate::{AlignedVec, Cpu, scratch, sum};

/// The most groups of blocks that a gradient is summed by.
const MAX_GROUPS: usize = 16;

/// Multiply-adds that are worth another thread, which takes some tens of microseconds to wake.
const WORTH_A_THREAD: usize = 8 << 20;

/// A convolution of this shape.
pub(super) struct Passes {
    cpu: Cpu,
    shape: Conv2dShape,
    winograd: Option<Winograd>,
}

impl Passes {
    pub(super) fn new(cpu: Cpu, shape: Conv2dShape) -> Self {
        Self { cpu, shape, winograd: Winograd::of(&shape) }
    }

    /// Logical weights `[kh, kw, in, out]` in panels.
    pub(super) fn panels(&self, weights: ArrayView4<'_, f32>) -> AlignedVec<f32> {
        let mut panels = AlignedVec::zeroed(self.shape.weights_len());
        let weights = weights.as_standard_layout();
        pack::to_panels(&self.shape, weights.as_slice().expect("the standard layout is one slice"), &mut panels);
        panels
    }

    /// y = x ∗ weights + bias; images that are not there are left as they are.
    pub(super) fn forward(&self, x: &BlockTensor<f32>, panels: &[f32], bias: Option<&[f32]>, y: &mut BlockTensor<f32>) {
        let (cpu, shape, epilogue) = (self.cpu, &self.shape, Epilogue { bias, relu: false });
        let pieces = self.pieces(x.count());
        let transformed = self.winograd.map(|winograd| {
            let mut transformed = AlignedVec::zeroed(winograd.weights_len());
            let to = transformed.par_chunks_exact_mut(winograd.weights_len() / shape.panels());
            to.zip(panels.par_chunks_exact(shape.panel_len()))
                .for_each(|(to, panel)| winograd.transform_weights(cpu, panel, to));
            (winograd, transformed)
        });
        y.as_mut_slice().par_chunks_exact_mut(shape.output.len()).enumerate().for_each(|(block, y)| {
            let (x, images) = (x.block(block), x.valid(block));
            if let Some((winograd, weights)) = &transformed {
                return winograd.forward(cpu, x, weights, epilogue, Share { images, pieces }, y);
            }
            for_rows(shape.output.height, shape.output.row(), pieces, y, |rows, y| {
                direct::forward(cpu, shape, x, panels, epilogue, Part { rows, images }, y);
            });
        });
    }

    /// dx = dy ∗ weights transposed.
    pub(super) fn backward_data(&self, dy: &BlockTensor<f32>, panels: &[f32], dx: &mut BlockTensor<f32>) {
        let (cpu, shape) = (self.cpu, &self.shape);
        let (pieces, len) = (
            self.pieces(dy.count()),
            self.winograd.map_or(shape.transposed_len(), |winograd| winograd.transposed_len()),
        );
        let mut transposed = AlignedVec::zeroed(len);
        let panel_len = len / (shape.input.channel_stride / PANEL);
        transposed.par_chunks_exact_mut(panel_len).enumerate().for_each(|(panel, to)| match self.winograd {
            Some(winograd) => winograd.transpose_weights(cpu, panels, panel, to),
            None => pack::transpose_panel(shape, panels, panel, to),
        });
        dx.as_mut_slice().par_chunks_exact_mut(shape.input.len()).enumerate().for_each(|(block, dx)| {
            let dy = dy.block(block);
            if let Some(winograd) = &self.winograd {
                return winograd.backward_data(cpu, dy, &transposed, pieces, dx);
            }
            for_rows(shape.input.height, shape.input.row(), pieces, dx, |rows, dx| {
                direct::backward_data(cpu, shape, dy, &transposed, rows, dx);
            });
        });
    }

    /// The gradients of weights and bias; images that are not there have a dy of zero.
    pub(super) fn backward_weights(&self, x: &BlockTensor<f32>, dy: &BlockTensor<f32>) -> WeightGradients {
        let shape = &self.shape;
        let mut panels = AlignedVec::zeroed(shape.weights_len());
        let is_padded = shape.input.channel_stride.is_multiple_of(PANEL);
        if is_padded && shape.weights_exceed_activations(size_of::<f32>()) {
            self.sum_by_panels(x, dy, &mut panels);
        } else if x.count() > 0 {
            self.sum_by_groups(x, dy, &mut panels);
        }
        let mut dweights =
            Array4::zeros((shape.kernel[0], shape.kernel[1], shape.input.channels, shape.output.channels));
        pack::from_panels(shape, &panels, dweights.as_slice_mut().expect("a new array is one slice"));
        WeightGradients { dweights, dbias: self.backward_bias(dy) }
    }

    fn sum_by_groups(&self, x: &BlockTensor<f32>, dy: &BlockTensor<f32>, panels: &mut [f32]) {
        let (cpu, shape, blocks) = (self.cpu, &self.shape, x.count());
        let groups = blocks.min(MAX_GROUPS);
        let mut sums = AlignedVec::zeroed(groups * panels.len());
        sums.par_chunks_exact_mut(panels.len()).enumerate().for_each(|(group, sums)| {
            for block in blocks * group / groups..blocks * (group + 1) / groups {
                let (x, dy) = (x.block(block), dy.block(block));
                match &self.winograd {
                    Some(winograd) => {
                        let (x, dy) = (Blocks::one(x), Blocks::one(dy));
                        winograd.backward_weights(cpu, x, dy, 0..shape.panels(), Accumulate::Add, sums);
                    }
                    None => {
                        let [x_rows, dy_rows] = row_buffers(shape);
                        scratch::with(x_rows + dy_rows, |buffer: &mut [f32]| {
                            let buffers = buffer.split_at_mut(x_rows).into();
                            direct::backward_weights_of_block(cpu, shape, x, dy, buffers, Accumulate::Add, sums);
                        });
                    }
                }
            }
        });
        let parts = panels.par_chunks_exact_mut(shape.panel_len()).enumerate();
        parts.for_each(|(panel, to)| {
            sum::add_up(cpu, &sums[panel * shape.panel_len()..], shape.weights_len(), groups, to);
        });
    }

    fn sum_by_panels(&self, x: &BlockTensor<f32>, dy: &BlockTensor<f32>, panels: &mut [f32]) {
        /// Two panels fill the registers of AVX-512.
        const AT_ONCE: usize = 2;
        let (cpu, shape) = (self.cpu, &self.shape);
        let repacked = match &self.winograd {
            Some(_) => None,
            None => Some((to_planes(cpu, x), to_planes(cpu, dy))),
        };
        let (x_blocks, dy_blocks) = match &repacked {
            Some((x, dy)) => (&x[..], &dy[..]),
            None => (x.as_slice(), dy.as_slice()),
        };
        let x = Blocks { data: x_blocks, stride: shape.input.len(), count: x.count() };
        let dy = Blocks { data: dy_blocks, stride: shape.output.len(), count: dy.count() };
        panels.par_chunks_mut(AT_ONCE * shape.panel_len()).enumerate().for_each(|(number, to)| {
            let first = number * AT_ONCE;
            let panels = first..first + to.len() / shape.panel_len();
            match &self.winograd {
                Some(winograd) => winograd.backward_weights(cpu, x, dy, panels, Accumulate::Overwrite, to),
                None => direct::backward_weights(cpu, shape, x, dy, panels, Accumulate::Overwrite, to),
            }
        });
    }

    fn backward_bias(&self, dy: &BlockTensor<f32>) -> Array1<f32> {
        let (cpu, shape) = (self.cpu, &self.shape.output);
        let mut sums = AlignedVec::zeroed(shape.channel_stride * dy.count());
        sums.par_chunks_exact_mut(shape.channel_stride).enumerate().for_each(|(block, sums)| {
            backward_bias(cpu, shape, dy.block(block), sums);
        });
        let mut dbias = Array1::zeros(shape.channels);
        for of_block in sums.chunks_exact(shape.channel_stride) {
            dbias.iter_mut().zip(of_block).for_each(|(sum, of_block)| *sum += of_block);
        }
        dbias
    }

    /// In how many pieces each of `blocks` blocks is computed.
    fn pieces(&self, blocks: usize) -> usize {
        let most = rayon::current_num_threads().div_ceil(blocks.max(1));
        let multiply_adds =
            self.winograd.map_or_else(|| self.shape.multiply_adds(), |winograd| winograd.multiply_adds());
        most.min(multiply_adds * BLOCK / WORTH_A_THREAD).max(1)
    }
}

/// Calls `run` with up to `pieces` parts of the rows of a block, each of `row` elements.
fn for_rows(
    height: usize,
    row: usize,
    pieces: usize,
    block: &mut [f32],
    run: impl Fn(Range<usize>, &mut [f32]) + Sync,
) {
    let rows = height.div_ceil(pieces);
    let parts = block.par_chunks_mut(rows * row).enumerate();
    parts.for_each(|(number, part)| run(number * rows..number * rows + part.len() / row, part));
}

/// Each block in the form that the gradient of the weights reads.
fn to_planes(cpu: Cpu, tensor: &BlockTensor<f32>) -> AlignedVec<f32> {
    let shape = tensor.shape();
    let mut planes = AlignedVec::zeroed(tensor.as_slice().len());
    let blocks = planes.par_chunks_exact_mut(shape.len()).zip(tensor.as_slice().par_chunks_exact(shape.len()));
    blocks.for_each(|(to, from)| repack::to_planes(cpu, &shape, from, to));
    planes
}
