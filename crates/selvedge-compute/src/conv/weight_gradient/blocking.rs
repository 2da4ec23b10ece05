//! Cache blocking of the gradient of the weights, where rows of taps are summed.
//!
//! One sum runs over 28 to 54 pixels. Their X of 16 channels, a tile of 1 KiB for each pixel, stays in L1 for all panels and
//! rows of taps. Over at most 98 pixels, dY of all panels of a chunk stays in L2 for all channels; with more, dY of four panels
//! and their gradient evict each other. Both numbers, and so the bits, depend only on the shape.

use std::ops::Range;

use crate::conv::Conv2dShape;
use crate::layout::BlockShape;

/// The fewest pixels of a sum, if there are as many.
const MIN_SUM_PIXELS: usize = 28;
/// The most pixels whose X and dY are multiplied before others are read.
const MAX_CACHED_PIXELS: usize = 98;

/// Pixels that are summed together: `rows` rows of each of `blocks` blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PixelBlock {
    pub blocks: usize,
    pub rows: usize,
}

/// Rows of dY of a sum: enough that sums over narrow images are not stored after a few products.
pub(in crate::conv) fn rows_per_sum(shape: &Conv2dShape) -> usize {
    MIN_SUM_PIXELS.div_ceil(shape.output.width).min(shape.output.height)
}

/// The pixels that a sum runs over before it is stored.
pub(super) fn sum_pixels(shape: &Conv2dShape) -> PixelBlock {
    let BlockShape { height, width, .. } = shape.output;
    let rows = rows_per_sum(shape);
    PixelBlock { blocks: if rows == height { MIN_SUM_PIXELS.div_ceil(height * width) } else { 1 }, rows }
}

/// The pixels whose X and dY are multiplied before others are read: a multiple of [`sum_pixels`].
pub(super) fn cached_pixels(shape: &Conv2dShape) -> PixelBlock {
    let BlockShape { height, width, .. } = shape.output;
    let PixelBlock { blocks, rows } = sum_pixels(shape);
    let multiple = |most: usize, of: usize| (most / of * of).max(of);
    match MAX_CACHED_PIXELS / width {
        most if most < height => PixelBlock { blocks: 1, rows: multiple(most, rows) },
        most => PixelBlock { blocks: multiple(most / height, blocks), rows: height },
    }
}

/// Partitions rows of blocks into chunks of `size`: all rows of the first blocks before the next blocks.
pub(super) fn partition(
    blocks: Range<usize>,
    rows: Range<usize>,
    size: PixelBlock,
) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
    let chunks = |range: Range<usize>, len| range.clone().step_by(len).map(move |at| at..(at + len).min(range.end));
    chunks(blocks, size.blocks)
        .flat_map(move |blocks| chunks(rows.clone(), size.rows).map(move |rows| (blocks.clone(), rows)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pixels_of_a_sum_depend_on_the_size_of_an_image() {
        for (side, per_sum, cached) in [
            (1, [28, 1], [84, 1]),
            (2, [7, 2], [21, 2]),
            (3, [4, 3], [8, 3]),
            (5, [2, 5], [2, 5]),
            (7, [1, 4], [2, 7]),
            (14, [1, 2], [1, 6]),
            (28, [1, 1], [1, 3]),
            (120, [1, 1], [1, 1]),
        ] {
            let shape = Conv2dShape::same(BlockShape::new(side, side, 16), 16, [3, 3], 1);
            let want = [per_sum, cached].map(|[blocks, rows]| PixelBlock { blocks, rows });
            assert_eq!([sum_pixels(&shape), cached_pixels(&shape)], want, "{side}x{side} pixels");
        }
    }

    #[test]
    fn chunks_cover_all_blocks_and_rows_once() {
        let all: Vec<_> = partition(2..5, 1..8, PixelBlock { blocks: 2, rows: 3 }).collect();
        assert_eq!(all, [(2..4, 1..4), (2..4, 4..7), (2..4, 7..8), (4..5, 1..4), (4..5, 4..7), (4..5, 7..8)]);
    }
}
