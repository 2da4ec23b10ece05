//! [`Operation`]: what a network's plan does, one after the other, and what each must cost: for profiles.

use std::fmt;

use selvedge_compute::conv::ConvPlan;
use selvedge_compute::cost::{self, Cost, Passes};
use selvedge_compute::{BlockShape, Cpu, Precision};

use crate::plan::{BatchNorm, Op, Plan, ValueId};

/// One operation of a network's plan: a layer, or a few that are computed in one pass.
#[derive(Clone, Debug, PartialEq)]
pub struct Operation {
    /// The layer's name, as in [`crate::ModelSpec::summary`], and the kinds of those behind it that are computed with
    /// it: `0.conv2d + relu + max_pool2d`.
    pub name: String,
    /// What it computes.
    pub kind: OperationKind,
    /// Height, width and channels of an image before it.
    pub input: [usize; 3],
    /// Height, width and channels of an image behind it.
    pub output: [usize; 3],
    /// The instruction set and the code that is used, such as `amx tiles`.
    pub path: String,
    /// What it multiplies in: the peak that bounds it is that of these products.
    pub precision: Precision,
    /// What the forward pass costs.
    pub forward: Cost,
    /// What the backward pass costs, gradients of weights included.
    pub backward: Cost,
}

/// What an [`Operation`] computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OperationKind {
    /// A convolution, with ReLU and max pooling in the same pass if they follow.
    Conv2d,
    /// A dense layer.
    Dense,
    /// The rounding of the input to bf16, or of logits back to f32.
    Round,
    /// An activation of its own.
    Activation,
    /// Max pooling of its own.
    MaxPool,
    /// Average pooling.
    AveragePool,
    /// Batch normalisation, with an activation and max pooling in the same pass if they follow.
    Norm,
    /// Dropout.
    Dropout,
    /// Beginning or end of a residual block.
    Residual,
}

impl fmt::Display for OperationKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Conv2d => "conv2d",
            Self::Dense => "dense",
            Self::Round => "round",
            Self::Activation => "activation",
            Self::MaxPool => "max_pool",
            Self::AveragePool => "average_pool",
            Self::Norm => "norm",
            Self::Dropout => "dropout",
            Self::Residual => "residual",
        })
    }
}

/// The operations of a plan on `images` images.
pub(crate) fn list(plan: &Plan, cpu: Cpu, images: usize) -> Vec<Operation> {
    let image = |shape: &BlockShape| [shape.height, shape.width, shape.channels];
    let operation = |(op, name): (&Op, &String)| {
        let (x, y) = op.ends();
        let (kind, passes) = costs(plan, op, images);
        let (path, precision) = match op {
            Op::Conv(conv) => (conv.plan.name(cpu), conv.plan.multiplies_in()),
            Op::ConvNorm(layer) => (layer.plan.name(cpu), layer.plan.multiplies_in()),
            _ => (format!("{} vectors", cpu.isa().vectors()), Precision::F32),
        };
        // A layer that reads patches still has pixels before it.
        let input = match op {
            Op::Conv(conv) => image(&conv.plan.shape().input),
            Op::ConvNorm(layer) => image(&layer.plan.shape().input),
            _ => image(&plan.values[x].shape),
        };
        let Passes { forward, backward } = passes;
        Operation {
            name: name.clone(),
            kind,
            input,
            output: image(&plan.values[y].shape),
            path,
            precision,
            forward,
            backward,
        }
    };
    plan.ops.iter().zip(&plan.names).map(operation).collect()
}

fn costs(plan: &Plan, op: &Op, images: usize) -> (OperationKind, Passes) {
    let value = |id: ValueId| &plan.values[id];
    let has_gradient = !value(op.ends().0).grad.is_empty();
    let (kind, passes) = match op {
        Op::Conv(conv) => return convolution(&conv.plan, images),
        Op::ConvNorm(layer) => return convolution(&layer.plan, images),
        Op::Round { x, y } | Op::Widen { x, y } => {
            let elements = value(*x).shape.len() / selvedge_compute::BLOCK * images;
            let bytes = (elements * (value(*x).element + value(*y).element)) as u64;
            let forward = Cost { flops: elements as u64, nominal_flops: elements as u64, bytes };
            return (OperationKind::Round, Passes { forward, backward: Cost::default() });
        }
        Op::Activate { kind, x, .. } => {
            (OperationKind::Activation, cost::activation(*kind, &value(*x).shape, images, value(*x).element))
        }
        Op::MaxPool { shape, x, .. } => (OperationKind::MaxPool, cost::max_pool(shape, images, value(*x).element)),
        Op::AvgPool { shape, x, .. } => {
            (OperationKind::AveragePool, cost::average_pool(shape, images, value(*x).element))
        }
        Op::Norm(BatchNorm { pool: Some(pool), x, .. }) => {
            (OperationKind::Norm, cost::norm_pooled(&pool.shape, images, value(*x).element))
        }
        Op::Norm(BatchNorm { shortcut: Some(_), x, .. }) => {
            (OperationKind::Norm, cost::norm_and_add(&value(*x).shape, images, value(*x).element))
        }
        Op::Norm(BatchNorm { x, .. }) => (OperationKind::Norm, cost::norm(&value(*x).shape, images, value(*x).element)),
        Op::Dropout { x, .. } => (OperationKind::Dropout, cost::dropout(&value(*x).shape, images, value(*x).element)),
        Op::Fork { x, .. } => {
            let backward = cost::add(&value(*x).shape, images, value(*x).element).backward;
            (OperationKind::Residual, Passes { forward: Cost::default(), backward })
        }
        Op::Add { y, .. } => {
            let Passes { forward, .. } = cost::add(&value(*y).shape, images, value(*y).element);
            // Backward the gradient is copied: two of the sum's three tensors move.
            let backward = Cost { flops: 0, nominal_flops: 0, bytes: forward.bytes / 3 * 2 };
            (OperationKind::Residual, Passes { forward, backward })
        }
    };
    // The network's input has no gradient.
    let backward = if has_gradient { passes.backward } else { Cost::default() };
    (kind, Passes { forward: passes.forward, backward })
}

fn convolution(plan: &ConvPlan, images: usize) -> (OperationKind, Passes) {
    let shape = plan.shape();
    let is_dense = shape.output.height * shape.output.width == 1
        && shape.kernel == [shape.input.height, shape.input.width]
        && shape.padding == [0, 0];
    let kind = if is_dense { OperationKind::Dense } else { OperationKind::Conv2d };
    (kind, plan.cost(images))
}
