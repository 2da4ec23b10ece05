//! Each value becomes another that depends on it alone: brightness, contrast, gamma and the like.
//!
//! A table of 256 values is computed and looked up; values are cut off, not rounded, as torchvision's
//! functions on tensors of bytes do.

use std::fmt::{self, Display};

use serde::{Deserialize, Serialize};

use crate::error::Check;
use crate::parameter::{Span, Whole};
use crate::{AugmentError, Canvas, ImageShape, Stream, Transform};

/// Multiplies every value by a factor.
///
/// Source: torchvision `ColorJitter(brightness)` and `adjust_brightness`; here the range of the factor
/// is stated itself.
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
/// Source: torchvision `ColorJitter(contrast)` and `adjust_contrast`: the mean is that of the grey
/// image, for three channels .2989 red + .587 green + .114 blue.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Contrast {
    /// The factor, from 0 (the mean everywhere) to 10; 1 changes nothing.
    pub factor: Span<f32>,
    /// The probability, from 0 to 1.
    pub p: f32,
}

/// Raises every value, as a share of 255, to a power.
///
/// Source: torchvision `adjust_gamma`; Albumentations `RandomGamma(gamma_limit=(80, 120))` states the
/// same power in percent.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Gamma {
    /// The power, from 0.01 to 10; above 1 dark parts become darker.
    pub gamma: Span<f32>,
    /// The probability, from 0 to 1.
    pub p: f32,
}

/// Makes the negative: v becomes 255 - v.
///
/// Source: Albumentations `InvertImg`, torchvision `RandomInvert`; `p` = 0.5 in both.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Invert {
    /// The probability, from 0 to 1.
    pub p: f32,
}

/// Keeps the highest bits of every value.
///
/// Source: Albumentations `Posterize(num_bits=4)`, torchvision `RandomPosterize`; `p` = 0.5 in both.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Posterize {
    /// How many bits are kept, one number or `[low, high]`, from 0 to 8.
    pub bits: Whole,
    /// The probability, from 0 to 1.
    pub p: f32,
}

/// Inverts the values from a threshold upwards.
///
/// Source: torchvision `RandomSolarize(threshold, p=0.5)`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Solarize {
    /// The threshold, one number or `[low, high]`, from 0 to 256.
    pub threshold: Whole,
    /// The probability, from 0 to 1.
    pub p: f32,
}

/// A drawn factor or power.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Factor(pub f32);

/// That the image was inverted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inverted;

/// How many bits are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bits(pub u16);

/// From which value on values are inverted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Threshold(pub u16);

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

impl Default for Invert {
    fn default() -> Self {
        Invert { p: 0.5 }
    }
}

impl Default for Posterize {
    fn default() -> Self {
        Posterize { bits: Whole::exactly(4), p: 0.5 }
    }
}

impl Default for Solarize {
    fn default() -> Self {
        Solarize { threshold: Whole::exactly(128), p: 0.5 }
    }
}

impl Display for Factor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "×{:.2}", self.0)
    }
}

impl Display for Inverted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("inverted")
    }
}

impl Display for Bits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bits", self.0)
    }
}

impl Display for Threshold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "from {}", self.0)
    }
}

/// Replaces every value by what the function makes of it.
fn look_up(image: &mut [u8], value: impl Fn(u8) -> u8) {
    let table: [u8; 256] = std::array::from_fn(|v| value(v as u8));
    image.iter_mut().for_each(|v| *v = table[usize::from(*v)]);
}

/// The mean of the grey image, from 0 to 255.
fn mean_grey(image: &[u8], channels: usize) -> f32 {
    if channels != 3 {
        return image.iter().map(|&v| u64::from(v)).sum::<u64>() as f32 / image.len() as f32;
    }
    let (pixels, _) = image.as_chunks::<3>();
    pixels.iter().map(|pixel| grey(pixel) as u64).sum::<u64>() as f32 / pixels.len() as f32
}

/// The grey value of a colour, cut off to a whole number.
fn grey(&[r, g, b]: &[u8; 3]) -> f32 {
    (0.2989 * f32::from(r) + 0.587 * f32::from(g) + 0.114 * f32::from(b)).floor()
}

/// Moves each colour by a factor from its grey; grey images and other numbers of channels stay.
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

/// Moves the image by a factor from its mean.
fn contrast(canvas: &mut Canvas, factor: f32) {
    let mean = mean_grey(canvas.image(), canvas.shape().channels);
    let offset = mean * (1.0 - factor);
    look_up(canvas.image_mut(), |v| (f32::from(v) * factor + offset) as u8);
}

impl Transform for Brightness {
    type Drawn = Factor;
    const NAME: &'static str = "brightness";

    fn probability(&self) -> f32 {
        self.p
    }

    fn validate(&self, _shape: ImageShape) -> Result<(), AugmentError> {
        let check = Check { op: Self::NAME };
        check.probability(self.p)?;
        check.span("factor", self.factor, 0.0..=10.0)
    }

    fn draw(&self, rng: &mut Stream, _shape: ImageShape) -> Factor {
        Factor(self.factor.draw(rng))
    }

    fn apply(&self, &Factor(factor): &Factor, canvas: &mut Canvas) {
        look_up(canvas.image_mut(), |v| (f32::from(v) * factor) as u8);
    }
}

impl Transform for Contrast {
    type Drawn = Factor;
    const NAME: &'static str = "contrast";

    fn probability(&self) -> f32 {
        self.p
    }

    fn validate(&self, _shape: ImageShape) -> Result<(), AugmentError> {
        let check = Check { op: Self::NAME };
        check.probability(self.p)?;
        check.span("factor", self.factor, 0.0..=10.0)
    }

