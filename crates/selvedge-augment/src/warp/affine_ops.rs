//! Rotation, shear, and both together with scale and shift.

use std::fmt::{self, Display};

use serde::{Deserialize, Serialize};

use super::affine::{Matrix, warp_affine};
use super::sample::{Border, Interpolation};
use crate::error::Check;
use crate::parameter::{Limit, Padding, Span};
use crate::{AugmentError, Canvas, ImageShape, Stream, Transform};

/// Rotates about the middle of the image.
///
/// Source: Albumentations `Rotate(limit=(-90, 90), border_mode=BORDER_CONSTANT, fill=0, p=0.5)`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rotate {
    /// The angle in degrees, counter-clockwise: `[low, high]`, or a number x for `[-x, x]`; from -180 to 180.
    pub limit: Limit,
    /// What comes in from beyond the edge.
    pub padding: Padding,
    /// The value that zero padding brings in, from 0 to 255.
    pub fill: u8,
    /// How values between pixels are found.
    pub interpolation: Interpolation,
    /// The probability, from 0 to 1.
    pub p: f32,
}

/// Scales, rotates, shears and shifts, in this order, about the middle of the image.
///
/// Source: Albumentations `Affine(scale, translate_percent, rotate, shear, p=0.5)`: each value drawn
/// uniformly, x and y apart; by default nothing is changed. Its `translate_percent` is `translate` here;
/// Albumentations rounds the shift towards zero to whole pixels, and so does this.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Affine {
    /// Factors `[low, high]` of the size, from 0.05 to 20.
    pub scale: Span<f32>,
    /// Whether the factor is the same for both axes.
    pub keep_ratio: bool,
    /// The shift as a share of the side, from -1 to 1: `[low, high]`, or a number x for `[-x, x]`.
    #[serde(alias = "translate_percent")]
    pub translate: Limit,
    /// The angle in degrees, counter-clockwise, from -180 to 180.
    pub rotate: Limit,
    /// The angle of the shear in degrees along each axis, from -80 to 80.
    pub shear: Limit,
    /// What comes in from beyond the edge.
    pub padding: Padding,
    /// The value that zero padding brings in, from 0 to 255.
    pub fill: u8,
    /// How values between pixels are found.
    pub interpolation: Interpolation,
    /// The probability, from 0 to 1.
    pub p: f32,
}

/// A shear along one axis, about the top left corner of the image.
///
/// Source: ShearX and ShearY of AutoAugment (Cubuk et al., arXiv 1805.09501) as torchvision has them:
/// the factor is by how many pixels one row (or column) is moved against the next.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Shear {
    /// The factor: `[low, high]`, or a number x for `[-x, x]`; from -2 to 2.
    pub limit: Limit,
    /// What comes in from beyond the edge.
    pub padding: Padding,
    /// The value that zero padding brings in, from 0 to 255.
    pub fill: u8,
    /// How values between pixels are found.
    pub interpolation: Interpolation,
    /// The probability, from 0 to 1.
    pub p: f32,
}

/// Moves each row against the one above it; see [`Shear`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ShearX(pub Shear);

/// Moves each column against the one left of it; see [`Shear`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ShearY(pub Shear);

/// The angle in degrees, counter-clockwise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RotateDrawn(pub f32);

/// The factor of a shear.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ShearDrawn(pub f32);

/// What [`Affine`] draws; pairs are `[x, y]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AffineDrawn {
    /// Factors.
    pub scale: [f32; 2],
    /// Pixels.
    pub translate: [i32; 2],
    /// Degrees, counter-clockwise.
    pub rotate: f32,
    /// Degrees.
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

/// The middle of the image, (x, y).
fn middle(shape: ImageShape) -> (f64, f64) {
    (shape.width as f64 / 2.0 - 0.5, shape.height as f64 / 2.0 - 0.5)
}

/// The map of a rotation by degrees about the middle of the image.
pub(crate) fn rotation(degrees: f32, shape: ImageShape) -> Matrix {
    let (x, y) = middle(shape);
    Matrix::rotation(f64::from(degrees)).about(x, y)
}

/// The map of a shear about the corner of the image, which is half a pixel from the middle of its
/// first pixel. A positive factor moves lower rows to the left, as AutoAugment's does.
pub(crate) fn shear(x: f32, y: f32) -> Matrix {
    Matrix::shear(f64::from(x), f64::from(y)).inverse().about(-0.5, -0.5)
}

