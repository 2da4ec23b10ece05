//! From a specification to a plan: which operations run in which order, on which shapes, and where in memory each
//! tensor lies.
//!
//! A plan is a list of operations over values. A value is one tensor of one block of images, with its gradient; every
//! value, gradient and index lies at a fixed place ([`crate::plan::lifetimes`]).

mod lifetimes;
pub(crate) mod lower;
mod memory;
pub(crate) mod phases;

use std::ops::Range;

use selvedge_compute::BlockShape;
use selvedge_compute::activation::Activation;
use selvedge_compute::conv::ConvPlan;
use selvedge_compute::pool::Pool2dShape;

/// The number of a value in [`Plan::values`].
pub(crate) type ValueId = usize;

/// One tensor of a block and its gradient, as places in the block's arena, in bytes.
#[derive(Debug)]
pub(crate) struct Value {
    pub shape: BlockShape,
    /// Bytes of an element of the content, and of the gradient.
    pub element: usize,
    pub grad_element: usize,
    /// The value whose content this one shares: a residual body's input is the block's input with another gradient.
    pub same_as: Option<ValueId>,
    pub data: Range<usize>,
    /// Empty for the network's input, which needs none.
    pub grad: Range<usize>,
}

/// An operation on values.
#[derive(Debug)]
pub(crate) enum Op {
    /// Convolution or dense layer, with bias, ReLU, max pooling and dropout in the same pass.
    Conv(Box<Conv>),
    /// The input's f32 pixels in the precision of the other values: where the first layer is no convolution.
    Round {
        x: ValueId,
        y: ValueId,
    },
    /// Logits in f32, where what makes them writes the precision of the other values: all but a convolution or dense layer.
    Widen {
        x: ValueId,
        y: ValueId,
    },
    Activate {
        kind: Activation,
        x: ValueId,
        y: ValueId,
    },
    MaxPool {
        shape: Pool2dShape,
        x: ValueId,
        y: ValueId,
        indices: Range<usize>,
    },
    AvgPool {
        shape: Pool2dShape,
        x: ValueId,
        y: ValueId,
    },
    /// The layer next to the input and the batch normalisation behind it, with a ReLU, as one convolution.
    ConvNorm(Box<ConvNorm>),
    /// Batch normalisation, with an activation in the same pass, and max pooling or a sum.
    Norm(BatchNorm),
    Dropout {
        dropout: Dropout,
        x: ValueId,
        y: ValueId,
    },
    /// The beginning of a residual block: forward nothing, backward dx = gradient of the body's input + of the sum.
    Fork {
        x: ValueId,
        body: ValueId,
        sum: ValueId,
    },
    /// The end of a residual block: sum = body + shortcut.
    Add {
        shortcut: ValueId,
        body: ValueId,
        y: ValueId,
    },
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

/// A dropout layer: its rate, and what tells its masks from those of others.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dropout {
    pub rate: f32,
    pub key: u32,
}

/// A batch normalisation that is an operation of its own.
#[derive(Debug)]
pub(crate) struct BatchNorm {
    /// Its number in [`Plan::norms`].
    pub norm: usize,
    pub pool: Option<NormPool>,
    /// What is added after the activation, at the end of a residual block.
    pub shortcut: Option<ValueId>,
    pub x: ValueId,
    pub y: ValueId,
    /// The sums of a block: moments forward, those of the gradient backward.
    pub partial: Range<usize>,
}

/// Max pooling over windows that do not overlap, taken into the batch normalisation before it.
#[derive(Debug)]
pub(crate) struct NormPool {
    pub shape: Pool2dShape,
    pub indices: Range<usize>,
    /// The indices' elements of x.
    pub kept: Range<usize>,
}

/// A batch normalisation's constants and what belongs to it.
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

/// What lowering makes of a specification.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub ops: Vec<Op>,
    /// The layers that each operation computes, by name.
    pub names: Vec<String>,
    pub values: Vec<Value>,
    pub norms: Vec<Norm>,
    pub input: ValueId,
    pub logits: ValueId,
    /// Bytes of one block's arena, where its tensors lie that are needed beyond a phase of the pass.
    pub arena_bytes: usize,
    /// Bytes of one worker's arena, where those tensors of its block lie that are needed within a phase alone. Their places begin
    /// where the block's arena ends.
    pub worker_bytes: usize,
    /// Where the loss writes its f32 gradient.
    pub loss_gradient: Range<usize>,
    /// Bytes of all packed weights.
    pub packed_bytes: usize,
}

impl Plan {
    /// The plans of the convolutions and dense layers.
    fn conv_plans(&self) -> impl Iterator<Item = &ConvPlan> {
        self.ops.iter().filter_map(|op| match op {
            Op::Conv(conv) => Some(&conv.plan),
            Op::ConvNorm(layer) => Some(&layer.plan),
            _ => None,
        })
    }

    /// The bytes that each thread keeps for the passes that need them ([`ConvPlan::scratch_bytes`]).
    pub(crate) fn scratch_bytes(&self) -> usize {
        self.conv_plans().map(ConvPlan::scratch_bytes).max().unwrap_or(0)
    }

    /// The layer next to the input, if that is stored as the 4x4 patches that it reads.
    pub(crate) fn patches(&self) -> Option<&ConvPlan> {
        self.conv_plans().next().filter(|plan| plan.reads_patches())
    }
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
            | Op::Norm(BatchNorm { x, y, .. })
            | Op::Dropout { x, y, .. } => (x, y),
            Op::Fork { x, body, .. } => (x, body),
            Op::Add { body, y, .. } => (body, y),
        }
    }
}
