//! Separable convolution of a plane of numbers, for blurs and smooth random fields.
//!
//! The plane is extended by the kernel's reach before each pass, so that each pass is one loop without conditions:
//! every result is a weighted sum of values at equal distances. Rows are padded to a whole number of groups, so that a
//! group of sums stays in registers over the whole kernel.

use crate::parameter::Padding;
use crate::shape::ImageShape;
use crate::vectors::{GROUP, Group, Vectors};

/// Groups of numbers in a row of a plane, whose channels stand side by side.
pub(crate) fn groups(shape: ImageShape) -> usize {
    shape.row_len().div_ceil(GROUP)
}

/// The weights of a convolution: an odd number of them, symmetric.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kernel {
    weights: Vec<f32>,
    /// If the weights are a Gaussian: the bits of its standard deviation, and its reach.
    gaussian: Option<(u32, usize)>,
}

impl Kernel {
    /// Makes it a Gaussian of standard deviation `sigma` with `2 * reach + 1` weights of sum 1. Does nothing if it is
    /// that Gaussian already.
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

    /// Makes it the mean of `2 * reach + 1` values.
    pub(crate) fn set_mean(&mut self, reach: usize) {
        self.weights.clear();
        self.weights.resize(2 * reach + 1, 1.0 / (2 * reach + 1) as f32);
        self.gaussian = None;
    }
}

/// A plane to be convolved, the kernel, and the buffers in between, kept from image to image.
#[derive(Clone, Debug, Default)]
pub(crate) struct Convolver {
    /// The plane, [`groups`] groups per row: the input, then the result.
    pub(crate) plane: Vec<Group<f32>>,
    pub(crate) kernel: Kernel,
    /// The plane with more rows above and below.
    extended: Vec<Group<f32>>,
    /// The rows with more values left and right.
    lines: Vec<f32>,
    /// Where in a row the values left and right of it come from.
    margins: Vec<usize>,
}

impl Convolver {
    /// Convolves the plane of an image of this shape along both axes with the kernel. The padding must be one that
    /// continues with values of the image.
    pub(crate) fn run(&mut self, vectors: Vectors, shape: ImageShape, padding: Padding) {
        let Convolver { plane, kernel, extended, lines, margins } = self;
        let weights = kernel.weights.as_slice();
        let ImageShape { height, width, channels } = shape;
        let (groups, reach) = (groups(shape), weights.len() / 2);
        debug_assert_ne!(padding, Padding::Zero, "a plane has no fill value");
        let source = |position: usize, len: usize| padding.source(position as isize - reach as isize, len).unwrap_or(0);
        extended.resize((height + 2 * reach) * groups, Group::default());
        let (margin, line) = (reach * channels, groups * GROUP + 2 * reach * channels);
        lines.resize(height * line, 0.0);
        // The same for all rows.
        margins.clear();
        for column in (0..reach).chain(reach + width..width + 2 * reach) {
            let start = source(column, width) * channels;
            margins.extend(start..start + channels);
        }
        let (left, right) = margins.split_at(margin);
        let (plane, extended, lines) = (plane.as_mut_slice(), extended.as_mut_slice(), lines.as_mut_slice());

        vectors.run(
            #[inline(always)]
            move || {
                for (row, to) in extended.chunks_exact_mut(groups).enumerate() {
                    let from = &plane[source(row, height) * groups..][..groups];
                    to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
                }
                for (i, sums) in plane.iter_mut().enumerate() {
                    weighted_sums(weights, |tap| extended.get(i + tap * groups).map(|group| &group.0), &mut sums.0);
                }
                // All rows are extended before the first is summed, so that no load waits for a recent store.
                for (to, from) in lines.chunks_exact_mut(line).zip(plane.chunks_exact(groups)) {
                    let (before, inside) = to.split_at_mut(margin);
                    for (to, from) in inside.as_chunks_mut::<GROUP>().0.iter_mut().zip(from) {
                        *to = from.0;
                    }
                    let (inside, after) = inside.split_at_mut(width * channels);
                    let after = &mut after[..margin];
                    if padding == Padding::Edge && channels == 1 {
                        before.fill(inside[0]);
                        after.fill(inside[width - 1]);
                    } else {
                        before.iter_mut().zip(left).for_each(|(to, &from)| *to = inside[from]);
                        after.iter_mut().zip(right).for_each(|(to, &from)| *to = inside[from]);
                    }
                }
                for (sums, line) in plane.chunks_exact_mut(groups).zip(lines.chunks_exact(line)) {
                    for (i, sums) in sums.iter_mut().enumerate() {
                        weighted_sums(weights, |tap| line[i * GROUP + tap * channels..].first_chunk(), &mut sums.0);
                    }
                }
            },
        );
    }
}

/// Σ `weights[t]` · `values(t)`. The kernel is symmetric, so values at equal distance from its middle are added before
/// they are multiplied.
#[inline(always)]
fn weighted_sums<'a>(weights: &[f32], values: impl Fn(usize) -> Option<&'a [f32; GROUP]>, sums: &mut [f32; GROUP]) {
    let (reach, last) = (weights.len() / 2, weights.len() - 1);
    let mut totals = [0.0; GROUP];
    if let Some(middle) = values(reach) {
        totals.iter_mut().zip(middle).for_each(|(total, value)| *total = weights[reach] * value);
    }
    for (tap, &weight) in weights[..reach].iter().enumerate() {
        if let (Some(near), Some(far)) = (values(tap), values(last - tap)) {
            for ((total, near), far) in totals.iter_mut().zip(near).zip(far) {
                *total += weight * (near + far);
            }
        }
    }
    *sums = totals;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equals_the_definition_for_any_shape_reach_and_padding() {
        for (height, width, channels) in [(1, 1, 1), (4, 3, 2), (9, 40, 1)] {
            let shape = ImageShape { height, width, channels };
            let groups = groups(shape);
            let value = |y: usize, x: usize, c: usize| ((y * 31 + x * 17 + c * 7) % 23) as f32;
            for reach in [0, 1, 5] {
                let mut kernel = Kernel::default();
                kernel.set_gaussian(1.5, reach);
                let weights = kernel.weights.clone();
                for padding in [Padding::Reflect, Padding::Edge, Padding::Symmetric] {
                    let mut convolver = Convolver { kernel: kernel.clone(), ..Convolver::default() };
                    convolver.plane = vec![Group::default(); height * groups];
                    for (y, x) in (0..height).flat_map(|y| (0..width * channels).map(move |x| (y, x))) {
                        convolver.plane[y * groups + x / GROUP].0[x % GROUP] = value(y, x / channels, x % channels);
                    }
                    convolver.run(Vectors::default(), shape, padding);
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
                        let i = x * channels + c;
                        let found = convolver.plane[y * groups + i / GROUP].0[i % GROUP];
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
