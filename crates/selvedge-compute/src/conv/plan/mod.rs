//! [`ConvPlan`]: decides which algorithm computes a convolution, and provides everything that depends on the algorithm.
//!
//! A plan knows the layout of the input ([`ConvPlan::input`]), the packed weights ([`ConvPlan::packed_bytes`],
//! [`ConvPlan::pack`]), scratch memory ([`ConvPlan::scratch_bytes`]), the passes ([`ConvPlan::forward`],
//! [`ConvPlan::backward`]) and their cost ([`ConvPlan::cost`]). Networks and profiles both use it, so a profile measures exactly
//! what networks run.
//!
//! | multiplies in | layer | algorithm |
//! |---|---|---|
//! | bf16 | grey image, 3x3, 2x2 max pooling or folded batch norm | 4x4 patches on AMX |
//! | bf16 | any other except the first | tiles on AMX |
//! | f32 | grey image, 3x3, 2x2 max pooling | vectors specialised for it |
//! | f32 | 3x3 at stride 1, padded channels, enough pixels | Winograd |
//! | f32 | all others | direct |
//!
//! The algorithm depends on the shape, the fused layers, and the precision, which a network chooses by the processor
//! ([`crate::Cpu::check`]: bf16 needs AMX). It does not depend on the vector instruction set, so a network uses the same
//! algorithms on every processor.

mod algorithm;
mod backward;
mod cost;
mod forward;
mod pack;

pub use algorithm::ConvAlgorithm;
pub use backward::{BackwardArgs, WeightSums};
pub use forward::ForwardArgs;
pub use pack::PackChunk;

use super::first_layer::{batch_norm, is_first_layer, patches};
use super::weight_gradient::row_buffers;
use super::winograd::Winograd;
use super::{Conv2dShape, PANEL};
use crate::cpu::{Cpu, Precision};
use crate::layout::BlockShape;
use crate::partition::RowPartition;

/// The layers that are computed in the same pass as a convolution, in this order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fusion {
    /// Batch norm, folded into weights and bias ([`batch_norm`]), if [`ConvPlan::folds_batch_norm`].
    pub batch_norm: bool,
    /// ReLU.
    pub relu: bool,
    /// Max pooling over non-overlapping windows of this height and width.
    pub pool: Option<[usize; 2]>,
}

/// Where a convolution's input comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The network's input, in f32 pixels or bf16 patches whatever the network's precision. It needs no gradient.
    Network,
    /// Another layer.
    Layer,
}

/// How a block of a tensor is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorType {
    /// Its shape.
    pub shape: BlockShape,
    /// The type of its elements.
    pub precision: Precision,
}

/// How the gradient of the weights is partitioned. Its bits do not depend on the number of threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightGradient {
    /// Each group of blocks has its own sum, to which a block adds right after dY is computed, while it is in the cache. The sums
    /// of the groups are added in their order. For weights that are smaller than the activations.
    PerGroup,
    /// Each panel of output channels is summed over all blocks after the backward pass, without partial sums. For weights that are
    /// larger than the activations, as in most dense layers.
    PerPanel,
    /// It is not computed ([`ConvPlan::with_frozen_weights`]).
    Frozen,
}

/// How one convolution or dense layer is computed.
///
/// ```
/// use selvedge_compute::conv::{Conv2dShape, ConvPlan, ForwardArgs, Fusion, Source, pack};
/// use selvedge_compute::{AlignedVec, BlockShape, Cpu, Precision, aligned::{bytes, bytes_mut}};
/// let cpu = Cpu::detect()?;
/// let shape = Conv2dShape::same(BlockShape::new(8, 8, 16), 16, [3, 3], 1);
/// let plan = ConvPlan::new(shape, Fusion { relu: true, ..Fusion::default() }, Source::Layer, Precision::F32);
/// assert_eq!(plan.algorithm().to_string(), "winograd");
///
/// let mut weights = vec![0.0; shape.weights_len()];
/// pack::to_panels(&shape, &[0.5; 3 * 3 * 16 * 16], &mut weights);
/// let mut packed = AlignedVec::<u8>::zeroed(plan.packed_bytes());
/// plan.pack_all(cpu, &weights, &mut packed);
///
/// let (x, mut y) = (AlignedVec::<f32>::zeroed(shape.input.len()), AlignedVec::<f32>::zeroed(shape.output.len()));
/// let args = ForwardArgs { weights: &weights, packed: &packed, ..ForwardArgs::of_block(bytes(&x)) };
/// plan.forward(cpu, args, bytes_mut(&mut y));
/// assert!(y.iter().all(|&y| y == 0.0));
/// # Ok::<(), selvedge_compute::CpuError>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct ConvPlan {
    shape: Conv2dShape,
    fusion: Fusion,
    source: Source,
    /// The element type of the activations of other layers.
    precision: Precision,
    /// The element type of y.
    output: Precision,
    forward: ConvAlgorithm,
    backward: ConvAlgorithm,
    /// Whether nobody needs the gradient of the weights.
    frozen: bool,
}

