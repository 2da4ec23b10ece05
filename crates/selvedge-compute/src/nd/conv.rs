//! Convolutions of arrays: [`crate::conv`] on a batch `[image, row, column, channel]`, by the fastest algorithm for the shape.

use ndarray::{Array1, Array4, ArrayView1, ArrayView4, Axis};

use super::blocks::BlockTensor;
use super::error::{ArrayError, Call};
use super::padded;
use super::passes::Passes;
use crate::Cpu;
use crate::conv::Conv2dShape;
use crate::layout::{BlockShape, padded_channels};

pub use super::passes::WeightGradients;

/// How the kernel moves over the image.
///
/// ```
/// use selvedge_compute::nd::conv::{Options, Padding};
/// assert_eq!(Options::SAME, Options { stride: 1, padding: Padding::Same });
/// assert_eq!(Options::VALID, Options { stride: 1, padding: Padding::Zeros([0, 0]) });
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Options {
    /// Pixels from one output pixel to the next, down as well as to the right.
    pub stride: usize,
    /// What lies around the image.
    pub padding: Padding,
}

/// The zeros around an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Padding {
    /// Keras' "same": ⌈size / stride⌉ output pixels; of an odd number of zeros the larger half lies below and to the right.
    Same,
    /// So many rows of zeros above and below, and columns left and right, as in PyTorch.
    Zeros([usize; 2]),
}

impl Options {
    /// As many output pixels as input pixels.
    pub const SAME: Self = Self { stride: 1, padding: Padding::Same };
    /// Only where the whole kernel lies on the image.
    pub const VALID: Self = Self { stride: 1, padding: Padding::Zeros([0, 0]) };

    /// The kernels' shape for such an input.
    fn on(self, call: Call, input: BlockShape, kernel: [usize; 2], filters: usize) -> Result<Conv2dShape, ArrayError> {
        let image = [input.height, input.width];
        let padding = match self.padding {
            Padding::Same => [0, 0],
            Padding::Zeros(padding) => padding,
        };
        let holds = |d: usize| {
            let padded = padding[d].checked_mul(2).and_then(|zeros| zeros.checked_add(image[d]));
            self.padding == Padding::Same || padded.is_some_and(|padded| kernel[d] <= padded)
        };
        if self.stride == 0 || kernel.contains(&0) || !holds(0) || !holds(1) {
            return Err(ArrayError::Window {
                operation: call.0,
                what: "a kernel",
                size: kernel,
                stride: [self.stride; 2],
                image,
                padding,
            });
        }
        let weights = [kernel[0], kernel[1], input.channels, filters];
        let padded = [kernel[0], kernel[1], padded_channels(input.channels), padded_channels(filters)];
        call.fits("weights", &weights, &padded, size_of::<f32>())?;
        Ok(match self.padding {
            Padding::Same => Conv2dShape::same(input, filters, kernel, self.stride),
            Padding::Zeros(padding) => Conv2dShape::new(input, filters, kernel, self.stride, padding),
        })
    }
}

/// The gradients of a convolution's arguments.
#[derive(Clone, Debug, PartialEq)]
pub struct Gradients {
    /// By the input.
    pub dx: Array4<f32>,
    /// By the weights, `[kh, kw, in, out]`.
    pub dweights: Array4<f32>,
    /// By the bias.
    pub dbias: Array1<f32>,
}

/// y = x ∗ weights + bias.
///
/// `weights` are `[kh, kw, in, out]`, as Keras keeps them; pass PyTorch's `[out, in, kh, kw]` as
/// `weights.permuted_axes([2, 3, 1, 0])`. As in both, the kernel is not flipped.
///
/// # Errors
/// If an array has no pixels or channels, `weights` or `bias` do not fit, or the kernel does not fit into the padded image.
///
/// ```
/// use ndarray::{Array4, array};
/// use selvedge_compute::{Cpu, nd::conv::{self, Options}};
/// let (x, weights) = (Array4::ones((2, 28, 28, 3)), Array4::ones((3, 3, 3, 8)));
/// let y = conv::forward(Cpu::detect()?, Options::SAME, x.view(), weights.view(), None)?;
/// assert_eq!(y.dim(), (2, 28, 28, 8));
/// // 3 channels of the 3x3 neighbourhood: 4 pixels of it at a corner, 9 in the middle.
/// assert!((y[[0, 0, 0, 0]] - 12.0).abs() < 1e-4 && (y[[1, 14, 14, 7]] - 27.0).abs() < 1e-4);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn forward(
    cpu: Cpu,
    options: Options,
    x: ArrayView4<'_, f32>,
    weights: ArrayView4<'_, f32>,
    bias: Option<ArrayView1<'_, f32>>,
) -> Result<Array4<f32>, ArrayError> {
    run_forward(Call("nd::conv::forward"), cpu, options, x, weights, bias)
}

/// [`forward`] for `call`, whose name errors begin with.
pub(super) fn run_forward(
    call: Call,
    cpu: Cpu,
    options: Options,
    x: ArrayView4<'_, f32>,
    weights: ArrayView4<'_, f32>,
    bias: Option<ArrayView1<'_, f32>>,
) -> Result<Array4<f32>, ArrayError> {
    let (kernel, filters) = check(call, x, weights)?;
    if let Some(bias) = bias {
        call.shape("bias", bias.shape(), &[filters], "a number for each output of the weights")?;
    }
    let shape = options.on(call, input_shape(x), kernel, filters)?;
    let x = BlockTensor::packed(call, x, input_block)?;
    let mut y = BlockTensor::allocate(call, shape.output, x.images())?;
    let passes = Passes::new(cpu, shape);
    passes.forward(&x, &passes.panels(weights), bias.map(padded).as_deref(), &mut y);
    Ok(y.to_array())
}

