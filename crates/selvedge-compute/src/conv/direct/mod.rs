//! Convolutions as sums of f32 products in vectors: the passes of every shape for which there is no faster algorithm.

mod backward_weights;
mod gradient_tile;
pub(in crate::conv) mod microkernel;
mod product;
pub mod repack;

use std::ops::Range;

use super::implicit_gemm::{Direction, ImplicitGemm, Pixels};
use super::pooled::{ForwardPooled, PooledOutput};
use super::{Conv2dShape, Epilogue, Part};
use crate::conv::panel::assert_padded;
use crate::cpu::Cpu;
use crate::layout::BLOCK;
use crate::simd::{Element, dispatch};
use product::Vectors;

pub use backward_weights::{backward_weights, backward_weights_of_block};
pub(in crate::conv) use gradient_tile::GradientTile;

/// The output rows of `part` of a convolution, a range of rows or a [`Part`]: `y = epilogue(x ∗ weights)`.
///
/// `x` is the whole input block, `weights` are packed in panels ([`crate::conv::pack`]), `y` holds just these rows.
///
/// ```
/// use selvedge_compute::{BlockShape, Cpu, conv::{Conv2dShape, Epilogue, direct::forward, pack}};
/// let shape = Conv2dShape::new(BlockShape::input(3, 3, 1), 1, [3, 3], 1, [1, 1]);
/// let mut weights = vec![0.0; shape.weights_len()];
/// pack::to_panels(&shape, &[1.0; 9], &mut weights);
/// let (x, mut y) = (vec![1.0; shape.input.len()], vec![0.0; shape.output.len()]);
/// forward(Cpu::detect()?, &shape, &x, &weights, Epilogue::NONE, 0..3, &mut y);
/// // The sum over the 3x3 neighbourhood: 4 pixels at a corner, 9 in the middle.
/// assert_eq!((y[0], y[shape.output.offset(1, 1)]), (4.0, 9.0));
/// # Ok::<(), selvedge_compute::CpuError>(())
/// ```
///
/// # Panics
/// If a slice is not as long as the shape says, with both lengths, before anything is written.
pub fn forward<Y: Element>(
    cpu: Cpu,
    shape: &Conv2dShape,
    x: &[f32],
    weights: &[f32],
    epilogue: Epilogue<'_>,
    part: impl Into<Part>,
    y: &mut [Y],
) {
    let Part { rows, images } = part.into();
    let product = Vectors { source: x, weights };
    let gemm = ImplicitGemm { shape, direction: Direction::Forward, product, images, epilogue };
    dispatch(cpu, Pixels::new(gemm, rows, y));
}

/// Convolution, bias and max pooling in one pass, and a ReLU if there is one: the rows of `part` of the pooled output, a range of rows or a [`Part`].
///
/// `x` is the whole input block, `weights` are packed in panels ([`crate::conv::pack`]). In training the pass also keeps the
/// argmax of each window and may apply dropout ([`crate::conv::Training`]).
///
/// # Panics
/// If a slice is not as long as the shape says, with both lengths, or the window has more than [`crate::conv::MAX_WINDOW`]
/// pixels.
pub fn forward_pooled<Y: Element>(
    cpu: Cpu,
    shape: &Conv2dShape,
    x: &[f32],
    weights: &[f32],
    part: impl Into<Part>,
    output: PooledOutput<'_, Y>,
) {
    let Part { rows, images } = part.into();
    let (direction, product) = (Direction::Forward, Vectors { source: x, weights });
    let gemm = ImplicitGemm { shape, direction, product, images, epilogue: Epilogue::NONE };
    dispatch(cpu, ForwardPooled::new(gemm, rows, output));
}

/// Rows `rows` of the gradient of the input: `dx = dy ∗ weights transposed`.
///
/// `dy` is the whole output block, `transposed` the weights from [`crate::conv::pack::transpose_panel`], `dx` holds just these
/// rows.
///
/// # Panics
/// If a slice is not as long as the shape says, with both lengths, or the input's channels are not padded: the gradient of a
/// network's input is never needed.
pub fn backward_data<Y: Element>(
    cpu: Cpu,
    shape: &Conv2dShape,
    dy: &[f32],
    transposed: &[f32],
    rows: Range<usize>,
    dx: &mut [Y],
) {
    assert_padded(shape.input.channel_stride);
    let (direction, product) = (Direction::Backward, Vectors { source: dy, weights: transposed });
    let gemm = ImplicitGemm { shape, direction, product, images: BLOCK, epilogue: Epilogue::NONE };
    dispatch(cpu, Pixels::new(gemm, rows, dx));
}
