//! Operations that cover a part of the image, so that the network learns to use all of it.

mod cutout;
mod erasing;
mod gridmask;

pub use cutout::{Cutout, CutoutMode};
pub use erasing::RandomErasing;
pub use gridmask::{GridMask, GridMaskDrawn};

use std::fmt::{self, Display};

use crate::canvas::Canvas;
use crate::parameter::{Fill, NamedFill};
use crate::shape::ImageShape;
use crate::stream::Stream;

/// A rectangle of pixels within the image, and the key of its random fill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// The first row.
    pub top: usize,
    /// The first column.
    pub left: usize,
    /// Rows; 0 if nothing is covered.
    pub height: usize,
    /// Columns; 0 if nothing is covered.
    pub width: usize,
    /// The key that a random fill is generated from.
    pub noise: Option<u64>,
}

impl Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}×{} at row {}, column {}", self.height, self.width, self.top, self.left)
    }
}

impl Region {
    /// A region, with a key if the fill needs one.
    fn filled(top: usize, left: usize, height: usize, width: usize, fill: Fill, rng: &mut Stream) -> Region {
        let noise = (fill == Fill::Named(NamedFill::Random)).then(|| rng.bits());
        Region { top, left, height, width, noise }
    }
}

/// Covers the region; parts of it beyond the image are ignored.
fn cover(canvas: &mut Canvas, region: &Region, fill: Fill) {
    match fill {
        Fill::Value(value) => for_each_row(canvas, region, |covered| covered.fill(value)),
        Fill::Named(NamedFill::Random) => {
            let mut noise = Stream::from_bits(region.noise.unwrap_or_default());
            for_each_row(canvas, region, |covered| noise.fill(covered));
        }
        Fill::Named(NamedFill::Mean) => {
            let ImageShape { channels, .. } = canvas.shape();
            let pixels = canvas.shape().pixels() as u64;
            for channel in 0..channels {
                let values = canvas.image().iter().skip(channel).step_by(channels);
                let sum: u64 = values.map(|&value| u64::from(value)).sum();
                let mean = ((sum + pixels / 2) / pixels) as u8;
                for_each_row(canvas, region, |covered| {
                    covered.iter_mut().skip(channel).step_by(channels).for_each(|value| *value = mean);
                });
            }
        }
    }
}

fn for_each_row(canvas: &mut Canvas, region: &Region, mut change: impl FnMut(&mut [u8])) {
    let shape = canvas.shape();
    let row = shape.row_len();
    let left = region.left.min(shape.width) * shape.channels;
    let right = (region.left + region.width).min(shape.width) * shape.channels;
    let rows = region.top.min(shape.height)..(region.top + region.height).min(shape.height);
    for line in canvas.image_mut()[rows.start * row..rows.end * row].chunks_exact_mut(row) {
        change(&mut line[left..right]);
    }
}