    fn draw(&self, rng: &mut Stream, _shape: ImageShape) -> Factor {
        Factor(self.factor.draw(rng))
    }

    fn apply(&self, &Factor(factor): &Factor, canvas: &mut Canvas) {
        contrast(canvas, factor);
    }
}

impl Transform for Gamma {
    type Drawn = Factor;
    const NAME: &'static str = "gamma";

    fn probability(&self) -> f32 {
        self.p
    }

    fn validate(&self, _shape: ImageShape) -> Result<(), AugmentError> {
        let check = Check { op: Self::NAME };
        check.probability(self.p)?;
        check.span("gamma", self.gamma, 0.01..=10.0)
    }

    fn draw(&self, rng: &mut Stream, _shape: ImageShape) -> Factor {
        Factor(self.gamma.draw(rng))
    }

    fn apply(&self, &Factor(gamma): &Factor, canvas: &mut Canvas) {
        // torchvision brings a share back to bytes by cutting off 255.999 times the share.
        look_up(canvas.image_mut(), |v| ((f32::from(v) / 255.0).powf(gamma) * 255.999) as u8);
    }
}

impl Transform for Invert {
    type Drawn = Inverted;
    const NAME: &'static str = "invert";

    fn probability(&self) -> f32 {
        self.p
    }

    fn validate(&self, _shape: ImageShape) -> Result<(), AugmentError> {
        Check { op: Self::NAME }.probability(self.p)
    }

    fn draw(&self, _rng: &mut Stream, _shape: ImageShape) -> Inverted {
        Inverted
    }

    fn apply(&self, _drawn: &Inverted, canvas: &mut Canvas) {
        canvas.image_mut().iter_mut().for_each(|v| *v = !*v);
    }
}

impl Transform for Posterize {
    type Drawn = Bits;
    const NAME: &'static str = "posterize";

    fn probability(&self) -> f32 {
        self.p
    }

    fn validate(&self, _shape: ImageShape) -> Result<(), AugmentError> {
        let check = Check { op: Self::NAME };
        check.probability(self.p)?;
        check.span("bits", self.bits.0, 0..=8)
    }

    fn draw(&self, rng: &mut Stream, _shape: ImageShape) -> Bits {
        Bits(self.bits.draw(rng))
    }

    fn apply(&self, drawn: &Bits, canvas: &mut Canvas) {
        let kept = !(0xFF_u16 >> drawn.0.min(8)) as u8;
        canvas.image_mut().iter_mut().for_each(|v| *v &= kept);
    }
}

impl Transform for Solarize {
    type Drawn = Threshold;
    const NAME: &'static str = "solarize";

    fn probability(&self) -> f32 {
        self.p
    }

    fn validate(&self, _shape: ImageShape) -> Result<(), AugmentError> {
        let check = Check { op: Self::NAME };
        check.probability(self.p)?;
        check.span("threshold", self.threshold.0, 0..=256)
    }

    fn draw(&self, rng: &mut Stream, _shape: ImageShape) -> Threshold {
        Threshold(self.threshold.draw(rng))
    }

    fn apply(&self, drawn: &Threshold, canvas: &mut Canvas) {
        let threshold = drawn.0;
        canvas.image_mut().iter_mut().for_each(|v| *v = if u16::from(*v) >= threshold { !*v } else { *v });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canvas(image: &[u8]) -> Canvas {
        let mut canvas = Canvas::new(ImageShape { height: 1, width: image.len(), channels: 1 });
        canvas.load(image);
        canvas
    }

    #[test]
    fn neutral_factors_change_nothing() {
        let image: Vec<u8> = (0..=255).collect();
        let mut canvas = canvas(&image);
        Brightness::default().apply(&Factor(1.0), &mut canvas);
        Contrast::default().apply(&Factor(1.0), &mut canvas);
        Gamma::default().apply(&Factor(1.0), &mut canvas);
        Posterize::default().apply(&Bits(8), &mut canvas);
        Solarize::default().apply(&Threshold(256), &mut canvas);
        assert_eq!(canvas.image(), image);
    }

    #[test]
    fn values_are_cut_off_at_both_ends() {
        let mut bright = canvas(&[0, 100, 200]);
        Brightness::default().apply(&Factor(2.0), &mut bright);
        assert_eq!(bright.image(), [0, 200, 255]);
        let mut strong = canvas(&[0, 100, 200]);
        Contrast::default().apply(&Factor(3.0), &mut strong);
        assert_eq!(strong.image(), [0, 100, 255]);
    }

    #[test]
    fn bits_and_thresholds_act_on_the_right_values() {
        let mut coarse = canvas(&[0x12, 0xFF, 0x80]);
        Posterize::default().apply(&Bits(4), &mut coarse);
        assert_eq!(coarse.image(), [0x10, 0xF0, 0x80]);
        Posterize::default().apply(&Bits(0), &mut coarse);
        assert_eq!(coarse.image(), [0, 0, 0]);
        let mut solar = canvas(&[127, 128, 255]);
        Solarize::default().apply(&Threshold(128), &mut solar);
        assert_eq!(solar.image(), [127, 127, 0]);
    }

    #[test]
    fn the_grey_of_colours_is_weighted() {
        let mut colours = Canvas::new(ImageShape { height: 1, width: 1, channels: 3 });
        colours.load(&[100, 0, 0]);
        Contrast::default().apply(&Factor(0.0), &mut colours);
        assert_eq!(colours.image(), [29, 29, 29]);
    }
}
