//! The order of a training pass: phases of steps that each block takes on its own, and between them barriers for all blocks.
//!
//! Within a phase a worker takes a block through all steps before it turns to the next block. So a network without batch
//! normalisation runs depth first, forward and backward, with each block in the cache of one core. Batch normalisation
//! divides a pass into phases, because its statistics are those of the whole batch.

use crate::plan::{Op, Plan};

/// A step of a block. Operations are given by their number in the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Fill the network's input with the images of the block.
    Input,
    Forward(usize),
    /// Compute the block's statistics for a batch normalisation.
    Moments(usize),
    /// Compute the loss and its gradient.
    Loss,
    /// Compute the block's sums for the gradient of a batch normalisation.
    GradientSums(usize),
    Backward(usize),
}

/// What follows when all blocks have finished a phase: a batch normalisation combines their sums, or the pass ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Barrier {
    Moments(usize),
    GradientSums(usize),
    End,
}

/// The steps that each block takes without waiting for others, and the barrier after them.
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

/// The times ([`crate::plan::lifetimes`]) at which the phases of a training pass begin, without the first, and at which the last
/// ends.
pub(crate) fn beginnings(plan: &Plan) -> Vec<usize> {
    let n = plan.ops.len();
    let forward = (0..n).filter(|&op| has_moments(&plan.ops[op])).map(|op| op + 1);
    let backward = (0..n).filter(|&op| has_gradient_sums(&plan.ops[op])).map(|op| 2 * n + 1 - op);
    forward.chain(backward).chain([2 * n + 2]).collect()
}

/// Whether the forward pass of an operation needs the statistics of all blocks.
fn has_moments(op: &Op) -> bool {
    matches!(op, Op::Norm(_) | Op::ConvNorm(_))
}

/// Whether its backward pass needs sums over all blocks.
fn has_gradient_sums(op: &Op) -> bool {
    matches!(op, Op::Norm(_))
}
