//! Gaussian noise.

use std::fmt::{self, Display};

use rand_distr::{Distribution, StandardNormal};
use serde::{Deserialize, Serialize};

use crate::canvas::Canvas;
use crate::check::Check;
use crate::error::AugmentError;
use crate::operation::{Operation, Transform};
use crate::parameter::Span;
use crate::shape::ImageShape;
use crate::stream::Stream;

/// Adds normally distributed noise to every value.
///
/// Source: Albumentations `GaussNoise(std_range=(0.2, 0.44), mean_range=(0, 0), per_channel=True,
/// p=0.5)`; standard deviation and mean are shares of 255.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GaussianNoise {
    /// The standard deviation as a share of 255, from 0 to 1.
    #[serde(alias = "std_range")]
    pub std: Span<f32>,
    /// The mean as a share of 255, from -1 to 1.
    #[serde(alias = "mean_range")]
    pub mean: Span<f32>,
    /// Whether each channel of a pixel has noise of its own.
    pub per_channel: bool,
    /// The probability, from 0 to 1.
    pub p: f32,
}

/// The distribution of the noise, as shares of 255, and the key that it is generated from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GaussianNoiseDrawn {
    /// The standard deviation.
    pub std: f32,
    /// The mean.
    pub mean: f32,
    /// The key of the noise.
    pub noise: u64,
}

impl Default for GaussianNoise {
    fn default() -> Self {
        GaussianNoise {
            std: Span { low: 0.2, high: 0.44 },
            mean: Span { low: 0.0, high: 0.0 },
            per_channel: true,
            p: 0.5,
        }
    }
}

impl Display for GaussianNoiseDrawn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "std {:.2}, mean {:.2}", self.std, self.mean)
    }
}

impl Operation for GaussianNoise {
    fn probability(&self) -> f32 {
        self.p
    }

    fn check(&self, check: Check, _: ImageShape) -> Result<(), AugmentError> {
        check.span("std", self.std, 0.0..=1.0)?;
        check.span("mean", self.mean, -1.0..=1.0)
    }
}

impl Transform for GaussianNoise {
    type Drawn = GaussianNoiseDrawn;

    fn draw(&self, rng: &mut Stream, _: ImageShape) -> GaussianNoiseDrawn {
        GaussianNoiseDrawn { std: self.std.draw(rng), mean: self.mean.draw(rng), noise: rng.bits() }
    }

    fn apply(&self, drawn: &GaussianNoiseDrawn, canvas: &mut Canvas) {
        let mut stream = Stream::from_bits(drawn.noise);
        let (std, mean) = (255.0 * drawn.std, 255.0 * drawn.mean);
        let shared = if self.per_channel { 1 } else { canvas.shape().channels };
        for values in canvas.image_mut().chunks_exact_mut(shared) {
            let normal: f32 = StandardNormal.sample(&mut stream);
            let noise = mean + std * normal + 0.5;
            // The conversion clamps to 0..=255.
            values.iter_mut().for_each(|v| *v = (f32::from(*v) + noise) as u8);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_noise_has_the_stated_mean_and_deviation() {
        let mut canvas = Canvas::new(ImageShape { height: 100, width: 100, channels: 1 });
        canvas.load(&[100; 10_000]);
        let drawn = GaussianNoiseDrawn { std: 0.05, mean: 0.1, noise: 3 };
        GaussianNoise::default().apply(&drawn, &mut canvas);
        let values: Vec<f64> = canvas.image().iter().map(|&v| f64::from(v)).collect();
        let mean = values.iter().sum::<f64>() / 10_000.0;
        let deviation = (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 10_000.0).sqrt();
        assert!((mean - 125.5).abs() < 0.6, "{mean}");
        assert!((deviation - 12.75).abs() < 0.5, "{deviation}");
    }

    #[test]
    fn channels_share_the_noise_unless_it_is_per_channel() {
        let mut canvas = Canvas::new(ImageShape { height: 5, width: 5, channels: 3 });
        canvas.load(&[100; 75]);
        let shared = GaussianNoise { per_channel: false, ..GaussianNoise::default() };
        shared.apply(&GaussianNoiseDrawn { std: 0.1, mean: 0.0, noise: 3 }, &mut canvas);
        assert!(canvas.image().chunks_exact(3).all(|pixel| pixel[0] == pixel[1] && pixel[1] == pixel[2]));
    }
}
