//! [`Operation`]: what a network's plan does, one after the other, and what each must cost: for profiles.

use std::fmt;

use selvedge_compute::conv::ConvAlgorithm;
use selvedge_compute::conv::winograd::Winograd;
use selvedge_compute::cost::{self, Cost, ElementBytes, Passes};
use selvedge_compute::{BlockShape, Cpu, Isa, Precision};

use crate::plan::{Conv, ConvNorm, Op, Plan, Value, ValueId};

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
            Op::Conv(conv) => path(conv, cpu),
            Op::ConvNorm(layer) if layer.reads_windows() => {
                (format!("{} {}", cpu.isa(), ConvAlgorithm::FirstLayer), layer.precision)
            }
            _ => (format!("{} vectors", vectors(cpu)), Precision::F32),
        };
        // A layer that reads windows still has pixels before it.
        let input = match op {
            Op::Conv(conv) => image(&conv.shape.input),
            Op::ConvNorm(layer) => image(&layer.shape.input),
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

/// The instruction set of vector code: beside AMX it is AVX-512.
fn vectors(cpu: Cpu) -> Isa {
    cpu.isa().min(Isa::Avx512)
}

fn path(conv: &Conv, cpu: Cpu) -> (String, Precision) {
    let path = ConvAlgorithm::of(&conv.shape, conv.precision, conv.pool.as_ref().map(|pool| pool.window));
    let isa = if path == ConvAlgorithm::Tiles || conv.reads_windows() { cpu.isa() } else { vectors(cpu) };
    (format!("{isa} {path}"), conv.precision)
}

fn costs(plan: &Plan, op: &Op, images: usize) -> (OperationKind, Passes) {
    let value = |id: ValueId| &plan.values[id];
    let has_gradient = !value(op.ends().0).grad.is_empty();
    let (kind, passes) = match op {
        Op::Conv(conv) => return convolution(plan, conv, images),
        Op::ConvNorm(layer) => return conv_norm(plan, layer, images),
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
        Op::Norm { pool: Some(pool), x, .. } => {
            (OperationKind::Norm, cost::norm_pooled(&pool.shape, images, value(*x).element))
        }
        Op::Norm { shortcut: Some(_), x, .. } => {
            (OperationKind::Norm, cost::norm_and_add(&value(*x).shape, images, value(*x).element))
        }
        Op::Norm { x, .. } => (OperationKind::Norm, cost::norm(&value(*x).shape, images, value(*x).element)),
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

/// Forward the input is read twice, first for the moments; backward the result tells where its gradient is zero, if there is a
/// ReLU.
fn conv_norm(plan: &Plan, layer: &ConvNorm, images: usize) -> (OperationKind, Passes) {
    let (input, output) = (&plan.values[layer.x], &plan.values[layer.y]);
    let element = ElementBytes { input: size_of::<f32>(), output: output.element, weights: layer.precision.bytes() };
    let passes = cost::conv(&layer.shape, images, element);
    let stored = |value: &Value| (value.shape.len() / selvedge_compute::BLOCK * images * value.element) as u64;
    let (mut forward, mut backward) = (passes.forward, passes.backward_weights);
    let of_input = stored(input) - (layer.shape.input.len() / selvedge_compute::BLOCK * images * element.input) as u64;
    forward.bytes += of_input + stored(input);
    backward.bytes += of_input;
    if plan.norms[layer.norm].activation.is_some() {
        backward.bytes += stored(output);
    }
    (OperationKind::Conv2d, Passes { forward, backward })
}

fn convolution(plan: &Plan, conv: &Conv, images: usize) -> (OperationKind, Passes) {
    let shape = &conv.shape;
    let is_dense = shape.output.height * shape.output.width == 1
        && shape.kernel == [shape.input.height, shape.input.width]
        && shape.padding == [0, 0];
    let kind = if is_dense { OperationKind::Dense } else { OperationKind::Conv2d };
    let element = ElementBytes {
        input: plan.values[conv.x].element,
        output: plan.values[conv.y].element,
        weights: conv.precision.bytes(),
    };
    let direct = cost::conv(shape, images, element);
    let by = |winograd: &Option<Winograd>| winograd.map_or(direct, |winograd| cost::winograd(&winograd, images));
    let passes = by(&conv.winograd.backward);
    let (mut forward, mut backward) = (by(&conv.winograd.forward).forward, passes.backward_weights);
    if !conv.transposed.is_empty() {
        backward = backward + passes.backward_data;
    }
    let stored = |shape: &BlockShape| (shape.len() / selvedge_compute::BLOCK * images * element.output) as u64;
    let full = stored(&shape.output);
    if let Some(pool) = &conv.pool {
        // The result is pooled before it is stored, with the indices' numbers.
        let pooling = cost::max_pool(&pool.shape, images, element.output);
        let kept = pooling.forward.bytes - full;
        forward.bytes = forward.bytes - full + kept;
        if pool.is_first_layer {
            backward.bytes = backward.bytes - full + kept;
        } else {
            backward = backward + pooling.backward;
        }
    } else if conv.relu {
        // The result tells where its gradient is zero.
        backward.bytes += full;
    }
    (kind, Passes { forward, backward })
}
