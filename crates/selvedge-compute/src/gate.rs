//! A gate for each channel of an image, as in squeeze-and-excitation (Hu et al., 2018): y = x · sigmoid(z), with one z for each
//! image and channel.
//!
//! [`apply`] is the forward pass and, with dy in the place of x, the gradient of x. [`gradient`] is that of z. Both take a group of
//! vectors of a pixel at a time through many pixels, so that its sigmoids are computed once.

use std::ops::Range;

use crate::Cpu;
use crate::layout::BlockShape;
use crate::simd::{Element, Kernel, MAX_LANES, Simd, dispatch, math};

/// Vectors of a pixel whose sigmoids, or sums, stay in L1.
const GROUP: usize = 32;

/// y = x · sigmoid(z) for the rows of pixels `rows`; `x` and `y` are these rows alone, `z` is one pixel of as many channels.
///
/// # Panics
/// If a slice does not have the length that its shape says, or the channel stride is not a multiple of [`MAX_LANES`].
///
/// ```
/// use selvedge_compute::{BlockShape, Cpu, gate};
/// let shape = BlockShape::new(2, 2, 16);
/// let (x, z, mut y) = (vec![3.0; shape.len()], vec![0.0; shape.pixel()], vec![0.0; shape.len()]);
/// gate::apply(Cpu::detect()?, &shape, 0..2, &x, &z, &mut y);
/// assert!(y.iter().all(|&y| y == 1.5));
/// # Ok::<(), selvedge_compute::CpuError>(())
/// ```
pub fn apply<E: Element>(cpu: Cpu, shape: &BlockShape, rows: Range<usize>, x: &[E], z: &[E], y: &mut [E]) {
    assert_stride(shape);
    assert!(rows.start <= rows.end && rows.end <= shape.height, "rows {rows:?} of {shape:?}");
    let len = rows.len() * shape.row();
    for (name, found, expected) in [("x", x.len(), len), ("y", y.len(), len), ("z", z.len(), shape.pixel())] {
        assert_eq!(found, expected, "the length of {name} for rows {rows:?} of {shape:?}");
    }
    dispatch(cpu, Apply { pixel: shape.pixel(), x, z, y });
}

/// The gradient of z from x and the gradient of y, for the elements `elements` of a pixel; `z` and `dz` are these elements alone,
/// `x` and `dy` whole blocks. The sum over the pixels is the same in any partition of the elements.
///
/// # Panics
/// If a slice does not have the length that its shape says, or the elements or the channel stride are not multiples of
/// [`MAX_LANES`].
pub fn gradient<E: Element>(
    cpu: Cpu,
    shape: &BlockShape,
    elements: Range<usize>,
    [x, dy]: [&[E]; 2],
    z: &[E],
    dz: &mut [E],
) {
    assert_stride(shape);
    let Range { start, end } = elements;
    assert!(start <= end && end <= shape.pixel(), "elements {elements:?} of a pixel of {shape:?}");
    assert!([start, end].iter().all(|at| at.is_multiple_of(MAX_LANES)), "elements {elements:?} are not whole vectors");
    for (name, found, expected) in [
        ("x", x.len(), shape.len()),
        ("dy", dy.len(), shape.len()),
        ("z", z.len(), end - start),
        ("dz", dz.len(), end - start),
    ] {
        assert_eq!(found, expected, "the length of {name} for elements {elements:?} of {shape:?}");
    }
    dispatch(cpu, Gradient { shape, start, x, dy, z, dz });
}

#[track_caller]
fn assert_stride(shape: &BlockShape) {
    let stride = shape.channel_stride;
    assert!(stride.is_multiple_of(MAX_LANES), "the channel stride is {stride}, not a multiple of {MAX_LANES}");
}

struct Apply<'a, E> {
    pixel: usize,
    x: &'a [E],
    z: &'a [E],
    y: &'a mut [E],
}

impl<E: Element> Kernel for Apply<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for first in (0..self.pixel).step_by(GROUP * S::LANES) {
            let vectors = GROUP.min((self.pixel - first) / S::LANES);
            let mut gates = [s.zero(); GROUP];
            for (n, gate) in gates[..vectors].iter_mut().enumerate() {
                // SAFETY: `apply` asserted that z is a pixel, a whole number of vectors.
                *gate = math::sigmoid(s, unsafe { E::load(s, self.z.as_ptr().add(first + n * S::LANES)) });
            }
            for pixel in (0..self.x.len()).step_by(self.pixel) {
                for (n, &gate) in gates[..vectors].iter().enumerate() {
                    let at = pixel + first + n * S::LANES;
                    // SAFETY: `apply` asserted that x and y are the same number of pixels.
                    unsafe {
                        E::store(s, self.y.as_mut_ptr().add(at), s.mul(E::load(s, self.x.as_ptr().add(at)), gate))
                    }
                }
            }
        }
    }
}

