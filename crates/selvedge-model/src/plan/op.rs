//! [`Op`]: the catalogue of what passes compute. Each operation tells the values that it reads and writes, from which follow
//! their lifetimes, its kind in profiles, and its cost.

use std::ops::Range;

use selvedge_compute::activation::Activation;
use selvedge_compute::conv::ConvPlan;
use selvedge_compute::cost::{self, Cost, Passes};
use selvedge_compute::pool::Pool2dShape;
use selvedge_compute::{BLOCK, BlockShape};

use crate::plan::value::{Value, ValueId};

/// An operation on values.
#[derive(Debug)]
pub(crate) enum Op {
    /// Convolution or dense layer, with bias, ReLU, max pooling and dropout in the same pass.
    Conv(Box<Conv>),
    /// The input's f32 pixels rounded to the precision of the other values, if the first layer is not a convolution.
    Round { x: ValueId, y: ValueId },
    /// Logits widened to f32, if the operation that makes them writes the precision of the other values: all but a convolution
    /// or dense layer do.
    Widen { x: ValueId, y: ValueId },
    /// An activation that is not fused into the operation before it.
    Activate { kind: Activation, x: ValueId, y: ValueId },
    /// Max pooling that is not fused into the operation before it.
    MaxPool { shape: Pool2dShape, x: ValueId, y: ValueId, indices: Range<usize> },
    /// Average pooling.
    AvgPool { shape: Pool2dShape, x: ValueId, y: ValueId },
    /// Global pooling by half the sum of average and maximum.
    AvgMaxPool { x: ValueId, y: ValueId, indices: Range<usize> },
    /// Global pooling by the generalised mean with exponent `p`.
    GemPool { p: f32, x: ValueId, y: ValueId },
    /// The end of squeeze-and-excitation: y = x·sigmoid(z), with a z for each channel of an image.
    Gate { x: ValueId, z: ValueId, y: ValueId },
    /// The first convolution with the batch normalisation after it, and a ReLU, as one convolution.
    ConvNorm(Box<ConvNorm>),
    /// Batch normalisation, with an activation in the same pass, and max pooling or a sum.
    Norm(BatchNorm),
    /// Dropout that is not fused into a convolution.
    Dropout { dropout: Dropout, x: ValueId, y: ValueId },
    /// Where a value is read twice, as at the beginning of a residual block: nothing in the forward pass; in the backward pass dx
    /// = the gradient of the body's input + that of `other`, the block's sum or the input of another branch.
    Fork { x: ValueId, body: ValueId, other: ValueId },
    /// The end of a residual block: sum = body + shortcut. With `drop`, a training pass leaves the body out of some images.
    Add { shortcut: ValueId, body: ValueId, y: ValueId, drop: Option<Dropout> },
}

/// A convolution or dense layer.
#[derive(Debug)]
pub(crate) struct Conv {
    /// How it is computed, with ReLU and max pooling in the same pass.
    pub plan: ConvPlan,
    /// Numbers of the parameters.
    pub weight: usize,
    pub bias: Option<usize>,
    /// What belongs to a max pooling in the same pass.
    pub pool: Option<FusedPool>,
    pub x: ValueId,
    pub y: ValueId,
    /// Places, in bytes, of the weights as the forward pass reads them and of those transposed for the backward pass.
    pub packed: Range<usize>,
    pub transposed: Range<usize>,
    /// The places of x and dy repacked for the gradient of the weights ([`ConvPlan::repacked_bytes`]).
    pub repacked: [Range<usize>; 2],
}

impl Conv {
    /// The value whose gradient the weights get: the result before pooling.
    pub(crate) fn result(&self) -> ValueId {
        self.pool.as_ref().map_or(self.y, |pool| pool.full)
    }
}

/// A convolution next to the input with the batch norm after it folded in ([`selvedge_compute::conv::first_layer::batch_norm`]).
#[derive(Debug)]
pub(crate) struct ConvNorm {
    /// How it is computed, with a ReLU in the same pass.
    pub plan: ConvPlan,
    /// Numbers of the parameters, and of the normalisation.
    pub weight: usize,
    pub bias: Option<usize>,
    pub norm: usize,
    pub x: ValueId,
    pub y: ValueId,
    /// The sums of a block's patches.
    pub partial: Range<usize>,
}

