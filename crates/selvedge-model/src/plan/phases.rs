//! The order of a pass: runs of steps that each block takes on its own, and between them what needs all blocks.
//!
//! Within a phase a worker takes a block through all steps before it turns to the next, so that a network without batch
//! normalisation runs depth first, forward and backward, with each block in the cache of one core. Batch normalisation
//! cuts a pass into phases, because its statistics are those of the whole batch.

use crate::plan::{Op, Plan};

/// What a block does. Operations are named by their number in the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Pixels become the network's input.
    Input,
    Forward(usize),
    /// A batch normalisation's statistics of the block.
    Moments(usize),
    /// The loss and its gradient.
    Loss,
    /// What the gradient of a batch normalisation needs to know of the block.
    GradientSums(usize),
    Backward(usize),
}

/// What is done once all blocks have come so far: the combination of a batch normalisation's sums, by its operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Barrier {
    Moments(usize),
    GradientSums(usize),
    End,
}

/// Steps of each block, and what follows when all have taken them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Phase {
    pub steps: Vec<Step>,
    pub barrier: Barrier,
}

/// The phases of a training pass.
pub(crate) fn training(plan: &Plan) -> Vec<Phase> {
    let mut phases = vec![];
    let mut steps = vec![Step::Input];
    for op in 0..plan.ops.len() {
        if has_moments(&plan.ops[op]) {
            steps.push(Step::Moments(op));
            phases.push(Phase { steps: std::mem::take(&mut steps), barrier: Barrier::Moments(op) });
        }
        steps.push(Step::Forward(op));
    }
    steps.push(Step::Loss);
    for op in (0..plan.ops.len()).rev() {
        if has_gradient_sums(&plan.ops[op]) {
            steps.push(Step::GradientSums(op));
            phases.push(Phase { steps: std::mem::take(&mut steps), barrier: Barrier::GradientSums(op) });
        }
        steps.push(Step::Backward(op));
    }
    phases.push(Phase { steps, barrier: Barrier::End });
    phases
}

/// The times ([`crate::plan::lifetimes`]) at which the phases of a training pass begin but for the first, and that at which the last ends.
pub(crate) fn beginnings(plan: &Plan) -> Vec<usize> {
    let n = plan.ops.len();
    let forward = (0..n).filter(|&op| has_moments(&plan.ops[op])).map(|op| op + 1);
    let backward = (0..n).filter(|&op| has_gradient_sums(&plan.ops[op])).map(|op| 2 * n + 1 - op);
    forward.chain(backward).chain([2 * n + 2]).collect()
}

/// Whether all blocks must come to an operation before one goes through it forward.
fn has_moments(op: &Op) -> bool {
    matches!(op, Op::Norm { .. } | Op::ConvNorm(_))
}

/// The same backward.
fn has_gradient_sums(op: &Op) -> bool {
    matches!(op, Op::Norm { .. })
}
