//! FMix takes patches of random, smooth outline from the partner.

use std::f32::consts::TAU;
use std::fmt::{self, Display};

use rand_distr::{Distribution, StandardNormal};
use serde::{Deserialize, Serialize};

use super::{BatchTransform, MaskScratch, check_alpha, draw_share};
use crate::check::Check;
use crate::error::AugmentError;
use crate::operation::Operation;
use crate::shape::ImageShape;
use crate::stream::Stream;

/// Takes the pixels from the partner wherever a random smooth field is low.
///
/// Source: Harris et al., "FMix: enhancing mixed sample data augmentation", arXiv 2002.12047. Complex normal noise is
/// divided by the frequency to the power `decay_power` and transformed back into a field. The image keeps the share λ
/// of its pixels where the field is highest, where λ has the distribution Beta(alpha, alpha).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FMix {
    /// The parameter of the Beta distribution, from 0.001 to 1000.
    pub alpha: f32,
    /// How smooth the outlines are, from 0 (noise) to 10.
    pub decay_power: f32,
    /// The probability that a batch is mixed, from 0 to 1.
    pub p: f32,
}

/// The share that the image keeps, and the key that the field is generated from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FMixDrawn {
    /// λ, from 0 to 1.
    pub lambda: f32,
    /// The key of the field.
    pub noise: u64,
}

impl Default for FMix {
    fn default() -> Self {
        FMix { alpha: 1.0, decay_power: 3.0, p: 1.0 }
    }
}

impl Display for FMixDrawn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} own", self.lambda)
    }
}

/// The signed frequency of the `index`-th of `len` coefficients, in cycles per pixel.
fn frequency(index: usize, len: usize) -> f32 {
    let signed = if index <= (len - 1) / 2 { index as f32 } else { index as f32 - len as f32 };
    signed / len as f32
}

/// The inverse Fourier transform to a real field: `waves` has `height` rows of the `width / 2 + 1` coefficients that
/// determine it, each as real and imaginary part. The result is not multiplied by 1 / pixels.
fn inverse_transform(waves: &[[f32; 2]], columns: &mut Vec<[f32; 2]>, field: &mut Vec<f32>, shape: ImageShape) {
    let ImageShape { height, width, .. } = shape;
    let half = width / 2 + 1;
    columns.clear();
    columns.resize(height * half, [0.0; 2]);
    for (y, to) in columns.chunks_exact_mut(half).enumerate() {
        for (k, from) in waves.chunks_exact(half).enumerate() {
            let (sin, cos) = (TAU * (k * y % height) as f32 / height as f32).sin_cos();
            for (to, &[re, im]) in to.iter_mut().zip(from) {
                to[0] += re * cos - im * sin;
                to[1] += re * sin + im * cos;
            }
        }
    }
    field.clear();
    for row in columns.chunks_exact(half) {
        field.extend((0..width).map(|x| {
            let wave = |(k, &[re, im]): (usize, &[f32; 2])| {
                let (sin, cos) = (TAU * (k * x % width) as f32 / width as f32).sin_cos();
                // The coefficients of negative frequencies are the conjugates of the positive ones.
                let twice = if k == 0 || 2 * k == width { 1.0 } else { 2.0 };
                twice * (re * cos - im * sin)
            };
            row.iter().enumerate().map(wave).sum::<f32>()
        }));
    }
}

impl FMix {
    /// Generates the field from its key and writes the mask.
    fn draw_mask(&self, drawn: &FMixDrawn, shape: ImageShape, scratch: &mut MaskScratch) {
        let ImageShape { height, width, .. } = shape;
        let half = width / 2 + 1;
        let mut noise = Stream::from_bits(drawn.noise);
        let lowest = 1.0 / height.max(width) as f32;
        let MaskScratch { own, waves, columns, field, order } = scratch;
        waves.clear();
        for y in 0..height {
            for x in 0..half {
                let magnitude = frequency(y, height).hypot(x as f32 / width as f32).max(lowest);
                let scale = magnitude.powf(-self.decay_power);
                let normals: [f32; 2] = std::array::from_fn(|_| StandardNormal.sample(&mut noise));
                waves.push(normals.map(|normal| normal * scale));
            }
        }
        inverse_transform(waves, columns, field, shape);
        let kept = self.kept(drawn, shape);
        order.clear();
        order.extend(0..field.len() as u32);
        // The index decides between equal values, so that the mask is the same on every machine.
        order.sort_unstable_by(|&a, &b| field[b as usize].total_cmp(&field[a as usize]).then(a.cmp(&b)));
        own.clear();
        own.resize(field.len(), false);
        order[..kept].iter().for_each(|&pixel| own[pixel as usize] = true);
    }

