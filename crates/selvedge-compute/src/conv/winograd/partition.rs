//! [`Partition`]: the results of a pass over one block, partitioned into chunks that threads compute independently.
//!
//! Results are partitioned by tiles first: each tile is transformed once. If more chunks are requested than there are tiles, the
//! results of each tile are also partitioned by panels, and every chunk transforms the tile again. On 3x3 pixels of 512 channels,
//! four such chunks together take a tenth longer than one. To share V, threads would have to wait for each other before they
//! multiply.

use std::ops::Range;

use rayon::prelude::*;

/// Panels that stay in one chunk: two fill the registers of AVX-512.
const PANELS_PER_GROUP: usize = 2;

/// What one thread computes: some panels of the results of some tiles, which are numbered row by row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    pub tiles: Range<usize>,
    pub panels: Range<usize>,
}

/// The chunks of a pass; no two have a tile and a panel in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct Partition {
    tiles: usize,
    panels: usize,
    /// Chunks by tiles.
    by_tiles: usize,
    /// Chunks by panels of each chunk of tiles.
    by_panels: usize,
}

impl Partition {
    /// Partitions `tiles` tiles of `panels` panels into at least `wanted` chunks, or as many as possible; all tiles into the same
    /// number.
    pub(super) fn new(tiles: usize, panels: usize, wanted: usize) -> Self {
        let by_tiles = wanted.min(tiles).max(1);
        let by_panels = wanted.div_ceil(by_tiles).min(panels.div_ceil(PANELS_PER_GROUP)).max(1);
        Self { tiles, panels, by_tiles, by_panels }
    }

    /// How many chunks there are.
    pub(super) fn count(&self) -> usize {
        self.by_tiles * self.by_panels
    }

    fn chunk(&self, number: usize) -> Chunk {
        let Self { by_tiles, by_panels, .. } = *self;
        let [tile, panel] = [number / by_panels, number % by_panels];
        let share = |of: usize, number: usize, count: usize| of * number / count..of * (number + 1) / count;
        let groups = share(self.panels.div_ceil(PANELS_PER_GROUP), panel, by_panels);
        let panels = groups.start * PANELS_PER_GROUP..self.panels.min(groups.end * PANELS_PER_GROUP);
        Chunk { tiles: share(self.tiles, tile, by_tiles), panels }
    }

    /// Calls `run` with every chunk, on the threads of the current pool if there are several.
    pub(super) fn for_each(&self, run: impl Fn(Chunk) + Sync) {
        match self.count() {
            1 => run(self.chunk(0)),
            count => (0..count).into_par_iter().for_each(|number| run(self.chunk(number))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_cover_every_panel_of_every_tile_once() {
        for (tiles, panels, wanted) in
            (0..9).flat_map(|tiles| (1..9).flat_map(move |panels| (0..20).map(move |wanted| (tiles, panels, wanted))))
        {
            let partition = Partition::new(tiles, panels, wanted);
            let mut times = vec![0; tiles * panels];
            for chunk in (0..partition.count()).map(|number| partition.chunk(number)) {
                assert!(tiles == 0 || !chunk.tiles.is_empty() && !chunk.panels.is_empty(), "{partition:?}: {chunk:?}");
                for tile in chunk.tiles {
                    chunk.panels.clone().for_each(|panel| times[tile * panels + panel] += 1);
                }
            }
            assert!(times.iter().all(|&times| times == 1), "{partition:?}");
        }
    }

    #[test]
    fn few_tiles_are_partitioned_by_panels() {
        let count = |tiles, panels, wanted| {
            let Partition { by_tiles, by_panels, .. } = Partition::new(tiles, panels, wanted);
            [by_tiles, by_panels]
        };
        assert_eq!(count(49, 4, 4), [4, 1]);
        assert_eq!(count(4, 16, 4), [4, 1]);
        assert_eq!(count(1, 32, 4), [1, 4]);
        assert_eq!(count(4, 16, 6), [4, 2]);
        assert_eq!(count(1, 5, 16), [1, 3]);
        assert_eq!(count(1, 1, 16), [1, 1]);
    }
}