struct Gradient<'a, E> {
    shape: &'a BlockShape,
    /// The first of the elements.
    start: usize,
    x: &'a [E],
    dy: &'a [E],
    z: &'a [E],
    dz: &'a mut [E],
}

impl<E: Element> Kernel for Gradient<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for first in (0..self.dz.len()).step_by(GROUP * S::LANES) {
            let vectors = GROUP.min((self.dz.len() - first) / S::LANES);
            let mut totals = [s.zero(); GROUP];
            for row in 0..self.shape.height {
                // Summing rows first keeps rounding errors of large images small.
                let mut sums = [s.zero(); GROUP];
                for column in 0..self.shape.width {
                    let from = self.shape.offset(row, column) + self.start + first;
                    for (n, sum) in sums[..vectors].iter_mut().enumerate() {
                        let at = from + n * S::LANES;
                        // SAFETY: `gradient` asserted that x and dy are blocks, and that the elements lie in each pixel.
                        let [x, dy] = [self.x, self.dy].map(|from| unsafe { E::load(s, from.as_ptr().add(at)) });
                        *sum = s.mul_add(x, dy, *sum);
                    }
                }
                totals.iter_mut().zip(sums).for_each(|(total, sum)| *total = s.add(*total, sum));
            }
            for (n, &total) in totals[..vectors].iter().enumerate() {
                let at = first + n * S::LANES;
                // SAFETY: `gradient` asserted that z and dz are these elements, a whole number of vectors.
                unsafe {
                    let gate = math::sigmoid(s, E::load(s, self.z.as_ptr().add(at)));
                    let slope = s.mul(gate, s.sub(s.splat(1.0), gate));
                    E::store(s, self.dz.as_mut_ptr().add(at), s.mul(slope, total));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;
    use crate::test_support::{Numbers, assert_close, central_difference, cpus, wide};

    fn reference(shape: &BlockShape, x: &[f64], z: &[f64]) -> Vec<f64> {
        (0..x.len()).map(|i| x[i] / (1.0 + (-z[i % shape.pixel()]).exp())).collect()
    }

    fn matches_reference<E: Element>() {
        for (height, width, channels) in [(1, 1, 5), (3, 2, 17), (5, 4, 64), (2, 3, 100)] {
            let (shape, one) = (BlockShape::new(height, width, channels), BlockShape::new(1, 1, channels));
            let mut numbers = Numbers::new(channels as u64);
            let (x, dy, z) = (numbers.block::<E>(&shape), numbers.block::<E>(&shape), numbers.block::<E>(&one));
            let (wide_x, wide_dy, wide_z) = (wide(&x), wide(&dy), wide(&z));
            for cpu in cpus() {
                let name = format!("{shape:?} on {}", cpu.isa());
                let seven = |len: usize| vec![E::from_f32(7.0); len];
                let (mut y, mut dx, mut dz) = (seven(shape.len()), seven(shape.len()), seven(one.len()));
                let half = height / 2;
                let (upper, lower) = y.split_at_mut(half * shape.row());
                apply(cpu, &shape, half..height, &x[half * shape.row()..], &z, lower);
                apply(cpu, &shape, 0..half, &x[..half * shape.row()], &z, upper);
                assert_close(&name, &y, &reference(&shape, &wide_x, &wide_z), 1e-6);
                // y is linear in x, so its gradient is what the gate makes of dy.
                apply(cpu, &shape, 0..height, &dy, &z, &mut dx);
                assert_close(&format!("dx of {name}"), &dx, &reference(&shape, &wide_dy, &wide_z), 1e-6);
                let middle = shape.plane_len();
                let (left, right) = dz.split_at_mut(middle);
                gradient(cpu, &shape, 0..middle, [&x, &dy], &z[..middle], left);
                gradient(cpu, &shape, middle..shape.pixel(), [&x, &dy], &z[middle..], right);
                for i in (0..dz.len()).step_by(1 + dz.len() / 97) {
                    let of_pixels = |x: &[f64]| x.iter().skip(i).step_by(shape.pixel()).copied().collect::<Vec<_>>();
                    let (xs, dys) = (of_pixels(&wide_x), of_pixels(&wide_dy));
                    let loss = |z: &[f64]| xs.iter().zip(&dys).map(|(x, dy)| x * dy / (1.0 + (-z[0]).exp())).sum();
                    let want = central_difference(&mut [wide_z[i]], 0, loss);
                    assert_close(&format!("dz {i} of {name}"), &dz[i..=i], &[want], 4e-6);
                }
            }
        }
    }

    #[test]
    fn f32_matches_reference() {
        matches_reference::<f32>();
    }

    #[test]
    fn bf16_matches_reference() {
        matches_reference::<bf16>();
    }

    #[test]
    #[should_panic(expected = "the length of z for rows 0..1")]
    fn lengths_must_agree() {
        let shape = BlockShape::new(1, 1, 16);
        apply(cpus()[0], &shape, 0..1, &[0.0f32; 512], &[0.0; 256], &mut [0.0; 512]);
    }
}
