//! [`backward_bias`]: the gradient of a bias.

use super::PANEL;
use crate::cpu::Cpu;
use crate::simd::{Element, Kernel, Simd, dispatch};

/// Adds the gradient of a bias: the sum of `dy` over pixels and images, `[channel_stride]`.
///
/// # Panics
/// If `dy` is not whole rows of `dbias.len()` channels, a multiple of 16.
pub fn backward_bias<E: Element>(cpu: Cpu, dy: &[E], dbias: &mut [f32]) {
    assert!(
        dbias.len().is_multiple_of(PANEL) && !dbias.is_empty() && dy.len().is_multiple_of(dbias.len()),
        "{} elements of dy in rows of {} channels",
        dy.len(),
        dbias.len()
    );
    dispatch(cpu, BackwardBias { dy, dbias });
}

struct BackwardBias<'a, E> {
    dy: &'a [E],
    dbias: &'a mut [f32],
}

impl<E: Element> Kernel for BackwardBias<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        /// Independent sums, to hide the latency of the addition.
        const CHAINS: usize = 4;
        let channels = self.dbias.len();
        let rows = self.dy.len() / channels;
        for c in (0..channels).step_by(S::LANES) {
            let mut sums = [s.zero(); CHAINS];
            for row in 0..rows {
                let chain = row % CHAINS;
                // SAFETY: row < rows and c + LANES ≤ channels, a multiple of 16, and dy is rows · channels long.
                sums[chain] = s.add(sums[chain], unsafe { E::load(s, self.dy.as_ptr().add(row * channels + c)) });
            }
            let sum = s.add(s.add(sums[0], sums[1]), s.add(sums[2], sums[3]));
            // SAFETY: c + LANES ≤ channels, the length of dbias.
            unsafe {
                let to = self.dbias.as_mut_ptr().add(c);
                s.store(to, s.add(s.load(to), sum));
            }
        }
    }
}
