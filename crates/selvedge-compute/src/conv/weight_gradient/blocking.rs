//! How many pixels the gradient of the weights is summed over at a time, where rows of taps are summed.
//!
//! A sum over a few pixels, 28 to 54, lets its X of 16 channels, a tile of 1 KiB for each, stay in the first cache for all
//! panels and rows of taps. Of many pixels, 98 at most, dY of all panels in a piece stays in the second cache for all channels;
//! with more, four panels' dY and their gradient drive each other out. Both depend on the shape alone, and so do the bits.

use std::ops::Range;

use crate::conv::Conv2dShape;
use crate::layout::BlockShape;

/// Pixels that a sum runs over at least, if there are as many.
const FEW: usize = 28;
/// Pixels whose X and dY meet before others are read, at most.
const MANY: usize = 98;

/// Rows of dY of a sum: enough that sums over narrow images are not stored after a few products.
pub(in crate::conv) fn rows_at_once(shape: &Conv2dShape) -> usize {
    FEW.div_ceil(shape.output.width).min(shape.output.height)
}

/// Blocks, and rows of each, that a sum runs over before it is stored.
pub(in crate::conv) fn few_pixels(shape: &Conv2dShape) -> [usize; 2] {
    let BlockShape { height, width, .. } = shape.output;
    let rows = rows_at_once(shape);
    [if rows == height { FEW.div_ceil(height * width) } else { 1 }, rows]
}

/// Blocks, and rows of each, whose X and dY meet before others are read: a multiple of [`few_pixels`].
pub(in crate::conv) fn many_pixels(shape: &Conv2dShape) -> [usize; 2] {
    let BlockShape { height, width, .. } = shape.output;
    let [blocks, rows] = few_pixels(shape);
    let multiple = |most: usize, of: usize| (most / of * of).max(of);
    match MANY / width {
        most if most < height => [1, multiple(most, rows)],
        most => [multiple(most / height, blocks), height],
    }
}

/// Cuts blocks, and rows of each, into parts of so many, row by row of the same blocks.
pub(in crate::conv) fn parts(
    blocks: Range<usize>,
    rows: Range<usize>,
    [blocks_at_once, rows_at_once]: [usize; 2],
) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
    let cut = |range: Range<usize>, len| range.clone().step_by(len).map(move |at| at..(at + len).min(range.end));
    cut(blocks, blocks_at_once)
        .flat_map(move |blocks| cut(rows.clone(), rows_at_once).map(move |rows| (blocks.clone(), rows)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pixels_by_the_size_of_an_image() {
        for (side, few, many) in [
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
            assert_eq!([few_pixels(&shape), many_pixels(&shape)], [few, many], "{side}x{side} pixels");
        }
    }

    #[test]
    fn parts_are_all_blocks_and_rows_once() {
        let all: Vec<_> = parts(2..5, 1..8, [2, 3]).collect();
        assert_eq!(all, [(2..4, 1..4), (2..4, 4..7), (2..4, 7..8), (4..5, 1..4), (4..5, 4..7), (4..5, 7..8)]);
    }
}
