//! Elastic deformation: a smooth random field displaces every pixel.

use std::fmt::{self, Display};

use rand_distr::{Distribution, StandardNormal};
use serde::{Deserialize, Serialize};

use crate::canvas::{Canvas, Scratch};
use crate::check::Check;
use crate::convolve::groups;
use crate::error::AugmentError;
use crate::operation::{Operation, Transform};
use crate::parameter::Padding;
use crate::resample::{Border, Interpolation};
use crate::shape::ImageShape;
use crate::stream::Stream;
use crate::vectors::{GROUP, Group, Vectors};

/// Displaces every pixel along each axis by `alpha` times a field of noise, smoothed with a Gaussian of standard
/// deviation `sigma`.
///
/// Source: Simard, Steinkraus and Platt, "Best practices for convolutional neural networks applied to visual document
/// analysis", ICDAR 2003: uniform noise from -1 to 1, sigma 4 and alpha 34 for digits of about 28 pixels. The
/// parameters are those of Albumentations' `ElasticTransform`. As there, the outermost noise is repeated beyond the
/// edges, which makes displacements at the border up to four times as large as in the middle. With alpha 34 garments
/// lose their shape at the border, so the default is 15: displacements in the middle then have a standard deviation of
/// 0.6 pixels. Albumentations' own defaults (alpha 1, sigma 50) suit photographs. It smooths both fields in one array,
/// one above the other, so that each leaks into the other at their common edge; here they are separate.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ElasticTransform {
    /// The factor of the smoothed field, in pixels, from 0 to 10,000.
    pub alpha: f32,
    /// The standard deviation of the smoothing, in pixels, from 0.5 to 100.
    pub sigma: f32,
    /// Whether both axes share one field, so that all pixels move along the diagonal.
    pub same_dxdy: bool,
    /// The noise before smoothing.
    pub noise_distribution: NoiseDistribution,
    /// How the image is continued beyond its edges.
    pub padding: Padding,
    /// The value of zero padding, from 0 to 255.
    pub fill: u8,
    /// The probability, from 0 to 1.
    pub p: f32,
}

/// The noise of [`ElasticTransform`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoiseDistribution {
    /// Uniform from -1 to 1.
    #[default]
    Uniform,
    /// Normal, divided by the largest absolute value, as in Albumentations.
    Gaussian,
}

/// The key that the noise is generated from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ElasticDrawn(pub u64);

impl Default for ElasticTransform {
    fn default() -> Self {
        ElasticTransform {
            alpha: 15.0,
            sigma: 4.0,
            same_dxdy: false,
            noise_distribution: NoiseDistribution::Uniform,
            padding: Padding::Zero,
            fill: 0,
            p: 0.5,
        }
    }
}

impl Display for ElasticDrawn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "field {:016x}", self.0)
    }
}

impl ElasticTransform {
    /// Deforms the image by given noise, one number for each pixel and axis, which is smoothed first. For a shared
    /// field pass the same noise twice.
    ///
    /// # Panics
    /// If the number of noise values is not the number of pixels.
    pub fn apply_noise(&self, noise_x: &[f32], noise_y: &[f32], canvas: &mut Canvas) {
        let field = field_shape(canvas.shape());
        self.deform(canvas, |axis, _, plane| {
            let noise = if axis == Axis::X { noise_x } else { noise_y };
            assert_eq!(noise.len(), field.len(), "one number for each pixel is needed");
            for (to, from) in plane.chunks_exact_mut(groups(field)).zip(noise.chunks_exact(field.width)) {
                for (to, from) in to.iter_mut().zip(from.chunks(GROUP)) {
                    to.0[..from.len()].copy_from_slice(from);
                }
            }
            1.0
        });
    }

