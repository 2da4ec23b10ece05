//! From a specification to a plan: which operations run in which order, on which shapes, and where in memory each
//! tensor lies.
//!
//! A plan is a list of operations over values. A value is one tensor of one block of images, with its gradient; every
//! value, gradient and index lies at a fixed place in the block's arena. Two of them share a place when the times at
//! which they are needed do not overlap ([`crate::memory`]): forward operation i runs at time i, its backward pass at
//! time 2n − 1 − i.

use std::ops::Range;

use selvedge_compute::activation::Activation;
use selvedge_compute::conv::input_norm::PATCH_SUMS;
use selvedge_compute::conv::winograd::Winograd;
use selvedge_compute::conv::{Conv2dShape, row_buffers};
use selvedge_compute::pool::Pool2dShape;
use selvedge_compute::{BlockShape, Precision};

use crate::memory::{Need, layout};

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
        winners: Range<usize>,
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
    /// The places of x and dy regrouped for the gradient of the weights, where it is cut by panels.
    pub regrouped: [Range<usize>; 2],
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

/// A convolution next to the input and the batch normalisation behind it ([`selvedge_compute::conv::input_norm`]).
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
    pub winners: Range<usize>,
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
    pub winners: Range<usize>,
    /// The winners' elements of x.
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
    /// Bytes of one block's arena.
    pub arena_bytes: usize,
    /// Where the loss writes its f32 gradient.
    pub loss_gradient: Range<usize>,
    /// Bytes of all packed weights.
    pub packed_bytes: usize,
}

/// The times at which a tensor is needed, from the first to the last.
#[derive(Clone, Copy)]
struct Span {
    first: usize,
    last: usize,
}

impl Span {
    const NEVER: Span = Span { first: usize::MAX, last: 0 };

    fn include(&mut self, time: usize) {
        self.first = self.first.min(time);
        self.last = self.last.max(time);
    }

    fn need(&self, bytes: usize) -> Need {
        let used = self.first <= self.last;
        Need { bytes: if used { bytes } else { 0 }, first: self.first.min(self.last), last: self.last }
    }
}

impl Plan {
    /// The bytes that each thread keeps for the passes that need it: tiles of Winograd's algorithm, and the rows that are
    /// regrouped for the gradient of weights. In a block's arena, rows would be fetched from memory and written back for each
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

    /// Gives every value, gradient and index its place in the block's arena.
    pub(crate) fn place(&mut self) {
        let Spans { data, grads, extras } = self.spans();
        let mut needs = vec![];
        for (value, (data, grad)) in self.values.iter().zip(data.iter().zip(&grads)) {
            let len = value.shape.len();
            needs.extend([data.need(len * value.element), grad.need(len * value.grad_element)]);
        }
        needs.extend(extras.iter().map(|extra| extra.span.need(extra.bytes)));
        let (places, total) = layout(&needs);
        let (of_values, of_extras) = places.split_at(2 * self.values.len());
        for (value, place) in self.values.iter_mut().zip(of_values.chunks_exact(2)) {
            (value.data, value.grad) = (place[0].clone(), place[1].clone());
        }
        for id in 0..self.values.len() {
            if let Some(root) = self.values[id].same_as {
                self.values[id].data = self.values[root].data.clone();
            }
        }
        for (extra, place) in extras.iter().zip(of_extras) {
            let place = place.clone();
            match (extra.kind, extra.op.map(|op| &mut self.ops[op])) {
                (ExtraKind::Winners, Some(Op::MaxPool { winners, .. })) => *winners = place,
                (ExtraKind::Winners, Some(Op::Conv(conv))) => {
                    conv.pool.as_mut().expect("a pool keeps winners").winners = place;
                }
                (ExtraKind::Partial, Some(Op::Norm { partial, .. })) => *partial = place,
                (ExtraKind::Partial, Some(Op::ConvNorm(layer))) => layer.partial = place,
                (ExtraKind::Winners, Some(Op::Norm { pool: Some(pool), .. })) => pool.winners = place,
                (ExtraKind::Kept, Some(Op::Norm { pool: Some(pool), .. })) => pool.kept = place,
                (ExtraKind::Regrouped(i), Some(Op::Conv(conv))) => {
                    conv.regrouped[i] = place;
                }
                (ExtraKind::LossGradient, None) => self.loss_gradient = place,
                (kind, _) => unreachable!("{kind:?} belongs to another operation"),
            }
        }
        self.arena_bytes = total;
    }

