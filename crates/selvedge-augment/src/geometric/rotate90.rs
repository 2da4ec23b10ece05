//! Rotations by multiples of 90° and transposition, for square images.

use std::fmt::{self, Display};

use serde::{Deserialize, Serialize};

use crate::canvas::Canvas;
use crate::check::Check;
use crate::error::AugmentError;
use crate::operation::{FixedTransform, Operation, Transform};
use crate::shape::ImageShape;
use crate::stream::Stream;

/// Rotates by 0°, 90°, 180° or 270°, drawn uniformly.
///
/// Source: Albumentations `RandomRotate90`, `p` = 0.5, counter-clockwise as `numpy.rot90`. Images that are not square
/// are refused, since all images of a batch have one shape.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RandomRotate90 {
    /// The probability, from 0 to 1.
    pub p: f32,
}

/// Exchanges rows and columns.
///
/// Source: Albumentations `Transpose`, `p` = 0.5. Images that are not square are refused.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Transpose {
    /// The probability, from 0 to 1.
    pub p: f32,
}

/// The number of counter-clockwise rotations by 90°, from 0 to 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotate90Drawn(pub u8);

impl Default for RandomRotate90 {
    fn default() -> Self {
        RandomRotate90 { p: 0.5 }
    }
}

impl Default for Transpose {
    fn default() -> Self {
        Transpose { p: 0.5 }
    }
}

impl Display for Rotate90Drawn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}°", 90 * u32::from(self.0))
    }
}

impl Operation for RandomRotate90 {
    fn probability(&self) -> f32 {
        self.p
    }

    fn check(&self, check: Check, shape: ImageShape) -> Result<(), AugmentError> {
        check.square(shape)
    }
}

impl Transform for RandomRotate90 {
    type Drawn = Rotate90Drawn;

    fn draw(&self, rng: &mut Stream, _: ImageShape) -> Rotate90Drawn {
        Rotate90Drawn(rng.below(4) as u8)
    }

    fn apply(&self, drawn: &Rotate90Drawn, canvas: &mut Canvas) {
        let last = canvas.shape().width as isize - 1;
        match drawn.0 % 4 {
            0 => {}
            1 => permute(canvas, |y, x| (x, last - y)),
            2 => permute(canvas, |y, x| (last - y, last - x)),
            _ => permute(canvas, |y, x| (last - x, y)),
        }
    }
}

impl Operation for Transpose {
    fn probability(&self) -> f32 {
        self.p
    }

    fn check(&self, check: Check, shape: ImageShape) -> Result<(), AugmentError> {
        check.square(shape)
    }
}

impl FixedTransform for Transpose {
    fn change(&self, canvas: &mut Canvas) {
        permute(canvas, |y, x| (x, y));
    }
}

/// Fills each (row, column) with the pixel of the old image at `source(row, column)`.
#[inline]
fn permute(canvas: &mut Canvas, source: impl Fn(isize, isize) -> (isize, isize)) {
    let ImageShape { height, width, channels } = canvas.shape();
    assert_eq!(height, width, "rotations by 90° and transposition need square images");
    let pixel = |y: isize, x: isize| {
        let (y, x) = source(y, x);
        y * width as isize + x
    };
    canvas.redraw(|old, new| {
        for (y, row) in new.chunks_exact_mut(width * channels).enumerate() {
            // The sources of a row's pixels lie at equal distances.
            let (start, step) = (pixel(y as isize, 0), pixel(y as isize, 1) - pixel(y as isize, 0));
            let from = |x: usize| (start + x as isize * step) as usize * channels;
            if channels == 1 {
                row.iter_mut().enumerate().for_each(|(x, to)| *to = old[from(x)]);
            } else {
                for (x, to) in row.chunks_exact_mut(channels).enumerate() {
                    to.copy_from_slice(&old[from(x)..][..channels]);
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn square() -> Canvas {
        let mut canvas = Canvas::new(ImageShape { height: 2, width: 2, channels: 2 });
        canvas.load(b"aAbBcCdD");
        canvas
    }

    #[test]
    fn rotations_are_counter_clockwise() {
        let rotated = |quarters| {
            let mut canvas = square();
            RandomRotate90::default().apply(&Rotate90Drawn(quarters), &mut canvas);
            String::from_utf8(canvas.image().to_vec()).unwrap()
        };
        assert_eq!(rotated(0), "aAbBcCdD");
        assert_eq!(rotated(1), "bBdDaAcC");
        assert_eq!(rotated(2), "dDcCbBaA");
        assert_eq!(rotated(3), "cCaAdDbB");
    }

    #[test]
    fn transposing_exchanges_rows_and_columns() {
        let mut canvas = square();
        Transpose::default().change(&mut canvas);
        assert_eq!(canvas.image(), b"aAcCbBdD");
    }

    #[test]
    fn oblong_images_are_refused() {
        let shape = ImageShape { height: 28, width: 32, channels: 1 };
        let message = Transpose::default().validate(shape).unwrap_err().to_string();
        assert!(message.contains("`transpose`") && message.contains("28 by 32"), "{message}");
        assert!(RandomRotate90::default().validate(shape).is_err());
    }
}
