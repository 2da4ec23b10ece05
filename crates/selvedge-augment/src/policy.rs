//! RandAugment and TrivialAugment: automatic augmentation with one list of operations, each with a scale of magnitudes.

use std::fmt::{self, Display};

use serde::{Deserialize, Serialize};

use crate::canvas::Canvas;
use crate::check::Check;
use crate::error::AugmentError;
use crate::geometric::{Translate, TranslateDrawn};
use crate::operation::{Applied, DrawnStep, Named, Operation, Policy, Transform};
use crate::parameter::Padding;
use crate::photometric::{
    AutoContrast, Bits, Brightness, Contrast, Equalize, Factor, Posterize, Sharpness, Solarize, Threshold, saturate,
};
use crate::shape::ImageShape;
use crate::stream::Stream;
use crate::warp::{Border, Interpolation, Rotate, RotateDrawn, Shear, ShearDrawn, ShearX, ShearY};

/// Applies `num_ops` operations, drawn uniformly with replacement, all with the same magnitude.
///
/// Source: Cubuk et al., "RandAugment: practical automated data augmentation with a reduced search
/// space", arXiv 1909.13719. The list of fourteen operations and their scales are those of torchvision's
/// `RandAugment(num_ops=2, magnitude=9, num_magnitude_bins=31)`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RandAugment {
    /// Operations for each image, from 0 to 14.
    pub num_ops: usize,
    /// The magnitude, from 0 to `num_magnitude_bins - 1`.
    pub magnitude: usize,
    /// Steps of the scale of magnitudes, from 2 to 1000.
    pub num_magnitude_bins: usize,
    /// How values between pixels are found.
    pub interpolation: Interpolation,
    /// The value of pixels from beyond the edge, from 0 to 255.
    pub fill: u8,
    /// The probability, from 0 to 1.
    pub p: f32,
}

/// Applies one operation, drawn uniformly, with a magnitude drawn uniformly.
///
/// Source: Müller and Hutter, "TrivialAugment: tuning-free yet state-of-the-art data augmentation", arXiv 2103.10158;
/// torchvision `TrivialAugmentWide(num_magnitude_bins=31)`. Its shifts of up to 32 pixels are meant for larger images:
/// an image of 28 pixels can be shifted out of sight.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrivialAugment {
    /// Steps of the scale of magnitudes, from 2 to 1000.
    pub num_magnitude_bins: usize,
    /// How values between pixels are found.
    pub interpolation: Interpolation,
    /// The value of pixels from beyond the edge, from 0 to 255.
    pub fill: u8,
    /// The probability, from 0 to 1.
    pub p: f32,
}

impl Default for RandAugment {
    fn default() -> Self {
        RandAugment {
            num_ops: 2,
            magnitude: 9,
            num_magnitude_bins: 31,
            interpolation: Interpolation::Nearest,
            fill: 0,
            p: 1.0,
        }
    }
}

impl Default for TrivialAugment {
    fn default() -> Self {
        TrivialAugment { num_magnitude_bins: 31, interpolation: Interpolation::Nearest, fill: 0, p: 1.0 }
    }
}

/// An operation of the list, with a drawn magnitude.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Distortion {
    Identity,
    ShearX(f32),
    ShearY(f32),
    TranslateX(i32),
    TranslateY(i32),
    Rotate(f32),
    Brightness(f32),
    Color(f32),
    Contrast(f32),
    Sharpness(f32),
    Posterize(u16),
    Solarize(u16),
    AutoContrast,
    Equalize,
}

/// The largest magnitudes of a policy: the ends of its scales.
#[derive(Clone, Copy)]
struct Scales {
    shear: f32,
    translate: [f32; 2],
    rotate: f32,
    tone: f32,
    bits: f32,
}

/// Variants of [`Distortion`].
const DISTORTIONS: usize = 14;

