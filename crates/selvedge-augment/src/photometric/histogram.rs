//! Operations that use the whole range of values: stretching, and equalizing the histogram.

use std::fmt::{self, Display};
use std::num::NonZero;

use serde::{Deserialize, Serialize};

use crate::error::Check;
use crate::{AugmentError, Canvas, ImageShape, Stream, Transform};

/// Stretches each channel so that its smallest value becomes 0 and its largest 255.
///
/// Source: torchvision `RandomAutocontrast(p=0.5)`, Pillow `ImageOps.autocontrast`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AutoContrast {
    /// The probability, from 0 to 1.
    pub p: f32,
}

/// Spreads each channel so that all values are about equally frequent.
///
/// Source: torchvision `RandomEqualize(p=0.5)`, Pillow `ImageOps.equalize`: both compute the same table
/// in whole numbers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Equalize {
    /// The probability, from 0 to 1.
    pub p: f32,
}

/// That the values were spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretched;

impl Default for AutoContrast {
    fn default() -> Self {
        AutoContrast { p: 0.5 }
    }
}

impl Default for Equalize {
    fn default() -> Self {
        Equalize { p: 0.5 }
    }
}

impl Display for Stretched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("spread")
    }
}

/// Replaces the values of each channel by a table that is made from the channel's histogram.
fn remap_channels(canvas: &mut Canvas, table: impl Fn(&[u32; 256], &mut [u8; 256])) {
    let channels = canvas.shape().channels;
    let image = canvas.image_mut();
    for channel in 0..channels {
        let mut histogram = [0u32; 256];
        image.iter().skip(channel).step_by(channels).for_each(|&v| histogram[usize::from(v)] += 1);
        let mut values: [u8; 256] = std::array::from_fn(|v| v as u8);
        table(&histogram, &mut values);
        image.iter_mut().skip(channel).step_by(channels).for_each(|v| *v = values[usize::from(*v)]);
    }
}

/// Stretches each channel over the whole range. In whole numbers, so that the largest value becomes 255
/// and never 254, as it may in torchvision by rounding.
fn stretch_contrast(canvas: &mut Canvas) {
    remap_channels(canvas, |histogram, values| {
        let Some(low) = histogram.iter().position(|&count| count > 0) else { return };
        let high = histogram.iter().rposition(|&count| count > 0).unwrap_or(low);
        if low < high {
            let used = &mut values[low..=high];
            used.iter_mut().enumerate().for_each(|(above, to)| *to = (above * 255 / (high - low)) as u8);
        }
    });
}

/// Equalizes the histogram of each channel.
fn equalize(canvas: &mut Canvas) {
    remap_channels(canvas, |histogram, values| {
        let total: u32 = histogram.iter().sum();
        let of_largest = histogram.iter().rev().find(|count| **count > 0).copied().unwrap_or(0);
        let Some(step) = NonZero::new((total - of_largest) / 255) else { return };
        let mut below = 0;
        for (to, count) in values.iter_mut().zip(histogram) {
            *to = ((below + step.get() / 2) / step).min(255) as u8;
            below += count;
        }
    });
}

impl Transform for AutoContrast {
    type Drawn = Stretched;
    const NAME: &'static str = "auto_contrast";

    fn probability(&self) -> f32 {
        self.p
    }

    fn validate(&self, _shape: ImageShape) -> Result<(), AugmentError> {
        Check { op: Self::NAME }.probability(self.p)
    }

    fn draw(&self, _rng: &mut Stream, _shape: ImageShape) -> Stretched {
        Stretched
    }

    fn apply(&self, _drawn: &Stretched, canvas: &mut Canvas) {
        stretch_contrast(canvas);
    }
}

impl Transform for Equalize {
    type Drawn = Stretched;
    const NAME: &'static str = "equalize";

    fn probability(&self) -> f32 {
        self.p
    }

    fn validate(&self, _shape: ImageShape) -> Result<(), AugmentError> {
        Check { op: Self::NAME }.probability(self.p)
    }

    fn draw(&self, _rng: &mut Stream, _shape: ImageShape) -> Stretched {
        Stretched
    }

    fn apply(&self, _drawn: &Stretched, canvas: &mut Canvas) {
        equalize(canvas);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_channel_is_stretched_by_itself() {
        let mut canvas = Canvas::new(ImageShape { height: 1, width: 3, channels: 2 });
        canvas.load(&[50, 7, 100, 7, 150, 7]);
        stretch_contrast(&mut canvas);
        assert_eq!(canvas.image(), [0, 7, 127, 7, 255, 7]);
    }

    #[test]
    fn an_equalized_image_has_an_even_histogram() {
        let shape = ImageShape { height: 64, width: 64, channels: 1 };
        let mut canvas = Canvas::new(shape);
        // Dark values are much more frequent.
        let image: Vec<u8> = (0..4096).map(|i| ((i * i) >> 17) as u8).collect();
        canvas.load(&image);
        equalize(&mut canvas);
        let dark = canvas.image().iter().filter(|v| **v < 128).count();
        assert!((1900..2200).contains(&dark), "{dark}");
    }

    #[test]
    fn one_value_stays_as_it_is() {
        let mut canvas = Canvas::new(ImageShape { height: 4, width: 4, channels: 1 });
        canvas.load(&[9; 16]);
        equalize(&mut canvas);
        stretch_contrast(&mut canvas);
        assert_eq!(canvas.image(), [9; 16]);
    }
}
