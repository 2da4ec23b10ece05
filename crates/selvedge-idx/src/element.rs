//! The Rust types that can be elements, and their big-endian encoding.

use byteorder::{BigEndian, ByteOrder};
use ndarray::ArrayD;

use crate::array::IdxArray;
use crate::error::IdxError;
use crate::header::ElementType;

/// A type that IDX files can hold: `u8`, `i8`, `i16`, `i32`, `f32` or `f64`.
///
/// The trait is sealed: the format has these six types and no others.
pub trait IdxElement: sealed::Codec {
    /// The element type in a header.
    const TYPE: ElementType;
}

/// Elements that are decoded at a time, at most 512 KiB.
const CHUNK: usize = 1 << 16;

pub(crate) mod sealed {
    use super::{ArrayD, CHUNK, IdxArray, IdxElement, IdxError};

    /// The input that a codec reads from.
    pub trait ByteSource {
        /// An empty vector with room for `count` elements.
        fn reserve<T>(&self, count: usize) -> Result<Vec<T>, IdxError>;
        /// Fills the whole buffer.
        fn read_exact(&mut self, buffer: &mut [u8]) -> Result<(), IdxError>;
        /// Reads `count` bytes into a vector of exactly that size.
        fn read_bytes(&mut self, count: usize) -> Result<Vec<u8>, IdxError>;
    }

    /// Conversion between elements and the bytes of a file.
    pub trait Codec: Copy + Send + Sync + 'static {
        /// Decodes `bytes` and appends the elements.
        fn decode(bytes: &[u8], values: &mut Vec<Self>);

        /// Encodes `values` to `bytes`, which has exactly their size.
        fn encode(values: &[Self], bytes: &mut [u8]);

        /// Wraps an array of this type.
        fn wrap(array: ArrayD<Self>) -> IdxArray;

        /// Reads `count` elements.
        fn read<S: ByteSource>(source: &mut S, count: usize) -> Result<Vec<Self>, IdxError>
        where
            Self: IdxElement,
        {
            let size = Self::TYPE.size();
            let mut values = source.reserve(count)?;
            let mut bytes = vec![0; count.min(CHUNK) * size];
            while values.len() < count {
                let part = &mut bytes[..(count - values.len()).min(CHUNK) * size];
                source.read_exact(part)?;
                Self::decode(part, &mut values);
            }
            Ok(values)
        }
    }
}

use sealed::{ByteSource, Codec};

impl<T: IdxElement> From<ArrayD<T>> for IdxArray {
    fn from(array: ArrayD<T>) -> Self {
        T::wrap(array)
    }
}

impl IdxElement for u8 {
    const TYPE: ElementType = ElementType::U8;
}

impl Codec for u8 {
    fn decode(bytes: &[u8], values: &mut Vec<Self>) {
        values.extend_from_slice(bytes);
    }

    fn encode(values: &[Self], bytes: &mut [u8]) {
        bytes.copy_from_slice(values);
    }

    fn wrap(array: ArrayD<Self>) -> IdxArray {
        IdxArray::U8(array)
    }

    /// Bytes need no decoding, so the file is decompressed straight into the array.
    fn read<S: ByteSource>(source: &mut S, count: usize) -> Result<Vec<Self>, IdxError> {
        source.read_bytes(count)
    }
}

impl IdxElement for i8 {
    const TYPE: ElementType = ElementType::I8;
}

impl Codec for i8 {
    fn decode(bytes: &[u8], values: &mut Vec<Self>) {
        values.extend(bytes.iter().map(|byte| byte.cast_signed()));
    }

    fn encode(values: &[Self], bytes: &mut [u8]) {
        BigEndian::write_i8_into(values, bytes);
    }

    fn wrap(array: ArrayD<Self>) -> IdxArray {
        IdxArray::I8(array)
    }
}

/// Types of several bytes differ only in the names of byteorder's functions.
macro_rules! multi_byte_element {
    ($type:ty, $variant:ident, $read_into:ident, $write_into:ident) => {
        impl IdxElement for $type {
            const TYPE: ElementType = ElementType::$variant;
        }

        impl Codec for $type {
            fn decode(bytes: &[u8], values: &mut Vec<Self>) {
                let start = values.len();
                values.resize(start + bytes.len() / Self::TYPE.size(), Self::default());
                BigEndian::$read_into(bytes, &mut values[start..]);
            }

            fn encode(values: &[Self], bytes: &mut [u8]) {
                BigEndian::$write_into(values, bytes);
            }

            fn wrap(array: ArrayD<Self>) -> IdxArray {
                IdxArray::$variant(array)
            }
        }
    };
}

multi_byte_element!(i16, I16, read_i16_into, write_i16_into);
multi_byte_element!(i32, I32, read_i32_into, write_i32_into);
multi_byte_element!(f32, F32, read_f32_into, write_f32_into);
multi_byte_element!(f64, F64, read_f64_into, write_f64_into);
