//! Cutout covers a square of fixed size.

use serde::{Deserialize, Serialize};

use super::{Region, cover};
use crate::canvas::Canvas;
use crate::check::Check;
use crate::error::AugmentError;
use crate::operation::{Operation, Transform};
use crate::parameter::Fill;
use crate::shape::ImageShape;
use crate::stream::Stream;

/// Covers a square.
///
/// Source: DeVries and Taylor, "Improved regularization of convolutional neural networks with Cutout",
/// arXiv 1708.04552. There the centre of the square is any pixel, and the square is clipped at the edges
/// (`mode = "clipped"`); `mode = "inside"` places all of it inside the image, as airbench does.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cutout {
    /// The square's side in pixels, from 1 to the smaller side of the image.
    pub size: usize,
    /// Whether the square may extend beyond the edge.
    pub mode: CutoutMode,
    /// The fill of the square.
    pub fill: Fill,
    /// The probability, from 0 to 1.
    pub p: f32,
}

/// Where the square of [`Cutout`] may lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CutoutMode {
    /// Its centre is any pixel; the part beyond the edge is clipped.
    #[default]
    Clipped,
    /// All of it lies inside the image.
    Inside,
}

impl Default for Cutout {
    fn default() -> Self {
        Cutout { size: 8, mode: CutoutMode::Clipped, fill: Fill::Value(0), p: 1.0 }
    }
}

impl Operation for Cutout {
    fn probability(&self) -> f32 {
        self.p
    }

    fn check(&self, check: Check, shape: ImageShape) -> Result<(), AugmentError> {
        check.number("size", self.size, 1..=shape.height.min(shape.width))
    }
}

impl Transform for Cutout {
    type Drawn = Region;

    fn draw(&self, rng: &mut Stream, shape: ImageShape) -> Region {
        let mut place = |len: usize| match self.mode {
            CutoutMode::Inside => (rng.below(len - self.size + 1), self.size),
            CutoutMode::Clipped => {
                let start = rng.below(len) as isize - (self.size / 2) as isize;
                let end = (start + self.size as isize).min(len as isize);
                (start.max(0) as usize, (end - start.max(0)) as usize)
            }
        };
        let ((top, height), (left, width)) = (place(shape.height), place(shape.width));
        Region::filled(top, left, height, width, self.fill, rng)
    }

    fn apply(&self, drawn: &Region, canvas: &mut Canvas) {
        cover(canvas, drawn, self.fill);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::EpochKey;

    const SHAPE: ImageShape = ImageShape { height: 10, width: 12, channels: 1 };

    fn drawn(cutout: Cutout) -> impl Iterator<Item = Region> {
        (0..5000).map(move |sample| {
            let mut stream = Stream::for_sample(EpochKey { seed: 1, epoch: 0 }, sample).fork(0);
            cutout.draw(&mut stream, SHAPE)
        })
    }

    #[test]
    fn inside_keeps_the_whole_square_and_reaches_every_corner() {
        let cutout = Cutout { size: 4, mode: CutoutMode::Inside, ..Cutout::default() };
        let regions: Vec<_> = drawn(cutout).collect();
        assert!(regions.iter().all(|r| (r.height, r.width) == (4, 4) && r.top <= 6 && r.left <= 8));
        for corner in [(0, 0), (0, 8), (6, 0), (6, 8)] {
            assert!(regions.iter().any(|r| (r.top, r.left) == corner), "{corner:?}");
        }
    }

    #[test]
    fn clipped_covers_from_a_quarter_to_all_of_the_square() {
        let regions: Vec<_> = drawn(Cutout { size: 4, ..Cutout::default() }).collect();
        assert!(regions.iter().all(|r| (1..=4).contains(&r.height) && (1..=4).contains(&r.width)));
        let mean = regions.iter().map(|r| r.height as f64).sum::<f64>() / regions.len() as f64;
        // Rows covered for the ten centres: 2, 3, then 4 seven times, then 3.
        assert!((mean - 3.6).abs() < 0.05, "{mean}");
    }

    #[test]
    fn only_the_region_is_covered() {
        let mut canvas = Canvas::new(SHAPE);
        canvas.load(&[9; 120]);
        let region = Region { top: 8, left: 10, height: 2, width: 2, noise: None };
        Cutout::default().apply(&region, &mut canvas);
        let dark: Vec<_> = (0..120).filter(|&i| canvas.image()[i] == 0).collect();
        assert_eq!(dark, [8 * 12 + 10, 8 * 12 + 11, 9 * 12 + 10, 9 * 12 + 11]);
    }
}
