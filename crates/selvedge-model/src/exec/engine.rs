//! [`Engine`]: the memory of a network's passes, and the passes, cut over threads.
//!
//! A batch is cut into blocks of [`BLOCK`] images, blocks into groups. How many there are, and the order in which their
//! results are added, depends on the batch alone, so the bits of a result do not depend on the number of threads. Where
//! there are more threads than blocks, large layers cut a block, too, into parts that are each computed alone.

use std::ops::Range;

use rayon::prelude::*;
use selvedge_compute::conv::{Accumulate, PackChunk, WeightGradient};
use selvedge_compute::loss::{self, BlockLoss, BlockTargets};
use selvedge_compute::simd::Element;
use selvedge_compute::{AlignedVec, BLOCK, Cpu, sum};

use crate::exec::conv;
use crate::exec::ends::{fill_input, logits, step_loss};
use crate::exec::norms::Norms;
use crate::exec::pass::{Batch, BatchMetrics, Loss, StepKey};
use crate::exec::pieces::{self, Piece};
use crate::exec::run::{Arenas, Block, Context, GroupSums, backward, forward};
use crate::exec::workers::Workers;
use crate::params::ParamEntry;
use crate::params::state::State;
use crate::plan::phases::{self, Barrier, Phase, Step};
use crate::plan::{Op, Plan};
use crate::profile::timing::{Account, Lap, Timing, timed};
use crate::spec::InputSpec;

/// The most groups of a batch: partial sums of the weights' gradients are kept for each.
const MAX_GROUPS: usize = 16;

/// The memory of a network's passes.
pub(crate) struct Engine {
    pub plan: Plan,
    pub cpu: Cpu,
    input: InputSpec,
    classes: usize,
    phases: Vec<Phase>,
    /// The blocks' arenas, one behind another.
    arenas: AlignedVec<u8>,
    workers: Workers,
    /// Where each parameter's gradient lies in a group's sums; empty if it is not summed by group.
    sum_ranges: Vec<Range<usize>>,
    sums_len: usize,
    /// Parts of a group's sums that its first block does not overwrite.
    cleared: Vec<Range<usize>>,
    /// How the buffers of packed weights and of gradients are cut over threads.
    packed_pieces: Vec<Piece<(usize, PackChunk)>>,
    gradient_pieces: Vec<Piece<Gradient>>,
    /// The groups' sums, one behind another.
    sums: AlignedVec<f32>,
    /// The weights as passes read them, in bytes.
    packed: AlignedVec<u8>,
    losses: Vec<BlockLoss>,
    norms: Norms,
    /// Where training passes account for their threads' time, if anybody asks.
    pub timing: Option<Timing>,
}

impl Engine {
    /// Memory for batches of up to `max_batch` images, on a pool of `threads`.
    pub(crate) fn new(
        plan: Plan,
        entries: &[ParamEntry],
        cpu: Cpu,
        input: InputSpec,
        classes: usize,
        [max_batch, threads]: [usize; 2],
    ) -> Self {
        let blocks = max_batch.div_ceil(BLOCK).max(1);
        let mut sum_ranges = vec![0..0; entries.len()];
        let (mut sums_len, mut cleared) = (0, vec![]);
        for op in &plan.ops {
            let (weight, others, overwrites) = match op {
                Op::Conv(conv) => {
                    let per_group = conv.plan.weight_gradient() == WeightGradient::PerGroup;
                    (per_group.then_some(conv.weight), [conv.bias, None], conv.plan.overwrites_sums())
                }
                Op::ConvNorm(layer) => {
                    (Some(layer.weight), [layer.bias, Some(plan.norms[layer.norm].shift)], layer.plan.overwrites_sums())
                }
                _ => continue,
            };
            for index in weight.into_iter().chain(others.into_iter().flatten()) {
                sum_ranges[index] = sums_len..sums_len + entries[index].range.len();
                sums_len = sum_ranges[index].end;
                if weight != Some(index) || !overwrites {
                    cleared.push(sum_ranges[index].clone());
                }
            }
        }
        let groups = blocks.div_ceil(group_blocks(blocks));
        let (packed_pieces, gradient_pieces) =
            (packed_pieces(&plan), gradient_pieces(&plan, entries, &sum_ranges, threads));
        Self {
            cpu,
            input,
            classes,
            phases: phases::training(&plan),
            arenas: AlignedVec::zeroed(blocks * plan.arena_bytes),
            workers: Workers::new(plan.worker_bytes, [blocks, threads]),
            sum_ranges,
            sums_len,
            cleared,
            packed_pieces,
            gradient_pieces,
            // At least one element a group, so that groups can be counted off where no parameter is summed by group.
            sums: AlignedVec::zeroed(groups * sums_len.max(1)),
            packed: AlignedVec::zeroed(plan.packed_bytes),
            losses: vec![BlockLoss::default(); blocks],
            norms: Norms::new(&plan, blocks),
            timing: None,
            plan,
        }
    }