impl ConvPlan {
    /// The plan of a convolution in a network of `precision`.
    ///
    /// # Panics
    /// If batch norm cannot be folded into the layer ([`ConvPlan::folds_batch_norm`]), or pooling is fused with a batch norm.
    pub fn new(shape: Conv2dShape, fusion: Fusion, source: Source, precision: Precision) -> Self {
        let Fusion { batch_norm, relu: _, pool } = fusion;
        assert!(!batch_norm || Self::folds_batch_norm(&shape, source), "batch norm cannot be folded into {shape:?}");
        assert!(pool.is_none() || !batch_norm, "no pooling is fused with a batch norm, as in {fusion:?}");
        let from_network = source == Source::Network;
        let grey_pooled = from_network && pool.is_some_and(|window| is_first_layer(&shape, window));
        let has_patches = grey_pooled || batch_norm && patches::cover(&shape);
        let winograd = |winograd: Option<Winograd>| winograd.map_or(ConvAlgorithm::Direct, ConvAlgorithm::Winograd);
        let (forward, backward) = match precision {
            Precision::Bf16 if has_patches => (ConvAlgorithm::Patches, ConvAlgorithm::Patches),
            Precision::Bf16 if !from_network => (ConvAlgorithm::Tiles, ConvAlgorithm::Tiles),
            // Winograd's gradient needs dY in f32, but a bf16 network has it in bf16.
            Precision::Bf16 => (winograd(Winograd::fused(&shape, pool)), ConvAlgorithm::Direct),
            Precision::F32 if grey_pooled => (ConvAlgorithm::GreyPooled, ConvAlgorithm::GreyPooled),
            Precision::F32 => (winograd(Winograd::fused(&shape, pool)), winograd(Winograd::of(&shape))),
        };
        Self { shape, fusion, source, precision, output: precision, forward, backward, frozen: false }
    }

    /// The same plan with y in f32 in either precision, for logits; the gradient of y keeps the network's precision.
    ///
    /// # Panics
    /// If a batch norm is folded in: the pass over patches writes bf16.
    pub fn with_f32_output(self) -> Self {
        assert!(!self.fusion.batch_norm, "logits come from a layer without batch norm, not {:?}", self.shape);
        Self { output: Precision::F32, ..self }
    }

    /// The same plan for weights that do not train: their gradient is left out where it has a pass of its own. A plan that
    /// [takes the fused gradient](ConvPlan::takes_fused_gradient) computes it together with that of the bias, whatever the weights.
    pub fn with_frozen_weights(self) -> Self {
        Self { frozen: true, ..self }
    }

    /// Whether a batch norm after this layer can be folded into it: the layer reads 3x3 pixels of a grey image, and its output has
    /// more than one pixel. (An output of one pixel may be the logits, which are f32 in either precision.)
    pub fn folds_batch_norm(shape: &Conv2dShape, source: Source) -> bool {
        source == Source::Network && batch_norm::sees_patches(shape) && shape.output.height * shape.output.width > 1
    }

    /// The convolution.
    pub fn shape(&self) -> &Conv2dShape {
        &self.shape
    }

    /// The layers that are computed in the same pass.
    pub fn fusion(&self) -> Fusion {
        self.fusion
    }

    /// The algorithm of the forward pass.
    pub fn algorithm(&self) -> ConvAlgorithm {
        self.forward
    }

    /// The instruction set and the algorithm of the forward pass, such as `amx tiles`.
    pub fn name(&self, cpu: Cpu) -> String {
        let isa = match self.forward.precision() {
            Precision::F32 => cpu.isa().vectors(),
            Precision::Bf16 => cpu.isa(),
        };
        format!("{isa} {}", self.forward)
    }

    /// The element type of the operands: in a first layer f32 in either precision, unless it reads patches.
    pub fn multiplies_in(&self) -> Precision {
        self.forward.precision()
    }

