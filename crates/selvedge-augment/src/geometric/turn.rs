//! Quarter turns and transposition, for square images.

use std::fmt::{self, Display};

use serde::{Deserialize, Serialize};

use crate::error::Check;
use crate::{AugmentError, Canvas, ImageShape, Stream, Transform};

/// Turns by a number of quarters, drawn uniformly from 0, 1, 2 and 3.
///
/// Source: Albumentations `RandomRotate90`, `p` = 0.5, turning counter-clockwise as `numpy.rot90` does.
/// With probability `p` a turn by 0 quarters may be drawn too. Refused for images that are not square,
/// since all images of a batch have one shape.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RandomRotate90 {
    /// The probability, from 0 to 1.
    pub p: f32,
}

/// Exchanges rows and columns.
///
/// Source: Albumentations `Transpose`, `p` = 0.5. Refused for images that are not square.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Transpose {
    /// The probability, from 0 to 1.
    pub p: f32,
}

/// How many quarters the image is turned, counter-clockwise: from 0 to 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuarterTurns(pub u8);

/// That rows and columns were exchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transposed;

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

impl Display for QuarterTurns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}°", 90 * u32::from(self.0))
    }
}

impl Display for Transposed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("transposed")
    }
}

impl Transform for RandomRotate90 {
    type Drawn = QuarterTurns;
    const NAME: &'static str = "random_rotate90";

    fn probability(&self) -> f32 {
        self.p
    }

    fn validate(&self, shape: ImageShape) -> Result<(), AugmentError> {
        Check { op: Self::NAME }.probability(self.p)?;
        shape.require_square(Self::NAME)
    }

    fn draw(&self, rng: &mut Stream, _shape: ImageShape) -> QuarterTurns {
        QuarterTurns(rng.below(4) as u8)
    }

    fn apply(&self, drawn: &QuarterTurns, canvas: &mut Canvas) {
        let last = canvas.shape().width as isize - 1;
        match drawn.0 % 4 {
            0 => {}
            1 => permute(canvas, |y, x| (x, last - y)),
            2 => permute(canvas, |y, x| (last - y, last - x)),
            _ => permute(canvas, |y, x| (last - x, y)),
        }
    }
}

impl Transform for Transpose {
    type Drawn = Transposed;
    const NAME: &'static str = "transpose";

    fn probability(&self) -> f32 {
        self.p
    }

    fn validate(&self, shape: ImageShape) -> Result<(), AugmentError> {
        Check { op: Self::NAME }.probability(self.p)?;
        shape.require_square(Self::NAME)
    }

    fn draw(&self, _rng: &mut Stream, _shape: ImageShape) -> Transposed {
        Transposed
    }

    fn apply(&self, _drawn: &Transposed, canvas: &mut Canvas) {
        permute(canvas, |y, x| (x, y));
    }
}

/// Writes at each (row, column) the pixel of the old image that `source` names.
#[inline]
fn permute(canvas: &mut Canvas, source: impl Fn(isize, isize) -> (isize, isize)) {
    let ImageShape { height, width, channels } = canvas.shape();
    assert_eq!(height, width, "quarter turns and transposition need square images");
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
    fn turns_are_counter_clockwise() {
        let turned = |quarters| {
            let mut canvas = square();
            RandomRotate90::default().apply(&QuarterTurns(quarters), &mut canvas);
            String::from_utf8(canvas.image().to_vec()).unwrap()
        };
        assert_eq!(turned(0), "aAbBcCdD");
        assert_eq!(turned(1), "bBdDaAcC");
        assert_eq!(turned(2), "dDcCbBaA");
        assert_eq!(turned(3), "cCaAdDbB");
    }

    #[test]
    fn transposing_exchanges_rows_and_columns() {
        let mut canvas = square();
        Transpose::default().apply(&Transposed, &mut canvas);
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
