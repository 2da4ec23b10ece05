//! The values of layer options that can be written in several ways: [`Kernel`], [`Padding`], [`Units`].

use std::fmt;

use serde::de::{self, Deserializer, SeqAccess, Visitor};
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};

/// Height and width of a convolution's kernel in pixels: written `3` for a square, or `[height, width]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Kernel {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

impl From<usize> for Kernel {
    fn from(size: usize) -> Self {
        Self { height: size, width: size }
    }
}

impl From<[usize; 2]> for Kernel {
    fn from([height, width]: [usize; 2]) -> Self {
        Self { height, width }
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.height, self.width)
    }
}

impl Serialize for Kernel {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.height == self.width {
            serializer.serialize_u64(self.height as u64)
        } else {
            [self.height, self.width].serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for Kernel {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(KernelVisitor)
    }
}

struct KernelVisitor;

impl<'de> Visitor<'de> for KernelVisitor {
    type Value = Kernel;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a kernel size such as 3, or [height, width] such as [3, 5]")
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Kernel, E> {
        size(value, &self).map(Kernel::from)
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Kernel, E> {
        signed_size(value, &self).map(Kernel::from)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sizes: A) -> Result<Kernel, A::Error> {
        let mut next = |count| sizes.next_element::<usize>()?.ok_or_else(|| de::Error::invalid_length(count, &self));
        let kernel = Kernel { height: next(0)?, width: next(1)? };
        match sizes.next_element::<de::IgnoredAny>()? {
            None => Ok(kernel),
            Some(_) => Err(de::Error::invalid_length(3, &self)),
        }
    }
}

/// The zeros around a convolution's input: written `"same"`, `"valid"`, or a number of pixels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Padding {
    /// As many zeros as make the output `ceil(size / stride)` pixels; of an odd number the larger half lies below and to
    /// the right, as in Keras.
    #[default]
    Same,
    /// None.
    Valid,
    /// This many on each of the four sides.
    Pixels(usize),
}

impl fmt::Display for Padding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Padding::Same => f.write_str("same"),
            Padding::Valid => f.write_str("valid"),
            Padding::Pixels(pixels) => pixels.fmt(f),
        }
    }
}

impl Serialize for Padding {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Padding::Same => serializer.serialize_str("same"),
            Padding::Valid => serializer.serialize_str("valid"),
            Padding::Pixels(pixels) => serializer.serialize_u64(*pixels as u64),
        }
    }
}

impl<'de> Deserialize<'de> for Padding {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PaddingVisitor)
    }
}

struct PaddingVisitor;

impl Visitor<'_> for PaddingVisitor {
    type Value = Padding;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"same\", \"valid\", or a number of pixels")
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Padding, E> {
        match value {
            "same" => Ok(Padding::Same),
            "valid" => Ok(Padding::Valid),
            _ => Err(E::invalid_value(de::Unexpected::Str(value), &self)),
        }
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Padding, E> {
        size(value, &self).map(Padding::Pixels)
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Padding, E> {
        signed_size(value, &self).map(Padding::Pixels)
    }
}

/// How many outputs a dense layer has: written as a number, or `"classes"` for the network's number of classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Units {
    /// This many.
    Count(usize),
    /// One for each class.
    Classes,
}

impl Units {
    /// The number, in a network of `classes` classes.
    pub fn count(self, classes: usize) -> usize {
        match self {
            Units::Count(count) => count,
            Units::Classes => classes,
        }
    }
}

impl From<usize> for Units {
    fn from(count: usize) -> Self {
        Units::Count(count)
    }
}

impl Serialize for Units {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Units::Count(count) => serializer.serialize_u64(*count as u64),
            Units::Classes => serializer.serialize_str("classes"),
        }
    }
}

impl<'de> Deserialize<'de> for Units {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UnitsVisitor)
    }
}

struct UnitsVisitor;

impl Visitor<'_> for UnitsVisitor {
    type Value = Units;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number of units, or \"classes\"")
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Units, E> {
        match value {
            "classes" => Ok(Units::Classes),
            _ => Err(E::invalid_value(de::Unexpected::Str(value), &self)),
        }
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Units, E> {
        size(value, &self).map(Units::Count)
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Units, E> {
        signed_size(value, &self).map(Units::Count)
    }
}

fn size<E: de::Error>(value: u64, expected: &dyn de::Expected) -> Result<usize, E> {
    usize::try_from(value).map_err(|_| E::invalid_value(de::Unexpected::Unsigned(value), expected))
}

fn signed_size<E: de::Error>(value: i64, expected: &dyn de::Expected) -> Result<usize, E> {
    usize::try_from(value).map_err(|_| E::invalid_value(de::Unexpected::Signed(value), expected))
}
