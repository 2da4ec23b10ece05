//! Operations that replace each value by a function of it alone: invert, posterize, solarize.

use std::fmt::{self, Display};

use serde::{Deserialize, Serialize};

use crate::canvas::Canvas;
use crate::check::Check;
use crate::error::AugmentError;
use crate::operation::{FixedTransform, Operation, Transform};
use crate::parameter::Whole;
use crate::shape::ImageShape;
use crate::stream::Stream;

/// Inverts every value: v becomes 255 - v.
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
    /// The number of bits that are kept, one number or `[low, high]`, from 0 to 8.
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

/// The number of bits that are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bits(pub u16);

/// The smallest value that is inverted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Threshold(pub u16);

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

impl Operation for Invert {
    fn probability(&self) -> f32 {
        self.p
    }
}

impl FixedTransform for Invert {
    fn change(&self, canvas: &mut Canvas) {
        canvas.image_mut().iter_mut().for_each(|v| *v = !*v);
    }
}

impl Operation for Posterize {
    fn probability(&self) -> f32 {
        self.p
    }

    fn check(&self, check: Check, _: ImageShape) -> Result<(), AugmentError> {
        check.span("bits", self.bits.0, 0..=8)
    }
}

impl Transform for Posterize {
    type Drawn = Bits;

    fn draw(&self, rng: &mut Stream, _: ImageShape) -> Bits {
        Bits(self.bits.draw(rng))
    }

    fn apply(&self, drawn: &Bits, canvas: &mut Canvas) {
        let kept = !(0xFF_u16 >> drawn.0.min(8)) as u8;
        canvas.image_mut().iter_mut().for_each(|v| *v &= kept);
    }
}

impl Operation for Solarize {
    fn probability(&self) -> f32 {
        self.p
    }

    fn check(&self, check: Check, _: ImageShape) -> Result<(), AugmentError> {
        check.span("threshold", self.threshold.0, 0..=256)
    }
}

impl Transform for Solarize {
    type Drawn = Threshold;

    fn draw(&self, rng: &mut Stream, _: ImageShape) -> Threshold {
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

    fn row(image: &[u8]) -> Canvas {
        let mut canvas = Canvas::new(ImageShape { height: 1, width: image.len(), channels: 1 });
        canvas.load(image);
        canvas
    }

    #[test]
    fn all_bits_and_the_highest_threshold_change_nothing() {
        let image: Vec<u8> = (0..=255).collect();
        let mut canvas = row(&image);
        Posterize::default().apply(&Bits(8), &mut canvas);
        Solarize::default().apply(&Threshold(256), &mut canvas);
        assert_eq!(canvas.image(), image);
    }

    #[test]
    fn bits_and_thresholds_act_on_the_right_values() {
        let mut coarse = row(&[0x12, 0xFF, 0x80]);
        Posterize::default().apply(&Bits(4), &mut coarse);
        assert_eq!(coarse.image(), [0x10, 0xF0, 0x80]);
        Posterize::default().apply(&Bits(0), &mut coarse);
        assert_eq!(coarse.image(), [0, 0, 0]);
        let mut solar = row(&[127, 128, 255]);
        Solarize::default().apply(&Threshold(128), &mut solar);
        assert_eq!(solar.image(), [127, 127, 0]);
    }
}
