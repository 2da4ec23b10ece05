//! [`RowPartition`]: partitions one block's tensors by rows over threads, where there are more threads than blocks.

use std::ops::Range;

use crate::layout::BlockShape;

/// Tensors that the chunks of a partition write, each its own rows.
pub trait SplitRows: Send + Sized {
    /// The first `rows` rows, and what follows them.
    fn split(self, rows: usize) -> (Self, Self);
}

/// A tensor of rows of `row` elements. Elements after the last row belong to the last chunk.
pub struct Rows<'a, T> {
    /// The elements.
    pub data: &'a mut [T],
    /// Elements of a row.
    pub row: usize,
}

impl<'a, T> Rows<'a, T> {
    /// The rows of a tensor of this shape.
    pub fn of(shape: &BlockShape, data: &'a mut [T]) -> Self {
        Self { data, row: shape.row() }
    }
}

impl<T: Send> SplitRows for Rows<'_, T> {
    fn split(self, rows: usize) -> (Self, Self) {
        let Self { data, row } = self;
        let (data, after) = data.split_at_mut(rows * row);
        (Self { data, row }, Self { data: after, row })
    }
}

impl<A: SplitRows> SplitRows for Option<A> {
    fn split(self, rows: usize) -> (Self, Self) {
        self.map(|tensors| tensors.split(rows)).unzip()
    }
}

impl<A: SplitRows, B: SplitRows> SplitRows for (A, B) {
    fn split(self, rows: usize) -> (Self, Self) {
        let ((a, a_after), (b, b_after)) = (self.0.split(rows), self.1.split(rows));
        ((a, b), (a_after, b_after))
    }
}

/// A partition of `height` rows into chunks. Each row is computed alone, so its bits do not depend on the partition.
///
/// ```
/// use selvedge_compute::partition::{RowPartition, Rows};
/// let mut tensor = [0; 5 * 2]; // five rows of two elements
/// RowPartition::new(5, 2).for_each(Rows { data: &mut tensor[..], row: 2 }, |rows, chunk| {
///     assert_eq!(chunk.data.len(), 2 * rows.len());
///     chunk.data.fill(rows.start);
/// });
/// assert_eq!(tensor, [0, 0, 0, 0, 2, 2, 2, 2, 2, 2]);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct RowPartition {
    height: usize,
    /// The number of chunks.
    pub chunks: usize,
}

impl RowPartition {
    /// At most `chunks` chunks, each of at least one row.
    pub fn new(height: usize, chunks: usize) -> Self {
        Self { height, chunks: chunks.min(height).max(1) }
    }

    /// At most `most` chunks for a layer that reads and writes `bytes` of a block and computes little. Each chunk moves
    /// at least a megabyte, which takes a core about a hundred microseconds, enough to be worth waking a thread.
    pub fn of_bytes(height: usize, most: usize, bytes: usize) -> Self {
        Self::new(height, most.min(bytes >> 20))
    }

    /// Calls `run` for each chunk with its rows and their part of `tensors`, in parallel in the current rayon pool.
    pub fn for_each<T: SplitRows>(&self, tensors: T, run: impl Fn(Range<usize>, T) + Sync) {
        self.split_and_run(0..self.chunks, tensors, &run);
    }

    fn split_and_run<T: SplitRows>(&self, chunks: Range<usize>, tensors: T, run: &(impl Fn(Range<usize>, T) + Sync)) {
        let start = |chunk: usize| self.height * chunk / self.chunks;
        if chunks.len() == 1 {
            return run(start(chunks.start)..start(chunks.end), tensors);
        }
        let middle = chunks.start + chunks.len() / 2;
        let (before, after) = tensors.split(start(middle) - start(chunks.start));
        rayon::join(
            || self.split_and_run(chunks.start..middle, before, run),
            || self.split_and_run(middle..chunks.end, after, run),
        );
    }
}

/// The rows `rows` of a tensor of this shape.
pub fn rows_of<'a, T>(shape: &BlockShape, data: &'a [T], rows: &Range<usize>) -> &'a [T] {
    &data[rows.start * shape.row()..rows.end * shape.row()]
}

/// Calls `run` with the same chunk of each of `reads` and of `write`, all equally long, in at most `most` chunks of
/// whole vectors.
pub fn elementwise<const READS: usize>(
    most: usize,
    reads: [&[u8]; READS],
    write: &mut [u8],
    run: impl Fn([&[u8]; READS], &mut [u8]) + Sync,
) {
    const ROW: usize = 4096;
    let partition = RowPartition::of_bytes(write.len().div_ceil(ROW), most, (READS + 1) * write.len());
    partition.for_each(Rows { data: write, row: ROW }, |rows, write| {
        let chunk = rows.start * ROW..rows.start * ROW + write.data.len();
        run(reads.map(|read| &read[chunk.clone()]), write.data);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_chunk_gets_its_rows() {
        for (height, chunks) in [(0, 3), (1, 1), (7, 1), (7, 2), (7, 4), (3, 16)] {
            let partition = RowPartition::new(height, chunks);
            assert_eq!(partition.chunks, chunks.min(height).max(1));
            // The second tensor has one element after its last row.
            let (mut a, mut b) = (vec![0; 3 * height], vec![0; 2 * height + 1]);
            let tensors = (Rows { data: &mut a[..], row: 3 }, Some(Rows { data: &mut b[..], row: 2 }));
            partition.for_each(tensors, |rows, (a, b)| {
                let b = b.expect("a tensor that is there is there in every chunk");
                assert_eq!(
                    (a.data.len(), b.data.len()),
                    (3 * rows.len(), 2 * rows.len() + usize::from(rows.end == height))
                );
                a.data.chunks_exact_mut(3).zip(rows.clone()).for_each(|(a, row)| a.fill(row + 1));
                b.data.fill(rows.start + 1);
            });
            assert!(a.iter().enumerate().all(|(at, &row)| row == at / 3 + 1), "{partition:?}");
            assert!(b.iter().all(|&row| row > 0), "{partition:?}");
        }
    }
}
