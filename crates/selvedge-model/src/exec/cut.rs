//! [`RowCut`]: one block's tensors, cut by rows where there are more threads than blocks.

use std::ops::Range;

use selvedge_compute::BlockShape;

/// What pieces write: tensors, of which each piece gets its rows.
pub(crate) trait Tensors: Send + Sized {
    /// The first `rows` rows, and what lies behind them.
    fn split(self, rows: usize) -> (Self, Self);
}

/// A tensor of rows of `row` elements. Whatever lies behind the rows that are cut belongs to the last piece.
pub(crate) struct Rows<'a, T> {
    pub data: &'a mut [T],
    pub row: usize,
}

impl<'a, T> Rows<'a, T> {
    /// The rows of a tensor of this shape.
    pub(crate) fn of(shape: &BlockShape, data: &'a mut [T]) -> Self {
        Self { data, row: shape.row() }
    }
}

impl<T: Send> Tensors for Rows<'_, T> {
    fn split(self, rows: usize) -> (Self, Self) {
        let Self { data, row } = self;
        let (data, behind) = data.split_at_mut(rows * row);
        (Self { data, row }, Self { data: behind, row })
    }
}

impl<A: Tensors> Tensors for Option<A> {
    fn split(self, rows: usize) -> (Self, Self) {
        self.map(|tensors| tensors.split(rows)).unzip()
    }
}

impl<A: Tensors, B: Tensors> Tensors for (A, B) {
    fn split(self, rows: usize) -> (Self, Self) {
        let ((a, a_behind), (b, b_behind)) = (self.0.split(rows), self.1.split(rows));
        ((a, b), (a_behind, b_behind))
    }
}

/// The cut of `height` rows. Each row is computed alone, so its bits do not depend on the cut.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowCut {
    height: usize,
    /// How many pieces there are.
    pub pieces: usize,
}

impl RowCut {
    /// Up to `pieces` pieces.
    pub(crate) fn new(height: usize, pieces: usize) -> Self {
        Self { height, pieces: pieces.min(height).max(1) }
    }

    /// Up to `most` pieces of a layer that reads and writes `bytes` of a block, and multiplies next to nothing, if each is worth
    /// a hundred microseconds, in which a core moves about a megabyte.
    pub(crate) fn of_bytes(height: usize, most: usize, bytes: usize) -> Self {
        Self::new(height, most.min(bytes >> 20))
    }

    /// Calls `run` with the rows of each piece and what of `tensors` belongs to them.
    pub(crate) fn for_each<T: Tensors>(&self, tensors: T, run: impl Fn(Range<usize>, T) + Sync) {
        self.halve(0..self.pieces, tensors, &run);
    }

    fn halve<T: Tensors>(&self, pieces: Range<usize>, tensors: T, run: &(impl Fn(Range<usize>, T) + Sync)) {
        let start = |piece: usize| self.height * piece / self.pieces;
        if pieces.len() == 1 {
            return run(start(pieces.start)..start(pieces.end), tensors);
        }
        let middle = pieces.start + pieces.len() / 2;
        let (before, behind) = tensors.split(start(middle) - start(pieces.start));
        rayon::join(|| self.halve(pieces.start..middle, before, run), || self.halve(middle..pieces.end, behind, run));
    }
}

/// Rows `rows` of a tensor of this shape.
pub(crate) fn rows_of<'a, T>(shape: &BlockShape, data: &'a [T], rows: &Range<usize>) -> &'a [T] {
    &data[rows.start * shape.row()..rows.end * shape.row()]
}

/// Calls `run` with parts of `reads` and of `write`, all equally long, in up to `most` pieces of whole vectors.
pub(crate) fn elementwise<const READS: usize>(
    most: usize,
    reads: [&[u8]; READS],
    write: &mut [u8],
    run: impl Fn([&[u8]; READS], &mut [u8]) + Sync,
) {
    const ROW: usize = 4096;
    let cut = RowCut::of_bytes(write.len().div_ceil(ROW), most, (READS + 1) * write.len());
    cut.for_each(Rows { data: write, row: ROW }, |rows, write| {
        let part = rows.start * ROW..rows.start * ROW + write.data.len();
        run(reads.map(|read| &read[part.clone()]), write.data);
    });
}

#[cfg(test)]
mod tests {
    use selvedge_compute::Precision;

    use super::*;
    use crate::plan::lower::lower;
    use crate::spec::shape::NetworkShape;
    use crate::test_support::resnet9;

    /// Of each block of a batch of 128 on 16 threads.
    #[test]
    fn large_tensors_are_cut_and_small_ones_are_not() {
        let spec = resnet9();
        let plan = lower(&spec, &NetworkShape::infer(&spec).unwrap(), Precision::F32);
        let pieces = |bytes: usize| -> Vec<usize> {
            let cut = |shape: &BlockShape| RowCut::of_bytes(shape.height, 4, 2 * shape.len() * bytes).pieces;
            plan.norms.iter().map(|norm| cut(&norm.shape)).collect()
        };
        // 28x28 pixels twice, 14x14 three times, 7x7, 3x3 twice; x and y in f32 and in bf16.
        assert_eq!(pieces(4), [4, 4, 4, 4, 4, 4, 1, 1]);
        assert_eq!(pieces(2), [4, 4, 3, 3, 4, 3, 1, 1]);
        // Moments read x alone, and have a piece for each plane of 32 channels at most.
        let moments = |bytes: usize| -> Vec<usize> {
            let cut = |shape: &BlockShape| {
                RowCut::of_bytes(shape.channel_stride / shape.plane(), 4, shape.len() * bytes).pieces
            };
            plan.norms.iter().map(|norm| cut(&norm.shape)).collect()
        };
        assert_eq!(moments(4), [2, 4, 3, 3, 4, 3, 1, 1]);
        assert_eq!(moments(2), [2, 4, 1, 1, 3, 1, 1, 1]);
    }

    #[test]
    fn every_piece_gets_its_rows() {
        for (height, pieces) in [(0, 3), (1, 1), (7, 1), (7, 2), (7, 4), (3, 16)] {
            let cut = RowCut::new(height, pieces);
            assert_eq!(cut.pieces, pieces.min(height).max(1));
            // Two rows of the second tensor for each of the first, and one that belongs to none.
            let (mut a, mut b) = (vec![0; 3 * height], vec![0; 2 * height + 1]);
            let tensors = (Rows { data: &mut a[..], row: 3 }, Some(Rows { data: &mut b[..], row: 2 }));
            cut.for_each(tensors, |rows, (a, b)| {
                let b = b.expect("what is there is there in every piece");
                assert_eq!(
                    (a.data.len(), b.data.len()),
                    (3 * rows.len(), 2 * rows.len() + usize::from(rows.end == height))
                );
                a.data.chunks_exact_mut(3).zip(rows.clone()).for_each(|(a, row)| a.fill(row + 1));
                b.data.fill(rows.start + 1);
            });
            assert!(a.iter().enumerate().all(|(at, &row)| row == at / 3 + 1), "{cut:?}");
            assert!(b.iter().all(|&row| row > 0), "{cut:?}");
        }
    }
}
