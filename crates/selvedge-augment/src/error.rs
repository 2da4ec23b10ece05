//! What a chain of augmentations is refused for, and the checks of parameters.

use std::fmt::Display;
use std::ops::RangeInclusive;

use crate::parameter::Span;

/// Why a chain of augmentations cannot be used.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum AugmentError {
    /// A parameter is outside of its range.
    #[error("augmentation `{op}`: {parameter} = {found} is not allowed: {allowed}")]
    Parameter {
        /// The operation, as a recipe names it.
        op: &'static str,
        /// The parameter.
        parameter: &'static str,
        /// Its value.
        found: String,
        /// What is allowed.
        allowed: String,
    },
    /// The operation would change the height and width of the image.
    #[error(
        "augmentation `{op}` exchanges height and width and needs square images, but they are {height} by {width}: leave it out"
    )]
    NotSquare {
        /// The operation.
        op: &'static str,
        /// Rows of the images.
        height: usize,
        /// Columns of the images.
        width: usize,
    },
    /// Images without pixels or of a side that positions in them cannot be counted in, or a number of
    /// classes that labels of one byte cannot tell apart.
    #[error("{what} = {found} cannot be augmented: it must be from 1 to {largest}")]
    Size {
        /// The height, the width, the number of channels or of classes.
        what: &'static str,
        /// Its value.
        found: usize,
        /// What is possible.
        largest: usize,
    },
    /// An operation on one image stands behind, or a mixing operation stands inside, the wrong thing.
    #[error("augmentation `{op}` {problem}")]
    Placement {
        /// The operation.
        op: &'static str,
        /// What is wrong, and what to do.
        problem: String,
    },
}

/// Checks the parameters of one operation; every check names the operation and the allowed values.
#[derive(Clone, Copy)]
pub(crate) struct Check {
    pub(crate) op: &'static str,
}

impl Check {
    pub(crate) fn refuse(self, parameter: &'static str, found: impl Display, allowed: impl Display) -> AugmentError {
        AugmentError::Parameter { op: self.op, parameter, found: found.to_string(), allowed: allowed.to_string() }
    }

    /// A probability.
    pub(crate) fn probability(self, value: f32) -> Result<(), AugmentError> {
        self.number("p", value, 0.0..=1.0)
    }

    pub(crate) fn number<T: PartialOrd + Display>(
        self,
        parameter: &'static str,
        value: T,
        allowed: RangeInclusive<T>,
    ) -> Result<(), AugmentError> {
        if allowed.contains(&value) {
            return Ok(());
        }
        Err(self.refuse(parameter, value, format_args!("from {} to {}", allowed.start(), allowed.end())))
    }

    /// A range whose ends are in order and allowed.
    pub(crate) fn span<T: PartialOrd + Display + Copy>(
        self,
        parameter: &'static str,
        span: Span<T>,
        allowed: RangeInclusive<T>,
    ) -> Result<(), AugmentError> {
        if span.low <= span.high && allowed.contains(&span.low) && allowed.contains(&span.high) {
            return Ok(());
        }
        let allowed =
            format_args!("[low, high] with low <= high, from {} to {}", allowed.start(), allowed.end()).to_string();
        Err(self.refuse(parameter, span, allowed))
    }
}
