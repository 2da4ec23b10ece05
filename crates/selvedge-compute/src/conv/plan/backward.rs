//! The backward passes of a [`ConvPlan`].
//!
//! [`ConvPlan::backward`] is what a network runs for a block. Its parts, [`ConvPlan::backward_data`], [`ConvPlan::repack`] and
//! [`ConvPlan::backward_weights_of_block`], are public for profiles, which measure them one by one;
//! [`ConvPlan::backward_weights_of_panels`] follows when all blocks are done.

use std::ops::Range;

use half::bf16;

use super::{ConvAlgorithm, ConvPlan, WeightGradient};
use crate::activation::{self, Activation};
use crate::aligned::{Plain, view, view_mut};
use crate::conv::first_layer::{self, PooledBackward, patches};
use crate::conv::weight_gradient::row_buffers;
use crate::conv::{Accumulate, Blocks, Conv2dShape, backward_bias, direct, tiles};
use crate::cpu::{Cpu, Precision};
use crate::partition::{RowPartition, Rows, elementwise};
use crate::pool::{self, Pool2dShape, PooledGradient};
use crate::scratch;
use crate::simd::Element;

/// What the backward passes of one block read and write. Tensors are bytes of the plan's element types.
pub struct BackwardArgs<'a> {
    /// The block's x ([`ConvPlan::input`]).
    pub x: &'a [u8],
    /// The block's y, which decides where the gradient of a fused ReLU is zero; not read with fused pooling, or without a ReLU.
    pub y: &'a [u8],
    /// The gradient of y. With a fused ReLU it is overwritten by that of the ReLU's input.
    pub dy: &'a mut [u8],
    /// The indices that fused pooling kept ([`crate::conv::Training`]).
    pub indices: &'a [u16],
    /// What dropout multiplied in the forward pass ([`crate::dropout::DropoutMask::scale`]), or 1.
    pub scale: f32,
    /// The gradient of the convolution's own result, where pooling is fused and the plan does not
    /// [take the fused gradient](ConvPlan::takes_fused_gradient).
    pub full: &'a mut [u8],
    /// [`ConvPlan::transposed_bytes`].
    pub transposed: &'a [u8],
    /// The gradient of x; empty for a network's input.
    pub dx: &'a mut [u8],
    /// x and dY as [`ConvPlan::backward_weights_of_panels`] reads them ([`ConvPlan::repacked_bytes`]).
    pub repacked: [&'a mut [u8]; 2],
    /// Into how many chunks threads of the current rayon pool partition the block.
    pub chunks: usize,
    /// The same for passes that are bound by memory.
    pub elementwise_chunks: usize,
}

/// The gradients of the parameters that a block adds to.
pub struct WeightSums<'a> {
    /// That of the weights, in panels; `None` if it is summed per panel, or not at all ([`WeightGradient`]).
    pub weights: Option<&'a mut [f32]>,
    /// That of the bias; with a folded batch norm that of beta.
    pub bias: Option<&'a mut [f32]>,
    /// Whether the gradient of the weights is added to or overwritten. A plan that does not
    /// [overwrite sums](ConvPlan::overwrites_sums) always adds. The gradient of the bias is always added to.
    pub accumulate: Accumulate,
}

impl ConvPlan {
    /// The gradients over one block: that of x, and those of weights and bias, which are added to their sums.
    ///
    /// # Panics
    /// If a slice is not as long as the plan says, with both lengths, or bf16 is multiplied and `cpu` does not prove AMX.
    pub fn backward(&self, cpu: Cpu, args: BackwardArgs<'_>, sums: WeightSums<'_>) {
        match self.precision {
            Precision::F32 => self.backward_of::<f32>(cpu, args, sums),
            Precision::Bf16 => self.backward_of::<bf16>(cpu, args, sums),
        }
    }

