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

use selvedge_compute::activation::Activation;
use selvedge_compute::conv::winograd::Winograd;
use selvedge_compute::conv::{Conv2dShape, row_buffers};
use selvedge_compute::pool::Pool2dShape;
use selvedge_compute::{BlockShape, Precision};

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

/// How the gradient of an operation's weights is cut into independent pieces; either way its bits do not depend on
/// the number of threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WeightGradient {
    /// Each group of blocks sums its own, right after dY is made and while it is in the cache; the groups' sums are
    /// added in their order. For weights that are smaller than the activations.
    PerGroup,
    /// Each panel of output channels is summed over all blocks after the backward pass: no partial sums. For weights
    /// that are larger than the activations, as a dense layer's.
    PerPanel,
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
    Norm {
        norm: usize,
        pool: Option<NormPool>,
        /// What is added behind the activation: at the end of a residual block.
        shortcut: Option<ValueId>,
        x: ValueId,
        y: ValueId,
        partial: Range<usize>,
    },
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
    pub shape: Conv2dShape,
    /// Numbers of the parameters.
    pub weight: usize,
    pub bias: Option<usize>,
    pub relu: bool,
    /// Max pooling behind the ReLU.
    pub pool: Option<FusedPool>,
    pub x: ValueId,
    pub y: ValueId,
    pub gradient: WeightGradient,
    /// Winograd's algorithm for the forward and for the backward passes, where they take it.
    pub winograd: Winograds,
    /// Places, in bytes, of the weights as the forward pass reads them and of those transposed for the backward pass; empty
    /// where the forward pass reads the parameters and where there is no gradient of the input.
    pub packed: Range<usize>,
    pub transposed: Range<usize>,
    /// What is multiplied: f32 next to the network's input whatever the precision, unless it reads windows
    /// ([`Plan::windows`]).
    pub precision: Precision,
    /// The places of x and dy repacked for the gradient of the weights, where it is cut by panels.
    pub repacked: [Range<usize>; 2],
}

/// Winograd's algorithm for the passes of a convolution. The forward pass may have to hold windows of pooling in its tiles,
/// so it may be another one.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Winograds {
    pub forward: Option<Winograd>,
    pub backward: Option<Winograd>,
}

impl Conv {
    /// The value whose gradient the weights get: the result before pooling.
    pub(crate) fn result(&self) -> ValueId {
        self.pool.as_ref().map_or(self.y, |pool| pool.full)
    }

    /// Whether x is the input as windows ([`Plan::windows`]).
    pub(crate) fn reads_windows(&self) -> bool {
        self.precision == Precision::Bf16 && self.pool.as_ref().is_some_and(|pool| pool.is_first_layer)
    }
}

/// A convolution next to the input and the batch normalisation behind it ([`selvedge_compute::conv::first_layer::batch_norm`]).
#[derive(Debug)]
pub(crate) struct ConvNorm {
    pub shape: Conv2dShape,
    /// Numbers of the parameters, and of the normalisation.
    pub weight: usize,
    pub bias: Option<usize>,
    pub norm: usize,
    pub x: ValueId,
    pub y: ValueId,
    /// What is multiplied: bf16 where x is windows, else f32.
    pub precision: Precision,
    /// The sums of a block's patches.
    pub partial: Range<usize>,
}

/// Max pooling over windows that do not overlap, taken into the convolution before it.
#[derive(Debug)]
pub(crate) struct FusedPool {
    pub shape: Pool2dShape,
    /// Pixels of a window, vertically and horizontally.
    pub window: [usize; 2],
    pub indices: Range<usize>,
    /// The convolution's result: only its gradient is ever stored, and not even that if the gradient of the weights is
    /// taken from the pooled one.
    pub full: ValueId,
    pub is_first_layer: bool,
    pub dropout: Option<Dropout>,
}

/// A dropout layer: its rate, and what tells its masks from those of others.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dropout {
    pub rate: f32,
    pub key: u32,
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
    /// The bytes that each thread keeps for the passes that need it: tiles of Winograd's algorithm, and the rows that are
    /// repacked for the gradient of weights. In a block's arena, rows would be fetched from memory and written back for each
    /// block: 2 to 6 % of that pass.
    pub(crate) fn scratch_bytes(&self) -> usize {
        let convolutions = self.ops.iter().filter_map(|op| match op {
            Op::Conv(conv) => Some(&**conv),
            _ => None,
        });
        let of_conv = |conv: &Conv| {
            let winograds = [conv.winograd.forward, conv.winograd.backward].into_iter().flatten();
            let of_tiles = winograds.map(|winograd| winograd.scratch_len() * size_of::<f32>()).max();
            let of_rows = row_buffers(&conv.shape).iter().sum::<usize>() * conv.precision.bytes();
            let has_rows = conv.gradient == WeightGradient::PerGroup && conv.winograd.backward.is_none();
            of_tiles.unwrap_or(0).max(if has_rows { of_rows } else { 0 })
        };
        convolutions.map(of_conv).max().unwrap_or(0)
    }

    /// The layer next to the input, if that is stored as the windows that it sees ([`selvedge_compute::conv::first_layer::patches`]).
    pub(crate) fn windows(&self) -> Option<&Conv2dShape> {
        match self.ops.first() {
            Some(Op::Conv(conv)) if conv.x == self.input && conv.precision == Precision::Bf16 => Some(&conv.shape),
            Some(Op::ConvNorm(layer)) if layer.reads_windows() => Some(&layer.shape),
            _ => None,
        }
    }
}

impl Op {
    /// Whether the gradient of the weights can only be added to sums, and does not overwrite them for a group's first block.
    pub(crate) fn adds_to_sums(&self) -> bool {
        match self {
            Op::Conv(conv) => conv.pool.as_ref().is_some_and(|pool| pool.is_first_layer),
            Op::ConvNorm(_) => true,
            _ => false,
        }
    }

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
            | Op::Norm { x, y, .. }
            | Op::Dropout { x, y, .. } => (x, y),
            Op::Fork { x, body, .. } => (x, body),
            Op::Add { body, y, .. } => (body, y),
        }
    }
}
