//! [`Images`]: what a network sees, as bytes or as floats.

use std::ops::Range;

/// Images, `[N, height, width, channels]`.
///
/// A network normalises every number to (x − mean) / std, with mean and std of its [`crate::InputSpec`] and x in units of full
/// brightness. So bytes and the same bytes divided by 255 as floats mean the same images, up to rounding.
///
/// Whatever takes images takes slices, arrays and vectors of either, by reference:
///
/// ```
/// use selvedge_model::Images;
/// let bytes = vec![0u8, 51, 255];
/// assert!(matches!(Images::from(&bytes), Images::Bytes([0, 51, 255])));
/// assert!(matches!(Images::from(&[0.0, 0.2, 1.0]), Images::Floats([0.0, 0.2, 1.0])));
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Images<'a> {
    /// Numbers from 0 to 255, full brightness.
    Bytes(&'a [u8]),
    /// Numbers from 0 to 1, full brightness. Others are taken as they are: an augmentation may go beyond, and NaN or infinity
    /// makes the loss and the gradients of the whole batch NaN.
    Floats(&'a [f32]),
}

impl Images<'_> {
    /// Numbers of all images together.
    pub fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Floats(floats) => floats.len(),
        }
    }

    /// Whether there is no image.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The numbers in a range.
    pub(crate) fn slice(self, range: Range<usize>) -> Self {
        match self {
            Self::Bytes(bytes) => Self::Bytes(&bytes[range]),
            Self::Floats(floats) => Self::Floats(&floats[range]),
        }
    }
}

macro_rules! from_references {
    ($number:ty, $variant:ident) => {
        impl<'a> From<&'a [$number]> for Images<'a> {
            fn from(numbers: &'a [$number]) -> Self {
                Self::$variant(numbers)
            }
        }

        impl<'a> From<&'a Vec<$number>> for Images<'a> {
            fn from(numbers: &'a Vec<$number>) -> Self {
                Self::$variant(numbers)
            }
        }

        impl<'a, const N: usize> From<&'a [$number; N]> for Images<'a> {
            fn from(numbers: &'a [$number; N]) -> Self {
                Self::$variant(numbers)
            }
        }
    };
}

from_references!(u8, Bytes);
from_references!(f32, Floats);
