//! An array whose element type is known only when the file is open.

use ndarray::ArrayD;

use crate::header::ElementType;

/// The content of an IDX file of any of the six element types, in row-major order and with the dimensions of the
/// header.
///
/// ```
/// use ndarray::arr2;
/// use selvedge_idx::{ElementType, IdxArray};
///
/// let array = IdxArray::from(arr2(&[[1_i16, -2], [3, 4]]).into_dyn());
/// assert_eq!(array.element_type(), ElementType::I16);
/// assert_eq!(array.shape(), [2, 2]);
/// ```
#[derive(Debug, Clone, PartialEq)]
pub enum IdxArray {
    /// Unsigned bytes.
    U8(ArrayD<u8>),
    /// Signed bytes.
    I8(ArrayD<i8>),
    /// 16-bit integers.
    I16(ArrayD<i16>),
    /// 32-bit integers.
    I32(ArrayD<i32>),
    /// Single precision.
    F32(ArrayD<f32>),
    /// Double precision.
    F64(ArrayD<f64>),
}

impl IdxArray {
    /// The type of the elements.
    #[must_use]
    pub fn element_type(&self) -> ElementType {
        match self {
            Self::U8(_) => ElementType::U8,
            Self::I8(_) => ElementType::I8,
            Self::I16(_) => ElementType::I16,
            Self::I32(_) => ElementType::I32,
            Self::F32(_) => ElementType::F32,
            Self::F64(_) => ElementType::F64,
        }
    }

    /// The dimensions.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        match self {
            Self::U8(array) => array.shape(),
            Self::I8(array) => array.shape(),
            Self::I16(array) => array.shape(),
            Self::I32(array) => array.shape(),
            Self::F32(array) => array.shape(),
            Self::F64(array) => array.shape(),
        }
    }
}
