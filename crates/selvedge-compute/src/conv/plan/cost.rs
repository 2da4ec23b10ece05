//! The cost of the passes of a [`ConvPlan`]: operations and bytes, for profiles.

use super::{ConvAlgorithm, ConvPlan, TensorType, WeightGradient};
use crate::cost::{self, ConvPasses, Cost, ElementBytes, Passes};
use crate::layout::{BLOCK, BlockShape};
use crate::pool::Pool2dShape;

impl ConvPlan {
    /// The cost of the three passes of the convolution alone, without fused layers.
    pub fn pass_costs(&self, images: usize) -> ConvPasses {
        let element = ElementBytes {
            input: self.input().precision.bytes(),
            output: self.output.bytes(),
            weights: self.multiplies_in().bytes(),
        };
        let direct = cost::conv(&self.shape, images, element);
        let by = |algorithm| match algorithm {
            ConvAlgorithm::Winograd(winograd) => cost::winograd(&winograd, images),
            _ => direct,
        };
        ConvPasses { forward: by(self.forward).forward, ..by(self.backward) }
    }

    /// The cost of the passes of a training step, including fused layers; without the gradient of x if it has none.
    pub fn cost(&self, images: usize) -> Passes {
        let ConvPasses { mut forward, backward_data, backward_weights } = self.pass_costs(images);
        let mut backward = Cost::default();
        if self.weight_gradient() != WeightGradient::Frozen {
            backward = backward_weights;
        }
        if self.has_input_gradient() {
            backward = backward + backward_data;
        }
        let full = stored(&self.shape.output, images, self.output.bytes());
        if let Some(window) = self.fusion.pool {
            // Only the pooled result is stored, with the indices.
            let pooling =
                cost::max_pool(&Pool2dShape::new(self.shape.output, window, window), images, self.output.bytes());
            let kept = pooling.forward.bytes - full;
            forward.bytes = forward.bytes - full + kept;
            if self.takes_fused_gradient() {
                backward.bytes = backward.bytes - full + kept;
            } else {
                backward = backward + pooling.backward;
            }
        } else if self.fusion.relu {
            // y is read to find where the gradient of the ReLU is zero.
            backward.bytes += full;
        }
        if self.reads_patches() {
            let extra = self.patch_bytes(images);
            forward.bytes += extra;
            backward.bytes += extra;
        }
        if self.fusion.batch_norm {
            // x is read a second time, for the moments.
            let TensorType { shape, precision } = self.input();
            forward.bytes += stored(&shape, images, precision.bytes());
        }
        Passes { forward, backward }
    }

    /// Bytes by which the patches exceed the pixels of the images in bf16.
    fn patch_bytes(&self, images: usize) -> u64 {
        let TensorType { shape, precision } = self.input();
        stored(&shape, images, precision.bytes()) - stored(&self.shape.input, images, precision.bytes())
    }
}

/// Bytes of a tensor of `images` images in memory.
fn stored(shape: &BlockShape, images: usize, element: usize) -> u64 {
    (shape.len() / BLOCK * images * element) as u64
}
