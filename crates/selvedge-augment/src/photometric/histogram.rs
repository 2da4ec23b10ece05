//! Operations that spread values over their whole range: contrast stretching and histogram equalization.

use std::num::NonZero;

use serde::{Deserialize, Serialize};

use crate::canvas::Canvas;
use crate::operation::{FixedTransform, Operation};

/// Stretches each channel linearly, so that its smallest value becomes 0 and its largest 255.
///
/// Source: torchvision `RandomAutocontrast(p=0.5)`, Pillow `ImageOps.autocontrast`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AutoContrast {
    /// The probability, from 0 to 1.
    pub p: f32,
}

/// Equalizes the histogram of each channel, so that all values are about equally frequent.
///
/// Source: torchvision `RandomEqualize(p=0.5)`, Pillow `ImageOps.equalize`; both compute the same table in whole
/// numbers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Equalize {
    /// The probability, from 0 to 1.
    pub p: f32,
}

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

/// Replaces the values of each channel by those of a table that `table(histogram, values)` writes; it starts as the
/// identity.
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

/// In whole numbers, so that the largest value always becomes 255; in torchvision rounding may make it 254.
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

impl Operation for AutoContrast {
    fn probability(&self) -> f32 {
        self.p
    }
}

impl FixedTransform for AutoContrast {
    fn change(&self, canvas: &mut Canvas) {
        stretch_contrast(canvas);
    }
}

impl Operation for Equalize {
    fn probability(&self) -> f32 {
        self.p
    }
}

impl FixedTransform for Equalize {
    fn change(&self, canvas: &mut Canvas) {
        equalize(canvas);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::ImageShape;

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
    fn an_image_of_one_value_is_unchanged() {
        let mut canvas = Canvas::new(ImageShape { height: 4, width: 4, channels: 1 });
        canvas.load(&[9; 16]);
        equalize(&mut canvas);
        stretch_contrast(&mut canvas);
        assert_eq!(canvas.image(), [9; 16]);
    }
}