    /// The layer next to the input, if that is stored as the windows that it sees ([`selvedge_compute::conv::windows`]).
    pub(crate) fn windows(&self) -> Option<&Conv2dShape> {
        match self.ops.first() {
            Some(Op::Conv(conv)) if conv.x == self.input && conv.precision == Precision::Bf16 => Some(&conv.shape),
            Some(Op::ConvNorm(layer)) if layer.reads_windows() => Some(&layer.shape),
            _ => None,
        }
    }

    fn spans(&self) -> Spans {
        let n = self.ops.len();
        let (loss, end) = (n + 1, 2 * n + 2);
        let never = || vec![Span::NEVER; self.values.len()];
        let mut spans = Spans { data: never(), grads: never(), extras: vec![] };
        let root = |id: ValueId| self.values[id].same_as.unwrap_or(id);
        spans.data[self.input].include(0);
        spans.data[self.logits].include(loss);
        spans.grads[self.logits].include(loss);
        let bytes = self.values[self.logits].shape.len() * size_of::<f32>();
        let span = Span { first: loss, last: loss };
        spans.extras.push(Extra { op: None, kind: ExtraKind::LossGradient, bytes, span });
        for (i, op) in self.ops.iter().enumerate() {
            let (f, b) = (i + 1, 2 * n + 1 - i);
            let (x, y) = op.ends();
            let Spans { data, grads, extras } = &mut spans;
            data[root(x)].include(f);
            data[root(y)].include(f);
            grads[x].include(b);
            grads[y].include(b);
            let mut keep =
                |kind, bytes, first, last| extras.push(Extra { op: Some(i), kind, bytes, span: Span { first, last } });
            match op {
                Op::Conv(conv) => {
                    let done = if conv.gradient == WeightGradient::PerPanel { end } else { b };
                    data[root(x)].include(b);
                    let is_first_layer = conv.pool.as_ref().is_some_and(|pool| pool.is_first_layer);
                    if !is_first_layer {
                        grads[conv.result()].include(b);
                    }
                    if conv.winograd.backward.is_some() {
                        // Tensors are read as they lie.
                        data[root(x)].include(done);
                        grads[conv.result()].include(done);
                    } else if conv.gradient == WeightGradient::PerPanel {
                        let lens = [conv.shape.input.len(), conv.shape.output.len()];
                        for (i, len) in lens.into_iter().enumerate() {
                            keep(ExtraKind::Regrouped(i), len * conv.precision.bytes(), b, done);
                        }
                    }
                    match &conv.pool {
                        Some(pool) => keep(ExtraKind::Winners, pool.shape.output().len() * size_of::<u16>(), f, b),
                        None if conv.relu => data[root(y)].include(b),
                        None => {}
                    }
                }
                Op::ConvNorm(layer) => {
                    data[root(x)].include(b);
                    if self.norms[layer.norm].activation.is_some() {
                        data[root(y)].include(b);
                    }
                    keep(ExtraKind::Partial, PATCH_SUMS * size_of::<f64>(), f, f);
                }
                Op::Activate { .. } => data[root(x)].include(b),
                Op::MaxPool { shape, .. } => keep(ExtraKind::Winners, shape.output().len() * size_of::<u16>(), f, b),
                Op::Norm { norm, pool, shortcut, .. } => {
                    data[root(x)].include(b);
                    if let Some(shortcut) = shortcut {
                        data[root(*shortcut)].include(f);
                    }
                    if let Some(pool) = pool {
                        let len = pool.shape.output().len();
                        keep(ExtraKind::Winners, len * size_of::<u16>(), f, b);
                        keep(ExtraKind::Kept, len * self.values[x].element, f, b);
                    }
                    keep(ExtraKind::Partial, 2 * self.norms[*norm].shape.channel_stride * size_of::<f64>(), f, b);
                }
                // The sum's gradient is the shortcut's, which the fork adds to the body's.
                Op::Fork { sum, .. } => grads[*sum].include(b),
                Op::Add { shortcut, .. } => data[root(*shortcut)].include(f),
                Op::AvgPool { .. } | Op::Dropout { .. } | Op::Round { .. } | Op::Widen { .. } => {}
            }
        }
        spans.grads[self.input] = Span::NEVER;
        spans
    }
}

/// When each value's content and gradient are needed, and what else is kept.
struct Spans {
    data: Vec<Span>,
    grads: Vec<Span>,
    extras: Vec<Extra>,
}

/// What an operation, or the loss, keeps beside values.
struct Extra {
    op: Option<usize>,
    kind: ExtraKind,
    bytes: usize,
    span: Span,
}

#[derive(Clone, Copy, Debug)]
enum ExtraKind {
    Winners,
    Kept,
    Partial,
    Regrouped(usize),
    LossGradient,
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
