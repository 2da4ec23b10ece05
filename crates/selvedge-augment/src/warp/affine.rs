//! Rotation, shear, and general affine maps with scale and shift.

use std::fmt::{self, Display};

use serde::{Deserialize, Serialize};

use super::matrix::{Matrix, warp_affine};
use crate::canvas::Canvas;
use crate::check::Check;
use crate::error::AugmentError;
use crate::operation::{Operation, Transform};
use crate::parameter::{Limit, Padding, Span};
use crate::resample::{Border, Interpolation};
use crate::shape::ImageShape;
use crate::stream::Stream;

/// Rotates about the centre of the image.
///
/// Source: Albumentations `Rotate(limit=(-90, 90), border_mode=BORDER_CONSTANT, fill=0, p=0.5)`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rotate {
    /// The angle in degrees, counter-clockwise: `[low, high]`, or a number x for `[-x, x]`; from -180 to 180.
    pub limit: Limit,
    /// How the image is continued beyond its edges.
    pub padding: Padding,
    /// The value of zero padding, from 0 to 255.
    pub fill: u8,
    /// How values between pixels are found.
    pub interpolation: Interpolation,
    /// The probability, from 0 to 1.
    pub p: f32,
}

/// Scales, rotates, shears and shifts, in this order, about the centre of the image. The defaults change nothing.
///
/// Source: Albumentations `Affine(scale, translate_percent, rotate, shear, p=0.5)`: each value is drawn uniformly, for
/// x and y separately, and the shift is truncated to whole pixels. Recipes may also write `translate_percent` for
/// `translate`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Affine {
    /// Factors of the size, `[low, high]`, from 0.05 to 20.
    pub scale: Span<f32>,
    /// Whether both axes have the same factor.
    pub keep_ratio: bool,
    /// The shift as a share of the side, from -1 to 1: `[low, high]`, or a number x for `[-x, x]`.
    #[serde(alias = "translate_percent")]
    pub translate: Limit,
    /// The angle in degrees, counter-clockwise, from -180 to 180.
    pub rotate: Limit,
    /// The angle of the shear in degrees along each axis, from -80 to 80.
    pub shear: Limit,
    /// How the image is continued beyond its edges.
    pub padding: Padding,
    /// The value of zero padding, from 0 to 255.
    pub fill: u8,
    /// How values between pixels are found.
    pub interpolation: Interpolation,
    /// The probability, from 0 to 1.
    pub p: f32,
}

/// The parameters of a shear along one axis, about the top left corner of the image.
///
/// Source: ShearX and ShearY of AutoAugment (Cubuk et al., arXiv 1805.09501) as in torchvision: the factor is the shift
/// of each row (or column) against the one before, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Shear {
    /// The factor: `[low, high]`, or a number x for `[-x, x]`; from -2 to 2.
    pub limit: Limit,
    /// How the image is continued beyond its edges.
    pub padding: Padding,
    /// The value of zero padding, from 0 to 255.
    pub fill: u8,
    /// How values between pixels are found.
    pub interpolation: Interpolation,
    /// The probability, from 0 to 1.
    pub p: f32,
}

/// Shifts each row against the one above it; see [`Shear`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ShearX(pub Shear);

/// Shifts each column against the one to its left; see [`Shear`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ShearY(pub Shear);

/// The angle in degrees, counter-clockwise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RotateDrawn(pub f32);

/// The factor of a shear.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ShearDrawn(pub f32);

/// The drawn parameters of [`Affine`]; pairs are `[x, y]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AffineDrawn {
    /// Factors of the size.
    pub scale: [f32; 2],
    /// Shift to the right and down, in pixels.
    pub translate: [i32; 2],
    /// Angle in degrees, counter-clockwise.
    pub rotate: f32,
    /// Angles of the shear in degrees.
    pub shear: [f32; 2],
}

impl Default for Rotate {
    fn default() -> Self {
        Rotate {
            limit: Limit::around(90.0),
            padding: Padding::Zero,
            fill: 0,
            interpolation: Interpolation::Bilinear,
            p: 0.5,
        }
    }
}

