//! [`Groups`]: a batch partitioned into blocks, and its blocks into groups.
//!
//! The partition, and with it the order in which results are added, depends on the batch alone. So the bits of a result do
//! not depend on the number of threads.

use std::ops::Range;

use selvedge_compute::BLOCK;

/// The most groups of a batch: partial gradients are kept for each.
const MAX_GROUPS: usize = 16;

/// The blocks of [`BLOCK`] images of a batch, the last of which may be partly filled, in groups of neighbours.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Groups {
    /// Images of the batch.
    pub images: usize,
    pub blocks: usize,
    pub blocks_per_group: usize,
}

impl Groups {
    /// The partition of a batch of so many images.
    pub(crate) fn of(images: usize) -> Self {
        let blocks = images.div_ceil(BLOCK);
        Self { images, blocks, blocks_per_group: blocks.div_ceil(MAX_GROUPS).max(1) }
    }

    /// How many groups there are.
    pub(crate) fn count(&self) -> usize {
        self.blocks.div_ceil(self.blocks_per_group)
    }

    /// The most groups that a batch of up to so many images has. A smaller batch may have more groups than a larger one.
    pub(crate) fn most(images: usize) -> usize {
        images.div_ceil(BLOCK).min(MAX_GROUPS)
    }

    /// The numbers of a block's images.
    pub(crate) fn images_of(&self, block: usize) -> Range<usize> {
        block * BLOCK..self.images.min((block + 1) * BLOCK)
    }

    /// How many chunks large layers partition a block into, so that each of `threads` threads has one.
    pub(crate) fn chunks_per_block(&self, threads: usize) -> usize {
        threads.div_ceil(self.blocks.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_has_up_to_sixteen_groups() {
        // Images, blocks, blocks of a group, groups.
        let cases = [(1, 1, 1, 1), (32, 1, 1, 1), (33, 2, 1, 2), (512, 16, 1, 16), (513, 17, 2, 9), (2048, 64, 4, 16)];
        for (images, blocks, per_group, count) in cases {
            let groups = Groups::of(images);
            assert_eq!(
                (groups.blocks, groups.blocks_per_group, groups.count()),
                (blocks, per_group, count),
                "{images}"
            );
            let total: usize = (0..blocks).map(|block| groups.images_of(block).len()).sum();
            assert_eq!(total, images);
        }
        assert_eq!(Groups::of(0).count(), 0);
        for images in 1..3000 {
            assert_eq!(Groups::most(images), (1..=images).map(|images| Groups::of(images).count()).max().unwrap());
        }
    }

    #[test]
    fn threads_without_a_block_have_a_chunk_of_one() {
        let chunks = |images: usize| [1, 2, 5, 16].map(|threads| Groups::of(images).chunks_per_block(threads));
        assert_eq!(chunks(1), [1, 2, 5, 16]);
        assert_eq!(chunks(128), [1, 1, 2, 4]);
    }
}
