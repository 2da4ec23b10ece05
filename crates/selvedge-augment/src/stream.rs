//! Random numbers that depend only on (seed, epoch, sample, position in the chain).
//!
//! Every operation on every sample has its own [`Stream`]. The numbers for an image therefore do not depend on the
//! number of threads, on the batch size, or on the order of the samples, and appending an operation to a chain does not
//! change the draws of the operations before it.
//!
//! The generator is SplitMix (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014): a
//! 64-bit counter that advances by an odd increment, hashed by Stafford's mix 13. Counter and increment both come from
//! the key, so two streams share neither. A cipher such as ChaCha8 would compute a new block for every operation:
//! `cargo bench -p selvedge-augment --bench stream` measures both (README, "Random numbers").

use std::convert::Infallible;

use rand::TryRng;

/// The key of an epoch's draws.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EpochKey {
    /// The seed of the run.
    pub seed: u64,
    /// The epoch, counted from 0.
    pub epoch: u64,
}

const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// Stafford's mix 13: a bijection of 64 bits in which every input bit changes about half of the output.
#[inline(always)]
const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

const fn absorb(key: u64, word: u64) -> u64 {
    mix(key.rotate_left(23) ^ mix(word.wrapping_add(GOLDEN)))
}

/// A stream of random numbers with a key of its own.
///
/// It implements [`rand::Rng`] through [`TryRng`], so that the distributions of `rand_distr` can draw from it. The
/// draws that operations use most are its own methods, so that no update of another crate can change their values.
///
/// ```
/// use selvedge_augment::{EpochKey, Stream};
///
/// let key = EpochKey { seed: 1, epoch: 0 };
/// let mut first = Stream::for_sample(key, 17).fork(0);
/// let mut again = Stream::for_sample(key, 17).fork(0);
/// assert_eq!(first.unit(), again.unit());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    state: u64,
    increment: u64,
    /// Hash of seed, sample and position, without the epoch.
    lineage: u64,
    epoch: u64,
}

impl Stream {
    /// The stream of one sample, given by its index in the data set, in one epoch.
    pub fn for_sample(key: EpochKey, sample: u32) -> Stream {
        let lineage = absorb(absorb(GOLDEN, key.seed), u64::from(sample));
        Stream::keyed(lineage, key.epoch)
    }

    /// A stream keyed by 64 drawn bits, for noise that is generated where it is used.
    pub fn from_bits(bits: u64) -> Stream {
        Stream::keyed(bits, 0)
    }

    fn keyed(lineage: u64, epoch: u64) -> Stream {
        let state = absorb(lineage, epoch);
        Stream { state, increment: mix(state ^ GOLDEN) | 1, lineage, epoch }
    }

    /// The stream of the operation at `position` in a list. It does not depend on the draws from this stream so far.
    pub fn fork(&self, position: usize) -> Stream {
        Stream::keyed(absorb(self.lineage, position as u64), self.epoch)
    }

    /// The epoch that the stream belongs to.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// 64 bits that are the same for this sample and position in every epoch.
    pub fn lasting_bits(&self) -> u64 {
        mix(self.lineage)
    }

    /// The next 64 bits.
    #[inline]
    pub fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(self.increment);
        mix(self.state)
    }

    /// A number uniform in `[0, 1)`, a multiple of 2⁻²⁴.
    #[inline]
    pub fn unit(&mut self) -> f32 {
        (self.bits() >> 40) as f32 * (1.0 / (1u64 << 24) as f32)
    }

    /// A number uniform in `[low, high)`; `low` if they are equal.
    #[inline]
    pub fn between(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.unit()
    }

    /// A whole number, uniform in `0..count`. The bias is below `count` / 2⁶⁴.
    ///
    /// # Panics
    /// In debug builds, if `count` is 0.
    #[inline]
    pub fn below(&mut self, count: usize) -> usize {
        debug_assert!(count > 0, "below(0): there is nothing to draw from");
        ((u128::from(self.bits()) * count as u128) >> 64) as usize
    }

    /// A whole number, uniform in `low..=high`.
    ///
    /// # Panics
    /// In debug builds, if `low > high`.
    #[inline]
    pub fn whole(&mut self, low: i32, high: i32) -> i32 {
        debug_assert!(low <= high, "whole({low}, {high}): an empty range");
        let count = (i64::from(high) - i64::from(low) + 1) as usize;
        (i64::from(low) + self.below(count) as i64) as i32
    }

    /// True with this probability: never for 0, always for 1.
    #[inline]
    pub fn chance(&mut self, probability: f32) -> bool {
        self.unit() < probability
    }

    /// The next `N` results of [`bits`](Self::bits), computed independently, so that the compiler can vectorise them.
    #[inline(always)]
    pub(crate) fn words<const N: usize>(&mut self) -> [u64; N] {
        let mut words = [0; N];
        for (i, word) in words.iter_mut().enumerate() {
            *word = mix(self.state.wrapping_add(self.increment.wrapping_mul(i as u64 + 1)));
        }
        self.state = self.state.wrapping_add(self.increment.wrapping_mul(N as u64));
        words
    }

    /// Fills a slice with random bytes.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.bits().to_le_bytes()[..chunk.len()]);
        }
    }
}

