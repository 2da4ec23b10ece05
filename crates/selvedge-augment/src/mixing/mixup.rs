//! MixUp blends two images.

use std::fmt::{self, Display};

use serde::{Deserialize, Serialize};

use super::{BatchTransform, MaskScratch, check_alpha, draw_share};
use crate::check::Check;
use crate::error::AugmentError;
use crate::operation::Operation;
use crate::shape::ImageShape;
use crate::stream::Stream;

/// Replaces every image by the weighted mean of itself and its partner.
///
/// Source: Zhang et al., "mixup: beyond empirical risk minimization", arXiv 1710.09412; torchvision
/// `MixUp(alpha=1)`. The weight has the distribution Beta(alpha, alpha), rounded to a multiple of 1/256.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MixUp {
    /// The parameter of the Beta distribution, from 0.001 (nearly always one of the images alone) to 1000 (nearly
    /// always half of each).
    pub alpha: f32,
    /// The probability that a batch is mixed, from 0 to 1.
    pub p: f32,
}

/// The weight of the image itself, in 256ths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MixUpDrawn(pub u16);

impl Default for MixUp {
    fn default() -> Self {
        MixUp { alpha: 1.0, p: 1.0 }
    }
}

impl Display for MixUpDrawn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} own", f32::from(self.0) / 256.0)
    }
}

impl Operation for MixUp {
    fn probability(&self) -> f32 {
        self.p
    }

    fn check(&self, check: Check, _: ImageShape) -> Result<(), AugmentError> {
        check_alpha(check, self.alpha)
    }
}

impl BatchTransform for MixUp {
    type Drawn = MixUpDrawn;

    fn draw(&self, rng: &mut Stream, _: ImageShape) -> MixUpDrawn {
        MixUpDrawn((draw_share(rng, self.alpha) * 256.0).round() as u16)
    }

    fn prepare(&self, drawn: &MixUpDrawn, _: ImageShape, _mask: &mut MaskScratch) -> f32 {
        f32::from(drawn.0) / 256.0
    }

    fn mix(
        &self,
        drawn: &MixUpDrawn,
        _: ImageShape,
        _mask: &MaskScratch,
        own: &[u8],
        partner: &[u8],
        mixed: &mut [u8],
    ) {
        let weight = drawn.0.min(256);
        for ((to, &own), &partner) in mixed.iter_mut().zip(own).zip(partner) {
            // 255 * 256 + 128 is less than 2^16.
            *to = ((u16::from(own) * weight + u16::from(partner) * (256 - weight) + 128) >> 8) as u8;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_weighted_and_rounded() {
        let shape = ImageShape { height: 1, width: 3, channels: 1 };
        let mix = |weight| {
            let mut mixed = [0; 3];
            let mask = MaskScratch::default();
            MixUp::default().mix(&MixUpDrawn(weight), shape, &mask, &[255, 0, 10], &[0, 255, 20], &mut mixed);
            mixed
        };
        assert_eq!(mix(256), [255, 0, 10]);
        assert_eq!(mix(0), [0, 255, 20]);
        assert_eq!(mix(64), [64, 191, 18]);
    }
}
