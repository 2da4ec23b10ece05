//! CutMix pastes a rectangle of the partner over the image.

use std::fmt::{self, Display};

use serde::{Deserialize, Serialize};

use super::{BatchTransform, MaskScratch, check_alpha, draw_share};
use crate::check::Check;
use crate::error::AugmentError;
use crate::operation::Operation;
use crate::shape::ImageShape;
use crate::stream::Stream;

/// Replaces a rectangle of every image by its partner's, and mixes the labels by area.
///
/// Source: Yun et al., "CutMix: regularization strategy to train strong classifiers with localizable features", arXiv
/// 1905.04899; torchvision `CutMix(alpha=1)`. The rectangle has the aspect ratio of the image and the area 1 - λ, where
/// λ has the distribution Beta(alpha, alpha). Its centre is any pixel, and it is clipped at the edges. The share of the
/// image's own label is the area that the image keeps.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CutMix {
    /// The parameter of the Beta distribution, from 0.001 to 1000.
    pub alpha: f32,
    /// The probability that a batch is mixed, from 0 to 1.
    pub p: f32,
}

/// The pasted rectangle, in pixels: rows `top..bottom`, columns `left..right`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CutMixDrawn {
    /// The first row.
    pub top: usize,
    /// The row after the last.
    pub bottom: usize,
    /// The first column.
    pub left: usize,
    /// The column after the last.
    pub right: usize,
}

impl CutMixDrawn {
    /// The rectangle for a λ and a centre, clipped to the image.
    pub fn about(lambda: f32, centre_row: usize, centre_column: usize, shape: ImageShape) -> CutMixDrawn {
        let ratio = 0.5 * (1.0 - lambda).max(0.0).sqrt();
        let half_height = (ratio * shape.height as f32) as usize;
        let half_width = (ratio * shape.width as f32) as usize;
        CutMixDrawn {
            top: centre_row.saturating_sub(half_height),
            bottom: (centre_row + half_height).min(shape.height),
            left: centre_column.saturating_sub(half_width),
            right: (centre_column + half_width).min(shape.width),
        }
    }
}

impl Default for CutMix {
    fn default() -> Self {
        CutMix { alpha: 1.0, p: 1.0 }
    }
}

impl Display for CutMixDrawn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CutMixDrawn { top, bottom, left, right } = self;
        write!(f, "{}×{} at row {top}, column {left}", bottom - top, right - left)
    }
}

impl Operation for CutMix {
    fn probability(&self) -> f32 {
        self.p
    }

    fn check(&self, check: Check, _: ImageShape) -> Result<(), AugmentError> {
        check_alpha(check, self.alpha)
    }
}

impl BatchTransform for CutMix {
    type Drawn = CutMixDrawn;

    fn draw(&self, rng: &mut Stream, shape: ImageShape) -> CutMixDrawn {
        let lambda = draw_share(rng, self.alpha);
        let (row, column) = (rng.below(shape.height), rng.below(shape.width));
        CutMixDrawn::about(lambda, row, column, shape)
    }

    fn prepare(&self, drawn: &CutMixDrawn, shape: ImageShape, _mask: &mut MaskScratch) -> f32 {
        let area = (drawn.bottom - drawn.top) * (drawn.right - drawn.left);
        1.0 - area as f32 / shape.pixels() as f32
    }

    fn mix(
        &self,
        drawn: &CutMixDrawn,
        shape: ImageShape,
        _mask: &MaskScratch,
        own: &[u8],
        partner: &[u8],
        mixed: &mut [u8],
    ) {
        mixed.copy_from_slice(own);
        let columns = drawn.left * shape.channels..drawn.right * shape.channels;
        for row in drawn.top..drawn.bottom {
            let start = row * shape.row_len();
            let pasted = start + columns.start..start + columns.end;
            mixed[pasted.clone()].copy_from_slice(&partner[pasted]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: ImageShape = ImageShape { height: 8, width: 4, channels: 2 };

    #[test]
    fn the_share_is_the_area_that_is_kept() {
        let drawn = CutMixDrawn::about(0.75, 0, 2, SHAPE);
        assert_eq!(drawn, CutMixDrawn { top: 0, bottom: 2, left: 1, right: 3 });
        let mut mask = MaskScratch::default();
        let cutmix = CutMix::default();
        let share = cutmix.prepare(&drawn, SHAPE, &mut mask);
        let mut mixed = [0; 64];
        cutmix.mix(&drawn, SHAPE, &mask, &[1; 64], &[2; 64], &mut mixed);
        let kept = mixed.iter().filter(|v| **v == 1).count();
        assert_eq!(share, kept as f32 / 64.0);
        assert_eq!(mixed[2..6], [2; 4]);
        assert_eq!(mixed[16..32], [1; 16]);
    }

    #[test]
    fn extreme_shares_paste_nothing_or_stay_inside() {
        let nothing = CutMixDrawn::about(1.0, 3, 3, SHAPE);
        assert_eq!(CutMix::default().prepare(&nothing, SHAPE, &mut MaskScratch::default()), 1.0);
        let all = CutMixDrawn::about(0.0, 4, 2, SHAPE);
        assert_eq!(all, CutMixDrawn { top: 0, bottom: 8, left: 0, right: 4 });
    }
}
