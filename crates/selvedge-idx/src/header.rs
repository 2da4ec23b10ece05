//! The IDX header: two zero bytes, an element code, the rank, then one big-endian `u32` for each dimension. Nothing
//! here allocates more than the rank implies (at most 255 dimensions).
//!
//! Reference: "The IDX file format" on Yann LeCun's MNIST page.

use std::fmt;
use std::path::Path;

use byteorder::{BigEndian, ByteOrder};

use crate::error::{IdxError, Offset, Problem};

/// The six element types of IDX files. Elements of several bytes are big-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ElementType {
    /// Unsigned byte, code 0x08.
    U8 = 0x08,
    /// Signed byte, code 0x09.
    I8 = 0x09,
    /// 16-bit integer, code 0x0B.
    I16 = 0x0B,
    /// 32-bit integer, code 0x0C.
    I32 = 0x0C,
    /// IEEE 754 single precision, code 0x0D.
    F32 = 0x0D,
    /// IEEE 754 double precision, code 0x0E.
    F64 = 0x0E,
}

impl ElementType {
    /// All types, in the order of their codes.
    pub const ALL: [Self; 6] = [Self::U8, Self::I8, Self::I16, Self::I32, Self::F32, Self::F64];

    /// The third byte of the header.
    #[must_use]
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The type with a code, if there is one.
    ///
    /// ```
    /// use selvedge_idx::ElementType;
    ///
    /// assert_eq!(ElementType::from_code(0x0D), Some(ElementType::F32));
    /// assert_eq!(ElementType::from_code(0x0A), None);
    /// ```
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|element| element.code() == code)
    }

    /// The size of an element in bytes.
    #[must_use]
    pub fn size(self) -> usize {
        match self {
            Self::U8 | Self::I8 => 1,
            Self::I16 => 2,
            Self::I32 | Self::F32 => 4,
            Self::F64 => 8,
        }
    }
}

impl fmt::Display for ElementType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::U8 => "u8",
            Self::I8 => "i8",
            Self::I16 => "i16",
            Self::I32 => "i32",
            Self::F32 => "f32",
            Self::F64 => "f64",
        };
        write!(f, "{name} (code 0x{:02X})", self.code())
    }
}

/// A header whose sizes fit into the address space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) element: ElementType,
    pub(crate) dims: Vec<usize>,
}

impl Header {
    /// Bytes before the dimensions: two zeros, the element code and the rank.
    pub(crate) const MAGIC_LEN: usize = 4;

    /// Length of the header in bytes.
    pub(crate) fn len(&self) -> usize {
        Self::MAGIC_LEN + 4 * self.dims.len()
    }

    /// Number of elements; an array without dimensions has one.
    pub(crate) fn elements(&self) -> usize {
        // Cannot overflow: `decode_dims` checked the product of all factors but zeros.
        self.dims.iter().product()
    }

    /// Length of header and data in bytes.
    pub(crate) fn total(&self) -> u64 {
        self.len() as u64 + self.elements() as u64 * self.element.size() as u64
    }

    /// The dimensions for messages: `60000×28×28`.
    pub(crate) fn shape(&self) -> String {
        if self.dims.is_empty() {
            return "1".to_owned();
        }
        self.dims.iter().map(usize::to_string).collect::<Vec<_>>().join("×")
    }
}

/// Decodes the first four bytes: element type and rank.
pub(crate) fn decode_magic(
    magic: [u8; Header::MAGIC_LEN],
    file: &Path,
    at: fn(u64) -> Offset,
) -> Result<(ElementType, usize), IdxError> {
    let [zero0, zero1, code, rank] = magic;
    if (zero0, zero1) != (0, 0) {
        return Err(IdxError::invalid(
            file,
            Problem::NotIdx,
            at(0),
            "two zero bytes",
            format!("{zero0:02x} {zero1:02x}"),
            "check that this is the right file",
        ));
    }
    let element = ElementType::from_code(code).ok_or_else(|| {
        IdxError::invalid(
            file,
            Problem::UnknownElementType,
            at(2),
            "one of the codes 08, 09, 0B, 0C, 0D, 0E",
            format!("{code:02X}"),
            "the file is damaged or in another format: fetch or write it again",
        )
    })?;
    Ok((element, usize::from(rank)))
}

/// Decodes the dimensions and checks that an array of them fits into the address space.
pub(crate) fn decode_dims(
    element: ElementType,
    bytes: &[u8],
    file: &Path,
    at: fn(u64) -> Offset,
) -> Result<Header, IdxError> {
    let mut raw = vec![0_u32; bytes.len() / 4];
    BigEndian::read_u32_into(bytes, &mut raw);
    let dims: Option<Vec<usize>> = raw.iter().map(|&dim| usize::try_from(dim).ok()).collect();
    // Without the zeros, since ndarray requires this of a shape too.
    let addressable = |dims: &Vec<usize>| {
        dims.iter()
            .filter(|&&dim| dim != 0)
            .try_fold(element.size(), |product, &dim| product.checked_mul(dim))
            .is_some_and(|bytes| isize::try_from(bytes).is_ok())
    };
    dims.filter(addressable).map(|dims| Header { element, dims }).ok_or_else(|| {
        IdxError::invalid(
            file,
            Problem::Dimensions,
            at(Header::MAGIC_LEN as u64),
            format!("dimensions whose product fits in {} bytes", isize::MAX),
            raw.iter().map(u32::to_string).collect::<Vec<_>>().join("×"),
            "the file is damaged: fetch or write it again",
        )
    })
}