    /// Images that a pass can take.
    pub(crate) fn capacity(&self) -> usize {
        self.losses.len() * BLOCK
    }

    /// Brings the weights into the forms that passes read.
    pub(crate) fn pack(&mut self, state: &State) {
        let params = &state.params;
        let (cpu, plan, timing) = (self.cpu, &self.plan, self.timing.as_ref());
        pieces::for_each(&self.packed_pieces, &mut self.packed, &|piece, to| {
            let (number, chunk) = &piece.job;
            let Op::Conv(conv) = &plan.ops[*number] else { return };
            let panels = &params.values[params.entries[conv.weight].range.clone()];
            timed(timing, Account::Packing, || conv.plan.pack(cpu, chunk, panels, to));
        });
    }

    /// One training pass: gradients of the mean loss into `params.grads`, running statistics moved along.
    pub(crate) fn train<E: Element>(
        &mut self,
        state: &mut State,
        batch: Batch<'_>,
        loss: &Loss,
        key: StepKey,
    ) -> BatchMetrics {
        let blocks = batch.count.div_ceil(BLOCK);
        let per_group = group_blocks(blocks);
        let dropout = Some(key.hash());
        if cfg!(debug_assertions) {
            // Whatever is read before it is written in this pass shows as NaN.
            self.arenas.fill(u8::MAX);
            self.sums.fill(f32::NAN);
        }
        for number in 0..self.phases.len() {
            let (phase, params) = (&self.phases[number], &state.params);
            let ctx = Context {
                cpu: self.cpu,
                plan: &self.plan,
                entries: &params.entries,
                sum_ranges: &self.sum_ranges,
                params: &params.values,
                packed: &self.packed,
                norms: &self.norms,
                pieces: block_pieces(blocks),
                training: dropout,
            };
            let pass = TrainingPass { ctx, input: &self.input, classes: self.classes, batch, loss };
            let (cleared, arena_bytes) = (&self.cleared, self.plan.arena_bytes);
            let (workers, timing) = (&self.workers, self.timing.as_ref());
            self.arenas[..blocks * arena_bytes]
                .par_chunks_mut(per_group * arena_bytes)
                .zip(self.sums.par_chunks_mut(self.sums_len.max(1)))
                .zip(self.losses[..blocks].par_chunks_mut(per_group))
                .enumerate()
                .for_each(|(group, ((arenas, sums), losses))| {
                    let mut lap = Lap::start(timing);
                    if number == 0 {
                        cleared.iter().for_each(|range| sums[range.clone()].fill(0.0));
                        lap.end(Account::GradientSums);
                    }
                    workers.with(|worker| {
                        for (i, (arena, block_loss)) in arenas.chunks_exact_mut(arena_bytes).zip(losses).enumerate() {
                            if cfg!(debug_assertions) {
                                worker.fill(u8::MAX);
                            }
                            let first_image = (group * per_group + i) * BLOCK;
                            let valid = (batch.count - first_image).min(BLOCK);
                            let mut block =
                                Block { arenas: Arenas { block: arena, worker: &mut *worker }, first_image, valid };
                            let accumulate = if i == 0 { Accumulate::Overwrite } else { Accumulate::Add };
                            for &step in &phase.steps {
                                pass.take::<E>(
                                    step,
                                    &mut block,
                                    block_loss,
                                    GroupSums { sums: &mut *sums, accumulate },
                                );
                                lap.end(step);
                            }
                        }
                    });
                });
            let arenas = &self.arenas[..blocks * arena_bytes];
            let mut lap = Lap::start(timing);
            match phase.barrier {
                Barrier::Moments(op) => {
                    self.norms.combine_moments(self.cpu, &self.plan, op, state, arenas, batch.count);
                    lap.end(Account::Forward(op));
                }
                Barrier::GradientSums(op) => {
                    self.norms.combine_gradients(&self.plan, op, state, arenas, batch.count);
                    lap.end(Account::Backward(op));
                }
                Barrier::End => {}
            }
        }
        self.add_up(state, blocks);
        timed(self.timing.as_ref(), Account::Backward(0), || self.norms.finish_input(&self.plan, state));
        self.metrics(batch.count)
    }

