//! Weights as the passes of a [`ConvPlan`] read them, packed once a step in chunks that threads write alone.

use std::ops::Range;

use half::bf16;

use super::{ConvAlgorithm, ConvPlan};
use crate::aligned::view_mut;
use crate::conv::first_layer::patches;
use crate::conv::tiles::repack;
use crate::conv::{PANEL, pack};
use crate::cpu::Cpu;

/// Weights in a chunk of those that are only rounded.
const ROUNDED: usize = 8192;

/// A chunk of the packed weights, which can be written alone ([`ConvPlan::pack`]).
#[derive(Clone, Debug)]
pub struct PackChunk {
    /// Its bytes in the packed, or in the transposed weights.
    pub range: Range<usize>,
    part: Part,
}

#[derive(Clone, Copy, Debug)]
enum Part {
    /// All weights, for 4x4 patches.
    Patches,
    /// Rounded to bf16 from this element on.
    Rounded { first: usize },
    /// This panel for Winograd's algorithm.
    Transformed { panel: usize },
    /// This panel transposed for the backward pass.
    Transposed { panel: usize },
}

impl ConvPlan {
    /// Bytes of the weights as the forward pass reads them; 0 where it reads the panels.
    ///
    /// With a folded batch norm they change between two passes of a step, and are packed by the one who folds them.
    pub fn packed_bytes(&self) -> usize {
        match self.forward {
            ConvAlgorithm::Direct | ConvAlgorithm::GreyPooled => 0,
            ConvAlgorithm::Winograd(winograd) => winograd.weights_len() * size_of::<f32>(),
            ConvAlgorithm::Tiles => self.shape.weights_len() * size_of::<bf16>(),
            ConvAlgorithm::Patches => patches::packed_len(&self.shape) * size_of::<bf16>(),
        }
    }

    /// Bytes of the weights as [`ConvPlan::backward_data`] reads them; 0 where x has no gradient.
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
        let (len, part): (usize, fn(usize) -> Part) = match self.forward {
            ConvAlgorithm::Winograd(_) => (bytes / self.shape.panels(), |panel| Part::Transformed { panel }),
            ConvAlgorithm::Patches => (bytes, |_| Part::Patches),
            _ => (ROUNDED * size_of::<bf16>(), |number| Part::Rounded { first: number * ROUNDED }),
        };
        chunks(bytes, len, part)
    }

    /// The chunks of the transposed weights.
    pub fn transposed_chunks(&self) -> impl Iterator<Item = PackChunk> + use<> {
        let bytes = self.transposed_bytes();
        let len = bytes / self.shape.input.channel_stride.div_ceil(PANEL);
        chunks(bytes, len, |panel| Part::Transposed { panel })
    }

    /// Writes a chunk of the packed weights from all panels ([`pack::to_panels`]).
    ///
    /// # Panics
    /// If a slice is not as long as the shape or the chunk says, or bf16 is asked for and `cpu` does not prove AMX.
    pub fn pack(&self, cpu: Cpu, chunk: &PackChunk, panels: &[f32], to: &mut [u8]) {
        let shape = &self.shape;
        match (chunk.part, self.forward, self.backward) {
            (Part::Patches, ..) => patches::pack(cpu, shape, panels, view_mut(to)),
            (Part::Rounded { first }, ..) => {
                let to = view_mut::<bf16>(to);
                repack::to_bf16(cpu, &panels[first..first + to.len()], to);
            }
            (Part::Transformed { panel }, ConvAlgorithm::Winograd(winograd), _) => {
                let panel = &panels[panel * shape.panel_len()..][..shape.panel_len()];
                winograd.transform_weights(cpu, panel, view_mut(to));
            }
            (Part::Transposed { panel }, _, ConvAlgorithm::Winograd(winograd)) => {
                winograd.transpose_weights(cpu, panels, panel, view_mut(to));
            }
            (Part::Transposed { panel }, _, ConvAlgorithm::Tiles) => {
                repack::transpose_to_bf16(cpu, shape, panels, panel, view_mut(to));
            }
            (Part::Transposed { panel }, ..) => pack::transpose_panel(shape, panels, panel, view_mut(to)),
            (Part::Transformed { .. }, algorithm, _) => unreachable!("{algorithm:?} transforms no weights"),
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

/// Chunks of `len` of `bytes` bytes, the last of which may be shorter.
fn chunks(bytes: usize, len: usize, part: fn(usize) -> Part) -> impl Iterator<Item = PackChunk> + use<> {
    let chunk =
        move |(number, start): (usize, usize)| PackChunk { range: start..bytes.min(start + len), part: part(number) };
    (0..bytes).step_by(len.max(1)).enumerate().map(chunk)
}
