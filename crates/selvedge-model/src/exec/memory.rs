//! [`Memory`]: what the blocks of a batch write during a pass, handed out to threads by groups or by blocks.

use rayon::prelude::*;
use selvedge_compute::conv::Accumulate;
use selvedge_compute::loss::BlockLoss;
use selvedge_compute::{AlignedVec, BLOCK};

use crate::exec::block::{Arenas, BatchArenas, Block};
use crate::exec::gradients::{GroupSums, SumLayout};
use crate::exec::groups::Groups;
use crate::exec::pass::BatchMetrics;
use crate::exec::workers::Workers;
use crate::params::entry::ParamEntry;
use crate::plan::Plan;

/// What a network's memory is planned for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Capacity {
    /// The most images of a pass.
    pub images: usize,
    /// The threads of the pool that passes run on.
    pub threads: usize,
}

impl Capacity {
    fn blocks(self) -> usize {
        self.images.div_ceil(BLOCK).max(1)
    }

    /// A worker has an arena only while it has a block.
    fn worker_arenas(self) -> usize {
        self.blocks().min(self.threads)
    }

    fn groups(self) -> usize {
        Groups::most(self.blocks().saturating_mul(BLOCK))
    }
}

/// The numbers of a group's sums. At least one: the sums are divided into groups even where no parameter is summed by group.
fn sums_stride(layout: &SumLayout) -> usize {
    layout.len.max(1)
}

/// The memory of a network's passes.
pub(crate) struct Memory {
    arena_bytes: usize,
    /// The blocks' arenas, one after another.
    arenas: AlignedVec<u8>,
    workers: Workers,
    /// The groups' sums of gradients, one group after another.
    sums: AlignedVec<f32>,
    sums_stride: usize,
    sum_layout: SumLayout,
    /// Of each block.
    losses: Vec<BlockLoss>,
}

impl Memory {
    /// Memory for a plan whose groups sum gradients in this layout.
    pub(crate) fn new(plan: &Plan, sum_layout: SumLayout, capacity: Capacity) -> Self {
        let blocks = capacity.blocks();
        let sums_stride = sums_stride(&sum_layout);
        Self {
            arena_bytes: plan.arena_bytes,
            arenas: AlignedVec::zeroed(blocks * plan.arena_bytes),
            workers: Workers::new(plan.worker_bytes, capacity.worker_arenas()),
            sums: AlignedVec::zeroed(capacity.groups() * sums_stride),
            sums_stride,
            sum_layout,
            losses: vec![BlockLoss::default(); blocks],
        }
    }

    /// The bytes that an engine's memory takes for a plan and the parameters of its network.
    pub(crate) fn bytes(plan: &Plan, entries: &[ParamEntry], capacity: Capacity) -> u64 {
        let sums = sums_stride(&SumLayout::new(plan, entries)) * size_of::<f32>();
        let product = |count: usize, bytes: usize| (count as u64).saturating_mul(bytes as u64);
        product(capacity.blocks(), plan.arena_bytes + size_of::<BlockLoss>())
            .saturating_add(product(capacity.worker_arenas(), plan.worker_bytes))
            .saturating_add(product(capacity.groups(), sums))
    }

    /// Images that a pass can take.
    pub(crate) fn capacity(&self) -> usize {
        self.losses.len() * BLOCK
    }

    /// In debug builds, fills the memory with NaN: what a training pass reads before it writes it spoils the result.
    pub(crate) fn poison(&mut self) {
        if cfg!(debug_assertions) {
            self.arenas.fill(u8::MAX);
            self.sums.fill(f32::NAN);
        }
    }

