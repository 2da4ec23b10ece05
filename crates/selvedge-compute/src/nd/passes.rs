//! [`Passes`]: the three passes of a convolution over a batch in blocks, partitioned over the threads of rayon's current pool.
//!
//! Blocks are computed in parallel, and partitioned by rows of pixels where there are fewer of them than threads. The gradient
//! of the weights is summed by groups of blocks, whose number depends on the batch alone, or by panels over all blocks, as the
//! plan says: either way its bits do not depend on the threads.

use ndarray::{Array1, Array4, ArrayView4};
use rayon::prelude::*;

use super::blocks::BlockTensor;
use crate::aligned::{bytes, bytes_mut};
use crate::conv::{
    Accumulate, Blocks, Conv2dShape, ConvPlan, ForwardArgs, Fusion, PANEL, PackChunk, Source, WeightGradient,
    backward_bias, pack,
};
use crate::layout::BLOCK;
use crate::{AlignedVec, Cpu, Precision, sum};

/// The gradients of a convolution's weights and bias.
#[derive(Clone, Debug, PartialEq)]
pub struct WeightGradients {
    /// By the weights, `[kh, kw, in, out]`.
    pub dweights: Array4<f32>,
    /// By the bias.
    pub dbias: Array1<f32>,
}

/// The most groups of blocks that a gradient is summed by.
const MAX_GROUPS: usize = 16;

/// A convolution, and how it is computed.
pub(super) struct Passes {
    cpu: Cpu,
    plan: ConvPlan,
}

impl Passes {
    /// A convolution of this shape. Only where the channels of x are padded has it a gradient.
    pub(super) fn new(cpu: Cpu, shape: Conv2dShape) -> Self {
        let is_padded = shape.input.channel_stride.is_multiple_of(PANEL);
        let source = if is_padded { Source::Layer } else { Source::Network };
        Self { cpu, plan: ConvPlan::new(shape, Fusion::default(), source, Precision::F32) }
    }

    /// Logical weights `[kh, kw, in, out]` in panels.
    pub(super) fn panels(&self, weights: ArrayView4<'_, f32>) -> AlignedVec<f32> {
        let mut panels = AlignedVec::zeroed(self.plan.shape().weights_len());
        let weights = weights.as_standard_layout();
        pack::to_panels(self.plan.shape(), weights.as_slice().expect("the standard layout is one slice"), &mut panels);
        panels
    }

    /// y = x ∗ weights + bias; what is left in the place of images that are not there means nothing.
    pub(super) fn forward(&self, x: &BlockTensor<f32>, panels: &[f32], bias: Option<&[f32]>, y: &mut BlockTensor<f32>) {
        let packed = self.packed(self.plan.packed_bytes(), self.plan.packed_chunks(), panels);
        let len = self.plan.shape().output.len();
        y.as_mut_slice().par_chunks_exact_mut(len).enumerate().for_each(|(block, y)| {
            let args = ForwardArgs {
                weights: panels,
                packed: &packed,
                bias,
                images: x.valid(block),
                chunks: self.chunks(x.count()),
                ..ForwardArgs::of_block(bytes(x.block(block)))
            };
            self.plan.forward(self.cpu, args, bytes_mut(y));
        });
    }

    /// dx = dy ∗ weights transposed.
    pub(super) fn backward_data(&self, dy: &BlockTensor<f32>, panels: &[f32], dx: &mut BlockTensor<f32>) {
        let transposed = self.packed(self.plan.transposed_bytes(), self.plan.transposed_chunks(), panels);
        let len = self.plan.shape().input.len();
        dx.as_mut_slice().par_chunks_exact_mut(len).enumerate().for_each(|(block, dx)| {
            let (dy, chunks) = (bytes(dy.block(block)), self.chunks(dy.count()));
            self.plan.backward_data(self.cpu, dy, &transposed, chunks, bytes_mut(dx));
        });
    }

    /// The gradients of weights and bias; images that are not there have a dy of zero.
    pub(super) fn backward_weights(&self, x: &BlockTensor<f32>, dy: &BlockTensor<f32>) -> WeightGradients {
        let shape = self.plan.shape();
        let mut panels = AlignedVec::zeroed(shape.weights_len());
        match self.plan.weight_gradient() {
            _ if x.count() == 0 => {}
            WeightGradient::PerGroup => self.sum_by_groups(x, dy, &mut panels),
            WeightGradient::PerPanel => self.sum_by_panels(x, dy, &mut panels),
            WeightGradient::Frozen => unreachable!("weights of arrays are not frozen"),
        }
        let mut dweights =
            Array4::zeros((shape.kernel[0], shape.kernel[1], shape.input.channels, shape.output.channels));
        pack::from_panels(shape, &panels, dweights.as_slice_mut().expect("a new array is one slice"));
        WeightGradients { dweights, dbias: self.backward_bias(dy) }
    }