/// Max pooling over windows that do not overlap, fused into the convolution before it.
#[derive(Debug)]
pub(crate) struct FusedPool {
    pub indices: Range<usize>,
    /// The convolution's result: only its gradient is ever stored, and not even that if the plan takes the pooled one
    /// ([`ConvPlan::takes_fused_gradient`]).
    pub full: ValueId,
    pub dropout: Option<Dropout>,
}

/// A dropout layer: its rate, and a key that gives it masks of its own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dropout {
    pub rate: f32,
    pub key: u32,
}

/// A batch normalisation that is an operation of its own.
#[derive(Debug)]
pub(crate) struct BatchNorm {
    /// Its number in the plan's norms.
    pub norm: usize,
    pub pool: Option<NormPool>,
    /// What is added after the activation, at the end of a residual block.
    pub shortcut: Option<ValueId>,
    pub x: ValueId,
    pub y: ValueId,
    /// The sums of a block: moments in the forward pass, those of the gradient in the backward pass.
    pub partial: Range<usize>,
}

/// Max pooling over windows that do not overlap, fused into the batch normalisation before it.
#[derive(Debug)]
pub(crate) struct NormPool {
    pub shape: Pool2dShape,
    pub indices: Range<usize>,
    /// The indices' elements of x.
    pub kept: Range<usize>,
}

/// The constants of a batch normalisation, and its parameters and statistics.
#[derive(Debug)]
pub(crate) struct Norm {
    pub shape: BlockShape,
    pub momentum: f32,
    pub epsilon: f32,
    /// Applied to the result in the same pass.
    pub activation: Option<Activation>,
    /// Numbers of the parameters.
    pub scale: Option<usize>,
    pub shift: usize,
    /// The number of the running mean among the network's buffers; the variance follows.
    pub mean: usize,
}

impl Op {
    /// The value it reads and the value it writes.
    pub(crate) fn ends(&self) -> (ValueId, ValueId) {
        match *self {
            Op::Conv(ref conv) => (conv.x, conv.y),
            Op::ConvNorm(ref layer) => (layer.x, layer.y),
            Op::Round { x, y }
            | Op::Widen { x, y }
            | Op::Activate { x, y, .. }
            | Op::MaxPool { x, y, .. }
            | Op::AvgPool { x, y, .. }
            | Op::AvgMaxPool { x, y, .. }
            | Op::GemPool { x, y, .. }
            | Op::Gate { x, y, .. }
            | Op::Norm(BatchNorm { x, y, .. })
            | Op::Dropout { x, y, .. } => (x, y),
            Op::Fork { x, body, .. } => (x, body),
            Op::Add { body, y, .. } => (body, y),
        }
    }

    /// The second value whose content the forward pass reads.
    pub(crate) fn second_input(&self) -> Option<ValueId> {
        match *self {
            Op::Norm(BatchNorm { shortcut, .. }) => shortcut,
            Op::Add { shortcut, .. } => Some(shortcut),
            Op::Gate { z, .. } => Some(z),
            Op::Conv(_)
            | Op::ConvNorm(_)
            | Op::Round { .. }
            | Op::Widen { .. }
            | Op::Activate { .. }
            | Op::MaxPool { .. }
            | Op::AvgPool { .. }
            | Op::AvgMaxPool { .. }
            | Op::GemPool { .. }
            | Op::Dropout { .. }
            | Op::Fork { .. } => None,
        }
    }

    /// The values whose content the backward pass reads.
    pub(crate) fn backward_reads(&self) -> [Option<ValueId>; 2] {
        match *self {
            // After ReLU the result tells where its gradient is zero; after pooling the indices do.
            Op::Conv(ref conv) => [Some(conv.x), (conv.pool.is_none() && conv.plan.fusion().relu).then_some(conv.y)],
            Op::ConvNorm(ref layer) => [Some(layer.x), layer.plan.fusion().relu.then_some(layer.y)],
            Op::Activate { x, .. } | Op::Norm(BatchNorm { x, .. }) => [Some(x), None],
            Op::GemPool { x, y, .. } => [Some(x), Some(y)],
            Op::Gate { x, z, .. } => [Some(x), Some(z)],
            Op::Round { .. }
            | Op::Widen { .. }
            | Op::MaxPool { .. }
            | Op::AvgPool { .. }
            | Op::AvgMaxPool { .. }
            | Op::Dropout { .. }
            | Op::Fork { .. }
            | Op::Add { .. } => [None; 2],
        }
    }

