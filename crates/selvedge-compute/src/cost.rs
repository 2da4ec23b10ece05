//! What an operation must do: floating-point operations and bytes moved, from its shape alone.
//!
//! A measured time becomes a share of the hardware's limit by these counts ([`crate::peak`]). Bytes are those of a
//! perfect cache: every operand is read or written once, in the layout that it is stored in, padded channels included.
//! What a kernel moves beyond that, because it reads something twice, shows as a smaller share. A multiply-add is two
//! operations; a comparison, a maximum or a conversion is one; an exponential, with the polynomial that computes it, is
//! counted as [`EXP_OPERATIONS`].

use std::iter::Sum;
use std::ops::Add;

use crate::activation::Activation;
use crate::conv::Conv2dShape;
use crate::conv::winograd::Winograd;
use crate::layout::{BLOCK, BlockShape};
use crate::pool::Pool2dShape;
use crate::simd::math::EXP_OPERATIONS;

/// Bytes of a pixel's number in a window of max pooling.
const WINNER: u64 = 2;

const F32: u64 = 4;

/// Operations and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Floating-point operations that are needed: products with the padding of a convolution are left out, and of Winograd's
    /// algorithm those that it takes are counted.
    pub flops: u64,
    /// The same with the taps on the padding, as other libraries' figures count them.
    pub nominal_flops: u64,
    /// Bytes read and written, each operand once.
    pub bytes: u64,
}

impl Cost {
    fn new(flops: u64, bytes: u64) -> Self {
        Self { flops, nominal_flops: flops, bytes }
    }

    /// Arithmetic intensity: operations for each byte, 0 for what moves nothing.
    pub fn intensity(&self) -> f64 {
        if self.bytes == 0 { 0.0 } else { self.flops as f64 / self.bytes as f64 }
    }
}

impl Add for Cost {
    type Output = Cost;
    fn add(self, other: Cost) -> Cost {
        Cost {
            flops: self.flops + other.flops,
            nominal_flops: self.nominal_flops + other.nominal_flops,
            bytes: self.bytes + other.bytes,
        }
    }
}

impl Sum for Cost {
    fn sum<I: Iterator<Item = Cost>>(costs: I) -> Cost {
        costs.fold(Cost::default(), Cost::add)
    }
}

/// The cost of an operation's two passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passes {
    /// From input to output.
    pub forward: Cost,
    /// From the output's gradient to the input's.
    pub backward: Cost,
}

/// The cost of a convolution's three passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConvPasses {
    /// From input and weights to output.
    pub forward: Cost,
    /// From the output's gradient and the weights to the input's gradient.
    pub backward_data: Cost,
    /// From input and the output's gradient to that of the weights.
    pub backward_weights: Cost,
}

/// Bytes of an element of each of a convolution's operands; gradients of input and output are stored as these are, that
/// of the weights is f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ElementBytes {
    /// The input.
    pub input: usize,
    /// The output.
    pub output: usize,
    /// The weights as the passes read them.
    pub weights: usize,
}

impl ElementBytes {
    /// All operands alike: 4 for f32, 2 for bf16.
    pub const fn all(bytes: usize) -> Self {
        Self { input: bytes, output: bytes, weights: bytes }
    }
}

/// A convolution or dense layer on `images` images. Weights are read once for all of them.
///
/// ```
/// use selvedge_compute::{BlockShape, conv::Conv2dShape, cost::{self, ElementBytes}};
/// let shape = Conv2dShape::same(BlockShape::new(3, 3, 16), 16, [3, 3], 1);
/// let cost = cost::conv(&shape, 1, ElementBytes::all(4)).forward;
/// // Of the 9 taps of 9 pixels, 4 are on the image in a corner, 6 at an edge, 9 in the middle.
/// assert_eq!(cost.flops, 2 * (4 * 4 + 4 * 6 + 9) * 16 * 16);
/// assert_eq!(cost.nominal_flops, 2 * 9 * 9 * 16 * 16);
/// assert_eq!(cost.bytes, 4 * (9 * 16 + 9 * 16 + 9 * 16 * 16));
/// ```
pub fn conv(shape: &Conv2dShape, images: usize, element: ElementBytes) -> ConvPasses {
    let flops = 2 * (shape.taps_on_image() * shape.input.channels * shape.output.channels * images) as u64;
    let nominal_flops = 2 * (shape.multiply_adds() * images) as u64;
    let (x, y) = (stored(&shape.input, images), stored(&shape.output, images));
    let (x, y) = (x * element.input as u64, y * element.output as u64);
    let (weights, read) = (shape.weights_len() as u64, element.weights as u64);
    let pass = |bytes| Cost { flops, nominal_flops, bytes };
    ConvPasses {
        forward: pass(x + weights * read + y),
        backward_data: pass(y + weights * read + x),
        backward_weights: pass(x + y + weights * F32),
    }
}