    /// How x is stored: as patches, pixels of the network's input, or activations.
    pub fn input(&self) -> TensorType {
        let (shape, precision) = match (self.forward, self.source) {
            (ConvAlgorithm::Patches, _) => (patches::shape(&self.shape), Precision::Bf16),
            (_, Source::Network) => (self.shape.input, Precision::F32),
            (_, Source::Layer) => (self.shape.input, self.precision),
        };
        TensorType { shape, precision }
    }

    /// Whether x is the 4x4 patches of a grey image ([`patches::fill`]).
    pub fn reads_patches(&self) -> bool {
        self.forward == ConvAlgorithm::Patches
    }

    /// How y is stored; it has the pooled shape if pooling is fused.
    pub fn output(&self) -> TensorType {
        let shape = match self.fusion.pool {
            Some(window) => super::pooled::pooled_shape(&self.shape, window),
            None => self.shape.output,
        };
        TensorType { shape, precision: self.output }
    }

    /// Whether the gradient of x is computed: that of the network's input is not.
    pub fn has_input_gradient(&self) -> bool {
        self.source == Source::Layer
    }

    /// How the gradient of the weights is partitioned.
    pub fn weight_gradient(&self) -> WeightGradient {
        if self.frozen && !self.takes_fused_gradient() {
            return WeightGradient::Frozen;
        }
        let large = self.shape.weights_exceed_activations(self.precision.bytes());
        if large && self.source == Source::Layer { WeightGradient::PerPanel } else { WeightGradient::PerGroup }
    }

    /// Whether the gradient of the weights is computed directly from the gradient of the fused result, after pooling or batch norm,
    /// so that the gradient of the convolution's own result is never stored.
    pub fn takes_fused_gradient(&self) -> bool {
        self.fusion.batch_norm || matches!(self.backward, ConvAlgorithm::GreyPooled | ConvAlgorithm::Patches)
    }

    /// Whether the gradient of the weights of a group's first block can overwrite the group's sum ([`super::Accumulate`]).
    pub fn overwrites_sums(&self) -> bool {
        !self.takes_fused_gradient()
    }

    /// Whether the gradient per panel reads x and dY in place, so that they must be kept until the end of the backward pass.
    pub fn keeps_operands(&self) -> bool {
        self.weight_gradient() == WeightGradient::PerPanel && self.repacked_bytes() == [0; 2]
    }

    /// Bytes of a block's x and dY, repacked by [`ConvPlan::repack`] for the gradient per panel; 0 if it reads them in place.
    pub fn repacked_bytes(&self) -> [usize; 2] {
        match (self.weight_gradient(), self.backward) {
            (WeightGradient::PerGroup | WeightGradient::Frozen, _) | (_, ConvAlgorithm::Winograd(_)) => [0; 2],
            (WeightGradient::PerPanel, algorithm) => {
                [self.shape.input, self.shape.output].map(|tensor| tensor.len() * algorithm.precision().bytes())
            }
        }
    }

    /// Bytes of [`crate::scratch`] that each thread needs for the largest of the passes: tiles of Winograd's algorithm, or ring
    /// buffers of repacked rows for the gradient of the weights. When the rows were part of each block's memory, they were fetched
    /// and written back for each block, which took 2 to 6 % of that pass.
    pub fn scratch_bytes(&self) -> usize {
        let of_tiles = |algorithm| match algorithm {
            ConvAlgorithm::Winograd(winograd) => winograd.scratch_len() * size_of::<f32>(),
            _ => 0,
        };
        let of_rows = match (self.weight_gradient(), self.backward) {
            (WeightGradient::PerGroup, ConvAlgorithm::Direct | ConvAlgorithm::Tiles) => {
                row_buffers(&self.shape).iter().sum::<usize>() * self.backward.precision().bytes()
            }
            _ => 0,
        };
        of_tiles(self.forward).max(of_tiles(self.backward)).max(of_rows)
    }

    /// Panels per chunk of the gradient per panel on `threads` threads.
    ///
    /// Two panels fill the registers of AVX-512 and the tiles of AMX. Where all of x is read, or even transformed by Winograd's
    /// algorithm, again for each chunk, four take a tenth to a seventh less time at 3x3 pixels of 512 channels. There are four if
    /// that leaves each thread a chunk. The bits of a panel are the same in any chunk.
    pub fn panels_per_chunk(&self, threads: usize) -> usize {
        let reads_again = !matches!(self.backward, ConvAlgorithm::Direct);
        if reads_again && self.shape.panels() >= 4 * threads { 4 } else { 2 }
    }