impl Default for Affine {
    fn default() -> Self {
        Affine {
            scale: Span { low: 1.0, high: 1.0 },
            keep_ratio: false,
            translate: Limit::around(0.0),
            rotate: Limit::around(0.0),
            shear: Limit::around(0.0),
            padding: Padding::Zero,
            fill: 0,
            interpolation: Interpolation::Bilinear,
            p: 0.5,
        }
    }
}

impl Default for Shear {
    fn default() -> Self {
        Shear {
            limit: Limit::around(0.3),
            padding: Padding::Zero,
            fill: 0,
            interpolation: Interpolation::Bilinear,
            p: 0.5,
        }
    }
}

impl Display for RotateDrawn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1}°", self.0)
    }
}

impl Display for ShearDrawn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2}", self.0)
    }
}

impl Display for AffineDrawn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let AffineDrawn { scale, translate, rotate, shear } = self;
        write!(f, "scale {:.2} {:.2}, right {}, down {}", scale[0], scale[1], translate[0], translate[1])?;
        write!(f, ", {rotate:.1}°, shear {:.1}° {:.1}°", shear[0], shear[1])
    }
}

/// The centre of the image, (x, y).
fn centre(shape: ImageShape) -> (f64, f64) {
    (shape.width as f64 / 2.0 - 0.5, shape.height as f64 / 2.0 - 0.5)
}

/// A rotation about the centre of the image, in degrees.
fn rotation(degrees: f32, shape: ImageShape) -> Matrix {
    let (x, y) = centre(shape);
    Matrix::rotation(f64::from(degrees)).about(x, y)
}

/// A shear about the corner of the image, which is half a pixel from the centre of its first pixel. A positive factor
/// shifts lower rows to the left, as in AutoAugment.
fn shear(x: f32, y: f32) -> Matrix {
    Matrix::shear(f64::from(x), f64::from(y)).inverse().about(-0.5, -0.5)
}

impl Operation for Rotate {
    fn probability(&self) -> f32 {
        self.p
    }

    fn check(&self, check: Check, _: ImageShape) -> Result<(), AugmentError> {
        check.span("limit", self.limit.0, -180.0..=180.0)
    }
}

impl Transform for Rotate {
    type Drawn = RotateDrawn;

    fn draw(&self, rng: &mut Stream, _: ImageShape) -> RotateDrawn {
        RotateDrawn(self.limit.0.draw(rng))
    }

    fn apply(&self, drawn: &RotateDrawn, canvas: &mut Canvas) {
        let map = rotation(drawn.0, canvas.shape());
        warp_affine(canvas, map, Border { padding: self.padding, fill: self.fill }, self.interpolation);
    }
}

impl Affine {
    /// The map for drawn parameters.
    pub fn matrix(drawn: &AffineDrawn, shape: ImageShape) -> Matrix {
        let [scale_x, scale_y] = drawn.scale.map(f64::from);
        let [shear_x, shear_y] = drawn.shear.map(|degrees| f64::from(degrees).to_radians().tan());
        let (x, y) = centre(shape);
        let about_centre = Matrix::shear(-shear_x, -shear_y)
            .after(Matrix::rotation(f64::from(drawn.rotate)))
            .after(Matrix::scale(scale_x, scale_y));
        let [right, down] = drawn.translate.map(f64::from);
        Matrix::translation(right, down).after(about_centre).about(x, y)
    }
}

impl Operation for Affine {
    fn probability(&self) -> f32 {
        self.p
    }

    fn check(&self, check: Check, _: ImageShape) -> Result<(), AugmentError> {
        check.span("scale", self.scale, 0.05..=20.0)?;
        check.span("translate", self.translate.0, -1.0..=1.0)?;
        check.span("rotate", self.rotate.0, -180.0..=180.0)?;
        check.span("shear", self.shear.0, -80.0..=80.0)
    }
}

impl Transform for Affine {
    type Drawn = AffineDrawn;

