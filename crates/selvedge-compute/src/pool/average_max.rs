//! Global pooling by the mean of average and maximum: y = (mean(x) + max(x)) / 2 for each image and channel, in one pass over x.
//! Known as `avgmax` in timm.

use std::ops::Range;

use super::{assert_block, assert_rows};
use crate::Cpu;
use crate::layout::BlockShape;
use crate::pool::Pool2dShape;
use crate::simd::{Element, Kernel, Simd, dispatch};

/// Half the sum of mean and maximum of each image and channel of `x`, a block of `shape`; `y` is one pixel of it.
///
/// `indices`, if given, receives the number of the first pixel that has the maximum, row by row, in the layout of `y`.
///
/// # Panics
/// If a slice does not have the length that `shape` says, or an image has more than 65,536 pixels.
///
/// ```
/// use selvedge_compute::{BlockShape, Cpu, pool::average_max};
/// let shape = BlockShape::new(1, 2, 16);
/// let x = [[1.0; 512], [4.0; 512]].concat(); // two pixels of 32 images and 16 channels
/// let mut y = [0.0; 512];
/// average_max::forward(Cpu::detect()?, &shape, &x, &mut y, None);
/// assert_eq!(y, [3.25; 512]);
/// # Ok::<(), selvedge_compute::CpuError>(())
/// ```
pub fn forward<E: Element>(cpu: Cpu, shape: &BlockShape, x: &[E], y: &mut [E], indices: Option<&mut [u16]>) {
    let output = Pool2dShape::global(*shape).output();
    assert_block("x", x.len(), shape);
    assert_block("y", y.len(), &output);
    if let Some(indices) = &indices {
        assert_block("indices", indices.len(), &output);
    }
    dispatch(cpu, Forward { shape, x, y, indices });
}

/// The gradient of [`forward`]: each pixel receives an equal share of half of `dy`, and the one that `indices` names the other
/// half. `dx` is the rows `rows` alone.
///
/// # Panics
/// As [`forward`].
pub fn backward<E: Element>(cpu: Cpu, shape: &BlockShape, rows: Range<usize>, dy: &[E], indices: &[u16], dx: &mut [E]) {
    let output = Pool2dShape::global(*shape).output();
    assert_block("dy", dy.len(), &output);
    assert_block("indices", indices.len(), &output);
    assert_rows("dx", dx.len(), &rows, shape);
    dispatch(cpu, Backward { shape, rows, dy, indices, dx });
}

struct Forward<'a, E> {
    shape: &'a BlockShape,
    x: &'a [E],
    y: &'a mut [E],
    indices: Option<&'a mut [u16]>,
}

impl<E: Element> Kernel for Forward<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let BlockShape { height, width, .. } = *self.shape;
        let (half_share, half) = (s.splat(0.5 / (height * width) as f32), s.splat(0.5));
        for i in (0..self.shape.pixel()).step_by(S::LANES) {
            let (mut total, mut best, mut argmax) = (s.zero(), s.splat(f32::NEG_INFINITY), s.splat_u(0));
            for row in 0..height {
                // Summing rows first keeps rounding errors of large images small.
                let mut sum = s.zero();
                for column in 0..width {
                    // SAFETY: `forward` asserted that x is a block, whose pixels are whole vectors.
                    let x = unsafe { E::load(s, self.x.as_ptr().add(self.shape.offset(row, column) + i)) };
                    sum = s.add(sum, x);
                    let larger = s.gt(x, best);
                    best = s.select(larger, x, best);
                    argmax = s.select_u(larger, s.splat_u((row * width + column) as u32), argmax);
                }
                total = s.add(total, sum);
            }
            // SAFETY: `forward` asserted that y and the indices are a pixel.
            unsafe {
                E::store(s, self.y.as_mut_ptr().add(i), s.mul_add(best, half, s.mul(total, half_share)));
                if let Some(indices) = &mut self.indices {
                    s.store_u16(indices.as_mut_ptr().add(i), argmax);
                }
            }
        }
    }
}

struct Backward<'a, E> {
    shape: &'a BlockShape,
    rows: Range<usize>,
    dy: &'a [E],
    indices: &'a [u16],
    dx: &'a mut [E],
}