    /// The number of pixels that the image keeps.
    fn kept(&self, drawn: &FMixDrawn, shape: ImageShape) -> usize {
        (drawn.lambda * shape.pixels() as f32).round() as usize
    }
}

impl Operation for FMix {
    fn probability(&self) -> f32 {
        self.p
    }

    fn check(&self, check: Check, _: ImageShape) -> Result<(), AugmentError> {
        check_alpha(check, self.alpha)?;
        check.number("decay_power", self.decay_power, 0.0..=10.0)
    }
}

impl BatchTransform for FMix {
    type Drawn = FMixDrawn;

    fn draw(&self, rng: &mut Stream, _: ImageShape) -> FMixDrawn {
        FMixDrawn { lambda: draw_share(rng, self.alpha).clamp(0.0, 1.0), noise: rng.bits() }
    }

    fn prepare(&self, drawn: &FMixDrawn, shape: ImageShape, mask: &mut MaskScratch) -> f32 {
        self.draw_mask(drawn, shape, mask);
        self.kept(drawn, shape) as f32 / shape.pixels() as f32
    }

    fn mix(
        &self,
        _drawn: &FMixDrawn,
        shape: ImageShape,
        mask: &MaskScratch,
        own: &[u8],
        partner: &[u8],
        mixed: &mut [u8],
    ) {
        let channels = shape.channels;
        let pairs = own.chunks_exact(channels).zip(partner.chunks_exact(channels));
        for ((to, (own, partner)), &is_own) in mixed.chunks_exact_mut(channels).zip(pairs).zip(&mask.own) {
            to.copy_from_slice(if is_own { own } else { partner });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_transform_equals_its_definition() {
        for (height, width) in [(1, 1), (4, 6), (5, 7)] {
            let shape = ImageShape { height, width, channels: 1 };
            let half = width / 2 + 1;
            let mut rng = Stream::from_bits(1);
            let waves: Vec<[f32; 2]> = (0..height * half).map(|_| [rng.unit() - 0.5, rng.unit() - 0.5]).collect();
            let mut field = Vec::new();
            inverse_transform(&waves, &mut Vec::new(), &mut field, shape);
            for y in 0..height {
                for x in 0..width {
                    // Over all coefficients of the columns' transforms, the negative ones conjugated.
                    let mut expected = 0.0;
                    for k in 0..width {
                        let mirrored = k > width / 2;
                        let column = if mirrored { width - k } else { k };
                        let (mut re, mut im) = (0.0, 0.0);
                        for j in 0..height {
                            let [a, b] = waves[j * half + column].map(f64::from);
                            let angle = std::f64::consts::TAU * (j * y) as f64 / height as f64;
                            re += a * angle.cos() - b * angle.sin();
                            im += a * angle.sin() + b * angle.cos();
                        }
                        let im = if mirrored { -im } else { im };
                        let angle = std::f64::consts::TAU * (k * x) as f64 / width as f64;
                        expected += re * angle.cos() - im * angle.sin();
                    }
                    assert!((f64::from(field[y * width + x]) - expected).abs() < 1e-4, "{height} {width} {y} {x}");
                }
            }
        }
    }

    #[test]
    fn masks_have_the_drawn_share_and_smooth_outlines() {
        let shape = ImageShape { height: 28, width: 28, channels: 1 };
        let mut scratch = MaskScratch::default();
        for noise in 0..20 {
            let drawn = FMixDrawn { lambda: 0.3, noise };
            let share = FMix::default().prepare(&drawn, shape, &mut scratch);
            assert_eq!(share, 235.0 / 784.0);
            assert_eq!(scratch.own.iter().filter(|own| **own).count(), 235);
            let changes = scratch.own.chunks_exact(28).flat_map(|row| row.windows(2)).filter(|w| w[0] != w[1]).count();
            // Noise would change at 0.42 of 756 neighbours.
            assert!(changes < 130, "{changes}");
        }
    }
}