/// The passes by Winograd's algorithm: the operations are those of its products, which are fewer than the nominal ones, and
/// the weights the transformed ones, all f32. The transforms, two to four operations for each element, are not counted.
pub fn winograd(winograd: &Winograd, images: usize) -> ConvPasses {
    let shape = winograd.shape();
    let passes = conv(shape, images, ElementBytes::all(size_of::<f32>()));
    let flops = 2 * (winograd.multiply_adds() * images) as u64;
    let more = |weights: usize| (weights - shape.weights_len()) as u64 * F32;
    let pass = |cost: Cost, more: u64| Cost { flops, bytes: cost.bytes + more, ..cost };
    ConvPasses {
        forward: pass(passes.forward, more(winograd.weights_len())),
        backward_data: pass(passes.backward_data, more(winograd.transposed_len())),
        backward_weights: pass(passes.backward_weights, 0),
    }
}

/// Max pooling with the numbers of the indices kept; `element` is the bytes of an element.
pub fn max_pool(shape: &Pool2dShape, images: usize, element: usize) -> Passes {
    let (x, y) = (stored(&shape.input(), images), stored(&shape.output(), images));
    let bytes = (x + y) * element as u64 + y * WINNER;
    Passes { forward: Cost::new(y * (window(shape) - 1), bytes), backward: Cost::new(y, bytes) }
}

/// Average pooling.
pub fn average_pool(shape: &Pool2dShape, images: usize, element: usize) -> Passes {
    let (x, y) = (stored(&shape.input(), images), stored(&shape.output(), images));
    let pass = Cost::new(y * window(shape), (x + y) * element as u64);
    Passes { forward: pass, backward: pass }
}

/// An activation: forward a tensor is read and one written, backward two are read.
pub fn activation(kind: Activation, shape: &BlockShape, images: usize, element: usize) -> Passes {
    let [forward, backward] = kind.operations();
    each(shape, images, element, [forward, 2], [backward, 3])
}

/// Batch normalisation with its statistics: forward the input is read twice and a tensor written, backward input and
/// gradient are read twice and a tensor written.
pub fn norm(shape: &BlockShape, images: usize, element: usize) -> Passes {
    each(shape, images, element, [3 + 2, 3], [4 + 5, 5])
}

/// Batch normalisation with the sum at the end of a residual block in the same pass: forward another tensor is read.
pub fn norm_and_add(shape: &BlockShape, images: usize, element: usize) -> Passes {
    each(shape, images, element, [3 + 3, 4], [4 + 5, 5])
}

/// Batch normalisation with max pooling in the same pass: forward the input is read twice, and the pooled tensor written with
/// the indices' numbers and their elements of the input; backward those are read with the gradient, then the numbers, the
/// gradient and the input, and a tensor is written.
pub fn norm_pooled(shape: &Pool2dShape, images: usize, element: usize) -> Passes {
    let (x, y) = (stored(&shape.input(), images), stored(&shape.output(), images));
    let element = element as u64;
    let forward = Cost::new((3 + 2) * x + (window(shape) - 1) * y, 2 * x * element + y * (2 * element + WINNER));
    let backward = Cost::new((4 + 1) * y + 4 * x, 2 * x * element + y * (3 * element + 2 * WINNER));
    Passes { forward, backward }
}

/// Dropout. Drawing the mask is arithmetic of whole numbers, which is not counted.
pub fn dropout(shape: &BlockShape, images: usize, element: usize) -> Passes {
    each(shape, images, element, [1, 2], [1, 2])
}

/// Global pooling by half the sum of average and maximum: forward x is read, backward its gradient written.
pub fn average_max_pool(shape: &BlockShape, images: usize, element: usize) -> Passes {
    each(shape, images, element, [2, 1], [1, 1])
}

/// Global pooling by the generalised mean, with the usual exponent: forward x is read, backward it is read and its gradient written.
pub fn generalized_mean(shape: &BlockShape, images: usize, element: usize) -> Passes {
    each(shape, images, element, [4, 1], [3, 2])
}

/// The gates of squeeze-and-excitation: forward a tensor is read and one written; backward the gradient is read twice, x once, and
/// a tensor written.
pub fn gate(shape: &BlockShape, images: usize, element: usize) -> Passes {
    each(shape, images, element, [1, 2], [3, 4])
}

/// The sum of two tensors forward; backward the same where two branches of a residual block begin.
pub fn add(shape: &BlockShape, images: usize, element: usize) -> Passes {
    each(shape, images, element, [1, 3], [1, 3])
}

/// Bytes of pixels made f32 and normalised, forward only.
pub fn input(shape: &BlockShape, images: usize) -> Cost {
    let elements = stored(shape, images);
    Cost::new(2 * elements, elements * (1 + F32))
}

/// Softmax cross-entropy and its gradient on `images` rows of `stride` f32 logits.
pub fn cross_entropy(images: usize, stride: usize) -> Cost {
    let elements = (images * stride) as u64;
    Cost::new(elements * (EXP_OPERATIONS + 6), 2 * F32 * elements)
}

/// `[operations, elements moved]` for each element, forward and backward.
fn each(shape: &BlockShape, images: usize, element: usize, forward: [u64; 2], backward: [u64; 2]) -> Passes {
    let elements = stored(shape, images);
    let pass = |[flops, moved]: [u64; 2]| Cost::new(elements * flops, elements * moved * element as u64);
    Passes { forward: pass(forward), backward: pass(backward) }
}