    /// Gradients of weights that are summed by panel, and the sums of the groups' partial ones.
    fn add_up(&self, state: &mut State, blocks: usize) {
        let groups = blocks.div_ceil(group_blocks(blocks));
        let grads = &mut state.params.grads;
        let timing = self.timing.as_ref();
        pieces::for_each(&self.gradient_pieces, grads, &|piece, grads| match piece.job {
            Gradient::Sums { start } => timed(timing, Account::GradientSums, || {
                sum::add_up(self.cpu, &self.sums[start..], self.sums_len, groups, grads);
            }),
            Gradient::Panels { op, first } => timed(timing, Account::Backward(op), || {
                let (plan, arenas) = (&self.plan, &self.arenas);
                let Op::Conv(conv) = &plan.ops[op] else { return };
                conv::panel_gradients(self.cpu, plan, conv, first, arenas, blocks, grads);
            }),
        });
    }

    /// Inference on up to [`Engine::capacity`] images: the loss if there are targets, and the probabilities
    /// `[count][classes]` if wanted.
    pub(crate) fn infer<E: Element>(
        &mut self,
        state: &State,
        images: &[u8],
        count: usize,
        labels: Option<&[u8]>,
        probabilities: Option<&mut [f32]>,
    ) -> BatchMetrics {
        let blocks = count.div_ceil(BLOCK);
        let params = &state.params;
        self.norms.use_running(self.cpu, &self.plan, state);
        let ctx = Context {
            cpu: self.cpu,
            plan: &self.plan,
            entries: &params.entries,
            sum_ranges: &self.sum_ranges,
            params: &params.values,
            packed: &self.packed,
            norms: &self.norms,
            pieces: block_pieces(blocks),
            training: None,
        };
        let (input, classes, workers) = (&self.input, self.classes, &self.workers);
        // A piece for each block, empty where nobody wants probabilities.
        let mut rest = probabilities.unwrap_or_default();
        let pieces: Vec<&mut [f32]> = (0..blocks)
            .map(|_| {
                let len = (BLOCK * classes).min(rest.len());
                let (piece, after) = std::mem::take(&mut rest).split_at_mut(len);
                rest = after;
                piece
            })
            .collect();
        self.arenas[..blocks * self.plan.arena_bytes]
            .par_chunks_exact_mut(self.plan.arena_bytes)
            .zip(&mut self.losses[..blocks])
            .zip(pieces)
            .enumerate()
            .for_each(|(number, ((arena, block_loss), probabilities))| {
                workers.with(|worker| {
                    let first_image = number * BLOCK;
                    let valid = (count - first_image).min(BLOCK);
                    let mut block = Block { arenas: Arenas { block: arena, worker }, first_image, valid };
                    fill_input(&ctx, input, images, &mut block);
                    for op in &ctx.plan.ops {
                        forward::<E>(&ctx, op, &mut block);
                    }
                    let logits = logits(&ctx, classes, &block);
                    if let Some(labels) = labels {
                        let targets = BlockTargets::Labels(&labels[first_image..first_image + block.valid]);
                        *block_loss = loss::cross_entropy(ctx.cpu, logits, targets, 0.0, None);
                    }
                    if !probabilities.is_empty() {
                        loss::softmax(ctx.cpu, logits, probabilities);
                    }
                });
            });
        if labels.is_some() { self.metrics(count) } else { BatchMetrics::default() }
    }

