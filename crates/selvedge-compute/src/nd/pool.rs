//! Pooling of arrays: [`crate::pool`] on a batch `[image, row, column, channel]`.

use std::ops::Range;

use ndarray::{Array4, ArrayView4};
use rayon::prelude::*;

use super::blocks::BlockTensor;
use super::error::{ArrayError, Call};
use crate::Cpu;
use crate::layout::BlockShape;
use crate::pool::{self, Pool2dShape};

/// Windows over an image without padding; those that do not fit at the right and lower edge are left out, as in PyTorch and
/// in Keras' "valid".
///
/// ```
/// use selvedge_compute::nd::pool::Window;
/// let window = Window::square(2);
/// assert_eq!(window, Window { size: [2, 2], stride: [2, 2] });
/// let global = Window::global([7, 7]);
/// assert_eq!(global.size, [7, 7]);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Window {
    /// Height and width.
    pub size: [usize; 2],
    /// Rows and columns of pixels from one window to the next.
    pub stride: [usize; 2],
}

impl Window {
    /// Windows of `size` × `size` pixels, without gap or overlap.
    pub const fn square(size: usize) -> Self {
        Self { size: [size; 2], stride: [size; 2] }
    }

    /// One window of the whole image, of these rows and columns: the result has one pixel.
    pub const fn global(image: [usize; 2]) -> Self {
        Self { size: image, stride: [1, 1] }
    }

    /// The kernels' shape for images of this shape.
    fn on(self, call: Call, input: BlockShape) -> Result<Pool2dShape, ArrayError> {
        /// Pixels that a u16 can number.
        const MOST: usize = 1 << 16;
        let ([height, width], image) = (self.size, [input.height, input.width]);
        if height == 0 || width == 0 || self.stride.contains(&0) || height > image[0] || width > image[1] {
            return Err(ArrayError::Window {
                operation: call.0,
                what: "a window",
                size: self.size,
                stride: self.stride,
                image,
                padding: [0, 0],
            });
        }
        if height.saturating_mul(width) > MOST {
            return Err(ArrayError::LargeWindow { operation: call.0, size: self.size, most: MOST });
        }
        Ok(Pool2dShape::new(input, self.size, self.stride))
    }
}

/// What [`max_forward`] gives.
#[derive(Clone, Debug, PartialEq)]
pub struct MaxPooled {
    /// The largest element of each window.
    pub y: Array4<f32>,
    /// Which of the window's pixels it is, counted row by row; the first if several are. PyTorch counts in the image instead.
    pub indices: Array4<u16>,
}

/// The largest element of each window, and where it is.
///
/// # Errors
/// If the image has no pixels or channels, or the window does not fit into it.
///
/// ```
/// use ndarray::{Array4, array};
/// use selvedge_compute::{Cpu, nd::pool::{self, Window}};
/// let (cpu, window) = (Cpu::detect()?, Window::square(2));
/// let x = array![[1.0, 2.0], [4.0, 3.0]].into_shape_with_order((1, 2, 2, 1))?;
/// let pooled = pool::max_forward(cpu, window, x.view())?;
/// assert_eq!((pooled.y[[0, 0, 0, 0]], pooled.indices[[0, 0, 0, 0]]), (4.0, 2));
/// let dx = pool::max_backward(cpu, window, [2, 2], pooled.indices.view(), Array4::ones((1, 1, 1, 1)).view())?;
/// assert_eq!(dx[[0, 1, 0, 0]], 1.0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn max_forward(cpu: Cpu, window: Window, x: ArrayView4<'_, f32>) -> Result<MaxPooled, ArrayError> {
    let call = Call("nd::pool::max_forward");
    let (x, shape) = packed_input(call, window, x)?;
    let output = shape.output();
    let mut y = BlockTensor::allocate(call, output, x.images())?;
    let mut indices = BlockTensor::<u16>::allocate(call, output, x.images())?;
    let results =
        y.as_mut_slice().par_chunks_mut(output.row()).zip(indices.as_mut_slice().par_chunks_mut(output.row()));
    results.enumerate().for_each(|(number, (y, indices))| {
        let (block, row) = (number / output.height, number % output.height);
        pool::max_forward(cpu, &shape, row..row + 1, x.block(block), y, Some(indices));
    });
    Ok(MaxPooled { y: y.to_array(), indices: indices.to_array() })
}