/// The gradients of x, weights and bias from that of y.
///
/// # Errors
/// As [`forward`], or if `dy` is not of the result's shape.
///
/// ```
/// use ndarray::Array4;
/// use selvedge_compute::{Cpu, nd::conv::{self, Options}};
/// let (x, weights) = (Array4::ones((2, 4, 4, 3)), Array4::ones((3, 3, 3, 8)));
/// let dy = Array4::ones((2, 4, 4, 8));
/// let gradients = conv::backward(Cpu::detect()?, Options::SAME, x.view(), weights.view(), dy.view())?;
/// assert_eq!((gradients.dx.dim(), gradients.dweights.dim()), (x.dim(), weights.dim()));
/// assert_eq!(gradients.dbias[0], 32.0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn backward(
    cpu: Cpu,
    options: Options,
    x: ArrayView4<'_, f32>,
    weights: ArrayView4<'_, f32>,
    dy: ArrayView4<'_, f32>,
) -> Result<Gradients, ArrayError> {
    run_backward(Call("nd::conv::backward"), cpu, options, x, weights, dy)
}

/// [`backward`] for `call`, whose name errors begin with.
pub(super) fn run_backward(
    call: Call,
    cpu: Cpu,
    options: Options,
    x: ArrayView4<'_, f32>,
    weights: ArrayView4<'_, f32>,
    dy: ArrayView4<'_, f32>,
) -> Result<Gradients, ArrayError> {
    let (kernel, filters) = check(call, x, weights)?;
    let shape = options.on(call, input_shape(x), kernel, filters)?;
    check_gradient(call, &shape, x, dy)?;
    // The gradient of x has padded channels, whether x itself is packed so or not.
    let (images, height, width, channels) = x.dim();
    let data_shape = options.on(call, BlockShape::new(height, width, channels), kernel, filters)?;
    let (passes, data) = (Passes::new(cpu, shape), Passes::new(cpu, data_shape));
    let mut dx = BlockTensor::allocate(call, data_shape.input, images)?;
    let (x, dy) = (BlockTensor::packed(call, x, input_block)?, BlockTensor::packed(call, dy, BlockShape::new)?);
    let (WeightGradients { dweights, dbias }, dx) = rayon::join(
        || passes.backward_weights(&x, &dy),
        || {
            data.backward_data(&dy, &data.panels(weights), &mut dx);
            dx.to_array()
        },
    );
    Ok(Gradients { dx, dweights, dbias })
}

/// The gradients of weights and bias alone, of a kernel of this height and width: for the first layer, whose input needs none.
///
/// # Errors
/// As [`backward`].
pub fn backward_weights(
    cpu: Cpu,
    options: Options,
    x: ArrayView4<'_, f32>,
    kernel: [usize; 2],
    dy: ArrayView4<'_, f32>,
) -> Result<WeightGradients, ArrayError> {
    let call = Call("nd::conv::backward_weights");
    call.images("x", x.shape())?;
    let shape = options.on(call, input_shape(x), kernel, dy.dim().3)?;
    check_gradient(call, &shape, x, dy)?;
    call.images("dy", dy.shape())?;
    let (x, dy) = (BlockTensor::packed(call, x, input_block)?, BlockTensor::packed(call, dy, BlockShape::new)?);
    Ok(Passes::new(cpu, shape).backward_weights(&x, &dy))
}

/// Height and width of the kernel, and how many filters there are.
fn check(call: Call, x: ArrayView4<'_, f32>, weights: ArrayView4<'_, f32>) -> Result<([usize; 2], usize), ArrayError> {
    let (height, width, _, filters) = weights.dim();
    call.images("x", x.shape())?;
    call.shape(
        "weights",
        weights.shape(),
        &[height, width, x.len_of(Axis(3)), filters],
        "[kh, kw, in, out] with as many inputs as x has channels; PyTorch's [out, in, kh, kw] are passed as \
         weights.permuted_axes([2, 3, 1, 0])",
    )?;
    call.not_empty("weights", weights.shape(), &[0, 1, 3], "height, width and outputs")?;
    Ok(([height, width], filters))
}

fn check_gradient(
    call: Call,
    shape: &Conv2dShape,
    x: ArrayView4<'_, f32>,
    dy: ArrayView4<'_, f32>,
) -> Result<(), ArrayError> {
    let BlockShape { height, width, channels, .. } = shape.output;
    call.shape("dy", dy.shape(), &[x.len_of(Axis(0)), height, width, channels], "the shape of the result")
}

fn input_shape(x: ArrayView4<'_, f32>) -> BlockShape {
    let (_, height, width, channels) = x.dim();
    input_block(height, width, channels)
}

/// How the input of a convolution is packed: up to 4 channels, as images have, are not padded to 16.
fn input_block(height: usize, width: usize, channels: usize) -> BlockShape {
    if channels <= 4 { BlockShape::input(height, width, channels) } else { BlockShape::new(height, width, channels) }
}