    /// Calls `run` with the memory of each group, in parallel.
    pub(crate) fn for_each_group(&mut self, groups: Groups, run: impl Fn(Group<'_>) + Sync) {
        let Self { arena_bytes, arenas, workers, sums, sums_stride, sum_layout, losses } = self;
        let sum_layout = &*sum_layout;
        let (arena_bytes, per_group) = (*arena_bytes, groups.blocks_per_group);
        arenas[..groups.blocks * arena_bytes]
            .par_chunks_mut(per_group * arena_bytes)
            .zip(sums.par_chunks_mut(*sums_stride))
            .zip(losses[..groups.blocks].par_chunks_mut(per_group))
            .enumerate()
            .for_each(|(number, ((arenas, sums), losses))| {
                let first_block = number * per_group;
                run(Group { groups, first_block, arena_bytes, arenas, workers, sums, sum_layout, losses });
            });
    }

    /// Calls `run` with each block, its loss, and its element of `outputs`, in parallel.
    pub(crate) fn for_each_block<T: Send>(
        &mut self,
        groups: Groups,
        outputs: Vec<T>,
        run: impl Fn(&mut Block<'_>, &mut BlockLoss, T) + Sync,
    ) {
        let Self { arena_bytes, arenas, workers, losses, .. } = self;
        arenas[..groups.blocks * *arena_bytes]
            .par_chunks_exact_mut(*arena_bytes)
            .zip(&mut losses[..groups.blocks])
            .zip(outputs)
            .enumerate()
            .for_each(|(number, ((arena, loss), output))| {
                workers.with(|worker| run(&mut block_of(groups, number, arena, worker), loss, output));
            });
    }

    /// The blocks' own arenas, for what needs all blocks.
    pub(crate) fn arenas(&self, groups: Groups) -> BatchArenas<'_> {
        let Self { arena_bytes, ref arenas, .. } = *self;
        BatchArenas { bytes: &arenas[..groups.blocks * arena_bytes], arena_bytes, images: groups.images }
    }

    /// The groups' sums of gradients, and how many numbers further those of the next group begin.
    pub(crate) fn sums(&self) -> (&[f32], usize) {
        (&self.sums, self.sums_stride)
    }

    /// The losses of the blocks, added in their order.
    pub(crate) fn metrics(&self, groups: Groups) -> BatchMetrics {
        let losses = &self.losses[..groups.blocks];
        BatchMetrics {
            loss_sum: losses.iter().map(|loss| loss.sum).sum(),
            correct: losses.iter().map(|loss| loss.correct).sum(),
            count: groups.images,
        }
    }
}

/// The memory of one group of blocks.
pub(crate) struct Group<'a> {
    groups: Groups,
    first_block: usize,
    arena_bytes: usize,
    /// Of the group's blocks, one after another.
    arenas: &'a mut [u8],
    workers: &'a Workers,
    /// The group's sums of gradients.
    sums: &'a mut [f32],
    sum_layout: &'a SumLayout,
    /// Of the group's blocks.
    losses: &'a mut [BlockLoss],
}

impl Group<'_> {
    /// Clears the sums, but for what the first block overwrites.
    pub(crate) fn clear_sums(&mut self) {
        self.sum_layout.clear(self.sums);
    }

    /// Calls `run` with each block, its loss, and the group's sums, one block after another.
    pub(crate) fn for_each_block(self, mut run: impl FnMut(&mut Block<'_>, &mut BlockLoss, GroupSums<'_>)) {
        let Self { groups, first_block, arena_bytes, arenas, workers, sums, sum_layout, losses } = self;
        workers.with(|worker| {
            for (i, (arena, loss)) in arenas.chunks_exact_mut(arena_bytes).zip(losses).enumerate() {
                if cfg!(debug_assertions) {
                    // As in [`Memory::poison`].
                    worker.fill(u8::MAX);
                }
                let accumulate = if i == 0 { Accumulate::Overwrite } else { Accumulate::Add };
                let mut block = block_of(groups, first_block + i, arena, worker);
                run(&mut block, loss, GroupSums { sums: &mut *sums, ranges: &sum_layout.ranges, accumulate });
            }
        });
    }
}

/// Block `number` in these two arenas.
fn block_of<'a>(groups: Groups, number: usize, block: &'a mut [u8], worker: &'a mut [u8]) -> Block<'a> {
    let images = groups.images_of(number);
    Block { arenas: Arenas { block, worker }, first_image: images.start, valid: images.len() }
}