impl TryRng for Stream {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok((self.bits() >> 32) as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.bits())
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        self.fill(bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seed: u64, epoch: u64) -> EpochKey {
        EpochKey { seed, epoch }
    }

    #[test]
    fn each_part_of_the_key_changes_the_draws() {
        let base = Stream::for_sample(key(1, 2), 3).fork(4).bits();
        assert_eq!(base, Stream::for_sample(key(1, 2), 3).fork(4).bits());
        assert_ne!(base, Stream::for_sample(key(2, 2), 3).fork(4).bits());
        assert_ne!(base, Stream::for_sample(key(1, 3), 3).fork(4).bits());
        assert_ne!(base, Stream::for_sample(key(1, 2), 4).fork(4).bits());
        assert_ne!(base, Stream::for_sample(key(1, 2), 3).fork(5).bits());
    }

    #[test]
    fn a_fork_does_not_depend_on_earlier_draws() {
        let mut stream = Stream::for_sample(key(1, 2), 3);
        let before = stream.fork(0);
        stream.bits();
        assert_eq!(before, stream.fork(0));
    }

    #[test]
    fn words_are_the_next_bits() {
        let mut stream = Stream::for_sample(key(1, 2), 3);
        let mut again = stream.clone();
        let words: [u64; 5] = stream.words();
        assert_eq!(words, std::array::from_fn(|_| again.bits()));
        assert_eq!(stream, again);
    }

    #[test]
    fn lasting_bits_stay_while_the_epoch_changes() {
        let bits = |epoch| Stream::for_sample(key(9, epoch), 5).fork(1).lasting_bits();
        assert_eq!(bits(0), bits(7));
    }

    #[test]
    fn first_draws_of_neighbouring_samples_are_uniform_and_uncorrelated() {
        let count = 60_000;
        let (mut sum, mut squares, mut products, mut previous) = (0.0, 0.0, 0.0, 0.5);
        let mut bins = [0u32; 64];
        for sample in 0..count {
            let u = Stream::for_sample(key(0, 0), sample).fork(0).unit();
            bins[(u * 64.0) as usize] += 1;
            let x = f64::from(u);
            sum += x;
            squares += (x - 0.5) * (x - 0.5);
            products += (x - 0.5) * (previous - 0.5);
            previous = x;
        }
        let n = f64::from(count);
        assert!((sum / n - 0.5).abs() < 5.0 * (1.0 / 12.0 / n).sqrt());
        assert!((squares / n - 1.0 / 12.0).abs() < 0.002);
        assert!((products / n).abs() < 5.0 / 12.0 / n.sqrt());
        let expected = n / 64.0;
        let chi_square: f64 = bins.iter().map(|&b| (f64::from(b) - expected).powi(2) / expected).sum();
        // 63 degrees of freedom: mean 63, standard deviation 11.2.
        assert!(chi_square < 63.0 + 5.0 * 11.3, "chi-square {chi_square}");
    }

    #[test]
    fn ranges_reach_both_ends_and_nothing_else() {
        let mut stream = Stream::for_sample(key(3, 0), 0);
        let mut seen = [false; 5];
        for _ in 0..1000 {
            seen[(stream.whole(-2, 2) + 2) as usize] = true;
            let x = stream.between(-0.25, 0.75);
            assert!((-0.25..0.75).contains(&x));
        }
        assert_eq!(seen, [true; 5]);
        assert_eq!(stream.between(0.5, 0.5), 0.5);
        assert!((0..1000).all(|_| stream.chance(1.0) && !stream.chance(0.0)));
    }
}
