//! RandAugment and TrivialAugment: one list of operations, each with a scale of magnitudes.

use std::fmt::{self, Display};

use serde::{Deserialize, Serialize};

use super::Policy;
use crate::error::Check;
use crate::geometric::{Translate, TranslateDrawn};
use crate::parameter::Padding;
use crate::photometric::{
    AutoContrast, Bits, Brightness, Contrast, Equalize, Factor, Posterize, Sharpness, Solarize, Stretched, Threshold,
    saturate,
};
use crate::warp::{Border, Interpolation, Rotate, RotateDrawn, Shear, ShearDrawn, ShearX, ShearY};
use crate::{AugmentError, Canvas, DrawnStep, ImageShape, Stream, Transform};

/// Applies `num_ops` operations, drawn uniformly with repetition, all with the same magnitude.
///
/// Source: Cubuk et al., "RandAugment: practical automated data augmentation with a reduced search
/// space", arXiv 1909.13719; torchvision `RandAugment(num_ops=2, magnitude=9, num_magnitude_bins=31)`,
/// its list of fourteen operations and its scales.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RandAugment {
    /// Operations for each image, from 0 to 14.
    pub num_ops: usize,
    /// The magnitude, from 0 to `num_magnitude_bins - 1`.
    pub magnitude: usize,
    /// The steps of the scale of magnitudes, from 2 to 1000.
    pub num_magnitude_bins: usize,
    /// How values between pixels are found.
    pub interpolation: Interpolation,
    /// The value that comes in from beyond the edge, from 0 to 255.
    pub fill: u8,
    /// The probability, from 0 to 1.
    pub p: f32,
}

/// Applies one operation, drawn uniformly, with a magnitude drawn uniformly.
///
/// Source: Müller and Hutter, "TrivialAugment: tuning-free yet state-of-the-art data augmentation",
/// arXiv 2103.10158; torchvision `TrivialAugmentWide(num_magnitude_bins=31)`. Its shifts of up to 32 pixels
/// are those for larger images: an image of 28 pixels may be shifted away as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrivialAugment {
    /// The steps of the scale of magnitudes, from 2 to 1000.
    pub num_magnitude_bins: usize,
    /// How values between pixels are found.
    pub interpolation: Interpolation,
    /// The value that comes in from beyond the edge, from 0 to 255.
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

/// An operation with its magnitude.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Operation {
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

/// How far the scales of the two policies reach.
#[derive(Clone, Copy)]
struct Scales {
    shear: f32,
    translate: [f32; 2],
    rotate: f32,
    tone: f32,
    bits: f32,
}

const OPERATIONS: usize = 14;

impl Operation {
    /// The operation of an index below [`OPERATIONS`], `level` (from 0 to 1) along its scale, with a
    /// drawn sign where it has one.
    fn draw(level: f32, scales: Scales, rng: &mut Stream) -> Operation {
        let index = rng.below(OPERATIONS);
        let signed = if rng.chance(0.5) { -level } else { level };
        match index {
            1 => Operation::ShearX(signed * scales.shear),
            2 => Operation::ShearY(signed * scales.shear),
            3 => Operation::TranslateX((signed * scales.translate[0]) as i32),
            4 => Operation::TranslateY((signed * scales.translate[1]) as i32),
            5 => Operation::Rotate(signed * scales.rotate),
            6 => Operation::Brightness(1.0 + signed * scales.tone),
            7 => Operation::Color(1.0 + signed * scales.tone),
            8 => Operation::Contrast(1.0 + signed * scales.tone),
            9 => Operation::Sharpness(1.0 + signed * scales.tone),
            10 => Operation::Posterize((8.0 - level * scales.bits).round_ties_even() as u16),
            11 => Operation::Solarize((255.0 * (1.0 - level)).ceil() as u16),
            12 => Operation::AutoContrast,
            13 => Operation::Equalize,
            _ => Operation::Identity,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Operation::Identity => "identity",
            Operation::ShearX(_) => ShearX::NAME,
            Operation::ShearY(_) => ShearY::NAME,
            Operation::TranslateX(_) => "translate_x",
            Operation::TranslateY(_) => "translate_y",
            Operation::Rotate(_) => Rotate::NAME,
            Operation::Brightness(_) => Brightness::NAME,
            Operation::Color(_) => "color",
            Operation::Contrast(_) => Contrast::NAME,
            Operation::Sharpness(_) => Sharpness::NAME,
            Operation::Posterize(_) => Posterize::NAME,
            Operation::Solarize(_) => Solarize::NAME,
            Operation::AutoContrast => AutoContrast::NAME,
            Operation::Equalize => Equalize::NAME,
        }
    }

