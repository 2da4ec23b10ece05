//! [`Block`]: the memory that the passes of one block of images work in.

use std::ops::Range;

use selvedge_compute::BLOCK;

/// One block of a batch.
pub(crate) struct Block<'a> {
    pub arenas: Arenas<'a>,
    /// The number of the block's first image in the batch.
    pub first_image: usize,
    /// Images that carry data.
    pub valid: usize,
}

/// The memory of one block, where the plan's places lie ([`crate::plan::Plan::place`]).
pub(crate) struct Arenas<'a> {
    /// The block's own arena, for what is needed beyond a phase.
    pub block: &'a mut [u8],
    /// The arena of the worker that has the block. Its places begin where those of the other end.
    pub worker: &'a mut [u8],
}

impl Arenas<'_> {
    /// The memory at a place.
    pub(crate) fn at(&self, place: &Range<usize>) -> &[u8] {
        match place.start.checked_sub(self.block.len()) {
            Some(start) => &self.worker[start..][..place.len()],
            None => &self.block[place.clone()],
        }
    }

    /// The memory at `reads`, and at `writes`, which overlap with nothing.
    pub(crate) fn split<'a, const READS: usize, const WRITES: usize>(
        &'a mut self,
        reads: [&Range<usize>; READS],
        writes: [&Range<usize>; WRITES],
    ) -> ([&'a [u8]; READS], [&'a mut [u8]; WRITES]) {
        // The writes in ascending order partition both arenas; each read lies between two of them.
        let mut order: [usize; WRITES] = std::array::from_fn(|i| i);
        order.sort_unstable_by_key(|&i| (writes[i].start, writes[i].end));
        let mut found_reads: [&'a [u8]; READS] = [&[]; READS];
        let mut found_writes: [&'a mut [u8]; WRITES] = std::array::from_fn(|_| Default::default());
        let end = self.block.len();
        let (of_block, of_worker) = order.split_at(order.partition_point(|&i| writes[i].start < end));
        for (arena, mut at, order) in [(&mut *self.block, 0, of_block), (&mut *self.worker, end, of_worker)] {
            let mut rest = arena;
            for &i in order {
                let (before, from) = rest.split_at_mut(writes[i].start - at);
                take_reads(before, at, &reads, &mut found_reads);
                let (write, after) = from.split_at_mut(writes[i].len());
                found_writes[i] = write;
                (rest, at) = (after, writes[i].end);
            }
            take_reads(rest, at, &reads, &mut found_reads);
        }
        for (read, found) in reads.iter().zip(&found_reads) {
            assert_eq!(
                read.len(),
                found.len(),
                "the place {read:?} of a plan overlaps with what is written, {writes:?}"
            );
        }
        (found_reads, found_writes)
    }
}

/// Finds those of `reads` that lie in `memory`, which begins at place `at`.
fn take_reads<'a, const READS: usize>(
    memory: &'a [u8],
    at: usize,
    reads: &[&Range<usize>; READS],
    found: &mut [&'a [u8]; READS],
) {
    for (read, found) in reads.iter().zip(found) {
        if read.start >= at && read.end <= at + memory.len() {
            *found = &memory[read.start - at..read.end - at];
        }
    }
}

/// The own arenas of all blocks of a batch, once every block has finished a phase.
#[derive(Clone, Copy)]
pub(crate) struct BatchArenas<'a> {
    pub bytes: &'a [u8],
    /// Bytes of an arena.
    pub arena_bytes: usize,
    /// Images of the batch.
    pub images: usize,
}

impl<'a> BatchArenas<'a> {
    /// The memory at a place of each block's arena.
    pub(crate) fn each(&self, place: &Range<usize>) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let place = place.clone();
        let blocks = self.images.div_ceil(BLOCK);
        self.bytes.chunks_exact(self.arena_bytes).take(blocks).map(move |arena| &arena[place.clone()])
    }
}
