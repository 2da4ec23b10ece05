//! [`for_each`]: many pieces of one buffer, cut over threads in one go.
//!
//! Between two parallel loops all threads wait for the last one, and those that found nothing to do have to be woken. A small
//! network's step has a dozen loops of a few microseconds, over the parameters of one layer after the other; as one loop they
//! wait once.

use std::ops::Range;

/// A piece of a buffer, and what is to be done there.
#[derive(Clone, Debug)]
pub(crate) struct Piece<J> {
    pub range: Range<usize>,
    pub job: J,
}

/// Calls `run` with each piece and its part of `buffer`.
///
/// # Panics
/// If the pieces do not follow each other in the buffer.
pub(crate) fn for_each<T: Send, J: Sync>(
    pieces: &[Piece<J>],
    buffer: &mut [T],
    run: &(impl Fn(&Piece<J>, &mut [T]) + Sync),
) {
    halve(pieces, 0, buffer, run);
}

/// [`for_each`] in the part of a buffer that begins at `start`.
fn halve<T: Send, J: Sync>(
    pieces: &[Piece<J>],
    start: usize,
    buffer: &mut [T],
    run: &(impl Fn(&Piece<J>, &mut [T]) + Sync),
) {
    match pieces {
        [] => {}
        [piece] => run(piece, &mut buffer[piece.range.start - start..piece.range.end - start]),
        _ => {
            let (left, right) = pieces.split_at(pieces.len() / 2);
            let middle = right[0].range.start;
            let (before, after) = buffer.split_at_mut(middle - start);
            rayon::join(|| halve(left, start, before, run), || halve(right, middle, after, run));
        }
    }
}

/// Cuts `range` into pieces of `len`, the last of which may be shorter, and gives each a job by its number.
pub(crate) fn cut<J>(range: Range<usize>, len: usize, job: impl Fn(usize) -> J) -> impl Iterator<Item = Piece<J>> {
    let Range { start, end } = range;
    let piece = move |(number, start): (usize, usize)| Piece { range: start..end.min(start + len), job: job(number) };
    (start..end).step_by(len.max(1)).enumerate().map(piece)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_piece_gets_its_part() {
        let mut buffer = vec![0; 40];
        let pieces: Vec<_> = cut(3..17, 4, |number| number + 1).chain(cut(20..40, 20, |_| 9)).collect();
        for_each(&pieces, &mut buffer, &|piece, part| {
            assert_eq!(part.len(), piece.range.len());
            part.fill(piece.job);
        });
        let expected = [(0, 3), (1, 4), (2, 4), (3, 4), (4, 2), (0, 3), (9, 20)];
        let expected: Vec<_> = expected.into_iter().flat_map(|(value, count)| vec![value; count]).collect();
        assert_eq!(buffer, expected);
        for_each::<_, ()>(&[], &mut buffer, &|_, _| unreachable!());
    }
}
