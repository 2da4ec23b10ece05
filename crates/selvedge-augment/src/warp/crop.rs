//! Random resized crop: a random window, scaled to the size of the image.

use std::fmt::{self, Display};

use serde::{Deserialize, Serialize};

use crate::canvas::Canvas;
use crate::check::Check;
use crate::error::AugmentError;
use crate::operation::{Operation, Transform};
use crate::parameter::Span;
use crate::resample::{Border, Interpolation};
use crate::shape::ImageShape;
use crate::stream::Stream;

/// Crops to a window with an area drawn uniformly from `scale` and an aspect ratio drawn log-uniformly from `ratio`,
/// and scales it to the size of the image.
///
/// Source: torchvision `RandomResizedCrop(size, scale=(0.08, 1), ratio=(3/4, 4/3))` with the size of the images, and
/// Albumentations' operation of the same name: up to ten tries to find a window that fits, then the largest centred one
/// with an allowed ratio.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RandomResizedCrop {
    /// The area of the window as a share of the image's, from 0.001 to 1. Recipes may also write `area`.
    #[serde(alias = "area")]
    pub scale: Span<f32>,
    /// Width divided by height of the window, from 0.01 to 100.
    pub ratio: Span<f32>,
    /// The probability, from 0 to 1.
    pub p: f32,
}

/// The window, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CropWindow {
    /// The first row.
    pub top: usize,
    /// The first column.
    pub left: usize,
    /// Rows, at least 1.
    pub height: usize,
    /// Columns, at least 1.
    pub width: usize,
}

impl Default for RandomResizedCrop {
    fn default() -> Self {
        RandomResizedCrop {
            scale: Span { low: 0.08, high: 1.0 },
            ratio: Span { low: 3.0 / 4.0, high: 4.0 / 3.0 },
            p: 1.0,
        }
    }
}

impl Display for CropWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}×{} at row {}, column {}", self.height, self.width, self.top, self.left)
    }
}

impl Operation for RandomResizedCrop {
    fn probability(&self) -> f32 {
        self.p
    }

    fn check(&self, check: Check, _: ImageShape) -> Result<(), AugmentError> {
        check.span("scale", self.scale, 0.001..=1.0)?;
        check.span("ratio", self.ratio, 0.01..=100.0)
    }
}

impl Transform for RandomResizedCrop {
    type Drawn = CropWindow;

    fn draw(&self, rng: &mut Stream, shape: ImageShape) -> CropWindow {
        for _ in 0..10 {
            let area = shape.pixels() as f32 * self.scale.draw(rng);
            let ratio = self.ratio.draw_logarithmic(rng);
            let width = (area * ratio).sqrt().round_ties_even() as usize;
            let height = (area / ratio).sqrt().round_ties_even() as usize;
            if (1..=shape.width).contains(&width) && (1..=shape.height).contains(&height) {
                let top = rng.below(shape.height - height + 1);
                let left = rng.below(shape.width - width + 1);
                return CropWindow { top, left, height, width };
            }
        }
        let (full_width, full_height) = (shape.width as f32, shape.height as f32);
        let ratio = (full_width / full_height).max(self.ratio.low).min(self.ratio.high);
        let width = (full_height * ratio).min(full_width).round().max(1.0) as usize;
        let height = (full_width / ratio).min(full_height).round().max(1.0) as usize;
        CropWindow { top: (shape.height - height) / 2, left: (shape.width - width) / 2, height, width }
    }

    fn apply(&self, drawn: &CropWindow, canvas: &mut Canvas) {
        let ImageShape { height, width, .. } = canvas.shape();
        let across = Axis::new(drawn.left, drawn.width, width);
        let down = Axis::new(drawn.top, drawn.height, height);
        canvas.warp(
            Border::default(),
            Interpolation::Bilinear,
            #[inline(always)]
            move |row, column, xs, ys| {
                ys.fill(down.position(row));
                xs.iter_mut().enumerate().for_each(|(i, x)| *x = across.position(column + i));
            },
        );
    }
}

/// The map from positions along one side of the result to the window, clamped to the window's pixels.
struct Axis {
    step: f32,
    first: f32,
    low: f32,
    high: f32,
}

impl Axis {
    fn new(start: usize, len: usize, to: usize) -> Axis {
        let step = len as f32 / to as f32;
        let low = start as f32;
        Axis { step, first: low + step * 0.5 - 0.5, low, high: low + len as f32 - 1.0 }
    }

    #[inline(always)]
    fn position(&self, index: usize) -> f32 {
        (self.first + self.step * index as i32 as f32).max(self.low).min(self.high)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::EpochKey;

    #[test]
    fn a_window_of_the_whole_image_changes_nothing() {
        let shape = ImageShape { height: 5, width: 3, channels: 2 };
        let mut canvas = Canvas::new(shape);
        let image: Vec<u8> = (0..30).map(|i| i * 8).collect();
        canvas.load(&image);
        let whole = CropWindow { top: 0, left: 0, height: 5, width: 3 };
        RandomResizedCrop::default().apply(&whole, &mut canvas);
        assert_eq!(canvas.image(), image);
    }

    #[test]
    fn windows_lie_inside_and_their_area_is_uniform() {
        let shape = ImageShape { height: 28, width: 28, channels: 1 };
        let crop = RandomResizedCrop::default();
        let mut mean = 0.0;
        for sample in 0..10_000 {
            let mut stream = Stream::for_sample(EpochKey { seed: 0, epoch: 0 }, sample).fork(0);
            let window = crop.draw(&mut stream, shape);
            assert!(window.top + window.height <= 28 && window.left + window.width <= 28);
            assert!(window.height > 0 && window.width > 0);
            mean += (window.height * window.width) as f64 / 784.0 / 10_000.0;
        }
        // The middle of 0.08 and 1 is 0.54; large windows of unequal sides do not fit and are drawn again.
        assert!((0.48..0.54).contains(&mean), "{mean}");
    }

    #[test]
    fn if_no_window_fits_a_centred_one_is_taken() {
        let shape = ImageShape { height: 4, width: 40, channels: 1 };
        let crop = RandomResizedCrop { scale: [1.0, 1.0].into(), ..RandomResizedCrop::default() };
        let mut stream = Stream::for_sample(EpochKey { seed: 0, epoch: 0 }, 0);
        assert_eq!(crop.draw(&mut stream, shape), CropWindow { top: 0, left: 17, height: 4, width: 5 });
    }
}