    fn backward_of<E: Element>(&self, cpu: Cpu, args: BackwardArgs<'_>, sums: WeightSums<'_>) {
        let BackwardArgs { x, y, dy, indices, scale, full, transposed, dx, repacked, chunks, elementwise_chunks } =
            args;
        let WeightSums { weights, mut bias, accumulate } = sums;
        let shape = &self.shape;
        let is_frozen = self.weight_gradient() == WeightGradient::Frozen;
        if is_frozen && bias.is_none() && !self.has_input_gradient() {
            return;
        }
        let dy: &[u8] = match self.fusion.pool {
            Some(_) if self.takes_fused_gradient() => {
                let weights = weights.expect("the weights of a first layer are summed per group");
                return match self.backward {
                    ConvAlgorithm::Patches => {
                        let (x, dy) = (view(x), view(dy));
                        let args = PooledBackward { x, dy, indices, scale, dweights: weights, dbias: bias };
                        patches::backward(cpu, shape, args);
                    }
                    _ => {
                        let (x, dy) = (view(x), view(dy));
                        let args = PooledBackward { x, dy, indices, scale, dweights: weights, dbias: bias };
                        first_layer::backward_pooled(cpu, shape, args);
                    }
                };
            }
            Some(window) => {
                let pool = Pool2dShape::new(shape.output, window, window);
                let gradient = PooledGradient::<E> { dy: view(dy), indices, scale };
                pool::scatter(cpu, &pool, gradient, view_mut(full), bias.take());
                full
            }
            None if self.backward == ConvAlgorithm::Patches => {
                let weights = weights.expect("the weights of a first layer are summed per group");
                let beta = bias.expect("a batch norm has a beta");
                let y = self.fusion.relu.then(|| view(y));
                return patches::backward_unpooled(cpu, shape, view(x), y, view(dy), weights, beta);
            }
            None if self.fusion.relu => {
                // y > 0 exactly where the ReLU's input is.
                elementwise(elementwise_chunks, [y], dy, |[y], dy| {
                    activation::backward_in_place::<E>(cpu, Activation::Relu, view(y), view_mut(dy));
                });
                dy
            }
            None => dy,
        };
        if let Some(bias) = bias {
            backward_bias::<E>(cpu, &shape.output, view(dy), bias);
        }
        let accumulate = if self.overwrites_sums() { accumulate } else { Accumulate::Add };
        let weights_pass = || match weights {
            Some(weights) => self.backward_weights_of_block(cpu, [x, dy], accumulate, weights),
            None if is_frozen => {}
            None => self.repack(cpu, [x, dy], repacked),
        };
        if !self.has_input_gradient() {
            return weights_pass();
        }
        let mut data_pass = || self.backward_data(cpu, dy, transposed, chunks, dx);
        if chunks > 1 {
            rayon::join(weights_pass, data_pass);
        } else {
            weights_pass();
            data_pass();
        }
    }

    /// The gradient of x from that of the convolution's result, in `chunks` chunks on the current rayon pool.
    ///
    /// # Panics
    /// As [`ConvPlan::backward`], or if x has no gradient.
    pub fn backward_data(&self, cpu: Cpu, dy: &[u8], transposed: &[u8], chunks: usize, dx: &mut [u8]) {
        assert!(self.has_input_gradient(), "the network's input has no gradient");
        match self.precision {
            Precision::F32 => self.backward_data_to::<f32>(cpu, dy, transposed, chunks, view_mut(dx)),
            Precision::Bf16 => self.backward_data_to::<bf16>(cpu, dy, transposed, chunks, view_mut(dx)),
        }
    }

    fn backward_data_to<E: Element>(&self, cpu: Cpu, dy: &[u8], transposed: &[u8], chunks: usize, dx: &mut [E]) {
        let shape = &self.shape;
        if let ConvAlgorithm::Winograd(winograd) = self.backward {
            return winograd.backward_data(cpu, view(dy), view(transposed), chunks, dx);
        }
        RowPartition::new(shape.input.height, chunks).for_each(Rows::of(&shape.input, dx), |rows, dx| {
            match self.backward {
                ConvAlgorithm::Tiles => tiles::backward_data(cpu, shape, view(dy), view(transposed), rows, dx.data),
                _ => direct::backward_data(cpu, shape, view(dy), view(transposed), rows, dx.data),
            }
        });
    }

