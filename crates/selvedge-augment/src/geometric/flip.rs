//! Mirror images: with a probability, or in every second epoch.

use std::fmt::{self, Display};

use serde::{Deserialize, Serialize};

use crate::canvas::Canvas;
use crate::operation::{FixedTransform, Operation, Transform};
use crate::shape::ImageShape;
use crate::stream::Stream;

/// Mirrors left and right.
///
/// Source: Albumentations `HorizontalFlip`, torchvision `RandomHorizontalFlip`; `p` = 0.5 in both.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HorizontalFlip {
    /// The probability, from 0 to 1.
    pub p: f32,
}

/// Mirrors top and bottom.
///
/// Source: Albumentations `VerticalFlip`, torchvision `RandomVerticalFlip`; `p` = 0.5 in both.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VerticalFlip {
    /// The probability, from 0 to 1.
    pub p: f32,
}

/// Mirrors left and right in every second epoch. A random half of the samples is mirrored in even epochs, the other
/// half in odd ones, so that two consecutive epochs show every sample both ways.
///
/// Source: K. Jordan, "94% on CIFAR-10 in 3.29 seconds on a single GPU", 2024 (airbench), section 3.3.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AlternatingFlip {}

/// Whether the sample is mirrored in this epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AlternatingFlipDrawn(pub bool);

impl Default for HorizontalFlip {
    fn default() -> Self {
        HorizontalFlip { p: 0.5 }
    }
}

impl Default for VerticalFlip {
    fn default() -> Self {
        VerticalFlip { p: 0.5 }
    }
}

impl Display for AlternatingFlipDrawn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0 { "mirrored" } else { "unchanged" })
    }
}

impl Operation for HorizontalFlip {
    fn probability(&self) -> f32 {
        self.p
    }
}

impl FixedTransform for HorizontalFlip {
    fn change(&self, canvas: &mut Canvas) {
        mirror(canvas);
    }
}

impl Operation for VerticalFlip {
    fn probability(&self) -> f32 {
        self.p
    }
}

impl FixedTransform for VerticalFlip {
    fn change(&self, canvas: &mut Canvas) {
        let row = canvas.shape().row_len();
        canvas.redraw(|old, new| {
            for (to, from) in new.chunks_exact_mut(row).zip(old.chunks_exact(row).rev()) {
                to.copy_from_slice(from);
            }
        });
    }
}

impl Operation for AlternatingFlip {
    fn probability(&self) -> f32 {
        1.0
    }
}

impl Transform for AlternatingFlip {
    type Drawn = AlternatingFlipDrawn;

    fn draw(&self, rng: &mut Stream, _: ImageShape) -> AlternatingFlipDrawn {
        AlternatingFlipDrawn((rng.lasting_bits() ^ rng.epoch()) & 1 == 1)
    }

    fn apply(&self, drawn: &AlternatingFlipDrawn, canvas: &mut Canvas) {
        if drawn.0 {
            mirror(canvas);
        }
    }
}

/// Reverses the pixels of every row.
fn mirror(canvas: &mut Canvas) {
    let shape = canvas.shape();
    let row = shape.row_len();
    canvas.redraw(|old, new| {
        let rows = new.chunks_exact_mut(row).zip(old.chunks_exact(row));
        if shape.channels == 1 {
            rows.for_each(|(to, from)| reverse_bytes(to, from));
            return;
        }
        for (to, from) in rows {
            let pixels = from.chunks_exact(shape.channels).rev();
            for (to, from) in to.chunks_exact_mut(shape.channels).zip(pixels) {
                to.copy_from_slice(from);
            }
        }
    });
}

/// Reverses eight bytes at a time: without SSSE3, which portable code cannot assume, a byte swap of a word is the
/// fastest way.
fn reverse_bytes(to: &mut [u8], from: &[u8]) {
    let (words, rest) = from.as_chunks::<8>();
    let (to_rest, to_words) = to.as_rchunks_mut::<8>();
    for (to, from) in to_words.iter_mut().rev().zip(words) {
        *to = u64::from_le_bytes(*from).to_be_bytes();
    }
    for (to, from) in to_rest.iter_mut().rev().zip(rest) {
        *to = *from;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::EpochKey;

    fn canvas(height: usize, width: usize, channels: usize) -> Canvas {
        let shape = ImageShape { height, width, channels };
        let mut canvas = Canvas::new(shape);
        let image: Vec<u8> = (0..shape.len()).map(|i| (i * 7 % 251) as u8).collect();
        canvas.load(&image);
        canvas
    }

    #[test]
    fn mirroring_reverses_each_row_of_pixels_for_any_shape() {
        for (height, width, channels) in [(1, 1, 1), (2, 7, 1), (3, 8, 1), (5, 28, 1), (2, 19, 1), (3, 5, 3), (2, 4, 2)]
        {
            let mut canvas = canvas(height, width, channels);
            let before = canvas.image().to_vec();
            HorizontalFlip::default().change(&mut canvas);
            for y in 0..height {
                for x in 0..width {
                    for c in 0..channels {
                        let at = |x: usize| (y * width + x) * channels + c;
                        assert_eq!(canvas.image()[at(x)], before[at(width - 1 - x)]);
                    }
                }
            }
        }
    }

    #[test]
    fn a_vertical_flip_reverses_the_order_of_rows() {
        let mut canvas = canvas(3, 2, 1);
        canvas.load(&[1, 2, 3, 4, 5, 6]);
        VerticalFlip::default().change(&mut canvas);
        assert_eq!(canvas.image(), [5, 6, 3, 4, 1, 2]);
    }

    #[test]
    fn alternating_flip_shows_each_sample_both_ways_within_two_epochs() {
        let shape = ImageShape { height: 2, width: 2, channels: 1 };
        let flipped = |epoch, sample| {
            let mut stream = Stream::for_sample(EpochKey { seed: 5, epoch }, sample).fork(0);
            AlternatingFlip {}.draw(&mut stream, shape).0
        };
        let samples = 10_000;
        let mut in_first = 0;
        for sample in 0..samples {
            in_first += usize::from(flipped(0, sample));
            for epoch in 0..4 {
                assert_ne!(flipped(epoch, sample), flipped(epoch + 1, sample));
            }
        }
        // Half of the samples, within five standard deviations of 50.
        assert!((4750..5250).contains(&in_first), "{in_first}");
    }
}
