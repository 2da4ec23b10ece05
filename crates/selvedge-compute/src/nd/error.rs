//! [`ArrayError`]: what an operation says of arrays that do not fit it.

use thiserror::Error;

/// Why an operation on arrays cannot run. Nothing has been computed.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum ArrayError {
    /// An array's shape does not fit the other arguments.
    #[error("{operation}: {array} has shape {found:?}, expected {expected:?}: {why}")]
    Shape {
        /// The function that was called.
        operation: &'static str,
        /// The argument.
        array: &'static str,
        /// Its shape.
        found: Vec<usize>,
        /// The shape that the other arguments ask for.
        expected: Vec<usize>,
        /// Where the expectation comes from.
        why: &'static str,
    },
    /// An array has no elements along an axis that needs some.
    #[error("{operation}: {array} has shape {found:?}: {axes} must be at least 1")]
    Empty {
        /// The function that was called.
        operation: &'static str,
        /// The argument.
        array: &'static str,
        /// Its shape.
        found: Vec<usize>,
        /// The axes that must not be 0.
        axes: &'static str,
    },
    /// A kernel or a pooling window that does not fit into the image, or does not move.
    #[error(
        "{operation}: {what} of {}x{} pixels, {} and {} pixels apart, does not fit into an image of {}x{} pixels{}: \
         size and stride must be at least 1, and the size at most the image's",
        size[0], size[1], stride[0], stride[1], image[0], image[1],
        if *padding == [0, 0] { String::new() } else { format!(" and {padding:?} rows and columns of padding on each side") }
    )]
    Window {
        /// The function that was called.
        operation: &'static str,
        /// A kernel or a window.
        what: &'static str,
        /// Its height and width.
        size: [usize; 2],
        /// From one to the next, down and to the right.
        stride: [usize; 2],
        /// The image's height and width.
        image: [usize; 2],
        /// Rows above and below the image, columns left and right of it.
        padding: [usize; 2],
    },
    /// A pooling window with more pixels than an index can number.
    #[error("{operation}: a window of {}x{} pixels has more than {most} of them", size[0], size[1])]
    LargeWindow {
        /// The function that was called.
        operation: &'static str,
        /// Its height and width.
        size: [usize; 2],
        /// The most pixels that it may have.
        most: usize,
    },
    /// A label that names no class.
    #[error("{operation}: image {image} has label {label}, expected one below the {classes} classes of the logits")]
    Label {
        /// The function that was called.
        operation: &'static str,
        /// The image's number in the batch.
        image: usize,
        /// Its label.
        label: u8,
        /// How many classes the logits have.
        classes: usize,
    },
    /// A number outside of its range.
    #[error("{operation}: {argument} is {found}, expected {expected}")]
    Value {
        /// The function that was called.
        operation: &'static str,
        /// The argument.
        argument: &'static str,
        /// Its value.
        found: f32,
        /// The range.
        expected: &'static str,
    },
    /// An array that does not fit into the address space once it is padded.
    #[error(
        "{operation}: {array} of shape {found:?} would not fit into the address space, once channels are padded to 16 and \
         images to 32: use a smaller one"
    )]
    TooLarge {
        /// The function that was called.
        operation: &'static str,
        /// The argument, or the result.
        array: &'static str,
        /// Its shape.
        found: Vec<usize>,
    },
}

/// Checks the arguments of an operation, whose name its errors begin with.
#[derive(Clone, Copy)]
pub(super) struct Call(pub &'static str);

impl Call {
    /// That an array has a shape.
    pub(super) fn shape(
        self,
        array: &'static str,
        found: &[usize],
        expected: &[usize],
        why: &'static str,
    ) -> Result<(), ArrayError> {
        if found == expected {
            return Ok(());
        }
        let (found, expected) = (found.to_vec(), expected.to_vec());
        Err(ArrayError::Shape { operation: self.0, array, found, expected, why })
    }

    /// That none of `axes` of an array is 0, which are called `names`.
    pub(super) fn not_empty(
        self,
        array: &'static str,
        found: &[usize],
        axes: &[usize],
        names: &'static str,
    ) -> Result<(), ArrayError> {
        if axes.iter().all(|&axis| found[axis] > 0) {
            return Ok(());
        }
        Err(ArrayError::Empty { operation: self.0, array, found: found.to_vec(), axes: names })
    }

    /// That each pixel of a batch of images has pixels and channels.
    pub(super) fn images(self, array: &'static str, found: &[usize]) -> Result<(), ArrayError> {
        self.not_empty(array, found, &[1, 2, 3], "rows, columns and channels")
    }

    /// That a number is in its range.
    pub(super) fn value(
        self,
        argument: &'static str,
        found: f32,
        is_in_range: bool,
        expected: &'static str,
    ) -> Result<(), ArrayError> {
        if is_in_range { Ok(()) } else { Err(ArrayError::Value { operation: self.0, argument, found, expected }) }
    }
    /// That an array of `found`, which takes `padded` numbers of `bytes` along its axes, fits into the address space.
    pub(super) fn fits(
        self,
        array: &'static str,
        found: &[usize],
        padded: &[usize],
        bytes: usize,
    ) -> Result<(), ArrayError> {
        let len = padded.iter().try_fold(bytes, |product, &axis| product.checked_mul(axis));
        if len.is_some_and(|len| isize::try_from(len).is_ok()) {
            return Ok(());
        }
        Err(ArrayError::TooLarge { operation: self.0, array, found: found.to_vec() })
    }
}
