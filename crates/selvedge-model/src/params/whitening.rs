//! Whitening filters: weights of a first convolution that make its outputs uncorrelated, from the statistics of image patches.
//!
//! As in Keller Jordan's airbench (arXiv 2404.00498, section 3.2): the patches of all images, normalised as the network sees them
//! and without padding, give the matrix C = Σ p pᵀ / patches, from which no mean is subtracted. Its eigenvectors v with eigenvalues
//! λ give the filters v / √(λ + ε). The largest come first, then their negatives, because an activation such as ReLU or GELU
//! passes one half of the numbers.
//!
//! All sums are f64 and in an order that the images alone decide, and eigenvectors have a fixed sign, so the filters' bits do not
//! depend on the threads or the machine.

use rayon::prelude::*;

use crate::exec::images::Images;
use crate::params::eigen::{Eigenpair, eigenpairs};
use crate::spec::InputSpec;
use crate::spec::options::Kernel;

/// ε: what is added to each eigenvalue, so that directions in which the images hardly differ are not scaled up without bound.
const EPSILON: f64 = 5e-4;

/// Images whose products are summed before they are added to the others'.
const CHUNK: usize = 128;

/// The patches of images: those that a kernel of this size sees.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patches<'a> {
    pub images: Images<'a>,
    pub input: &'a InputSpec,
    pub kernel: Kernel,
}

impl Patches<'_> {
    /// Numbers of a patch: rows, columns, channels.
    pub(crate) fn dimensions(&self) -> usize {
        self.kernel.height * self.kernel.width * self.input.channels
    }

    /// Patches of all images.
    pub(crate) fn count(&self) -> usize {
        let [rows, columns] = self.positions();
        self.images.len() / self.image_len() * rows * columns
    }

    /// Weights `[kernel height, kernel width, in, out]` that whiten the patches; half of the `filters` are the negatives of the
    /// others. Runs on the current rayon pool.
    pub(crate) fn filters(&self, filters: usize) -> Vec<f32> {
        let pairs = eigenpairs(self.second_moments(), self.dimensions());
        let half = filters / 2;
        let mut weights = vec![0.0; self.dimensions() * filters];
        for (output, Eigenpair { value, vector }) in pairs.iter().take(half).enumerate() {
            // Rounding may make an eigenvalue of zero negative.
            let deviation = (value.max(0.0) + EPSILON).sqrt();
            for (weights, component) in weights.chunks_exact_mut(filters).zip(vector) {
                let weight = (component / deviation) as f32;
                (weights[output], weights[half + output]) = (weight, -weight);
            }
        }
        weights
    }

    /// The matrix Σ p pᵀ / patches, row after row.
    fn second_moments(&self) -> Vec<f64> {
        let (dimensions, image_len) = (self.dimensions(), self.image_len());
        let images = self.images.len() / image_len;
        let starts = (0..images).step_by(CHUNK).collect::<Vec<_>>();
        let sums: Vec<Vec<f64>> = starts
            .into_par_iter()
            .map(|start| self.sums_of(self.images.slice(start * image_len..images.min(start + CHUNK) * image_len)))
            .collect();
        let mut moments = vec![0.0; dimensions * dimensions];
        let count = self.count() as f64;
        for i in 0..dimensions {
            for j in i..dimensions {
                let sum: f64 = sums.iter().map(|sums| sums[i * dimensions + j]).sum();
                moments[i * dimensions + j] = sum / count;
                moments[j * dimensions + i] = sum / count;
            }
        }
        moments
    }

    /// The sums of p pᵀ over the patches of some images, on and above the diagonal.
    fn sums_of(&self, images: Images<'_>) -> Vec<f64> {
        let InputSpec { width, channels, mean, std, .. } = *self.input;
        let [rows, columns] = self.positions();
        let (dimensions, image_len) = (self.dimensions(), self.image_len());
        let (mean, std) = (f64::from(mean), f64::from(std));
        let mut sums = vec![0.0; dimensions * dimensions];
        // Each component of all patches of an image, one component after another.
        let mut components = vec![0.0; dimensions * rows * columns];
        for start in (0..images.len()).step_by(image_len) {
            let pixels = normalised(images.slice(start..start + image_len), mean, std);
            for (component, to) in components.chunks_exact_mut(rows * columns).enumerate() {
                let (tap, channel) = (component / channels, component % channels);
                let corner = (tap / self.kernel.width * width + tap % self.kernel.width) * channels + channel;
                for (row, to) in to.chunks_exact_mut(columns).enumerate() {
                    let from = pixels[corner + row * width * channels..].iter().step_by(channels);
                    to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
                }
            }
            let component = |number: usize| &components[number * rows * columns..][..rows * columns];
            for i in 0..dimensions {
                for j in i..dimensions {
                    sums[i * dimensions + j] += dot(component(i), component(j));
                }
            }
        }
        sums
    }

    /// Rows and columns of positions at which a patch lies inside an image.
    fn positions(&self) -> [usize; 2] {
        let fit = |size: usize, kernel: usize| (size + 1).saturating_sub(kernel);
        [fit(self.input.height, self.kernel.height), fit(self.input.width, self.kernel.width)]
    }

    fn image_len(&self) -> usize {
        self.input.height * self.input.width * self.input.channels
    }
}

/// An image as the network sees it.
fn normalised(image: Images<'_>, mean: f64, std: f64) -> Vec<f64> {
    match image {
        Images::Bytes(bytes) => bytes.iter().map(|&byte| (f64::from(byte) / 255.0 - mean) / std).collect(),
        Images::Floats(floats) => floats.iter().map(|&x| (f64::from(x) - mean) / std).collect(),
    }
}

/// The sum of products, in eight sums that a compiler keeps in vectors whatever the instruction set.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    const LANES: usize = 8;
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut sums = [0.0; LANES];
    for (a, b) in a.iter().zip(b) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    let rest: f64 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f64>() + rest
}

#[cfg(test)]
mod tests;
