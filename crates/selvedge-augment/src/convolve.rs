//! Separable convolution of a plane of numbers, for blurs and smooth random fields.
//!
//! The plane is extended by the kernel's reach first, so that both passes are one loop without
//! conditions: each result is a weighted sum of values at equal distances. Rows are as long as a whole
//! number of blocks, so that a block of sums stays in registers over the whole kernel.

use crate::ImageShape;
use crate::canvas::Scratch;
use crate::parameter::Padding;

/// Sums that are formed side by side.
const BLOCK: usize = 32;

/// Numbers from one row of a plane to the next.
pub(crate) fn stride(shape: ImageShape) -> usize {
    shape.row_len().next_multiple_of(BLOCK)
}

/// The weights of a convolution, an odd number of them, the same from both ends.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kernel {
    weights: Vec<f32>,
    /// The standard deviation (its bits) and the reach of the Gaussian that the weights are, if they are one.
    gaussian: Option<(u32, usize)>,
}

impl Kernel {
    /// A Gaussian of standard deviation `sigma` and `2 * reach + 1` weights, with sum 1. Nothing is
    /// computed where it is the same as before.
    pub(crate) fn set_gaussian(&mut self, sigma: f32, reach: usize) {
        let key = Some((sigma.to_bits(), reach));
        if self.gaussian == key {
            return;
        }
        let value = |tap: usize| {
            let distance = tap as f64 - reach as f64;
            (-0.5 * (distance / f64::from(sigma)).powi(2)).exp()
        };
        let sum: f64 = (0..=2 * reach).map(value).sum();
        self.weights.clear();
        self.weights.extend((0..=2 * reach).map(|tap| (value(tap) / sum) as f32));
        self.gaussian = key;
    }

    /// The mean of `2 * reach + 1` values.
    pub(crate) fn set_mean(&mut self, reach: usize) {
        self.weights.clear();
        self.weights.resize(2 * reach + 1, 1.0 / (2 * reach + 1) as f32);
        self.gaussian = None;
    }
}

/// Convolves the scratch plane along both axes with the scratch kernel.
///
/// The plane has `stride(shape)` numbers a row; it holds the result at the end. The padding is one that
/// goes on with values of the image.
pub(crate) fn convolve(scratch: &mut Scratch, shape: ImageShape, padding: Padding) {
    let Scratch { plane, passed, line, kernel, beyond, .. } = scratch;
    let weights = kernel.weights.as_slice();
    let ImageShape { height, width, channels } = shape;
    let (stride, reach) = (stride(shape), weights.len() / 2);
    debug_assert_ne!(padding, Padding::Zero, "a plane has no fill value to go on with");
    let source = |position: usize, len: usize| padding.source(position as isize - reach as isize, len).unwrap_or(0);

    let extended = (height + 2 * reach) * stride;
    passed.resize(extended.max(passed.len()), 0.0);
    for (row, to) in passed[..extended].chunks_exact_mut(stride).enumerate() {
        to.copy_from_slice(&plane[source(row, height) * stride..][..stride]);
    }
    weighted_sums(passed, stride, weights, plane);

    // What stands left and right of a row is the same for all rows.
    beyond.clear();
    for column in (0..reach).chain(reach + width..width + 2 * reach) {
        let start = source(column, width) * channels;
        beyond.extend(start..start + channels);
    }
    let (left, right) = beyond.split_at(reach * channels);
    line.clear();
    line.resize(stride + 2 * reach * channels, 0.0);
    for row in plane.chunks_exact_mut(stride) {
        let (before, rest) = line.split_at_mut(reach * channels);
        let (inside, after) = rest.split_at_mut(width * channels);
        inside.copy_from_slice(&row[..width * channels]);
        before.iter_mut().zip(left).for_each(|(to, &from)| *to = inside[from]);
        after.iter_mut().zip(right).for_each(|(to, &from)| *to = inside[from]);
        weighted_sums(line, channels, weights, row);
    }
}

/// `sums[i]` = Σ `weights[t]` · `values[i + t * step]`; weights at equal distance from the middle one are
/// equal, so that the values there are added first.
fn weighted_sums(values: &[f32], step: usize, weights: &[f32], sums: &mut [f32]) {
    let (blocks, _) = sums.as_chunks_mut::<BLOCK>();
    let (reach, last) = (weights.len() / 2, weights.len() - 1);
    for (block, sums) in blocks.iter_mut().enumerate() {
        let values = &values[block * BLOCK..][..last * step + BLOCK];
        let at = |tap: usize| values[tap * step..].first_chunk::<BLOCK>();
        let mut totals = [0.0f32; BLOCK];
        if let Some(middle) = at(reach) {
            totals.iter_mut().zip(middle).for_each(|(total, value)| *total = weights[reach] * value);
        }
        for (tap, &weight) in weights[..reach].iter().enumerate() {
            if let (Some(near), Some(far)) = (at(tap), at(last - tap)) {
                for ((total, near), far) in totals.iter_mut().zip(near).zip(far) {
                    *total += weight * (near + far);
                }
            }
        }
        *sums = totals;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equals_the_definition_for_any_shape_reach_and_padding() {
        for (height, width, channels) in [(1, 1, 1), (4, 3, 2), (9, 40, 1)] {
            let shape = ImageShape { height, width, channels };
            let stride = stride(shape);
            let value = |y: usize, x: usize, c: usize| ((y * 31 + x * 17 + c * 7) % 23) as f32;
            for reach in [0, 1, 5] {
                let mut kernel = Kernel::default();
                kernel.set_gaussian(1.5, reach);
                let weights = kernel.weights.clone();
                for padding in [Padding::Reflect, Padding::Edge, Padding::Symmetric] {
                    let mut scratch = Scratch { kernel: kernel.clone(), ..Scratch::default() };
                    scratch.plane = vec![0.0; height * stride];
                    for (i, to) in scratch.plane.iter_mut().enumerate() {
                        let (y, x) = (i / stride, i % stride);
                        if x < width * channels {
                            *to = value(y, x / channels, x % channels);
                        }
                    }
                    convolve(&mut scratch, shape, padding);
                    for (y, x, c) in
                        (0..height).flat_map(|y| (0..width).flat_map(move |x| (0..channels).map(move |c| (y, x, c))))
                    {
                        let mut expected = 0.0;
                        for (i, wy) in weights.iter().enumerate() {
                            for (j, wx) in weights.iter().enumerate() {
                                let row = padding.source((y + i) as isize - reach as isize, height);
                                let column = padding.source((x + j) as isize - reach as isize, width);
                                if let (Some(row), Some(column)) = (row, column) {
                                    expected += wy * wx * value(row, column, c);
                                }
                            }
                        }
                        let found = scratch.plane[y * stride + x * channels + c];
                        assert!((found - expected).abs() < 1e-4, "{shape:?} {reach} {padding:?}: {found} {expected}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_kernel_is_computed_anew_when_anything_changes() {
        let mut kernel = Kernel::default();
        kernel.set_gaussian(1.0, 2);
        let first = kernel.weights.clone();
        kernel.set_mean(2);
        assert_eq!(kernel.weights, [0.2; 5]);
        kernel.set_gaussian(1.0, 2);
        assert_eq!(kernel.weights, first);
        kernel.set_gaussian(1.0, 3);
        assert_eq!(kernel.weights.len(), 7);
        assert!((kernel.weights.iter().sum::<f32>() - 1.0).abs() < 1e-6);
    }
}