    /// The gradient of the weights over one block, in panels, from x and the gradient of the convolution's result.
    ///
    /// # Panics
    /// As [`ConvPlan::backward`], or if the plan [takes the fused gradient](ConvPlan::takes_fused_gradient).
    pub fn backward_weights_of_block(
        &self,
        cpu: Cpu,
        [x, dy]: [&[u8]; 2],
        accumulate: Accumulate,
        dweights: &mut [f32],
    ) {
        let shape = &self.shape;
        match (self.backward, self.precision) {
            (ConvAlgorithm::Winograd(winograd), _) => {
                let (x, dy) = (Blocks::one(view(x)), Blocks::one(view(dy)));
                winograd.backward_weights(cpu, x, dy, 0..shape.panels(), accumulate, dweights);
            }
            (ConvAlgorithm::Tiles, _) => self.with_rows(|rows| {
                tiles::backward_weights_of_block(cpu, shape, [view(x), view(dy)], rows, accumulate, dweights);
            }),
            (ConvAlgorithm::Direct, Precision::F32) => {
                self.direct_weights_of_block::<f32>(cpu, view(x), view(dy), accumulate, dweights);
            }
            (ConvAlgorithm::Direct, Precision::Bf16) => {
                self.direct_weights_of_block::<bf16>(cpu, view(x), view(dy), accumulate, dweights);
            }
            (ConvAlgorithm::GreyPooled | ConvAlgorithm::Patches, _) => {
                panic!("{shape:?} takes the gradient of the fused result");
            }
        }
    }

    fn direct_weights_of_block<E: Element>(
        &self,
        cpu: Cpu,
        x: &[f32],
        dy: &[E],
        accumulate: Accumulate,
        dweights: &mut [f32],
    ) {
        if self.is_padded() {
            self.with_rows(|rows| {
                direct::backward_weights_of_block(cpu, &self.shape, x, dy, rows, accumulate, dweights);
            });
        } else {
            first_layer::backward_weights(cpu, &self.shape, x, dy, accumulate, dweights);
        }
    }

    /// Runs `pass` with this thread's ring buffers, in which the gradient of the weights repacks rows of a block.
    fn with_rows<E: Plain>(&self, pass: impl FnOnce([&mut [E]; 2])) {
        let [x, dy] = row_buffers(&self.shape);
        scratch::with(x + dy, |buffer: &mut [E]| pass(buffer.split_at_mut(x).into()));
    }

    /// Repacks one block's x and dY for [`ConvPlan::backward_weights_of_panels`]; does nothing if that reads them in place.
    ///
    /// # Panics
    /// As [`ConvPlan::backward`].
    pub fn repack(&self, cpu: Cpu, [x, dy]: [&[u8]; 2], [x_to, dy_to]: [&mut [u8]; 2]) {
        let Conv2dShape { input, output, .. } = &self.shape;
        match self.backward {
            ConvAlgorithm::Winograd(_) => {}
            ConvAlgorithm::Tiles => {
                tiles::repack::transpose_images(cpu, input, view(x), view_mut(x_to));
                tiles::repack::pair_images(cpu, output, view(dy), view_mut(dy_to));
            }
            _ => {
                direct::repack::to_planes::<f32>(cpu, input, view(x), view_mut(x_to));
                direct::repack::to_planes::<f32>(cpu, output, view(dy), view_mut(dy_to));
            }
        }
    }

    /// The gradient of `panels` of the weights over all blocks, which overwrites `dweights`. The blocks are those of the repacked
    /// tensors, or those of x and dY if [nothing is repacked](ConvPlan::repacked_bytes); strides are in bytes.
    ///
    /// # Panics
    /// As [`ConvPlan::backward`], or if the gradient is not partitioned by panels.
    pub fn backward_weights_of_panels(
        &self,
        cpu: Cpu,
        [x, dy]: [Blocks<'_, u8>; 2],
        panels: Range<usize>,
        dweights: &mut [f32],
    ) {
        assert_eq!(self.weight_gradient(), WeightGradient::PerPanel, "the gradient of {:?}", self.shape);
        let (shape, accumulate) = (&self.shape, Accumulate::Overwrite);
        match self.backward {
            ConvAlgorithm::Winograd(winograd) => {
                winograd.backward_weights(cpu, x.view(), dy.view(), panels, accumulate, dweights);
            }
            ConvAlgorithm::Tiles => {
                tiles::backward_weights(cpu, shape, x.view(), dy.view(), panels, accumulate, dweights);
            }
            _ => direct::backward_weights(cpu, shape, x.view(), dy.view(), panels, accumulate, dweights),
        }
    }
}
