//! What every operation does: it checks its parameters, draws, and applies what it drew.

use std::fmt::{self, Display};

use crate::canvas::Canvas;
use crate::check::Check;
use crate::error::AugmentError;
use crate::shape::ImageShape;
use crate::stream::Stream;

/// The name of an operation in recipes. The table in `augmentation.rs` gives each operation its name.
pub trait Named {
    /// The name.
    const NAME: &'static str;
}

/// An operation with its parameters.
pub trait Operation: Named {
    /// The probability that the operation is carried out, from 0 to 1.
    fn probability(&self) -> f32;

    /// Checks the parameters other than the probability, for images of a shape.
    ///
    /// # Errors
    /// A parameter that is not allowed, or a shape that the operation cannot take.
    fn check(&self, _check: Check, _shape: ImageShape) -> Result<(), AugmentError> {
        Ok(())
    }

    /// Checks the probability and the parameters, for images of a shape.
    ///
    /// # Errors
    /// A parameter that is not allowed, or a shape that the operation cannot take.
    fn validate(&self, shape: ImageShape) -> Result<(), AugmentError> {
        let check = Check { op: Self::NAME };
        check.probability(self.probability())?;
        self.check(check, shape)
    }
}

/// An operation on one image.
///
/// Drawing and applying are separate, so that drawn parameters can be shown, tested, or given.
///
/// ```
/// use selvedge_augment::geometric::{Translate, TranslateDrawn};
/// use selvedge_augment::{Canvas, ImageShape, Transform};
///
/// let mut canvas = Canvas::new(ImageShape { height: 1, width: 4, channels: 1 });
/// canvas.load(&[1, 2, 3, 4]);
/// Translate::default().apply(&TranslateDrawn { dy: 0, dx: 1 }, &mut canvas);
/// assert_eq!(canvas.image(), [0, 1, 2, 3]);
/// ```
pub trait Transform: Operation {
    /// The parameters that are drawn for one image; a contact sheet prints their `Display`.
    type Drawn: Display;

    /// Draws the parameters for one image. The operation must be valid for the shape.
    fn draw(&self, rng: &mut Stream, shape: ImageShape) -> Self::Drawn;

    /// Changes the image according to drawn parameters.
    fn apply(&self, drawn: &Self::Drawn, canvas: &mut Canvas);
}

/// An operation on one image that draws nothing but whether it is carried out. It is a [`Transform`] as well.
pub trait FixedTransform: Operation {
    /// Changes the image.
    fn change(&self, canvas: &mut Canvas);
}

/// What a [`FixedTransform`] draws: nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied;

impl Display for Applied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("applied")
    }
}

impl<T: FixedTransform> Transform for T {
    type Drawn = Applied;

    fn draw(&self, _: &mut Stream, _: ImageShape) -> Applied {
        Applied
    }

    fn apply(&self, _: &Applied, canvas: &mut Canvas) {
        self.change(canvas);
    }
}

/// An operation that draws among operations on one image.
pub(crate) trait Policy: Operation {
    /// Draws and applies; a record, if there is one, gets what was drawn.
    fn run(&self, rng: &mut Stream, canvas: &mut Canvas, record: &mut Option<&mut Vec<DrawnStep>>);
}

/// An operation that was carried out on an image, with what it drew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrawnStep {
    /// The operation, as recipes name it.
    pub op: &'static str,
    /// The drawn parameters, for a person to read.
    pub parameters: String,
}

impl Display for DrawnStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.op, self.parameters)
    }
}

/// Draws whether the operation is carried out (`forced` skips this), draws its parameters and applies it. A record, if
/// there is one, gets what was drawn.
#[inline]
pub(crate) fn run<T: Transform>(
    transform: &T,
    forced: bool,
    rng: &mut Stream,
    canvas: &mut Canvas,
    record: &mut Option<&mut Vec<DrawnStep>>,
) {
    if !(forced || rng.chance(transform.probability())) {
        return;
    }
    let drawn = transform.draw(rng, canvas.shape());
    if let Some(steps) = record {
        steps.push(DrawnStep { op: T::NAME, parameters: drawn.to_string() });
    }
    transform.apply(&drawn, canvas);
}