    /// The values whose gradients the backward pass reads or writes.
    pub(crate) fn gradients(&self) -> [Option<ValueId>; 3] {
        let (x, y) = self.ends();
        let third = match self {
            Op::Conv(conv) => (!conv.plan.takes_fused_gradient()).then(|| conv.result()),
            // The sum's gradient is the shortcut's, which the fork adds to the body's.
            Op::Fork { other, .. } => Some(*other),
            Op::Gate { z, .. } => Some(*z),
            Op::ConvNorm(_)
            | Op::Round { .. }
            | Op::Widen { .. }
            | Op::Activate { .. }
            | Op::MaxPool { .. }
            | Op::AvgPool { .. }
            | Op::AvgMaxPool { .. }
            | Op::GemPool { .. }
            | Op::Norm(_)
            | Op::Dropout { .. }
            | Op::Add { .. } => None,
        };
        [Some(x), Some(y), third]
    }

    /// The kind of layer in profiles, by its most costly part.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Op::Conv(conv) => conv_kind(&conv.plan),
            Op::ConvNorm(layer) => conv_kind(&layer.plan),
            Op::Round { .. } | Op::Widen { .. } => "round",
            Op::Activate { .. } => "activation",
            Op::MaxPool { .. } => "max_pool",
            Op::AvgPool { .. } => "average_pool",
            Op::AvgMaxPool { .. } => "average_max_pool",
            Op::GemPool { .. } => "gem_pool",
            Op::Gate { .. } => "gate",
            Op::Norm(_) => "norm",
            Op::Dropout { .. } => "dropout",
            Op::Fork { .. } | Op::Add { .. } => "residual",
        }
    }

    /// The cost of a pass over `images` images, forward and backward, gradients of weights included.
    pub(crate) fn cost(&self, values: &[Value], images: usize) -> Passes {
        let of = |id: ValueId, cost: fn(&BlockShape, usize, usize) -> Passes| {
            cost(&values[id].shape, images, values[id].element)
        };
        let passes = match self {
            Op::Conv(conv) => return conv.plan.cost(images),
            Op::ConvNorm(layer) => return layer.plan.cost(images),
            Op::Round { x, y } | Op::Widen { x, y } => {
                let bytes = images * (values[*x].bytes_of_an_image() + values[*y].bytes_of_an_image());
                let elements = (images * values[*x].shape.len() / BLOCK) as u64;
                let forward = Cost { flops: elements, nominal_flops: elements, bytes: bytes as u64 };
                return Passes { forward, backward: Cost::default() };
            }
            Op::Activate { kind, x, .. } => cost::activation(*kind, &values[*x].shape, images, values[*x].element),
            Op::MaxPool { shape, x, .. } => cost::max_pool(shape, images, values[*x].element),
            Op::AvgPool { shape, x, .. } => cost::average_pool(shape, images, values[*x].element),
            Op::AvgMaxPool { x, .. } => of(*x, cost::average_max_pool),
            Op::GemPool { x, .. } => of(*x, cost::generalized_mean),
            Op::Gate { x, .. } => of(*x, cost::gate),
            Op::Norm(BatchNorm { pool: Some(pool), x, .. }) => {
                cost::norm_pooled(&pool.shape, images, values[*x].element)
            }
            Op::Norm(BatchNorm { shortcut: Some(_), x, .. }) => of(*x, cost::norm_and_add),
            Op::Norm(BatchNorm { x, .. }) => of(*x, cost::norm),
            Op::Dropout { x, .. } => of(*x, cost::dropout),
            // A fork does nothing in the forward pass.
            Op::Fork { x, .. } => Passes { forward: Cost::default(), ..of(*x, cost::add) },
            Op::Add { y, .. } => {
                let Passes { forward, .. } = of(*y, cost::add);
                // The backward pass copies the gradient: two of the sum's three tensors move.
                let backward = Cost { flops: 0, nominal_flops: 0, bytes: forward.bytes / 3 * 2 };
                Passes { forward, backward }
            }
        };
        // The network's input has no gradient.
        let has_gradient = !values[self.ends().0].grad.is_empty();
        Passes { backward: if has_gradient { passes.backward } else { Cost::default() }, ..passes }
    }
}

fn conv_kind(plan: &ConvPlan) -> &'static str {
    let shape = plan.shape();
    let is_dense = shape.output.height * shape.output.width == 1
        && shape.kernel == [shape.input.height, shape.input.width]
        && shape.padding == [0, 0];
    if is_dense { "dense" } else { "conv2d" }
}