impl Distortion {
    /// Draws an operation, uniformly, at `level` (from 0 to 1) of its scale, and the sign of magnitudes that have one.
    fn draw(level: f32, scales: Scales, rng: &mut Stream) -> Distortion {
        let index = rng.below(DISTORTIONS);
        let signed = if rng.chance(0.5) { -level } else { level };
        match index {
            1 => Distortion::ShearX(signed * scales.shear),
            2 => Distortion::ShearY(signed * scales.shear),
            3 => Distortion::TranslateX((signed * scales.translate[0]) as i32),
            4 => Distortion::TranslateY((signed * scales.translate[1]) as i32),
            5 => Distortion::Rotate(signed * scales.rotate),
            6 => Distortion::Brightness(1.0 + signed * scales.tone),
            7 => Distortion::Color(1.0 + signed * scales.tone),
            8 => Distortion::Contrast(1.0 + signed * scales.tone),
            9 => Distortion::Sharpness(1.0 + signed * scales.tone),
            10 => Distortion::Posterize((8.0 - level * scales.bits).round_ties_even() as u16),
            11 => Distortion::Solarize((255.0 * (1.0 - level)).ceil() as u16),
            12 => Distortion::AutoContrast,
            13 => Distortion::Equalize,
            _ => Distortion::Identity,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Distortion::Identity => "identity",
            Distortion::ShearX(_) => ShearX::NAME,
            Distortion::ShearY(_) => ShearY::NAME,
            Distortion::TranslateX(_) => "translate_x",
            Distortion::TranslateY(_) => "translate_y",
            Distortion::Rotate(_) => Rotate::NAME,
            Distortion::Brightness(_) => Brightness::NAME,
            Distortion::Color(_) => "color",
            Distortion::Contrast(_) => Contrast::NAME,
            Distortion::Sharpness(_) => Sharpness::NAME,
            Distortion::Posterize(_) => Posterize::NAME,
            Distortion::Solarize(_) => Solarize::NAME,
            Distortion::AutoContrast => AutoContrast::NAME,
            Distortion::Equalize => Equalize::NAME,
        }
    }

    fn apply(self, border: Border, interpolation: Interpolation, canvas: &mut Canvas) {
        let Border { padding, fill } = border;
        let shear = Shear { padding, fill, interpolation, ..Shear::default() };
        let translate = Translate { padding, fill, ..Translate::default() };
        match self {
            Distortion::Identity => {}
            Distortion::ShearX(factor) => ShearX(shear).apply(&ShearDrawn(factor), canvas),
            Distortion::ShearY(factor) => ShearY(shear).apply(&ShearDrawn(factor), canvas),
            Distortion::TranslateX(dx) => translate.apply(&TranslateDrawn { dy: 0, dx }, canvas),
            Distortion::TranslateY(dy) => translate.apply(&TranslateDrawn { dy, dx: 0 }, canvas),
            Distortion::Rotate(angle) => {
                let rotate = Rotate { padding, fill, interpolation, ..Rotate::default() };
                rotate.apply(&RotateDrawn(angle), canvas);
            }
            Distortion::Brightness(factor) => Brightness::default().apply(&Factor(factor), canvas),
            Distortion::Color(factor) => saturate(canvas, factor),
            Distortion::Contrast(factor) => Contrast::default().apply(&Factor(factor), canvas),
            Distortion::Sharpness(factor) => Sharpness::default().apply(&Factor(factor), canvas),
            Distortion::Posterize(bits) => Posterize::default().apply(&Bits(bits), canvas),
            Distortion::Solarize(threshold) => Solarize::default().apply(&Threshold(threshold), canvas),
            Distortion::AutoContrast => AutoContrast::default().apply(&Applied, canvas),
            Distortion::Equalize => Equalize::default().apply(&Applied, canvas),
        }
    }

    fn run(
        self,
        fill: u8,
        interpolation: Interpolation,
        canvas: &mut Canvas,
        record: &mut Option<&mut Vec<DrawnStep>>,
    ) {
        if let Some(steps) = record {
            steps.push(DrawnStep { op: self.name(), parameters: self.to_string() });
        }
        self.apply(Border { padding: Padding::Zero, fill }, interpolation, canvas);
    }
}

impl Display for Distortion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Distortion::Identity | Distortion::AutoContrast | Distortion::Equalize => Applied.fmt(f),
            Distortion::ShearX(value) | Distortion::ShearY(value) => ShearDrawn(*value).fmt(f),
            Distortion::TranslateX(pixels) | Distortion::TranslateY(pixels) => write!(f, "{pixels}"),
            Distortion::Rotate(angle) => RotateDrawn(*angle).fmt(f),
            Distortion::Brightness(factor)
            | Distortion::Color(factor)
            | Distortion::Contrast(factor)
            | Distortion::Sharpness(factor) => Factor(*factor).fmt(f),
            Distortion::Posterize(bits) => Bits(*bits).fmt(f),
            Distortion::Solarize(threshold) => Threshold(*threshold).fmt(f),
        }
    }
}

