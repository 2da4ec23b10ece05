//! Ranges of the values in a recipe, and the refusal of a value outside its range.

use std::fmt::Display;

/// A value that a recipe may not have: its key, as a dotted path, and the problem.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) key: String,
    pub(crate) problem: String,
}

impl Refusal {
    pub(crate) fn new(key: &str, found: impl Display, allowed: impl Display) -> Self {
        Self { key: key.to_owned(), problem: format!("{found} is not possible: {allowed}") }
    }

    /// The refusal of a key that lies in `table`.
    pub(crate) fn within(self, table: &str) -> Self {
        Self { key: format!("{table}.{}", self.key), ..self }
    }
}

/// The values that a number may have.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Range {
    /// From 0 to 1.
    Unit,
    /// From 0 to below 1.
    BelowOne,
    /// Above 0.
    Positive,
    /// 0 or above.
    NotNegative,
    /// Any number.
    Finite,
}

impl Range {
    fn holds(self, value: f64) -> bool {
        value.is_finite()
            && match self {
                Self::Unit => (0.0..=1.0).contains(&value),
                Self::BelowOne => (0.0..1.0).contains(&value),
                Self::Positive => value > 0.0,
                Self::NotNegative => value >= 0.0,
                Self::Finite => true,
            }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Unit => "a number from 0 to 1",
            Self::BelowOne => "a number from 0 to below 1",
            Self::Positive => "a number above 0",
            Self::NotNegative => "a number of 0 or above",
            Self::Finite => "a finite number",
        }
    }
}

/// Refuses a value outside its range.
pub(crate) fn number(key: &str, value: f64, range: Range) -> Result<(), Refusal> {
    if range.holds(value) { Ok(()) } else { Err(Refusal::new(key, value, range.words())) }
}
