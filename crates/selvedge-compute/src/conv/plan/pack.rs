//! Packs the weights for the passes of a [`ConvPlan`], once per step, in chunks that threads write independently.

use std::ops::Range;

use half::bf16;

use super::{ConvAlgorithm, ConvPlan};
use crate::aligned::view_mut;
use crate::conv::first_layer::patches;
use crate::conv::tiles::repack;
use crate::conv::{PANEL, pack};
use crate::cpu::Cpu;

/// Weights per chunk if they are only rounded.
const ROUNDED: usize = 8192;

/// A chunk of the packed or transposed weights ([`ConvPlan::pack`]).
#[derive(Clone, Debug)]
pub struct PackChunk {
    /// Its bytes in the packed or in the transposed weights.
    pub range: Range<usize>,
    packing: Packing,
}

/// How a chunk is packed.
#[derive(Clone, Copy, Debug)]
enum Packing {
    /// All weights, for 4x4 patches.
    Patches,
    /// Weights from `first` on, rounded to bf16.
    Rounded { first: usize },
    /// A panel transformed for Winograd's algorithm.
    Transformed { panel: usize },
    /// A panel transposed for the backward pass.
    Transposed { panel: usize },
}

impl ConvPlan {
    /// Bytes of the weights packed for the forward pass; 0 if it reads the panels.
    ///
    /// With a folded batch norm, the folded weights change between two passes of a step, and whoever folds them also packs them.
    pub fn packed_bytes(&self) -> usize {
        match self.forward {
            ConvAlgorithm::Direct | ConvAlgorithm::GreyPooled => 0,
            ConvAlgorithm::Winograd(winograd) => winograd.weights_len() * size_of::<f32>(),
            ConvAlgorithm::Tiles => self.shape.weights_len() * size_of::<bf16>(),
            ConvAlgorithm::Patches => patches::packed_len(&self.shape) * size_of::<bf16>(),
        }
    }

    /// Bytes of the weights packed for [`ConvPlan::backward_data`]; 0 if x has no gradient.
    pub fn transposed_bytes(&self) -> usize {
        match self.backward {
            _ if !self.has_input_gradient() => 0,
            ConvAlgorithm::Winograd(winograd) => winograd.transposed_len() * size_of::<f32>(),
            algorithm => self.shape.transposed_len() * algorithm.precision().bytes(),
        }
    }

    /// The chunks of the packed weights.
    pub fn packed_chunks(&self) -> impl Iterator<Item = PackChunk> + use<> {
        let bytes = self.packed_bytes();
        let (len, packing): (usize, fn(usize) -> Packing) = match self.forward {
            ConvAlgorithm::Winograd(_) => (bytes / self.shape.panels(), |panel| Packing::Transformed { panel }),
            ConvAlgorithm::Patches => (bytes, |_| Packing::Patches),
            _ => (ROUNDED * size_of::<bf16>(), |number| Packing::Rounded { first: number * ROUNDED }),
        };
        chunks(bytes, len, packing)
    }

    /// The chunks of the transposed weights.
    pub fn transposed_chunks(&self) -> impl Iterator<Item = PackChunk> + use<> {
        let bytes = self.transposed_bytes();
        let len = bytes / self.shape.input.channel_stride.div_ceil(PANEL);
        chunks(bytes, len, |panel| Packing::Transposed { panel })
    }

    /// Writes a chunk of the packed weights from all panels ([`pack::to_panels`]).
    ///
    /// # Panics
    /// If a slice is not as long as the shape or the chunk says, or weights are packed in bf16 and `cpu` does not prove AMX.
    pub fn pack(&self, cpu: Cpu, chunk: &PackChunk, panels: &[f32], to: &mut [u8]) {
        let shape = &self.shape;
        match (chunk.packing, self.forward, self.backward) {
            (Packing::Patches, ..) => patches::pack(cpu, shape, panels, view_mut(to)),
            (Packing::Rounded { first }, ..) => {
                let to = view_mut::<bf16>(to);
                repack::to_bf16(cpu, &panels[first..first + to.len()], to);
            }
            (Packing::Transformed { panel }, ConvAlgorithm::Winograd(winograd), _) => {
                let panel = &panels[panel * shape.panel_len()..][..shape.panel_len()];
                winograd.transform_weights(cpu, panel, view_mut(to));
            }
            (Packing::Transposed { panel }, _, ConvAlgorithm::Winograd(winograd)) => {
                winograd.transpose_weights(cpu, panels, panel, view_mut(to));
            }
            (Packing::Transposed { panel }, _, ConvAlgorithm::Tiles) => {
                repack::transpose_to_bf16(cpu, shape, panels, panel, view_mut(to));
            }
            (Packing::Transposed { panel }, ..) => pack::transpose_panel(shape, panels, panel, view_mut(to)),
            (Packing::Transformed { .. }, algorithm, _) => unreachable!("{algorithm:?} transforms no weights"),
        }
    }

    /// Writes all packed weights on this thread.
    ///
    /// # Panics
    /// As [`ConvPlan::pack`], or if `to` is not [`ConvPlan::packed_bytes`] long.
    pub fn pack_all(&self, cpu: Cpu, panels: &[f32], to: &mut [u8]) {
        assert_eq!(to.len(), self.packed_bytes(), "the length of the packed weights of {:?}", self.shape);
        self.packed_chunks().for_each(|chunk| self.pack(cpu, &chunk, panels, &mut to[chunk.range.clone()]));
    }

    /// Writes all transposed weights on this thread.
    ///
    /// # Panics
    /// As [`ConvPlan::pack`], or if `to` is not [`ConvPlan::transposed_bytes`] long.
    pub fn transpose_all(&self, cpu: Cpu, panels: &[f32], to: &mut [u8]) {
        assert_eq!(to.len(), self.transposed_bytes(), "the length of the transposed weights of {:?}", self.shape);
        self.transposed_chunks().for_each(|chunk| self.pack(cpu, &chunk, panels, &mut to[chunk.range.clone()]));
    }
}

/// Partitions `bytes` bytes into chunks of `len`; the last may be shorter.
fn chunks(bytes: usize, len: usize, packing: fn(usize) -> Packing) -> impl Iterator<Item = PackChunk> + use<> {
    let chunk = move |(number, start): (usize, usize)| PackChunk {
        range: start..bytes.min(start + len),
        packing: packing(number),
    };
    (0..bytes).step_by(len.max(1)).enumerate().map(chunk)
}