impl Operation for RandAugment {
    fn probability(&self) -> f32 {
        self.p
    }

    fn check(&self, check: Check, _: ImageShape) -> Result<(), AugmentError> {
        check.number("num_ops", self.num_ops, 0..=DISTORTIONS)?;
        check.number("num_magnitude_bins", self.num_magnitude_bins, 2..=1000)?;
        check.number("magnitude", self.magnitude, 0..=self.num_magnitude_bins - 1)
    }
}

impl Policy for RandAugment {
    fn run(&self, rng: &mut Stream, canvas: &mut Canvas, record: &mut Option<&mut Vec<DrawnStep>>) {
        let ImageShape { height, width, .. } = canvas.shape();
        let level = self.magnitude as f32 / (self.num_magnitude_bins - 1) as f32;
        let side = |len: usize| 150.0 / 331.0 * len as f32;
        let scales = Scales { shear: 0.3, translate: [side(width), side(height)], rotate: 30.0, tone: 0.9, bits: 4.0 };
        for _ in 0..self.num_ops {
            Distortion::draw(level, scales, rng).run(self.fill, self.interpolation, canvas, record);
        }
    }
}

impl Operation for TrivialAugment {
    fn probability(&self) -> f32 {
        self.p
    }

    fn check(&self, check: Check, _: ImageShape) -> Result<(), AugmentError> {
        check.number("num_magnitude_bins", self.num_magnitude_bins, 2..=1000)
    }
}

impl Policy for TrivialAugment {
    fn run(&self, rng: &mut Stream, canvas: &mut Canvas, record: &mut Option<&mut Vec<DrawnStep>>) {
        let level = rng.below(self.num_magnitude_bins) as f32 / (self.num_magnitude_bins - 1) as f32;
        let scales = Scales { shear: 0.99, translate: [32.0; 2], rotate: 135.0, tone: 0.99, bits: 6.0 };
        Distortion::draw(level, scales, rng).run(self.fill, self.interpolation, canvas, record);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: ImageShape = ImageShape { height: 28, width: 28, channels: 3 };

    fn steps(policy: impl Policy, key: u64) -> Vec<DrawnStep> {
        let mut steps = Vec::new();
        policy.run(&mut Stream::from_bits(key), &mut Canvas::new(SHAPE), &mut Some(&mut steps));
        steps
    }

    #[test]
    fn every_operation_is_drawn_equally_often() {
        let mut counts = std::collections::HashMap::new();
        for key in 0..7000 {
            let drawn = steps(RandAugment::default(), key);
            assert_eq!(drawn.len(), 2);
            drawn.iter().for_each(|step| *counts.entry(step.op).or_insert(0) += 1);
        }
        // 1000 of each, standard deviation 30.
        assert_eq!(counts.len(), DISTORTIONS);
        assert!(counts.values().all(|count| (850..1150).contains(count)), "{counts:?}");
    }

    #[test]
    fn magnitudes_follow_the_scales_of_torchvision() {
        let mut parameters = std::collections::HashSet::new();
        for key in 0..2000 {
            for step in steps(RandAugment::default(), key) {
                parameters.insert(format!("{} {}", step.op, step.parameters));
            }
        }
        // 9 of 30 along each scale.
        for expected in [
            "shear_x 0.09",
            "shear_y -0.09",
            "translate_x 3",
            "translate_y -3",
            "rotate 9.0°",
            "brightness ×1.27",
            "contrast ×0.73",
            "posterize 7 bits",
            "solarize from 179",
        ] {
            assert!(parameters.contains(expected), "{expected} is missing in {parameters:?}");
        }
    }

    #[test]
    fn trivial_augment_applies_one_of_any_magnitude() {
        let mut angles = std::collections::HashSet::new();
        for key in 0..10_000 {
            let drawn = steps(TrivialAugment::default(), key);
            assert_eq!(drawn.len(), 1);
            if drawn[0].op == "rotate" {
                angles.insert(drawn[0].parameters.clone());
            }
        }
        // Thirty of either sign, and zero, which has two names.
        assert!((61..=62).contains(&angles.len()), "{}", angles.len());
        assert!(angles.contains("135.0°") && angles.contains("-135.0°"));
    }
}