impl Transform for Rotate {
    type Drawn = RotateDrawn;
    const NAME: &'static str = "rotate";

    fn probability(&self) -> f32 {
        self.p
    }

    fn validate(&self, _shape: ImageShape) -> Result<(), AugmentError> {
        let check = Check { op: Self::NAME };
        check.probability(self.p)?;
        check.span("limit", self.limit.0, -180.0..=180.0)
    }

    fn draw(&self, rng: &mut Stream, _shape: ImageShape) -> RotateDrawn {
        RotateDrawn(self.limit.0.draw(rng))
    }

    fn apply(&self, drawn: &RotateDrawn, canvas: &mut Canvas) {
        let map = rotation(drawn.0, canvas.shape());
        warp_affine(canvas, map, Border { padding: self.padding, fill: self.fill }, self.interpolation);
    }
}

impl Affine {
    /// The map that the drawn values stand for.
    pub fn matrix(drawn: &AffineDrawn, shape: ImageShape) -> Matrix {
        let [scale_x, scale_y] = drawn.scale.map(f64::from);
        let [shear_x, shear_y] = drawn.shear.map(|degrees| f64::from(degrees).to_radians().tan());
        let (x, y) = middle(shape);
        let about_middle = Matrix::shear(-shear_x, -shear_y)
            .after(Matrix::rotation(f64::from(drawn.rotate)))
            .after(Matrix::scale(scale_x, scale_y));
        let [right, down] = drawn.translate.map(f64::from);
        Matrix::translation(right, down).after(about_middle).about(x, y)
    }
}

impl Transform for Affine {
    type Drawn = AffineDrawn;
    const NAME: &'static str = "affine";

    fn probability(&self) -> f32 {
        self.p
    }

    fn validate(&self, _shape: ImageShape) -> Result<(), AugmentError> {
        let check = Check { op: Self::NAME };
        check.probability(self.p)?;
        check.span("scale", self.scale, 0.05..=20.0)?;
        check.span("translate", self.translate.0, -1.0..=1.0)?;
        check.span("rotate", self.rotate.0, -180.0..=180.0)?;
        check.span("shear", self.shear.0, -80.0..=80.0)
    }

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

impl Shear {
    fn check(&self, op: &'static str) -> Result<(), AugmentError> {
        let check = Check { op };
        check.probability(self.p)?;
        check.span("limit", self.limit.0, -2.0..=2.0)
    }

    fn warp(&self, canvas: &mut Canvas, x: f32, y: f32) {
        let border = Border { padding: self.padding, fill: self.fill };
        warp_affine(canvas, shear(x, y), border, self.interpolation);
    }
}

impl Transform for ShearX {
    type Drawn = ShearDrawn;
    const NAME: &'static str = "shear_x";

    fn probability(&self) -> f32 {
        self.0.p
    }

    fn validate(&self, _shape: ImageShape) -> Result<(), AugmentError> {
        self.0.check(Self::NAME)
    }

    fn draw(&self, rng: &mut Stream, _shape: ImageShape) -> ShearDrawn {
        ShearDrawn(self.0.limit.0.draw(rng))
    }

    fn apply(&self, drawn: &ShearDrawn, canvas: &mut Canvas) {
        self.0.warp(canvas, drawn.0, 0.0);
    }
}

impl Transform for ShearY {
    type Drawn = ShearDrawn;
    const NAME: &'static str = "shear_y";

    fn probability(&self) -> f32 {
        self.0.p
    }

    fn validate(&self, _shape: ImageShape) -> Result<(), AugmentError> {
        self.0.check(Self::NAME)
    }

    fn draw(&self, rng: &mut Stream, _shape: ImageShape) -> ShearDrawn {
        ShearDrawn(self.0.limit.0.draw(rng))
    }

    fn apply(&self, drawn: &ShearDrawn, canvas: &mut Canvas) {
        self.0.warp(canvas, 0.0, drawn.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::EpochKey;

    const SHAPE: ImageShape = ImageShape { height: 28, width: 20, channels: 1 };

    #[test]
    fn the_middle_of_the_image_stays_where_it_is() {
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
    fn an_angle_beyond_half_a_turn_is_refused() {
        let wrong = Rotate { limit: Limit::around(270.0), ..Rotate::default() };
        let message = wrong.validate(SHAPE).unwrap_err().to_string();
        assert!(message.contains("[-270, 270]") && message.contains("from -180 to 180"), "{message}");
    }
}
