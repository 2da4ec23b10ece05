//! [`backward_bias`]: the gradient of a bias.

use super::panel::assert_padded;
use crate::cpu::Cpu;
use crate::layout::{BLOCK, BlockShape};
use crate::simd::{Element, Kernel, Simd, dispatch};

/// Adds the gradient of a bias: the sum of `dy` over pixels and images, `[channel_stride]`.
///
/// # Panics
/// If a slice is not as long as the shape says, or its channels are not padded.
pub fn backward_bias<E: Element>(cpu: Cpu, shape: &BlockShape, dy: &[E], dbias: &mut [f32]) {
    assert_padded(shape.channel_stride);
    assert_eq!(dy.len(), shape.len(), "dy's length and that of {shape:?}");
    assert_eq!(dbias.len(), shape.channel_stride, "the length of dbias and the channel stride");
    dispatch(cpu, BackwardBias { shape, dy, dbias });
}

struct BackwardBias<'a, E> {
    shape: &'a BlockShape,
    dy: &'a [E],
    dbias: &'a mut [f32],
}

impl<E: Element> Kernel for BackwardBias<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        /// Independent sums, to hide the latency of the addition.
        const CHAINS: usize = 4;
        let shape = self.shape;
        for c in (0..shape.channel_stride).step_by(S::LANES) {
            let mut sums = [s.zero(); CHAINS];
            for pixel in (0..shape.len()).step_by(shape.pixel()) {
                let pixel = pixel + shape.channel(c);
                for image in 0..BLOCK {
                    let (at, chain) = (pixel + image * shape.plane(), image % CHAINS);
                    // SAFETY: `backward_bias` compared dy with the shape, and LANES divides the channels of a plane.
                    sums[chain] = s.add(sums[chain], unsafe { E::load(s, self.dy.as_ptr().add(at)) });
                }
            }
            let sum = s.add(s.add(sums[0], sums[1]), s.add(sums[2], sums[3]));
            // SAFETY: c + LANES is at most the channel stride, the length of dbias.
            unsafe {
                let to = self.dbias.as_mut_ptr().add(c);
                s.store(to, s.add(s.load(to), sum));
            }
        }
    }
}