    /// Into how many chunks a block of `images` images is partitioned over threads: up to `most`, if each takes a hundred
    /// microseconds. Waking a thread takes some tens of microseconds.
    pub fn chunks(&self, most: usize, images: usize) -> usize {
        if self.fusion.batch_norm {
            // Memory-bound: a core moves about a megabyte in that time.
            return most.min((self.shape.output.len() * self.precision.bytes()) >> 20).max(1);
        }
        let multiply_adds = match self.backward {
            ConvAlgorithm::Winograd(winograd) => winograd.multiply_adds(),
            _ => self.shape.multiply_adds(),
        };
        let least = match self.multiplies_in() {
            Precision::F32 => 8 << 20,
            Precision::Bf16 => 64 << 20,
        };
        most.min(multiply_adds * images / least).max(1)
    }

    /// How many chunks [`ConvPlan::forward`] and [`ConvPlan::backward_data`] compute if `chunks` are requested: no more than there
    /// are rows, or tiles of Winograd's algorithm times panels.
    pub fn independent_chunks(&self, chunks: usize) -> [usize; 2] {
        let rows = |height| RowPartition::new(height, chunks).chunks;
        let forward = match self.forward {
            ConvAlgorithm::Winograd(winograd) => winograd.forward_chunks(self.fusion.pool, chunks),
            _ => rows(self.output().shape.height),
        };
        let backward = match self.backward {
            ConvAlgorithm::Winograd(winograd) => winograd.backward_data_chunks(chunks),
            _ => rows(self.shape.input.height),
        };
        [forward, backward]
    }

    /// Whether the channels of x are padded to whole panels.
    fn is_padded(&self) -> bool {
        self.shape.input.channel_stride.is_multiple_of(PANEL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(shape: Conv2dShape, fusion: Fusion, source: Source, precision: Precision) -> String {
        ConvPlan::new(shape, fusion, source, precision).algorithm().to_string()
    }

    #[test]
    fn each_algorithm_has_its_shapes() {
        let grey = Conv2dShape::same(BlockShape::input(28, 28, 1), 16, [3, 3], 1);
        let inner = Conv2dShape::same(BlockShape::new(14, 14, 16), 32, [3, 3], 1);
        let strided = Conv2dShape::same(BlockShape::new(14, 14, 16), 32, [3, 3], 2);
        let pooled = Fusion { relu: true, pool: Some([2, 2]), ..Fusion::default() };
        let folded = Fusion { batch_norm: true, relu: true, pool: None };
        let plain = Fusion::default();
        for (shape, fusion, source, in_f32, in_bf16) in [
            (grey, plain, Source::Network, "direct", "direct"),
            (grey, pooled, Source::Network, "first layer", "first layer"),
            (grey, folded, Source::Network, "direct", "first layer"),
            (inner, pooled, Source::Layer, "winograd", "tiles"),
            (strided, plain, Source::Layer, "direct", "tiles"),
        ] {
            assert_eq!(name(shape, fusion, source, Precision::F32), in_f32, "{shape:?}");
            assert_eq!(name(shape, fusion, source, Precision::Bf16), in_bf16, "{shape:?}");
        }
    }

    #[test]
    fn each_of_sixteen_threads_gets_panels() {
        let shape = Conv2dShape::same(BlockShape::new(3, 3, 512), 512, [3, 3], 1);
        let plan = |shape| ConvPlan::new(shape, Fusion::default(), Source::Layer, Precision::F32);
        let per_chunk = |shape| [1, 8, 9, 16].map(|threads| plan(shape).panels_per_chunk(threads));
        assert_eq!(per_chunk(shape), [4, 4, 2, 2]);
        assert_eq!(per_chunk(Conv2dShape::dense(shape.input, 512)), [2; 4]);
    }

    #[test]
    #[should_panic(expected = "batch norm cannot be folded")]
    fn batch_norm_is_folded_only_into_the_first_layer_of_a_grey_image() {
        let shape = Conv2dShape::same(BlockShape::new(14, 14, 16), 32, [3, 3], 1);
        ConvPlan::new(shape, Fusion { batch_norm: true, ..Fusion::default() }, Source::Layer, Precision::F32);
    }
}
