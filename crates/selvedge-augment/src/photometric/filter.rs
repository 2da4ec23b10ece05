//! Blurs and sharpening.

use std::fmt::{self, Display};

use serde::{Deserialize, Serialize};

use super::Factor;
use crate::convolve::{Kernel, convolve, groups};
use crate::error::Check;
use crate::parameter::{Padding, Span, Whole};
use crate::vectors::{GROUP, Group};
use crate::{AugmentError, Canvas, ImageShape, Stream, Transform};

/// Replaces every value by the mean of the square around it.
///
/// Source: Albumentations `Blur(blur_limit=(3, 7), p=0.5)`: the side of the square is an odd number
/// drawn uniformly, and the image is mirrored at its edges without repeating the outermost pixel.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Blur {
    /// The side of the square, one number or `[low, high]`, from 3 to 99; an even end is raised by one.
    pub blur_limit: Whole,
    /// The probability, from 0 to 1.
    pub p: f32,
}

/// Blurs by a Gaussian.
///
/// Source: Albumentations `GaussianBlur(blur_limit=0, sigma_limit=(0.5, 3), p=0.5)`: the kernel
/// reaches as far as `3.5 sigma`, cut off to whole pixels, and edges are mirrored as by [`Blur`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GaussianBlur {
    /// The standard deviation in pixels, from 0 to 30.
    #[serde(alias = "sigma_limit")]
    pub sigma: Span<f32>,
    /// The probability, from 0 to 1.
    pub p: f32,
}

/// Blends the image with a smoothed copy of itself: factors above 1 sharpen, below 1 smooth.
///
/// Source: torchvision `RandomAdjustSharpness(sharpness_factor, p=0.5)`, Pillow
/// `ImageEnhance.Sharpness`: the copy is smoothed by a kernel of 3 × 3 with 5 in the middle and 1
/// around; the outermost pixels stay as they are.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sharpness {
    /// The factor, from 0 to 10; 1 changes nothing.
    pub factor: Span<f32>,
    /// The probability, from 0 to 1.
    pub p: f32,
}

/// The side of the square, an odd number of pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlurDrawn(pub u16);

/// The standard deviation in pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GaussianBlurDrawn(pub f32);

impl Default for Blur {
    fn default() -> Self {
        Blur { blur_limit: Whole(Span { low: 3, high: 7 }), p: 0.5 }
    }
}

impl Default for GaussianBlur {
    fn default() -> Self {
        GaussianBlur { sigma: Span { low: 0.5, high: 3.0 }, p: 0.5 }
    }
}

impl Default for Sharpness {
    fn default() -> Self {
        Sharpness { factor: Span { low: 0.5, high: 1.5 }, p: 0.5 }
    }
}

impl Display for BlurDrawn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{0}×{0}", self.0)
    }
}

impl Display for GaussianBlurDrawn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sigma {:.2}", self.0)
    }
}

/// Convolves the image with the kernel that is set; edges are mirrored.
fn filter(canvas: &mut Canvas, set: impl FnOnce(&mut Kernel)) {
    let shape = canvas.shape();
    let (row, groups) = (shape.row_len(), groups(shape));
    canvas.redraw_with(|old, new, scratch| {
        set(&mut scratch.kernel);
        scratch.plane.resize(shape.height * groups, Group::default());
        for (to, from) in scratch.plane.chunks_exact_mut(groups).zip(old.chunks_exact(row)) {
            for (to, from) in to.iter_mut().zip(from.chunks(GROUP)) {
                to.0.iter_mut().zip(from).for_each(|(to, from)| *to = f32::from(*from));
            }
        }
        convolve(scratch, shape, Padding::Reflect);
        for (to, from) in new.chunks_exact_mut(row).zip(scratch.plane.chunks_exact(groups)) {
            for (to, from) in to.chunks_mut(GROUP).zip(from) {
                to.iter_mut().zip(&from.0).for_each(|(to, from)| *to = (from + 0.5) as u8);
            }
        }
    });
}

/// Blends the image with a smoothed copy: `factor` times the image and the rest the copy.
fn sharpen(canvas: &mut Canvas, factor: f32) {
    let ImageShape { height, width, channels } = canvas.shape();
    if height <= 2 || width <= 2 {
        return;
    }
    let row = width * channels;
    canvas.redraw(|old, new| {
        new.copy_from_slice(old);
        for y in 1..height - 1 {
            let [above, here, below] = [y - 1, y, y + 1].map(|y| &old[y * row..][..row]);
            let to = &mut new[y * row..][..row];
            for i in channels..row - channels {
                let (left, right) = (i - channels, i + channels);
                let value = |line: &[u8], i: usize| u32::from(line[i]);
                let around = [above, here, below].map(|line| value(line, left) + value(line, i) + value(line, right));
                let sum = around.iter().sum::<u32>() + 4 * value(here, i);
                // In whole numbers; the sum over 13 is never halfway between two.
                let smooth = ((2 * sum + 13) / 26) as f32;
                let own = f32::from(here[i]);
                to[i] = (own + (1.0 - factor) * (smooth - own)) as u8;
            }
        }
    });
}

