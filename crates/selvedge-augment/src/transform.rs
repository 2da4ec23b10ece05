//! What every operation on one image can do: check itself, draw, and apply what was drawn.

use std::fmt::{self, Display};

use crate::{AugmentError, Canvas, ImageShape, Stream};

/// An operation on one image.
///
/// Drawing and applying are apart, so that drawn parameters can be shown, tested, or given.
///
/// ```
/// use selvedge_augment::{Canvas, EpochKey, ImageShape, Stream, Transform};
/// use selvedge_augment::geometric::{Translate, TranslateDrawn};
///
/// let shape = ImageShape { height: 1, width: 4, channels: 1 };
/// let mut canvas = Canvas::new(shape);
/// canvas.load(&[1, 2, 3, 4]);
/// Translate::default().apply(&TranslateDrawn { dy: 0, dx: 1 }, &mut canvas);
/// assert_eq!(canvas.image(), [0, 1, 2, 3]);
/// ```
pub trait Transform {
    /// The parameters that are drawn for one image; `Display` is what a contact sheet prints.
    type Drawn: Display;

    /// The name in recipes.
    const NAME: &'static str;

    /// How probable it is that an image is changed at all.
    fn probability(&self) -> f32;

    /// Refuses parameters outside of their range, and shapes that the operation cannot take.
    fn validate(&self, shape: ImageShape) -> Result<(), AugmentError>;

    /// The parameters for one image; the operation must be valid for the shape.
    fn draw(&self, rng: &mut Stream, shape: ImageShape) -> Self::Drawn;

    /// Changes the image as drawn.
    fn apply(&self, drawn: &Self::Drawn, canvas: &mut Canvas);
}

/// One operation that was carried out on an image, with what it drew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrawnStep {
    /// The operation, as recipes name it.
    pub op: &'static str,
    /// The drawn parameters, to be read by a person.
    pub parameters: String,
}

impl Display for DrawnStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.op, self.parameters)
    }
}

/// Draws whether (unless it is forced) and how, and applies it; what was done is recorded where a record
/// is wanted.
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
