//! [`Operation`]: the operations of a network's plan in their order, each with its cost, for profiles.

use selvedge_compute::cost::{Cost, Passes};
use selvedge_compute::{BlockShape, Cpu, Precision};

use crate::plan::{Op, Plan};

/// One operation of a network's plan: a layer, or a few that are computed in one pass.
#[derive(Clone, Debug, PartialEq)]
pub struct Operation {
    /// The layer's name, as in [`crate::ModelSpec::summary`], and the kinds of the layers after it that are fused into it:
    /// `0.conv2d + relu + max_pool2d`. The dense layers of squeeze-and-excitation are `1.squeeze_excitation.fc1` and `fc2`.
    pub name: String,
    /// `conv2d`, `dense`, `activation`, `max_pool`, `average_pool`, `average_max_pool`, `gem_pool`, `norm`, `dropout`, `gate` for
    /// the end of squeeze-and-excitation, `residual` for the beginning or end of a residual block, where squeeze-and-excitation
    /// begins, too, or `round` for the rounding of the input to bf16 or of logits back to f32.
    pub kind: &'static str,
    /// Height, width and channels of its input.
    pub input: [usize; 3],
    /// Height, width and channels of its output.
    pub output: [usize; 3],
    /// The instruction set and the algorithm, such as `amx tiles`.
    pub path: String,
    /// The type of its products, whose peak bounds it.
    pub precision: Precision,
    /// The cost of the forward pass.
    pub forward: Cost,
    /// The cost of the backward pass, gradients of weights included.
    pub backward: Cost,
}

/// The operations of a plan on `images` images.
pub(crate) fn list(plan: &Plan, cpu: Cpu, images: usize) -> Vec<Operation> {
    let image = |shape: &BlockShape| [shape.height, shape.width, shape.channels];
    let operation = |(op, name): (&Op, &String)| {
        let (x, y) = op.ends();
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
        let Passes { forward, backward } = op.cost(&plan.values, images);
        Operation {
            name: name.clone(),
            kind: op.kind(),
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