    /// The losses of the blocks of `count` images, added in their order.
    fn metrics(&self, count: usize) -> BatchMetrics {
        let losses = &self.losses[..count.div_ceil(BLOCK)];
        BatchMetrics {
            loss_sum: losses.iter().map(|loss| loss.sum).sum(),
            correct: losses.iter().map(|loss| loss.correct).sum(),
            count,
        }
    }
}

/// A training pass, as its steps see it.
struct TrainingPass<'a> {
    ctx: Context<'a>,
    input: &'a InputSpec,
    classes: usize,
    batch: Batch<'a>,
    loss: &'a Loss,
}

impl TrainingPass<'_> {
    /// Takes a block through a step.
    fn take<E: Element>(&self, step: Step, block: &mut Block<'_>, block_loss: &mut BlockLoss, sums: GroupSums<'_>) {
        let Self { ref ctx, input, classes, batch, loss } = *self;
        match step {
            Step::Input => fill_input(ctx, input, batch.images, block),
            Step::Forward(op) => forward::<E>(ctx, &ctx.plan.ops[op], block),
            Step::Loss => *block_loss = step_loss::<E>(ctx, classes, batch, loss, block),
            Step::Backward(op) => backward::<E>(ctx, &ctx.plan.ops[op], block, sums),
            Step::Moments(op) => ctx.norms.block_moments::<E>(ctx, op, block),
            Step::GradientSums(op) => ctx.norms.block_gradient_sums::<E>(ctx, op, block),
        }
    }
}

/// How a piece of the gradients comes about.
#[derive(Clone, Copy)]
enum Gradient {
    /// From the groups' sums, which begin at `start` in each.
    Sums { start: usize },
    /// As the panels from `first` on of operation `op`.
    Panels { op: usize, first: usize },
}

/// The pieces of the packed weights, each with the number of its operation, in the order of their places.
fn packed_pieces(plan: &Plan) -> Vec<Piece<(usize, PackChunk)>> {
    let mut pieces = vec![];
    for (number, op) in plan.ops.iter().enumerate() {
        let Op::Conv(conv) = op else { continue };
        let numbered = |Piece { range, job }| Piece { range, job: (number, job) };
        pieces.extend(conv::packed_pieces(conv).map(numbered));
    }
    pieces
}

/// The pieces of the gradients of all convolutions and dense layers, in the order of their places.
fn gradient_pieces(
    plan: &Plan,
    entries: &[ParamEntry],
    sum_ranges: &[Range<usize>],
    threads: usize,
) -> Vec<Piece<Gradient>> {
    const PIECE: usize = 4096;
    let mut pieces = vec![];
    for (entry, sums) in entries.iter().zip(sum_ranges).filter(|(_, sums)| !sums.is_empty()) {
        let start = sums.start;
        pieces
            .extend(pieces::cut(entry.range.clone(), PIECE, |number| Gradient::Sums { start: start + number * PIECE }));
    }
    for (op, conv) in plan.ops.iter().enumerate() {
        let Op::Conv(conv) = conv else { continue };
        if conv.plan.weight_gradient() == WeightGradient::PerPanel {
            let panels = conv::panel_pieces(conv, entries[conv.weight].range.clone(), threads);
            pieces.extend(panels.map(|Piece { range, job }| Piece { range, job: Gradient::Panels { op, first: job } }));
        }
    }
    pieces.sort_by_key(|piece| piece.range.start);
    pieces
}

/// Blocks of a group, for a batch of `blocks`.
fn group_blocks(blocks: usize) -> usize {
    blocks.div_ceil(MAX_GROUPS).max(1)
}

/// Into how many pieces each of `blocks` blocks is cut, so that every thread of the pool has one.
fn block_pieces(blocks: usize) -> usize {
    rayon::current_num_threads().div_ceil(blocks.max(1))
}
