//! GridMask covers a regular grid of squares.

use std::fmt::{self, Display};

use serde::{Deserialize, Serialize};

use super::{Region, cover};
use crate::canvas::Canvas;
use crate::check::Check;
use crate::error::AugmentError;
use crate::operation::{Operation, Transform};
use crate::parameter::{Fill, NamedFill, Span, Whole};
use crate::shape::ImageShape;
use crate::stream::Stream;

/// Covers a grid of squares of random spacing and position.
///
/// Source: Chen et al., "GridMask data augmentation", arXiv 2001.04086, without its rotation: a unit with a side drawn
/// uniformly from `unit` is repeated over the image from a random offset. In each unit a square is covered, and a share
/// `ratio` of the unit's side is kept between squares.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GridMask {
    /// The side of a unit in pixels, one number or `[low, high]`, from 2 to 4096.
    pub unit: Whole,
    /// The share of a unit's side that is kept, from 0 to 1; at least one pixel is kept and one covered.
    pub ratio: f32,
    /// The fill of the squares.
    pub fill: Fill,
    /// The probability, from 0 to 1.
    pub p: f32,
}

/// The position of the grid, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GridMaskDrawn {
    /// The side of a unit.
    pub unit: usize,
    /// The row at which a unit begins, less than `unit`.
    pub top: usize,
    /// The column at which a unit begins, less than `unit`.
    pub left: usize,
    /// The key that a random fill is generated from.
    pub noise: Option<u64>,
}

impl Default for GridMask {
    fn default() -> Self {
        GridMask { unit: Whole(Span { low: 8, high: 20 }), ratio: 0.6, fill: Fill::Value(0), p: 0.5 }
    }
}

impl Display for GridMaskDrawn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "every {} from row {}, column {}", self.unit, self.top, self.left)
    }
}

impl Operation for GridMask {
    fn probability(&self) -> f32 {
        self.p
    }

    fn check(&self, check: Check, _: ImageShape) -> Result<(), AugmentError> {
        check.span("unit", self.unit.0, 2..=4096)?;
        check.number("ratio", self.ratio, 0.0..=1.0)
    }
}

impl Transform for GridMask {
    type Drawn = GridMaskDrawn;

    fn draw(&self, rng: &mut Stream, _: ImageShape) -> GridMaskDrawn {
        let unit = usize::from(self.unit.draw(rng));
        let (top, left) = (rng.below(unit), rng.below(unit));
        let noise = (self.fill == Fill::Named(NamedFill::Random)).then(|| rng.bits());
        GridMaskDrawn { unit, top, left, noise }
    }

    fn apply(&self, drawn: &GridMaskDrawn, canvas: &mut Canvas) {
        let ImageShape { height, width, .. } = canvas.shape();
        let kept = ((drawn.unit as f32 * self.ratio + 0.5) as usize).clamp(1, drawn.unit - 1);
        let mut noise = drawn.noise.map(Stream::from_bits);
        for (top, rows) in covered(drawn.top, drawn.unit, kept, height) {
            for (left, columns) in covered(drawn.left, drawn.unit, kept, width) {
                let noise = noise.as_mut().map(Stream::bits);
                cover(canvas, &Region { top, left, height: rows, width: columns, noise }, self.fill);
            }
        }
    }
}

/// Start and length of the covered intervals along a side: in each unit all but its first `kept` pixels. The first unit
/// may begin before the image.
fn covered(offset: usize, unit: usize, kept: usize, len: usize) -> impl Iterator<Item = (usize, usize)> {
    let starts = (0..=len / unit + 1).map(move |index| (index * unit + offset) as isize - unit as isize);
    starts.filter_map(move |start| {
        let from = (start + kept as isize).clamp(0, len as isize) as usize;
        let to = (start + unit as isize).clamp(0, len as isize) as usize;
        (from < to).then_some((from, to - from))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_has_its_square_clipped_units_too() {
        let mut canvas = Canvas::new(ImageShape { height: 6, width: 10, channels: 1 });
        canvas.load(&[1; 60]);
        let mask = GridMask { ratio: 0.5, ..GridMask::default() };
        mask.apply(&GridMaskDrawn { unit: 4, top: 1, left: 3, noise: None }, &mut canvas);
        let rows: Vec<String> = canvas
            .image()
            .chunks_exact(10)
            .map(|row| row.iter().map(|v| if *v == 0 { '#' } else { '.' }).collect())
            .collect();
        assert_eq!(rows, [".##..##..#", "..........", "..........", ".##..##..#", ".##..##..#", ".........."]);
    }

    #[test]
    fn the_covered_share_is_that_of_the_paper() {
        let mask = GridMask { ratio: 0.5, ..GridMask::default() };
        let mut canvas = Canvas::new(ImageShape { height: 40, width: 40, channels: 1 });
        canvas.load(&[1; 1600]);
        mask.apply(&GridMaskDrawn { unit: 10, top: 3, left: 7, noise: None }, &mut canvas);
        // (1 - ratio)² of the image.
        assert_eq!(canvas.image().iter().filter(|v| **v == 0).count(), 400);
    }
}
