//! Checks of parameters: each one names the operation, the parameter, its value and the allowed values.

use std::fmt::Display;
use std::ops::RangeInclusive;

use crate::error::AugmentError;
use crate::parameter::Span;
use crate::shape::ImageShape;

/// Checks the parameters of one operation.
#[derive(Clone, Copy, Debug)]
pub struct Check {
    /// The operation's name in recipes.
    pub op: &'static str,
}

impl Check {
    /// The error for a parameter with a value that is not allowed.
    pub fn refuse(self, parameter: &'static str, found: impl Display, allowed: impl Display) -> AugmentError {
        AugmentError::Parameter { op: self.op, parameter, found: found.to_string(), allowed: allowed.to_string() }
    }

    /// Requires a probability from 0 to 1, the parameter `p`.
    ///
    /// # Errors
    /// [`AugmentError::Parameter`]
    pub fn probability(self, value: f32) -> Result<(), AugmentError> {
        self.number("p", value, 0.0..=1.0)
    }

    /// Requires a number within a range; a NaN is never within it.
    ///
    /// # Errors
    /// [`AugmentError::Parameter`]
    pub fn number<T: PartialOrd + Display>(
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

    /// Requires a span whose ends are in order and within a range.
    ///
    /// # Errors
    /// [`AugmentError::Parameter`]
    pub fn span<T: PartialOrd + Display + Copy>(
        self,
        parameter: &'static str,
        span: Span<T>,
        allowed: RangeInclusive<T>,
    ) -> Result<(), AugmentError> {
        if span.low <= span.high && allowed.contains(&span.low) && allowed.contains(&span.high) {
            return Ok(());
        }
        let allowed = format!("[low, high] with low <= high, from {} to {}", allowed.start(), allowed.end());
        Err(self.refuse(parameter, span, allowed))
    }

    /// Requires square images, for operations that exchange height and width.
    ///
    /// # Errors
    /// [`AugmentError::NotSquare`]
    pub fn square(self, shape: ImageShape) -> Result<(), AugmentError> {
        if shape.height == shape.width {
            return Ok(());
        }
        Err(AugmentError::NotSquare { op: self.op, height: shape.height, width: shape.width })
    }
}
