//! [`for_each`]: all chunks of a buffer, whatever their jobs, in one parallel loop.
//!
//! Between two parallel loops all threads wait for the last one, and idle threads have to be woken. A training step of a small
//! network would have a dozen loops of a few microseconds, one for the parameters of each layer. In one loop they wait once.

use std::ops::Range;

/// A chunk of a buffer, and what is to be done there.
#[derive(Clone, Debug)]
pub(crate) struct Chunk<J> {
    pub range: Range<usize>,
    pub job: J,
}

/// Calls `run` with each chunk and its part of `buffer`, in parallel.
///
/// # Panics
/// If the chunks do not follow each other in the buffer.
pub(crate) fn for_each<T: Send, J: Sync>(
    chunks: &[Chunk<J>],
    buffer: &mut [T],
    run: &(impl Fn(&Chunk<J>, &mut [T]) + Sync),
) {
    halve(chunks, 0, buffer, run);
}

/// [`for_each`] in the part of a buffer that begins at `start`.
fn halve<T: Send, J: Sync>(
    chunks: &[Chunk<J>],
    start: usize,
    buffer: &mut [T],
    run: &(impl Fn(&Chunk<J>, &mut [T]) + Sync),
) {
    match chunks {
        [] => {}
        [chunk] => run(chunk, &mut buffer[chunk.range.start - start..chunk.range.end - start]),
        _ => {
            let (left, right) = chunks.split_at(chunks.len() / 2);
            let middle = right[0].range.start;
            let (before, after) = buffer.split_at_mut(middle - start);
            rayon::join(|| halve(left, start, before, run), || halve(right, middle, after, run));
        }
    }
}

/// Partitions `range` into chunks of `len`, the last of which may be shorter. Each has the job of its number.
pub(crate) fn partition<J>(
    range: Range<usize>,
    len: usize,
    job: impl Fn(usize) -> J,
) -> impl Iterator<Item = Chunk<J>> {
    let Range { start, end } = range;
    let chunk = move |(number, start): (usize, usize)| Chunk { range: start..end.min(start + len), job: job(number) };
    (start..end).step_by(len.max(1)).enumerate().map(chunk)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_chunk_gets_its_part() {
        let mut buffer = vec![0; 40];
        let chunks: Vec<_> = partition(3..17, 4, |number| number + 1).chain(partition(20..40, 20, |_| 9)).collect();
        for_each(&chunks, &mut buffer, &|chunk, part| {
            assert_eq!(part.len(), chunk.range.len());
            part.fill(chunk.job);
        });
        let expected = [(0, 3), (1, 4), (2, 4), (3, 4), (4, 2), (0, 3), (9, 20)];
        let expected: Vec<_> = expected.into_iter().flat_map(|(value, count)| vec![value; count]).collect();
        assert_eq!(buffer, expected);
        for_each::<_, ()>(&[], &mut buffer, &|_, _| unreachable!());
    }
}