    /// Deforms the image by the noise that `noise` writes to a plane for each axis. It returns a factor of the
    /// displacements.
    fn deform(&self, canvas: &mut Canvas, mut noise: impl FnMut(Axis, Vectors, &mut [Group<f32>]) -> f32) {
        let field = field_shape(canvas.shape());
        let Scratch { vectors, convolver, displacements, .. } = canvas.scratch_mut();
        // The reach of OpenCV's GaussianBlur in floating point.
        convolver.kernel.set_gaussian(self.sigma, (self.sigma * 4.0).round_ties_even() as usize);
        let mut smoothed = |axis: Axis| {
            convolver.plane.resize(field.height * groups(field), Group::default());
            let factor = noise(axis, *vectors, &mut convolver.plane);
            convolver.run(*vectors, field, Padding::Edge);
            std::mem::swap(&mut convolver.plane, displacements);
            self.alpha * factor
        };
        let (alpha_x, alpha_y) = (smoothed(Axis::X), smoothed(Axis::Y));
        let planes = (std::mem::take(&mut convolver.plane), std::mem::take(displacements));
        let (right, down, in_row) = (planes.0.as_slice(), planes.1.as_slice(), groups(field));
        canvas.warp(
            Border { padding: self.padding, fill: self.fill },
            Interpolation::Bilinear,
            #[inline(always)]
            move |row, column, xs, ys| {
                let group = row * in_row + column / GROUP;
                let (right, down) = (&right[group].0, &down[group].0);
                for i in 0..GROUP {
                    xs[i] = (column + i) as i32 as f32 + alpha_x * right[i];
                    ys[i] = row as i32 as f32 + alpha_y * down[i];
                }
            },
        );
        let Scratch { convolver, displacements, .. } = canvas.scratch_mut();
        (convolver.plane, *displacements) = planes;
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Axis {
    X,
    Y,
}

/// The shape of a field: one number for each pixel.
fn field_shape(shape: ImageShape) -> ImageShape {
    ImageShape { channels: 1, ..shape }
}

/// Fills the plane with uniform noise in steps of 1/32768.
#[inline(always)]
fn uniform_noise(noise: &mut Stream, plane: &mut [Group<f32>]) {
    for group in plane {
        for (to, word) in group.0.as_chunks_mut::<4>().0.iter_mut().zip(noise.words::<{ GROUP / 4 }>()) {
            for (i, to) in to.iter_mut().enumerate() {
                *to = f32::from((word >> (16 * i)) as u16) * (2.0 / 65535.0) - 1.0;
            }
        }
    }
}

/// Fills the plane with normal noise and returns the largest absolute value.
fn normal_noise(noise: &mut Stream, plane: &mut [Group<f32>]) -> f32 {
    let mut largest = 0.0f32;
    for to in plane.iter_mut().flat_map(|group| &mut group.0) {
        *to = StandardNormal.sample(noise);
        largest = largest.max(to.abs());
    }
    largest
}

impl Operation for ElasticTransform {
    fn probability(&self) -> f32 {
        self.p
    }

    fn check(&self, check: Check, _: ImageShape) -> Result<(), AugmentError> {
        check.number("alpha", self.alpha, 0.0..=10_000.0)?;
        check.number("sigma", self.sigma, 0.5..=100.0)
    }
}

impl Transform for ElasticTransform {
    type Drawn = ElasticDrawn;

    fn draw(&self, rng: &mut Stream, _: ImageShape) -> ElasticDrawn {
        ElasticDrawn(rng.bits())
    }

    fn apply(&self, drawn: &ElasticDrawn, canvas: &mut Canvas) {
        let mut stream = Stream::from_bits(drawn.0);
        self.deform(canvas, |axis, vectors, plane| {
            if axis == Axis::Y && self.same_dxdy {
                stream = Stream::from_bits(drawn.0);
            }
            match self.noise_distribution {
                NoiseDistribution::Uniform => {
                    vectors.run(
                        #[inline(always)]
                        || uniform_noise(&mut stream, plane),
                    );
                    1.0
                }
                NoiseDistribution::Gaussian => 1.0 / normal_noise(&mut stream, plane).max(1e-6),
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: ImageShape = ImageShape { height: 28, width: 28, channels: 1 };

    fn displacements(elastic: ElasticTransform, key: u64) -> Vec<f32> {
        let mut canvas = Canvas::new(SHAPE);
        elastic.apply(&ElasticDrawn(key), &mut canvas);
        let rows = canvas.scratch_mut().convolver.plane.iter();
        rows.flat_map(|row| row.0[..28].iter().map(|displacement| elastic.alpha * displacement)).collect()
    }

    #[test]
    fn displacements_in_the_middle_have_the_expected_deviation() {
        // Uniform noise has the variance 1/3; smoothing with a Gaussian leaves 1 / (4 pi sigma²) of it.
        let expected = 15.0 * (1.0f64 / 3.0 / (4.0 * std::f64::consts::PI * 16.0)).sqrt();
        let squares: f64 =
            (0..4000).map(|key| f64::from(displacements(ElasticTransform::default(), key)[14 * 28 + 14]).powi(2)).sum();
        let found = (squares / 4000.0).sqrt();
        assert!((found / expected - 1.0).abs() < 0.06, "{found}, expected {expected}");
    }

    #[test]
    fn the_field_is_smooth() {
        let field = displacements(ElasticTransform::default(), 7);
        let steps = field.windows(2).enumerate().filter(|(i, _)| i % 28 != 27);
        let largest = steps.map(|(_, pair)| (pair[1] - pair[0]).abs()).fold(0.0, f32::max);
        assert!(largest < 1.5, "{largest}");
    }

    #[test]
    fn with_alpha_zero_nothing_moves() {
        let mut canvas = Canvas::new(SHAPE);
        let image: Vec<u8> = (0..784).map(|i| (i % 256) as u8).collect();
        canvas.load(&image);
        for noise_distribution in [NoiseDistribution::Uniform, NoiseDistribution::Gaussian] {
            let still = ElasticTransform { alpha: 0.0, noise_distribution, ..ElasticTransform::default() };
            still.apply(&ElasticDrawn(5), &mut canvas);
            assert_eq!(canvas.image(), image);
        }
    }
}
