//! Dense layers of arrays: the convolution of images of one pixel.

use ndarray::{Array1, Array2, ArrayView1, ArrayView2, ArrayView4, Axis};

use super::conv::{self, Options};
use super::error::{ArrayError, Call};
use crate::Cpu;

/// The gradients of a dense layer's arguments.
#[derive(Clone, Debug, PartialEq)]
pub struct Gradients {
    /// By the input, `[image, in]`.
    pub dx: Array2<f32>,
    /// By the weights, `[in, out]`.
    pub dweights: Array2<f32>,
    /// By the bias.
    pub dbias: Array1<f32>,
}

/// y = x · weights + bias with x `[image, in]` and weights `[in, out]`; PyTorch's `[out, in]` are passed as `weights.t()`.
///
/// To flatten images, reshape them: `y.to_shape((images, height * width * channels))`.
///
/// # Errors
/// If there are no inputs or outputs, or `weights` or `bias` do not fit.
///
/// ```
/// use ndarray::array;
/// use selvedge_compute::{Cpu, nd::dense};
/// let (x, weights, bias) = (array![[1.0, 2.0]], array![[1.0, 0.0, 3.0], [0.0, 1.0, 1.0]], array![0.5, 0.0, 0.0]);
/// let y = dense::forward(Cpu::detect()?, x.view(), weights.view(), Some(bias.view()))?;
/// assert_eq!(y, array![[1.5, 2.0, 5.0]]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn forward(
    cpu: Cpu,
    x: ArrayView2<'_, f32>,
    weights: ArrayView2<'_, f32>,
    bias: Option<ArrayView1<'_, f32>>,
) -> Result<Array2<f32>, ArrayError> {
    let call = Call("nd::dense::forward");
    check(call, x, weights)?;
    let y = conv::run_forward(call, cpu, Options::VALID, as_images(x), as_kernel(weights), bias)?;
    Ok(y.index_axis_move(Axis(1), 0).index_axis_move(Axis(1), 0))
}

/// The gradients of x, weights and bias from that of y.
///
/// # Errors
/// As [`forward`], or if `dy` is not `[image, out]`.
///
/// ```
/// use ndarray::array;
/// use selvedge_compute::{Cpu, nd::dense};
/// let (x, weights, dy) = (array![[1.0, 2.0]], array![[1.0], [3.0]], array![[2.0]]);
/// let gradients = dense::backward(Cpu::detect()?, x.view(), weights.view(), dy.view())?;
/// assert_eq!((gradients.dx, gradients.dweights), (array![[2.0, 6.0]], array![[2.0], [4.0]]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn backward(
    cpu: Cpu,
    x: ArrayView2<'_, f32>,
    weights: ArrayView2<'_, f32>,
    dy: ArrayView2<'_, f32>,
) -> Result<Gradients, ArrayError> {
    let call = Call("nd::dense::backward");
    check(call, x, weights)?;
    call.shape("dy", dy.shape(), &[x.nrows(), weights.ncols()], "the shape of the result")?;
    let of_pixel = conv::run_backward(call, cpu, Options::VALID, as_images(x), as_kernel(weights), as_images(dy))?;
    Ok(Gradients {
        dx: of_pixel.dx.index_axis_move(Axis(1), 0).index_axis_move(Axis(1), 0),
        dweights: of_pixel.dweights.index_axis_move(Axis(0), 0).index_axis_move(Axis(0), 0),
        dbias: of_pixel.dbias,
    })
}

fn check(call: Call, x: ArrayView2<'_, f32>, weights: ArrayView2<'_, f32>) -> Result<(), ArrayError> {
    let expected = [x.ncols(), weights.ncols()];
    call.shape("weights", weights.shape(), &expected, "[in, out] with as many inputs as x has columns")?;
    call.not_empty("weights", weights.shape(), &[0, 1], "inputs and outputs")
}

/// `[image, 1, 1, channel]`
fn as_images(x: ArrayView2<'_, f32>) -> ArrayView4<'_, f32> {
    x.insert_axis(Axis(1)).insert_axis(Axis(1))
}

/// `[1, 1, in, out]`
fn as_kernel(weights: ArrayView2<'_, f32>) -> ArrayView4<'_, f32> {
    weights.insert_axis(Axis(0)).insert_axis(Axis(0))
}
