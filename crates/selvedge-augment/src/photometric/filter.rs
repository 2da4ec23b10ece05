//! Blurs.

use std::fmt::{self, Display};

use serde::{Deserialize, Serialize};

use crate::canvas::{Canvas, Scratch};
use crate::check::Check;
use crate::convolve::{Kernel, groups};
use crate::error::AugmentError;
use crate::operation::{Operation, Transform};
use crate::parameter::{Padding, Span, Whole};
use crate::shape::ImageShape;
use crate::stream::Stream;
use crate::vectors::{GROUP, Group};

/// Replaces every value by the mean of the square around it.
///
/// Source: Albumentations `Blur(blur_limit=(3, 7), p=0.5)`: the side of the square is an odd number drawn uniformly,
/// and the image is continued with [`Padding::Reflect`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Blur {
    /// The side of the square in pixels, one number or `[low, high]`, from 3 to 99; even ends are raised by one.
    pub blur_limit: Whole,
    /// The probability, from 0 to 1.
    pub p: f32,
}

/// Blurs with a Gaussian kernel.
///
/// Source: Albumentations `GaussianBlur(blur_limit=0, sigma_limit=(0.5, 3), p=0.5)`: the kernel reaches `3.5 sigma`
/// pixels, truncated to a whole number, and the image is continued as by [`Blur`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GaussianBlur {
    /// The standard deviation in pixels, from 0 to 30.
    #[serde(alias = "sigma_limit")]
    pub sigma: Span<f32>,
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

/// Convolves the image with the kernel that `set` chooses; edges are mirrored.
fn filter(canvas: &mut Canvas, set: impl FnOnce(&mut Kernel)) {
    let shape = canvas.shape();
    let (row, groups) = (shape.row_len(), groups(shape));
    canvas.redraw_with(|old, new, Scratch { vectors, convolver, .. }| {
        set(&mut convolver.kernel);
        convolver.plane.resize(shape.height * groups, Group::default());
        for (to, from) in convolver.plane.chunks_exact_mut(groups).zip(old.chunks_exact(row)) {
            for (to, from) in to.iter_mut().zip(from.chunks(GROUP)) {
                to.0.iter_mut().zip(from).for_each(|(to, from)| *to = f32::from(*from));
            }
        }
        convolver.run(*vectors, shape, Padding::Reflect);
        for (to, from) in new.chunks_exact_mut(row).zip(convolver.plane.chunks_exact(groups)) {
            for (to, from) in to.chunks_mut(GROUP).zip(from) {
                to.iter_mut().zip(&from.0).for_each(|(to, from)| *to = (from + 0.5) as u8);
            }
        }
    });
}

impl Operation for Blur {
    fn probability(&self) -> f32 {
        self.p
    }

    fn check(&self, check: Check, _: ImageShape) -> Result<(), AugmentError> {
        check.span("blur_limit", self.blur_limit.0, 3..=99)
    }
}

impl Transform for Blur {
    type Drawn = BlurDrawn;

    fn draw(&self, rng: &mut Stream, _: ImageShape) -> BlurDrawn {
        let Span { low, high } = self.blur_limit.0;
        let halves = Whole(Span { low: low / 2, high: high / 2 });
        BlurDrawn(2 * halves.draw(rng) + 1)
    }

    fn apply(&self, drawn: &BlurDrawn, canvas: &mut Canvas) {
        filter(canvas, |kernel| kernel.set_mean(usize::from(drawn.0 / 2)));
    }
}

impl Operation for GaussianBlur {
    fn probability(&self) -> f32 {
        self.p
    }

    fn check(&self, check: Check, _: ImageShape) -> Result<(), AugmentError> {
        check.span("sigma", self.sigma, 0.0..=30.0)
    }
}

impl Transform for GaussianBlur {
    type Drawn = GaussianBlurDrawn;

    fn draw(&self, rng: &mut Stream, _: ImageShape) -> GaussianBlurDrawn {
        GaussianBlurDrawn(self.sigma.draw(rng))
    }

    fn apply(&self, &GaussianBlurDrawn(sigma): &GaussianBlurDrawn, canvas: &mut Canvas) {
        let reach = (sigma * 3.5) as usize;
        if reach > 0 {
            filter(canvas, |kernel| kernel.set_gaussian(sigma, reach));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::EpochKey;

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
}
