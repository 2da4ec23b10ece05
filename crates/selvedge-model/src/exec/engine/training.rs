//! The training pass.
//!
//! A pass is a list of phases ([`crate::plan::phases`]). In a phase, blocks do not wait for each other: each worker takes a
//! group of blocks, and each of its blocks through all steps of the phase. Between two phases stands a barrier, where the
//! statistics of the blocks become those of the batch. Without batch normalisation there is a single phase.

use selvedge_compute::loss::BlockLoss;
use selvedge_compute::simd::Element;
use selvedge_compute::sum;

use crate::exec::block::Block;
use crate::exec::chunks;
use crate::exec::context::Context;
use crate::exec::conv;
use crate::exec::ends::{fill_input, step_loss};
use crate::exec::engine::{Engine, Shared};
use crate::exec::gradients::{Gradient, GroupSums};
use crate::exec::groups::Groups;
use crate::exec::operation::{backward, forward, gradient_sums, moments};
use crate::exec::pass::{Batch, BatchMetrics, Loss, StepKey};
use crate::exec::timing::{Account, Lap, timed};
use crate::params::Params;
use crate::params::state::State;
use crate::plan::Op;
use crate::plan::phases::{Barrier, Step};

/// What a training pass is about.
#[derive(Clone, Copy)]
struct Pass<'a> {
    batch: Batch<'a>,
    groups: Groups,
    loss: &'a Loss,
    /// The key of the dropout masks.
    key: u32,
}

impl Engine {
    /// One training pass: writes the gradients of the mean loss into `params.grads` and moves the running statistics along.
    pub(crate) fn train<E: Element>(
        &mut self,
        state: &mut State,
        batch: Batch<'_>,
        loss: &Loss,
        key: StepKey,
    ) -> BatchMetrics {
        let groups = Groups::of(batch.count);
        let pass = Pass { batch, groups, loss, key: key.hash() };
        self.memory.poison();
        for phase in 0..self.phases.len() {
            self.run_phase::<E>(phase, &pass, &state.params);
            self.pass_barrier(phase, groups, state, None);
        }
        self.finish_gradients(groups, state);
        self.memory.metrics(groups)
    }

    /// The forward part of a training pass up to its last normalisation. Moves the running statistics towards those of the batch
    /// by `share`, and changes nothing else.
    pub(crate) fn estimate_statistics<E: Element>(
        &mut self,
        state: &mut State,
        batch: Batch<'_>,
        key: StepKey,
        share: f32,
    ) {
        let groups = Groups::of(batch.count);
        let pass = Pass { batch, groups, loss: &Loss::default(), key: key.hash() };
        self.memory.poison();
        let forward = self.phases.iter().take_while(|phase| matches!(phase.barrier, Barrier::Moments(_))).count();
        for phase in 0..forward {
            self.run_phase::<E>(phase, &pass, &state.params);
            self.pass_barrier(phase, groups, state, Some(share));
        }
    }

    /// Takes every block through the steps of a phase.
    fn run_phase<E: Element>(&mut self, number: usize, pass: &Pass<'_>, params: &Params) {
        let Self { shared, memory, phases, timing, .. } = self;
        let steps = &phases[number].steps;
        let ctx = shared.context(params, pass.groups, Some(pass.key));
        memory.for_each_group(pass.groups, |mut group| {
            let mut lap = Lap::start(timing.as_ref());
            if number == 0 {
                group.clear_sums();
                lap.end(Account::GradientSums);
            }
            group.for_each_block(|block, loss, mut sums| {
                for &step in steps {
                    take_step::<E>(&ctx, pass, step, block, loss, sums.reborrow());
                    lap.end(step);
                }
            });
        });
    }

    /// Combines what all blocks left at the end of a phase. Running statistics move by `share`, or by the normalisation's own
    /// momentum.
    fn pass_barrier(&mut self, phase: usize, groups: Groups, state: &mut State, share: Option<f32>) {
        let Self { shared: Shared { cpu, plan, norms, .. }, memory, phases, timing, .. } = self;
        let (arenas, timing) = (memory.arenas(groups), timing.as_ref());
        match phases[phase].barrier {
            Barrier::Moments(op) => {
                timed(timing, Account::Forward(op), || norms.combine_moments(*cpu, plan, op, &arenas, state, share));
            }
            Barrier::GradientSums(op) => {
                timed(timing, Account::Backward(op), || norms.combine_gradients(plan, op, &arenas, state));
            }
            Barrier::End => {}
        }
    }

    /// Writes the gradients that need all blocks, those of convolutions and dense layers.
    fn finish_gradients(&self, groups: Groups, state: &mut State) {
        let Shared { cpu, plan, norms, .. } = &self.shared;
        let (timing, arenas) = (self.timing.as_ref(), self.memory.arenas(groups));
        let (sums, stride) = self.memory.sums();
        chunks::for_each(&self.gradient_chunks, &mut state.params.grads, &|chunk, grads| match chunk.job {
            Gradient::Sums { start } => timed(timing, Account::GradientSums, || {
                sum::add_up(*cpu, &sums[start..], stride, groups.count(), grads);
            }),
            Gradient::Panels { op, first } => timed(timing, Account::Backward(op), || {
                let Op::Conv(conv) = &plan.ops[op] else { return };
                conv::panel_gradients(*cpu, plan, conv, first, &arenas, grads);
            }),
        });
        timed(timing, Account::Backward(0), || norms.finish_conv_norm(plan, state));
    }
}

/// Takes a block through a step.
fn take_step<E: Element>(
    ctx: &Context<'_>,
    pass: &Pass<'_>,
    step: Step,
    block: &mut Block<'_>,
    block_loss: &mut BlockLoss,
    sums: GroupSums<'_>,
) {
    let ops = &ctx.plan.ops;
    match step {
        Step::Input => fill_input(ctx, pass.batch.images, block),
        Step::Moments(op) => moments::<E>(ctx, &ops[op], block),
        Step::Forward(op) => forward::<E>(ctx, &ops[op], block),
        Step::Loss => *block_loss = step_loss::<E>(ctx, pass.batch, pass.loss, block),
        Step::GradientSums(op) => gradient_sums::<E>(ctx, &ops[op], block),
        Step::Backward(op) => backward::<E>(ctx, &ops[op], block, sums),
    }
}