    fn draw(&self, rng: &mut Stream, shape: ImageShape) -> AffineDrawn {
        let mut pair = |span: Span<f32>| [span.draw(rng), span.draw(rng)];
        let [x, y] = pair(self.translate.0);
        let shear = pair(self.shear.0);
        let [scale_x, scale_y] = pair(self.scale);
        AffineDrawn {
            translate: [(x * shape.width as f32) as i32, (y * shape.height as f32) as i32],
            shear,
            scale: [scale_x, if self.keep_ratio { scale_x } else { scale_y }],
            rotate: self.rotate.0.draw(rng),
        }
    }

    fn apply(&self, drawn: &AffineDrawn, canvas: &mut Canvas) {
        let map = Affine::matrix(drawn, canvas.shape());
        warp_affine(canvas, map, Border { padding: self.padding, fill: self.fill }, self.interpolation);
    }
}

/// The two shears differ in the axis that the factor belongs to.
macro_rules! shear_along {
    ($operation:ident, $factors:expr) => {
        impl Operation for $operation {
            fn probability(&self) -> f32 {
                self.0.p
            }

            fn check(&self, check: Check, _: ImageShape) -> Result<(), AugmentError> {
                check.span("limit", self.0.limit.0, -2.0..=2.0)
            }
        }

        impl Transform for $operation {
            type Drawn = ShearDrawn;

            fn draw(&self, rng: &mut Stream, _: ImageShape) -> ShearDrawn {
                ShearDrawn(self.0.limit.0.draw(rng))
            }

            fn apply(&self, drawn: &ShearDrawn, canvas: &mut Canvas) {
                let Shear { padding, fill, interpolation, .. } = self.0;
                let (x, y) = $factors(drawn.0);
                warp_affine(canvas, shear(x, y), Border { padding, fill }, interpolation);
            }
        }
    };
}

shear_along!(ShearX, |factor| (factor, 0.0));
shear_along!(ShearY, |factor| (0.0, factor));

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::EpochKey;

    const SHAPE: ImageShape = ImageShape { height: 28, width: 20, channels: 1 };

    #[test]
    fn the_centre_of_the_image_is_a_fixed_point() {
        let drawn = AffineDrawn { scale: [1.2, 0.8], translate: [0, 0], rotate: 33.0, shear: [5.0, -9.0] };
        let Matrix([[a, b, c], [d, e, f]]) = Affine::matrix(&drawn, SHAPE);
        let (x, y) = (9.5, 13.5);
        assert!((a * x + b * y + c - x).abs() < 1e-9 && (d * x + e * y + f - y).abs() < 1e-9);
    }

    #[test]
    fn drawn_values_stay_in_their_ranges_and_use_them() {
        let affine = Affine {
            scale: [0.8, 1.2].into(),
            translate: Limit::around(0.1),
            rotate: Limit::around(10.0),
            shear: Limit(Span { low: 0.0, high: 5.0 }),
            ..Affine::default()
        };
        let (mut mean, mut lowest, mut highest) = (0.0, f32::MAX, f32::MIN);
        for sample in 0..10_000 {
            let mut stream = Stream::for_sample(EpochKey { seed: 0, epoch: 3 }, sample).fork(0);
            let drawn = affine.draw(&mut stream, SHAPE);
            assert!(drawn.scale.iter().all(|s| (0.8..=1.2).contains(s)));
            assert!(drawn.translate[0].abs() <= 2 && drawn.translate[1].abs() <= 2);
            assert!(drawn.shear.iter().all(|s| (0.0..=5.0).contains(s)));
            mean += drawn.rotate / 10_000.0;
            lowest = lowest.min(drawn.rotate);
            highest = highest.max(drawn.rotate);
        }
        // The mean of 10,000 has a standard deviation of 0.058.
        assert!(mean.abs() < 0.3 && lowest < -9.9 && highest > 9.9, "{mean} {lowest} {highest}");
    }

    #[test]
    fn an_angle_beyond_180_degrees_is_refused() {
        let wrong = Rotate { limit: Limit::around(270.0), ..Rotate::default() };
        let message = wrong.validate(SHAPE).unwrap_err().to_string();
        assert!(message.contains("[-270, 270]") && message.contains("from -180 to 180"), "{message}");
    }
}