    fn sum_by_groups(&self, x: &BlockTensor<f32>, dy: &BlockTensor<f32>, panels: &mut [f32]) {
        let (len, blocks) = (panels.len(), x.count());
        let groups = blocks.min(MAX_GROUPS);
        let mut sums = AlignedVec::zeroed(groups * len);
        sums.par_chunks_exact_mut(len).enumerate().for_each(|(group, sums)| {
            for block in blocks * group / groups..blocks * (group + 1) / groups {
                let operands = [x, dy].map(|tensor| bytes(tensor.block(block)));
                self.plan.backward_weights_of_block(self.cpu, operands, Accumulate::Add, sums);
            }
        });
        let panel_len = self.plan.shape().panel_len();
        panels.par_chunks_exact_mut(panel_len).enumerate().for_each(|(panel, to)| {
            sum::add_up(self.cpu, &sums[panel * panel_len..], len, groups, to);
        });
    }

    fn sum_by_panels(&self, x: &BlockTensor<f32>, dy: &BlockTensor<f32>, panels: &mut [f32]) {
        let lens = self.plan.repacked_bytes();
        let mut repacked = lens.map(|len| AlignedVec::<u8>::zeroed(len * x.count()));
        let operands = if lens == [0; 2] {
            [x, dy].map(|tensor| blocks_of(bytes(tensor.as_slice()), x.count()))
        } else {
            let [x_to, dy_to] = &mut repacked;
            let to = x_to.par_chunks_exact_mut(lens[0]).zip(dy_to.par_chunks_exact_mut(lens[1]));
            to.enumerate().for_each(|(block, (x_to, dy_to))| {
                let from = [x, dy].map(|tensor| bytes(tensor.block(block)));
                self.plan.repack(self.cpu, from, [x_to, dy_to]);
            });
            repacked.each_ref().map(|tensor| blocks_of(tensor, x.count()))
        };
        let (panel_len, per_chunk) =
            (self.plan.shape().panel_len(), self.plan.panels_per_chunk(rayon::current_num_threads()));
        panels.par_chunks_mut(per_chunk * panel_len).enumerate().for_each(|(number, to)| {
            let first = number * per_chunk;
            self.plan.backward_weights_of_panels(self.cpu, operands, first..first + to.len() / panel_len, to);
        });
    }

    fn backward_bias(&self, dy: &BlockTensor<f32>) -> Array1<f32> {
        let shape = &self.plan.shape().output;
        let mut sums = AlignedVec::zeroed(shape.channel_stride * dy.count());
        sums.par_chunks_exact_mut(shape.channel_stride).enumerate().for_each(|(block, sums)| {
            backward_bias(self.cpu, shape, dy.block(block), sums);
        });
        let mut dbias = Array1::zeros(shape.channels);
        for of_block in sums.chunks_exact(shape.channel_stride) {
            dbias.iter_mut().zip(of_block).for_each(|(sum, of_block)| *sum += of_block);
        }
        dbias
    }

    /// Weights of `len` bytes as a pass reads them, packed chunk by chunk.
    fn packed(&self, len: usize, chunks: impl Iterator<Item = PackChunk>, panels: &[f32]) -> AlignedVec<u8> {
        let mut packed = AlignedVec::zeroed(len);
        let mut rest = &mut packed[..];
        let mut parts = Vec::new();
        for chunk in chunks {
            let (part, after) = std::mem::take(&mut rest).split_at_mut(chunk.range.len());
            parts.push((chunk, part));
            rest = after;
        }
        parts.into_par_iter().for_each(|(chunk, part)| self.plan.pack(self.cpu, &chunk, panels, part));
        packed
    }

    /// Into how many chunks each of `blocks` blocks is partitioned.
    fn chunks(&self, blocks: usize) -> usize {
        self.plan.chunks(rayon::current_num_threads().div_ceil(blocks), BLOCK)
    }
}

/// A tensor of so many blocks, one after the other.
fn blocks_of(bytes: &[u8], count: usize) -> Blocks<'_, u8> {
    Blocks { data: bytes, stride: bytes.len() / count, count }
}
