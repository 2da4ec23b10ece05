//! [`Value`]: one tensor of a block of images, with its gradient.

use std::ops::Range;

use selvedge_compute::{BLOCK, BlockShape};

/// The number of a value in [`Plan::values`](crate::plan::Plan::values).
pub(crate) type ValueId = usize;

/// One tensor of a block and its gradient, as places in the block's arena, in bytes.
#[derive(Debug)]
pub(crate) struct Value {
    pub shape: BlockShape,
    /// Bytes of an element of the content, and of the gradient.
    pub element: usize,
    pub grad_element: usize,
    /// The value whose content this one shares: a residual body's input is the block's input with another gradient.
    pub same_as: Option<ValueId>,
    pub data: Range<usize>,
    /// Empty for the network's input, which needs none.
    pub grad: Range<usize>,
}

impl Value {
    /// Bytes of an image's content, channels' padding included.
    pub(crate) fn bytes_of_an_image(&self) -> usize {
        self.shape.len() / BLOCK * self.element
    }
}