impl<E: Element> Kernel for Backward<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let BlockShape { height, width, .. } = *self.shape;
        let share = 0.5 / (height * width) as f32;
        let (of_all, of_largest) = (s.splat(share), s.splat(0.5 + share));
        for (row, y) in self.rows.enumerate() {
            for column in 0..width {
                let own_index = s.splat_u((y * width + column) as u32);
                for i in (0..self.shape.pixel()).step_by(S::LANES) {
                    // SAFETY: `backward` asserted that dy and the indices are a pixel, and that dx is `rows`.
                    unsafe {
                        let argmax = s.load_u16(self.indices.as_ptr().add(i));
                        let factor = s.select(s.eq_u(argmax, own_index), of_largest, of_all);
                        let dx = s.mul(E::load(s, self.dy.as_ptr().add(i)), factor);
                        E::store(s, self.dx.as_mut_ptr().add(self.shape.offset(row, column) + i), dx);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;
    use crate::pool;
    use crate::test_support::{Numbers, assert_close, cpus, wide};

    /// Against the two poolings that it is made of.
    fn matches_separate_poolings<E: Element>() {
        for (height, width, channels) in [(1, 1, 5), (3, 2, 17), (7, 7, 64)] {
            let shape = BlockShape::new(height, width, channels);
            let (pool, one) = (Pool2dShape::global(shape), BlockShape::new(1, 1, channels));
            let mut numbers = Numbers::new(channels as u64);
            let (x, dy) = (numbers.block::<E>(&shape), numbers.block::<E>(&one));
            let dy_f32: Vec<f32> = dy.iter().map(|dy| dy.to_f32()).collect();
            let x_f32: Vec<f32> = x.iter().map(|x| x.to_f32()).collect();
            for cpu in cpus() {
                let name = format!("{shape:?} on {}", cpu.isa());
                let (mut mean, mut max, mut want_indices) =
                    (vec![7.0; one.len()], vec![7.0; one.len()], vec![7; one.len()]);
                pool::average_forward(cpu, &pool, 0..1, &x_f32, &mut mean);
                pool::max_forward(cpu, &pool, 0..1, &x_f32, &mut max, Some(&mut want_indices));
                let (mut y, mut indices) = (vec![E::from_f32(7.0); one.len()], vec![7; one.len()]);
                forward(cpu, &shape, &x, &mut y, Some(&mut indices));
                let want: Vec<f64> = wide(&mean).iter().zip(wide(&max)).map(|(mean, max)| (mean + max) / 2.0).collect();
                assert_close(&name, &y, &want, 1e-6);
                assert_eq!(indices, want_indices, "{name}");
                let (mut of_mean, mut of_max) = (vec![7.0; shape.len()], vec![7.0; shape.len()]);
                pool::average_backward(cpu, &pool, 0..height, &dy_f32, &mut of_mean);
                pool::max_backward(cpu, &pool, 0..height, &dy_f32, &indices, &mut of_max);
                let want: Vec<f64> = wide(&of_mean).iter().zip(wide(&of_max)).map(|(a, b)| (a + b) / 2.0).collect();
                let mut dx = vec![E::from_f32(7.0); shape.len()];
                let (upper, lower) = dx.split_at_mut(height / 2 * shape.row());
                backward(cpu, &shape, height / 2..height, &dy, &indices, lower);
                backward(cpu, &shape, 0..height / 2, &dy, &indices, upper);
                assert_close(&format!("gradient, {name}"), &dx, &want, 1e-6);
            }
        }
    }

    #[test]
    fn f32_matches_separate_poolings() {
        matches_separate_poolings::<f32>();
    }

    #[test]
    fn bf16_matches_separate_poolings() {
        matches_separate_poolings::<bf16>();
    }

    #[test]
    #[should_panic(expected = "y has 1024 elements and its shape 512")]
    fn lengths_must_agree() {
        forward(cpus()[0], &BlockShape::new(1, 2, 16), &[0.0f32; 1024], &mut [0.0; 1024], None);
    }
}
