//! Operations by a drawn factor: brightness, contrast, gamma, sharpness.
//!
//! All but sharpness look values up in a table of 256. Results are truncated, not rounded, as by torchvision's
//! functions on tensors of bytes.

use std::fmt::{self, Display};

use serde::{Deserialize, Serialize};

use crate::canvas::Canvas;
use crate::check::Check;
use crate::error::AugmentError;
use crate::operation::{Operation, Transform};
use crate::parameter::Span;
use crate::shape::ImageShape;
use crate::stream::Stream;

/// Multiplies every value by a factor.
///
/// Source: torchvision `ColorJitter(brightness)` and `adjust_brightness`; here the range of the factor is written out.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Brightness {
    /// The factor, from 0 (black) to 10; 1 changes nothing.
    pub factor: Span<f32>,
    /// The probability, from 0 to 1.
    pub p: f32,
}

/// Moves every value away from the mean of the image, or towards it.
///
/// Source: torchvision `ColorJitter(contrast)` and `adjust_contrast`: the mean is that of the grey image, for three
/// channels 0.2989 red + 0.587 green + 0.114 blue.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Contrast {
    /// The factor of the distance from the mean, from 0 to 10; 1 changes nothing.
    pub factor: Span<f32>,
    /// The probability, from 0 to 1.
    pub p: f32,
}

/// Raises every value, as a share of 255, to a power.
///
/// Source: torchvision `adjust_gamma`; Albumentations `RandomGamma(gamma_limit=(80, 120))` writes the same power in
/// percent.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Gamma {
    /// The power, from 0.01 to 10; above 1 dark parts become darker.
    pub gamma: Span<f32>,
    /// The probability, from 0 to 1.
    pub p: f32,
}

/// Blends the image with a smoothed copy of itself: factors above 1 sharpen, below 1 smooth.
///
/// Source: torchvision `RandomAdjustSharpness(sharpness_factor, p=0.5)`, Pillow `ImageEnhance.Sharpness`: the copy is
/// smoothed by a 3 × 3 kernel with 5 in the middle and 1 around it; the outermost pixels are unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sharpness {
    /// The factor, from 0 to 10; 1 changes nothing.
    pub factor: Span<f32>,
    /// The probability, from 0 to 1.
    pub p: f32,
}

/// The factor, or the power of [`Gamma`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Factor(pub f32);

impl Default for Brightness {
    fn default() -> Self {
        Brightness { factor: Span { low: 0.8, high: 1.2 }, p: 0.5 }
    }
}

impl Default for Contrast {
    fn default() -> Self {
        Contrast { factor: Span { low: 0.8, high: 1.2 }, p: 0.5 }
    }
}

impl Default for Gamma {
    fn default() -> Self {
        Gamma { gamma: Span { low: 0.8, high: 1.2 }, p: 0.5 }
    }
}

impl Default for Sharpness {
    fn default() -> Self {
        Sharpness { factor: Span { low: 0.5, high: 1.5 }, p: 0.5 }
    }
}

impl Display for Factor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "×{:.2}", self.0)
    }
}

/// The four operations differ in the parameter that the factor is drawn from, its limits, and the function of the image
/// and the factor.
macro_rules! by_factor {
    ($operation:ident, $parameter:ident in $allowed:expr, $apply:expr) => {
        impl Operation for $operation {
            fn probability(&self) -> f32 {
                self.p
            }

            fn check(&self, check: Check, _: ImageShape) -> Result<(), AugmentError> {
                check.span(stringify!($parameter), self.$parameter, $allowed)
            }
        }

        impl Transform for $operation {
            type Drawn = Factor;

            fn draw(&self, rng: &mut Stream, _: ImageShape) -> Factor {
                Factor(self.$parameter.draw(rng))
            }

            fn apply(&self, &Factor(factor): &Factor, canvas: &mut Canvas) {
                $apply(canvas, factor);
            }
        }
    };
}

by_factor!(Brightness, factor in 0.0..=10.0, brighten);
by_factor!(Contrast, factor in 0.0..=10.0, change_contrast);
by_factor!(Gamma, gamma in 0.01..=10.0, raise);
by_factor!(Sharpness, factor in 0.0..=10.0, sharpen);

/// Replaces every value by a function of it.
fn look_up(image: &mut [u8], value: impl Fn(u8) -> u8) {
    let table: [u8; 256] = std::array::from_fn(|v| value(v as u8));
    image.iter_mut().for_each(|v| *v = table[usize::from(*v)]);
}

fn brighten(canvas: &mut Canvas, factor: f32) {
    look_up(canvas.image_mut(), |v| (f32::from(v) * factor) as u8);
}

fn change_contrast(canvas: &mut Canvas, factor: f32) {
    let mean = mean_grey(canvas.image(), canvas.shape().channels);
    let offset = mean * (1.0 - factor);
    look_up(canvas.image_mut(), |v| (f32::from(v) * factor + offset) as u8);
}