impl Transform for Blur {
    type Drawn = BlurDrawn;
    const NAME: &'static str = "blur";

    fn probability(&self) -> f32 {
        self.p
    }

    fn validate(&self, _shape: ImageShape) -> Result<(), AugmentError> {
        let check = Check { op: Self::NAME };
        check.probability(self.p)?;
        check.span("blur_limit", self.blur_limit.0, 3..=99)
    }

    fn draw(&self, rng: &mut Stream, _shape: ImageShape) -> BlurDrawn {
        let Span { low, high } = self.blur_limit.0;
        let halves = Whole(Span { low: low / 2, high: high / 2 });
        BlurDrawn(2 * halves.draw(rng) + 1)
    }

    fn apply(&self, drawn: &BlurDrawn, canvas: &mut Canvas) {
        filter(canvas, |kernel| kernel.set_mean(usize::from(drawn.0 / 2)));
    }
}

impl Transform for GaussianBlur {
    type Drawn = GaussianBlurDrawn;
    const NAME: &'static str = "gaussian_blur";

    fn probability(&self) -> f32 {
        self.p
    }

    fn validate(&self, _shape: ImageShape) -> Result<(), AugmentError> {
        let check = Check { op: Self::NAME };
        check.probability(self.p)?;
        check.span("sigma", self.sigma, 0.0..=30.0)
    }

    fn draw(&self, rng: &mut Stream, _shape: ImageShape) -> GaussianBlurDrawn {
        GaussianBlurDrawn(self.sigma.draw(rng))
    }

    fn apply(&self, &GaussianBlurDrawn(sigma): &GaussianBlurDrawn, canvas: &mut Canvas) {
        let reach = (sigma * 3.5) as usize;
        if reach > 0 {
            filter(canvas, |kernel| kernel.set_gaussian(sigma, reach));
        }
    }
}

impl Transform for Sharpness {
    type Drawn = Factor;
    const NAME: &'static str = "sharpness";

    fn probability(&self) -> f32 {
        self.p
    }

    fn validate(&self, _shape: ImageShape) -> Result<(), AugmentError> {
        let check = Check { op: Self::NAME };
        check.probability(self.p)?;
        check.span("factor", self.factor, 0.0..=10.0)
    }

    fn draw(&self, rng: &mut Stream, _shape: ImageShape) -> Factor {
        Factor(self.factor.draw(rng))
    }

    fn apply(&self, &Factor(factor): &Factor, canvas: &mut Canvas) {
        sharpen(canvas, factor);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::EpochKey;

    #[test]
    fn blurring_keeps_an_even_image_and_spreads_a_point() {
        let shape = ImageShape { height: 7, width: 9, channels: 2 };
        let mut canvas = Canvas::new(shape);
        canvas.load(&[200; 126]);
        Blur::default().apply(&BlurDrawn(7), &mut canvas);
        GaussianBlur::default().apply(&GaussianBlurDrawn(3.0), &mut canvas);
        assert_eq!(canvas.image(), [200; 126]);

        let mut image = [0; 126];
        image[(3 * 9 + 4) * 2 + 1] = 90;
        canvas.load(&image);
        Blur::default().apply(&BlurDrawn(3), &mut canvas);
        for (i, &value) in canvas.image().iter().enumerate() {
            let (y, x, c) = (i / 18, i / 2 % 9, i % 2);
            let expected = if c == 1 && y.abs_diff(3) <= 1 && x.abs_diff(4) <= 1 { 10 } else { 0 };
            assert_eq!(value, expected, "row {y}, column {x}, channel {c}");
        }
    }

    #[test]
    fn sides_are_odd_and_uniform() {
        let blur = Blur { blur_limit: Whole(Span { low: 4, high: 9 }), ..Blur::default() };
        let shape = ImageShape { height: 28, width: 28, channels: 1 };
        let mut counts = [0; 12];
        for sample in 0..3000 {
            let mut stream = Stream::for_sample(EpochKey { seed: 0, epoch: 0 }, sample).fork(0);
            counts[usize::from(blur.draw(&mut stream, shape).0)] += 1;
        }
        assert_eq!(counts.iter().sum::<i32>(), counts[5] + counts[7] + counts[9]);
        assert!([5, 7, 9].iter().all(|&side| (870..1130).contains(&counts[side])), "{counts:?}");
    }

    #[test]
    fn sharpening_leaves_edges_and_small_images_alone() {
        let mut canvas = Canvas::new(ImageShape { height: 3, width: 3, channels: 1 });
        canvas.load(&[0, 0, 0, 0, 130, 0, 0, 0, 0]);
        Sharpness::default().apply(&Factor(0.0), &mut canvas);
        assert_eq!(canvas.image(), [0, 0, 0, 0, 50, 0, 0, 0, 0]);
        let mut thin = Canvas::new(ImageShape { height: 2, width: 3, channels: 1 });
        thin.load(&[1, 2, 3, 4, 5, 6]);
        Sharpness::default().apply(&Factor(3.0), &mut thin);
        assert_eq!(thin.image(), [1, 2, 3, 4, 5, 6]);
    }
}
