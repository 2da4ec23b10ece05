//! [`Partition`]: the results of a pass over one block, cut into chunks that threads compute on their own.
//!
//! Tiles first: each is transformed once. Where there are fewer tiles than chunks are asked for, each tile is cut by panels of
//! its results, too, and every chunk transforms the tile anew. On 3x3 pixels of 512 channels four such chunks take together a
//! tenth longer than one; to share V, threads would have to wait for each other before they multiply.

use std::ops::Range;

use rayon::prelude::*;

/// Panels that are not cut apart: two fill the registers of AVX-512.
const PANELS: usize = 2;

/// What one thread computes: some panels of the results of some tiles, which are counted row by row.
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
    /// Pieces by tiles, and of each of those by panels.
    count: [usize; 2],
}

impl Partition {
    /// The cut of `tiles` tiles of `panels` panels into at least `wanted` chunks, or as many as there are; each tile is cut into
    /// equally many.
    pub(super) fn new([tiles, panels]: [usize; 2], wanted: usize) -> Self {
        let by_tiles = wanted.min(tiles).max(1);
        let by_panels = wanted.div_ceil(by_tiles).min(panels.div_ceil(PANELS)).max(1);
        Self { tiles, panels, count: [by_tiles, by_panels] }
    }

    /// How many chunks there are.
    pub(super) fn count(&self) -> usize {
        self.count[0] * self.count[1]
    }

    fn chunk(&self, number: usize) -> Chunk {
        let [by_tiles, by_panels] = self.count;
        let [tile, panel] = [number / by_panels, number % by_panels];
        let share = |of: usize, number: usize, count: usize| of * number / count..of * (number + 1) / count;
        let groups = share(self.panels.div_ceil(PANELS), panel, by_panels);
        let panels = groups.start * PANELS..self.panels.min(groups.end * PANELS);
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
    fn pieces_have_every_panel_of_every_tile_once() {
        for (tiles, panels, wanted) in
            (0..9).flat_map(|tiles| (1..9).flat_map(move |panels| (0..20).map(move |wanted| (tiles, panels, wanted))))
        {
            let cut = Partition::new([tiles, panels], wanted);
            let mut times = vec![0; tiles * panels];
            for chunk in (0..cut.count()).map(|number| cut.chunk(number)) {
                assert!(tiles == 0 || !chunk.tiles.is_empty() && !chunk.panels.is_empty(), "{cut:?}: {chunk:?}");
                for tile in chunk.tiles {
                    chunk.panels.clone().for_each(|panel| times[tile * panels + panel] += 1);
                }
            }
            assert!(times.iter().all(|&times| times == 1), "{cut:?}");
        }
    }

    #[test]
    fn tiles_are_cut_by_panels_where_they_are_few() {
        let count = |tiles, panels, wanted| Partition::new([tiles, panels], wanted).count;
        assert_eq!(count(49, 4, 4), [4, 1]);
        assert_eq!(count(4, 16, 4), [4, 1]);
        assert_eq!(count(1, 32, 4), [1, 4]);
        assert_eq!(count(4, 16, 6), [4, 2]);
        assert_eq!(count(1, 5, 16), [1, 3]);
        assert_eq!(count(1, 1, 16), [1, 1]);
    }
}