    fn apply(self, border: Border, interpolation: Interpolation, canvas: &mut Canvas) {
        let Border { padding, fill } = border;
        let shear = Shear { padding, fill, interpolation, ..Shear::default() };
        let translate = Translate { padding, fill, ..Translate::default() };
        match self {
            Operation::Identity => {}
            Operation::ShearX(factor) => ShearX(shear).apply(&ShearDrawn(factor), canvas),
            Operation::ShearY(factor) => ShearY(shear).apply(&ShearDrawn(factor), canvas),
            Operation::TranslateX(dx) => translate.apply(&TranslateDrawn { dy: 0, dx }, canvas),
            Operation::TranslateY(dy) => translate.apply(&TranslateDrawn { dy, dx: 0 }, canvas),
            Operation::Rotate(angle) => {
                let rotate = Rotate { padding, fill, interpolation, ..Rotate::default() };
                rotate.apply(&RotateDrawn(angle), canvas);
            }
            Operation::Brightness(factor) => Brightness::default().apply(&Factor(factor), canvas),
            Operation::Color(factor) => saturate(canvas, factor),
            Operation::Contrast(factor) => Contrast::default().apply(&Factor(factor), canvas),
            Operation::Sharpness(factor) => Sharpness::default().apply(&Factor(factor), canvas),
            Operation::Posterize(bits) => Posterize::default().apply(&Bits(bits), canvas),
            Operation::Solarize(threshold) => Solarize::default().apply(&Threshold(threshold), canvas),
            Operation::AutoContrast => AutoContrast::default().apply(&Stretched, canvas),
            Operation::Equalize => Equalize::default().apply(&Stretched, canvas),
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

impl Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Operation::Identity | Operation::AutoContrast | Operation::Equalize => f.write_str("applied"),
            Operation::ShearX(value) | Operation::ShearY(value) => ShearDrawn(*value).fmt(f),
            Operation::TranslateX(pixels) | Operation::TranslateY(pixels) => write!(f, "{pixels}"),
            Operation::Rotate(angle) => RotateDrawn(*angle).fmt(f),
            Operation::Brightness(factor)
            | Operation::Color(factor)
            | Operation::Contrast(factor)
            | Operation::Sharpness(factor) => Factor(*factor).fmt(f),
            Operation::Posterize(bits) => Bits(*bits).fmt(f),
            Operation::Solarize(threshold) => Threshold(*threshold).fmt(f),
        }
    }
}

impl Policy for RandAugment {
    const NAME: &'static str = "rand_augment";

    fn probability(&self) -> f32 {
        self.p
    }

    fn validate(&self, _shape: ImageShape) -> Result<(), AugmentError> {
        let check = Check { op: Self::NAME };
        check.probability(self.p)?;
        check.number("num_ops", self.num_ops, 0..=OPERATIONS)?;
        check.number("num_magnitude_bins", self.num_magnitude_bins, 2..=1000)?;
        check.number("magnitude", self.magnitude, 0..=self.num_magnitude_bins - 1)
    }

    fn run(&self, rng: &mut Stream, canvas: &mut Canvas, record: &mut Option<&mut Vec<DrawnStep>>) {
        let ImageShape { height, width, .. } = canvas.shape();
        let level = self.magnitude as f32 / (self.num_magnitude_bins - 1) as f32;
        let side = |len: usize| 150.0 / 331.0 * len as f32;
        let scales = Scales { shear: 0.3, translate: [side(width), side(height)], rotate: 30.0, tone: 0.9, bits: 4.0 };
        for _ in 0..self.num_ops {
            Operation::draw(level, scales, rng).run(self.fill, self.interpolation, canvas, record);
        }
    }
}

impl Policy for TrivialAugment {
    const NAME: &'static str = "trivial_augment";

    fn probability(&self) -> f32 {
        self.p
    }

    fn validate(&self, _shape: ImageShape) -> Result<(), AugmentError> {
        let check = Check { op: Self::NAME };
        check.probability(self.p)?;
        check.number("num_magnitude_bins", self.num_magnitude_bins, 2..=1000)
    }

    fn run(&self, rng: &mut Stream, canvas: &mut Canvas, record: &mut Option<&mut Vec<DrawnStep>>) {
        let level = rng.below(self.num_magnitude_bins) as f32 / (self.num_magnitude_bins - 1) as f32;
        let scales = Scales { shear: 0.99, translate: [32.0; 2], rotate: 135.0, tone: 0.99, bits: 6.0 };
        Operation::draw(level, scales, rng).run(self.fill, self.interpolation, canvas, record);
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
        assert_eq!(counts.len(), OPERATIONS);
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