fn raise(canvas: &mut Canvas, gamma: f32) {
    // torchvision converts a share to a byte by truncating 255.999 times the share.
    look_up(canvas.image_mut(), |v| ((f32::from(v) / 255.0).powf(gamma) * 255.999) as u8);
}

/// Multiplies the distance of each colour from its grey; images without three channels are unchanged.
pub(crate) fn saturate(canvas: &mut Canvas, factor: f32) {
    if canvas.shape().channels != 3 {
        return;
    }
    let (pixels, _) = canvas.image_mut().as_chunks_mut::<3>();
    for pixel in pixels {
        let offset = grey(pixel) * (1.0 - factor);
        pixel.iter_mut().for_each(|v| *v = (f32::from(*v) * factor + offset) as u8);
    }
}

/// The mean of the grey image, from 0 to 255.
fn mean_grey(image: &[u8], channels: usize) -> f32 {
    if channels != 3 {
        return image.iter().map(|&v| u64::from(v)).sum::<u64>() as f32 / image.len() as f32;
    }
    let (pixels, _) = image.as_chunks::<3>();
    pixels.iter().map(|pixel| grey(pixel) as u64).sum::<u64>() as f32 / pixels.len() as f32
}

/// The grey value of a colour, truncated to a whole number.
fn grey(&[r, g, b]: &[u8; 3]) -> f32 {
    (0.2989 * f32::from(r) + 0.587 * f32::from(g) + 0.114 * f32::from(b)).floor()
}

/// Blends `factor` times the image and `1 - factor` times its smoothed copy.
fn sharpen(canvas: &mut Canvas, factor: f32) {
    let ImageShape { height, width, channels } = canvas.shape();
    if height <= 2 || width <= 2 {
        return;
    }
    let row = width * channels;
    canvas.redraw(|old, new| {
        new.copy_from_slice(old);
        for y in 1..height - 1 {
            let [above, here, below] = [y - 1, y, y + 1].map(|y| &old[y * row..][..row]);
            let to = &mut new[y * row..][..row];
            for i in channels..row - channels {
                let (left, right) = (i - channels, i + channels);
                let value = |line: &[u8], i: usize| u32::from(line[i]);
                let around = [above, here, below].map(|line| value(line, left) + value(line, i) + value(line, right));
                let sum = around.iter().sum::<u32>() + 4 * value(here, i);
                // In whole numbers: a sum divided by 13 is never halfway between two of them.
                let smooth = ((2 * sum + 13) / 26) as f32;
                let own = f32::from(here[i]);
                to[i] = (own + (1.0 - factor) * (smooth - own)) as u8;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(image: &[u8]) -> Canvas {
        let mut canvas = Canvas::new(ImageShape { height: 1, width: image.len(), channels: 1 });
        canvas.load(image);
        canvas
    }

    #[test]
    fn a_factor_of_one_changes_nothing() {
        let image: Vec<u8> = (0..=255).collect();
        let mut canvas = row(&image);
        Brightness::default().apply(&Factor(1.0), &mut canvas);
        Contrast::default().apply(&Factor(1.0), &mut canvas);
        Gamma::default().apply(&Factor(1.0), &mut canvas);
        assert_eq!(canvas.image(), image);
    }

    #[test]
    fn values_are_clamped_at_both_ends() {
        let mut bright = row(&[0, 100, 200]);
        Brightness::default().apply(&Factor(2.0), &mut bright);
        assert_eq!(bright.image(), [0, 200, 255]);
        let mut strong = row(&[0, 100, 200]);
        Contrast::default().apply(&Factor(3.0), &mut strong);
        assert_eq!(strong.image(), [0, 100, 255]);
    }

    #[test]
    fn the_grey_of_colours_is_weighted() {
        let mut colours = Canvas::new(ImageShape { height: 1, width: 1, channels: 3 });
        colours.load(&[100, 0, 0]);
        Contrast::default().apply(&Factor(0.0), &mut colours);
        assert_eq!(colours.image(), [29, 29, 29]);
    }

    #[test]
    fn sharpening_leaves_edges_and_small_images_unchanged() {
        let mut canvas = Canvas::new(ImageShape { height: 3, width: 3, channels: 1 });
        canvas.load(&[0, 0, 0, 0, 130, 0, 0, 0, 0]);
        Sharpness::default().apply(&Factor(0.0), &mut canvas);
        assert_eq!(canvas.image(), [0, 0, 0, 0, 50, 0, 0, 0, 0]);
        let mut thin = Canvas::new(ImageShape { height: 2, width: 3, channels: 1 });
        thin.load(&[1, 2, 3, 4, 5, 6]);
        Sharpness::default().apply(&Factor(3.0), &mut thin);
        assert_eq!(thin.image(), [1, 2, 3, 4, 5, 6]);
    }
}
