//! The forward pass of a [`ConvPlan`].

use half::bf16;

use super::{ConvAlgorithm, ConvPlan};
use crate::aligned::{view, view_mut};
use crate::conv::first_layer::{self, batch_norm, patches};
use crate::conv::winograd::Share;
use crate::conv::{Epilogue, Part, PooledOutput, Training, direct, tiles};
use crate::cpu::{Cpu, Precision};
use crate::layout::BLOCK;
use crate::partition::{RowPartition, Rows};
use crate::simd::Element;

/// What the forward pass of one block reads. Tensors are bytes of the plan's element types.
pub struct ForwardArgs<'a> {
    /// The block's x ([`ConvPlan::input`]).
    pub x: &'a [u8],
    /// The weights in panels; with a batch norm, the folded ones.
    pub weights: &'a [f32],
    /// [`ConvPlan::packed_bytes`].
    pub packed: &'a [u8],
    /// One number per channel; with a batch norm, the folded bias.
    pub bias: Option<&'a [f32]>,
    /// How many images are computed; the results of the others are undefined.
    pub images: usize,
    /// Into how many chunks threads of the current rayon pool partition the block ([`ConvPlan::chunks`]).
    pub chunks: usize,
    /// What a training pass adds to fused pooling.
    pub training: Option<Training<'a>>,
}

impl<'a> ForwardArgs<'a> {
    /// A whole block on this thread, without a bias, for inference; the caller sets the weights.
    pub fn of_block(x: &'a [u8]) -> Self {
        Self { x, weights: &[], packed: &[], bias: None, images: BLOCK, chunks: 1, training: None }
    }
}

impl ConvPlan {
    /// y of one block ([`ConvPlan::output`]).
    ///
    /// # Panics
    /// If a slice is not as long as the plan says, with both lengths, or bf16 is multiplied and `cpu` does not prove AMX.
    pub fn forward(&self, cpu: Cpu, args: ForwardArgs<'_>, y: &mut [u8]) {
        match (self.forward, self.fusion.pool, self.output) {
            (ConvAlgorithm::Patches, None, _) => self.forward_patches(cpu, args, view_mut(y)),
            (.., Precision::F32) => self.forward_to::<f32>(cpu, args, view_mut(y)),
            (.., Precision::Bf16) => self.forward_to::<bf16>(cpu, args, view_mut(y)),
        }
    }

    /// The sums over the 3x3 patches of one block's x, from which a folded batch norm takes its moments
    /// ([`batch_norm::Patches`]).
    ///
    /// # Panics
    /// If batch norm is not folded in, or a slice is not as long as it must be.
    pub fn patch_sums(&self, cpu: Cpu, x: &[u8], sums: &mut [f64]) {
        assert!(self.fusion.batch_norm, "{:?} has no batch norm", self.shape);
        match self.forward {
            ConvAlgorithm::Patches => patches::patch_sums(cpu, &self.shape, view(x), sums),
            _ => batch_norm::patch_sums(cpu, &self.shape, view(x), sums),
        }
    }

    /// Patches without pooling: rows in pairs, since a patch computes 2x2 pixels.
    fn forward_patches(&self, cpu: Cpu, args: ForwardArgs<'_>, y: &mut [bf16]) {
        let ForwardArgs { x, packed, bias, images, chunks, .. } = args;
        let (shape, epilogue) = (&self.shape, Epilogue { bias, relu: self.fusion.relu });
        let rows = Rows { data: y, row: 2 * shape.output.row() };
        RowPartition::new(shape.output.height / 2, chunks).for_each(rows, |rows, y| {
            let part = Part { rows: 2 * rows.start..2 * rows.end, images };
            patches::forward_unpooled(cpu, shape, view(x), view(packed), epilogue, part, y.data);
        });
    }

    fn forward_to<Y: Element>(&self, cpu: Cpu, args: ForwardArgs<'_>, y: &mut [Y]) {
        let ForwardArgs { x, weights, packed, bias, images, chunks, training } = args;
        let (shape, output) = (&self.shape, self.output().shape);
        let share = Share { images, chunks };
        let relu = self.fusion.relu;
        let epilogue = Epilogue { bias, relu };
        match (self.forward, self.fusion.pool) {
            (ConvAlgorithm::Winograd(winograd), Some(window)) => {
                let output = PooledOutput { window, bias, relu, y, training };
                winograd.forward_pooled(cpu, view(x), view(packed), share, output);
            }
            (ConvAlgorithm::Winograd(winograd), None) => {
                winograd.forward(cpu, view(x), view(packed), epilogue, share, y);
            }
            (algorithm, Some(window)) => {
                let (dropout, indices) = training.map(|Training { indices, dropout }| (dropout, indices)).unzip();
                let tensors = (Rows::of(&output, y), indices.map(|indices| Rows::of(&output, indices)));
                RowPartition::new(output.height, chunks).for_each(tensors, |rows, (y, indices)| {
                    let training =
                        indices.map(|indices| Training { indices: indices.data, dropout: dropout.flatten() });
                    let (part, output) =
                        (Part { rows, images }, PooledOutput { window, bias, relu, y: y.data, training });
                    match algorithm {
                        ConvAlgorithm::Patches => {
                            patches::forward(cpu, shape, view(x), view(packed), part, output);
                        }
                        ConvAlgorithm::GreyPooled => {
                            first_layer::forward_pooled(cpu, shape, view(x), weights, part, output);
                        }
                        ConvAlgorithm::Tiles => {
                            tiles::forward_pooled(cpu, shape, view(x), view(packed), part, output);
                        }
                        _ => direct::forward_pooled(cpu, shape, view(x), weights, part, output),
                    }
                });
            }
            (algorithm, None) => {
                RowPartition::new(output.height, chunks).for_each(Rows::of(&output, y), |rows, y| {
                    let (part, y) = (Part { rows, images }, y.data);
                    match algorithm {
                        ConvAlgorithm::Tiles => {
                            tiles::forward(cpu, shape, view(x), view(packed), epilogue, part, y);
                        }
                        _ => direct::forward(cpu, shape, view(x), weights, epilogue, part, y),
                    }
                });
            }
        }
    }
}