/// Elements of that many images of a block, padded channels included.
fn stored(shape: &BlockShape, images: usize) -> u64 {
    (shape.len() / BLOCK * images) as u64
}

fn window(shape: &Pool2dShape) -> u64 {
    let [height, width] = shape.size();
    (height * width) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_convolution_by_hand() {
        // 28x28 pixels, 1 to 16 channels, 3x3: 28·28·9 taps, of which 4·28·3 − 4 fall on the padding.
        let shape = Conv2dShape::same(BlockShape::input(28, 28, 1), 16, [3, 3], 1);
        let cost = conv(&shape, 32, ElementBytes { input: 4, output: 2, weights: 4 });
        assert_eq!(cost.forward.nominal_flops, 2 * 32 * 28 * 28 * 9 * 16);
        assert_eq!(cost.forward.flops, 2 * 32 * (28 * 28 * 9 - (4 * 28 * 3 - 4)) * 16);
        let (x, y, weights) = (32 * 784 * 4, 32 * 784 * 16 * 2, 9 * 16 * 4);
        assert_eq!(cost.forward.bytes, x + y + weights);
        assert_eq!(cost.backward_data, cost.forward);
        assert_eq!(cost.backward_weights.bytes, x + y + weights);
    }

    #[test]
    fn the_gradient_of_bf16_weights_is_f32() {
        let shape = Conv2dShape::dense(BlockShape::new(1, 1, 32), 16);
        let cost = conv(&shape, 64, ElementBytes::all(2));
        assert_eq!((cost.forward.flops, cost.forward.nominal_flops), (2 * 64 * 32 * 16, 2 * 64 * 32 * 16));
        assert_eq!(cost.forward.bytes, 2 * (64 * 32 + 64 * 16 + 32 * 16));
        assert_eq!(cost.backward_weights.bytes, 2 * (64 * 32 + 64 * 16) + 4 * 32 * 16);
    }

    #[test]
    fn strides_and_padding_count_the_taps_they_leave() {
        // 5x5 pixels, every second, "same": 3x3 of them, the taps of a corner 2x2 and so on, as with 3x3 pixels.
        let shape = Conv2dShape::same(BlockShape::new(5, 5, 16), 16, [3, 3], 2);
        assert_eq!(shape.taps_on_image(), 4 * 4 + 4 * 6 + 9);
    }

    #[test]
    fn pooling_by_hand() {
        let shape = Pool2dShape::new(BlockShape::new(4, 4, 16), [2, 2], [2, 2]);
        let max = max_pool(&shape, 32, 2);
        assert_eq!(max.forward, Cost::new(3 * 4 * 16 * 32, 2 * (16 + 4) * 16 * 32 + 2 * 4 * 16 * 32));
        assert_eq!((max.backward.flops, max.backward.bytes), (4 * 16 * 32, max.forward.bytes));
        assert_eq!(average_pool(&shape, 32, 4).forward, Cost::new(4 * 4 * 16 * 32, 4 * 20 * 16 * 32));
    }

    #[test]
    fn normalisation_with_pooling_by_hand() {
        // 5x4 pixels, of which 2x2 windows cover 4x4.
        let passes = norm_pooled(&Pool2dShape::new(BlockShape::new(5, 4, 16), [2, 2], [2, 2]), 32, 2);
        let (x, y) = (20 * 16 * 32, 4 * 16 * 32);
        assert_eq!(passes.forward, Cost::new(5 * x + 3 * y, 2 * (2 * x + 2 * y) + 2 * y));
        assert_eq!(passes.backward, Cost::new(5 * y + 4 * x, 2 * (2 * x + 3 * y) + 4 * y));
    }

    #[test]
    fn elementwise_operations_by_hand() {
        let shape = BlockShape::new(7, 7, 10);
        // Ten channels are stored as sixteen.
        let elements = 7 * 7 * 16 * 64;
        assert_eq!(dropout(&shape, 64, 4).forward, Cost::new(elements, 8 * elements));
        assert_eq!(add(&shape, 64, 2).backward, Cost::new(elements, 6 * elements));
        assert_eq!(activation(Activation::Relu, &shape, 64, 4).backward, Cost::new(elements, 12 * elements));
        assert_eq!(norm(&shape, 64, 2).backward.bytes, 10 * elements);
        assert_eq!(norm_and_add(&shape, 64, 2).forward, Cost::new(6 * elements, 8 * elements));
        assert_eq!(input(&BlockShape::input(28, 28, 1), 128), Cost::new(2 * 128 * 784, 5 * 128 * 784));
        assert_eq!(cross_entropy(128, 16).bytes, 2 * 4 * 128 * 16);
    }

    #[test]
    fn intensity_and_sums() {
        let total: Cost = [Cost::new(6, 2), Cost::new(2, 2)].into_iter().sum();
        assert_eq!((total.intensity(), Cost::default().intensity()), (2.0, 0.0));
    }
}