/// The gradient of x from that of y: each window's `dy` goes to the pixel that `indices` names.
///
/// `input` is the height and width of x.
///
/// # Errors
/// If the window does not fit into such images, or `dy` and `indices` are not of the result's shape.
pub fn max_backward(
    cpu: Cpu,
    window: Window,
    input: [usize; 2],
    indices: ArrayView4<'_, u16>,
    dy: ArrayView4<'_, f32>,
) -> Result<Array4<f32>, ArrayError> {
    let call = Call("nd::pool::max_backward");
    call.shape("indices", indices.shape(), dy.shape(), "the shape of dy")?;
    let (dy, shape) = packed_gradient(call, window, input, dy)?;
    let indices = BlockTensor::packed(call, indices, BlockShape::new)?;
    backward(call, &shape, &dy, |block, rows, dy, dx| {
        pool::max_backward(cpu, &shape, rows, dy, indices.block(block), dx);
    })
}

/// The mean of each window.
///
/// # Errors
/// As [`max_forward`].
///
/// ```
/// use ndarray::array;
/// use selvedge_compute::{Cpu, nd::pool::{self, Window}};
/// let x = array![[1.0, 2.0], [4.0, 3.0]].into_shape_with_order((1, 2, 2, 1))?;
/// let y = pool::average_forward(Cpu::detect()?, Window::global([2, 2]), x.view())?;
/// assert_eq!(y[[0, 0, 0, 0]], 2.5);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn average_forward(cpu: Cpu, window: Window, x: ArrayView4<'_, f32>) -> Result<Array4<f32>, ArrayError> {
    let call = Call("nd::pool::average_forward");
    let (x, shape) = packed_input(call, window, x)?;
    let output = shape.output();
    let mut y = BlockTensor::allocate(call, output, x.images())?;
    y.as_mut_slice().par_chunks_mut(output.row()).enumerate().for_each(|(number, y)| {
        let (block, row) = (number / output.height, number % output.height);
        pool::average_forward(cpu, &shape, row..row + 1, x.block(block), y);
    });
    Ok(y.to_array())
}

/// The gradient of x from that of y: each window's `dy` is shared by its pixels.
///
/// `input` is the height and width of x.
///
/// # Errors
/// As [`max_backward`].
pub fn average_backward(
    cpu: Cpu,
    window: Window,
    input: [usize; 2],
    dy: ArrayView4<'_, f32>,
) -> Result<Array4<f32>, ArrayError> {
    let call = Call("nd::pool::average_backward");
    let (dy, shape) = packed_gradient(call, window, input, dy)?;
    backward(call, &shape, &dy, |_, rows, dy, dx| pool::average_backward(cpu, &shape, rows, dy, dx))
}

/// x in blocks, and the kernels' shape.
fn packed_input(
    call: Call,
    window: Window,
    x: ArrayView4<'_, f32>,
) -> Result<(BlockTensor<f32>, Pool2dShape), ArrayError> {
    call.images("x", x.shape())?;
    let (_, height, width, channels) = x.dim();
    let shape = window.on(call, BlockShape::new(height, width, channels))?;
    Ok((BlockTensor::packed(call, x, BlockShape::new)?, shape))
}

/// dy in blocks, and the kernels' shape.
fn packed_gradient(
    call: Call,
    window: Window,
    [height, width]: [usize; 2],
    dy: ArrayView4<'_, f32>,
) -> Result<(BlockTensor<f32>, Pool2dShape), ArrayError> {
    let (images, _, _, channels) = dy.dim();
    let shape = window.on(call, BlockShape::new(height, width, channels))?;
    let output = shape.output();
    let expected = [images, output.height, output.width, channels];
    call.shape("dy", dy.shape(), &expected, "the shape of what was pooled")?;
    call.images("dy", dy.shape())?;
    Ok((BlockTensor::packed(call, dy, BlockShape::new)?, shape))
}

/// Runs a backward pass on each row of each block of dx, with the block's number, the row, and the block's dy.
fn backward(
    call: Call,
    shape: &Pool2dShape,
    dy: &BlockTensor<f32>,
    run: impl Fn(usize, Range<usize>, &[f32], &mut [f32]) + Sync,
) -> Result<Array4<f32>, ArrayError> {
    let input = shape.input();
    let mut dx = BlockTensor::allocate(call, input, dy.images())?;
    dx.as_mut_slice().par_chunks_mut(input.row()).enumerate().for_each(|(number, dx)| {
        let (block, row) = (number / input.height, number % input.height);
        run(block, row..row + 1, dy.block(block), dx);
    });
    Ok(dx.to_array())
}
