//! Assertions that the operands of the gradient of the weights have the lengths of the shape. The SAFETY sentences of the
//! kernels rest on them.

use std::ops::Range;

use super::{Blocks, row_buffers};
use crate::conv::Conv2dShape;
use crate::conv::panel::assert_padded;

/// Compares the lengths of blocks of repacked tensors, and of the gradient of `panels`, with the shape.
pub(in crate::conv) fn check_blocks<E>(
    shape: &Conv2dShape,
    x: &Blocks<'_, E>,
    dy: &Blocks<'_, E>,
    panels: &Range<usize>,
    dweights: &[f32],
) {
    assert_padded(shape.input.channel_stride);
    x.check(shape.input.len(), "x");
    dy.check(shape.output.len(), "dy");
    assert_eq!(x.count, dy.count, "blocks of x and of dy");
    assert!(panels.start <= panels.end && panels.end <= shape.panels(), "panels {panels:?} of {}", shape.panels());
    assert_eq!(dweights.len(), panels.len() * shape.panel_len(), "the gradient's length and that of panels {panels:?}");
}

/// Compares the lengths of one block's tensors, of the ring buffers of their rows, and of the gradient with the shape.
pub(in crate::conv) fn check_block(
    shape: &Conv2dShape,
    [x, dy]: [usize; 2],
    [x_rows, dy_rows]: [usize; 2],
    dweights: &[f32],
) {
    assert_eq!(x, shape.input.len(), "x's length and that of {:?}", shape.input);
    assert_eq!(dy, shape.output.len(), "dy's length and that of {:?}", shape.output);
    assert_eq!([x_rows, dy_rows], row_buffers(shape), "the buffers' lengths and those of {shape:?}");
    assert_eq!(dweights.len(), shape.weights_len(), "the gradient's length and that of {shape:?}");
}
