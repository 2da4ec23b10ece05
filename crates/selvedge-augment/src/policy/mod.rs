//! Operations made of operations: a choice among some, or a search space as a whole.

mod auto;
mod choice;

pub use auto::{RandAugment, TrivialAugment};
pub use choice::{OneOf, Sequential, SomeOf};

use crate::{AugmentError, Canvas, DrawnStep, ImageShape, Stream};

/// What draws among operations on one image.
pub(crate) trait Policy {
    /// The name in recipes.
    const NAME: &'static str;

    /// How probable it is that anything is done.
    fn probability(&self) -> f32;

    fn validate(&self, shape: ImageShape) -> Result<(), AugmentError>;

    /// Draws and applies.
    fn run(&self, rng: &mut Stream, canvas: &mut Canvas, record: &mut Option<&mut Vec<DrawnStep>>);
}
