//! The plan of an arena: tensors whose lifetimes do not overlap share memory.
//!
//! A lifetime is the first and the last time at which a tensor is needed. [`layout`] gives each tensor the lowest place that
//! is free during its lifetime (first fit, the largest first). Small arenas are fast: a block of the `seed` network trains
//! inside one core's L2.

use std::ops::Range;

use selvedge_compute::aligned::ALIGNMENT;

/// A tensor to be placed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Need {
    pub bytes: usize,
    /// The first and the last time at which it must hold its content.
    pub first: usize,
    pub last: usize,
}

impl Need {
    /// No memory, at the same times.
    pub(crate) fn nothing(self) -> Self {
        Self { bytes: 0, ..self }
    }
}

/// Places for `needs`, each beginning on a cache line, and the bytes of the whole.
pub(crate) fn layout(needs: &[Need]) -> (Vec<Range<usize>>, usize) {
    let mut order: Vec<usize> = (0..needs.len()).collect();
    order.sort_by_key(|&i| (std::cmp::Reverse(needs[i].bytes), i));
    let mut places = vec![0..0; needs.len()];
    let mut placed: Vec<usize> = vec![];
    let mut total = 0;
    for i in order {
        let need = needs[i];
        let mut taken: Vec<Range<usize>> = placed
            .iter()
            .filter(|&&j| needs[j].first <= need.last && need.first <= needs[j].last)
            .map(|&j| places[j].clone())
            .collect();
        taken.sort_by_key(|place| place.start);
        let mut start = 0;
        for place in taken {
            if place.start >= start + need.bytes {
                break;
            }
            start = start.max(place.end.next_multiple_of(ALIGNMENT));
        }
        places[i] = start..start + need.bytes;
        total = total.max(places[i].end.next_multiple_of(ALIGNMENT));
        placed.push(i);
    }
    (places, total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_needed_together_never_overlap_and_others_share() {
        // Pseudo-random spans and sizes.
        let mut state = 1u64;
        let mut next = |bound: usize| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as usize % bound
        };
        let needs: Vec<Need> = (0..60)
            .map(|_| {
                let first = next(40);
                Need { bytes: 1 + next(1000), first, last: first + next(10) }
            })
            .collect();
        let (places, total) = layout(&needs);
        for i in 0..needs.len() {
            assert_eq!((places[i].start % ALIGNMENT, places[i].len()), (0, needs[i].bytes));
            assert!(places[i].end <= total);
            for j in 0..i {
                let together = needs[i].first <= needs[j].last && needs[j].first <= needs[i].last;
                let overlap = places[i].start < places[j].end && places[j].start < places[i].end;
                assert!(!(together && overlap), "{i} and {j}");
            }
        }
        let sum: usize = needs.iter().map(|n| n.bytes.next_multiple_of(ALIGNMENT)).sum();
        assert!(total < sum / 2, "{total} of {sum} bytes");
    }
}
