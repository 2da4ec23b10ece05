//! The entries of the forward and the data pass, in f32 and in bf16.

use std::ops::Range;

use half::bf16;

use super::few_images::{self, FewImages, FewImagesPooled, rows_of_tiles};
use super::first::{ForwardFirst, is_first_layer};
use super::gather::{Direction, Epilogue, Gather, Part, Pixels};
use super::pooled::{ForwardPooled, Training};
use super::pooled_slides::PooledSlides;
use super::slides::Slides;
use super::tiles::TileProduct;
use super::vectors::Vectors;
use super::{Conv2dShape, PANEL};
use crate::amx::{Depth, Registers, with_tiles};
use crate::cpu::Cpu;
use crate::layout::BLOCK;
use crate::simd::{Element, dispatch};

/// The output rows of `part` of a convolution, a range of rows or a [`Part`]: `y = epilogue(x ∗ weights)`.
///
/// `x` is the whole input block, `weights` are packed in panels ([`super::pack`]), `y` is exactly the rows asked for.
///
/// ```
/// use selvedge_compute::{BlockShape, Cpu, conv::{Conv2dShape, Epilogue, forward, pack}};
/// let shape = Conv2dShape::new(BlockShape::input(3, 3, 1), 1, [3, 3], 1, [1, 1]);
/// let mut weights = vec![0.0; shape.weights_len()];
/// pack::to_panels(&shape, &[1.0; 9], &mut weights);
/// let (x, mut y) = (vec![1.0; shape.input.len()], vec![0.0; shape.output.len()]);
/// forward(Cpu::detect()?, &shape, &x, &weights, Epilogue::NONE, 0..3, &mut y);
/// // The sum over the 3x3 neighbourhood: 4 pixels of it at a corner, 9 in the middle.
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
    let gather = Gather { shape, direction: Direction::Forward, product, images, epilogue };
    dispatch(cpu, Pixels::new(gather, rows, y));
}

/// [`forward`] in bf16 on AMX; `weights` are packed by [`super::regroup::to_bf16`].
///
/// # Panics
/// As [`forward`], if `cpu` does not prove AMX, or if the input's channels are not padded.
pub fn forward_bf16<Y: Element>(
    cpu: Cpu,
    shape: &Conv2dShape,
    x: &[bf16],
    weights: &[bf16],
    epilogue: Epilogue<'_>,
    part: impl Into<Part>,
    y: &mut [Y],
) {
    let Part { rows, images } = part.into();
    run_tiles(cpu, (shape, Direction::Forward), [x, weights], images, epilogue, rows, y);
}

/// The output rows of `part`, a range of rows or a [`Part`], of a convolution followed by bias, ReLU and max pooling over
/// windows of `window` (non-overlapping), in one pass: what is pooled away is never written.
///
/// `y` has the pooled shape. In training the pass also keeps the winners and may have dropout behind it ([`Training`]).
///
/// # Panics
/// If a slice is not as long as the shape says, with both lengths, or the window has more than [`super::MAX_WINDOW`]
/// pixels.
pub fn forward_pooled<Y: Element>(
    cpu: Cpu,
    shape: &Conv2dShape,
    window: [usize; 2],
    x: &[f32],
    weights: &[f32],
    bias: Option<&[f32]>,
    part: impl Into<Part>,
    y: &mut [Y],
    training: Option<Training<'_>>,
) {
    let Part { rows, images } = part.into();
    if is_first_layer(shape, window) {
        let first = ForwardFirst { shape, x, weights, bias, rows, images, y, training };
        first.check();
        return dispatch(cpu, first);
    }
    let (direction, product) = (Direction::Forward, Vectors { source: x, weights });
    let gather = Gather { shape, direction, product, images, epilogue: Epilogue::NONE };
    dispatch(cpu, ForwardPooled::new(window, gather, bias, rows, y, training));
}

/// [`forward_pooled`] in bf16 on AMX; `weights` are packed by [`super::regroup::to_bf16`].
///
/// # Panics
/// As [`forward_pooled`], if `cpu` does not prove AMX, or if the input's channels are not padded.
pub fn forward_pooled_bf16<Y: Element>(
    cpu: Cpu,
    shape: &Conv2dShape,
    window: [usize; 2],
    x: &[bf16],
    weights: &[bf16],
    bias: Option<&[f32]>,
    part: impl Into<Part>,
    y: &mut [Y],
    training: Option<Training<'_>>,
) {
    let (depth, Part { rows, images }) = (depth_of(shape.input.channel_stride), part.into());
    if training.is_none() && few_images::fit(shape, images) {
        return with_tiles(cpu, depth, Registers::Square, rows_of_tiles(shape), |tiles| {
            let (direction, product) = (Direction::Forward, TileProduct { source: x, weights, depth, tiles });
            let gather = Gather { shape, direction, product, images, epilogue: Epilogue::NONE };
            dispatch(cpu, FewImagesPooled(ForwardPooled::new(window, gather, bias, rows, y, None)));
        });
    }
    let slides = PooledSlides::fit(shape, window);
    let registers = if slides { Registers::Slide } else { Registers::Square };
    with_tiles(cpu, depth, registers, images, |tiles| {
        let (direction, product) = (Direction::Forward, TileProduct { source: x, weights, depth, tiles });
        let gather = Gather { shape, direction, product, images, epilogue: Epilogue::NONE };
        let pass = ForwardPooled::new(window, gather, bias, rows, y, training);
        if slides { dispatch(cpu, PooledSlides::new(pass)) } else { dispatch(cpu, pass) }
    });
}

/// Input rows `rows` of the gradient: `dx = dy ∗ weights transposed`.
///
/// `dy` is the whole output block, `transposed` the weights from [`super::pack::transpose_panel`], `dx` exactly the rows
/// asked for.
///
/// # Panics
/// If a slice is not as long as the shape says, with both lengths, or the input's channels are not padded: a network's
/// input has no gradient here.
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
    let gather = Gather { shape, direction, product, images: BLOCK, epilogue: Epilogue::NONE };
    dispatch(cpu, Pixels::new(gather, rows, dx));
}

/// [`backward_data`] in bf16 on AMX; `transposed` comes from [`super::regroup::transpose_to_bf16`].
///
/// # Panics
/// As [`backward_data`], or if `cpu` does not prove AMX.
pub fn backward_data_bf16<Y: Element>(
    cpu: Cpu,
    shape: &Conv2dShape,
    dy: &[bf16],
    transposed: &[bf16],
    rows: Range<usize>,
    dx: &mut [Y],
) {
    assert_padded(shape.input.channel_stride);
    run_tiles(cpu, (shape, Direction::Backward), [dy, transposed], BLOCK, Epilogue::NONE, rows, dx);
}

/// Either pass without pooling on AMX: by rows of pixels where the kernel has three taps in a row, or pixel by pixel.
fn run_tiles<Y: Element>(
    cpu: Cpu,
    (shape, direction): (&Conv2dShape, Direction),
    [source, weights]: [&[bf16]; 2],
    images: usize,
    epilogue: Epilogue<'_>,
    rows: Range<usize>,
    target: &mut [Y],
) {
    let depth = depth_of(match direction {
        Direction::Forward => shape.input.channel_stride,
        Direction::Backward => shape.output.channel_stride,
    });
    if direction == Direction::Forward && few_images::fit(shape, images) {
        return with_tiles(cpu, depth, Registers::Square, rows_of_tiles(shape), |tiles| {
            let product = TileProduct { source, weights, depth, tiles };
            let gather = Gather { shape, direction, product, images, epilogue };
            dispatch(cpu, FewImages { gather, rows, target });
        });
    }
    // What is written in f32 with bias or ReLU, logits at most, goes pixel by pixel.
    let slides = Slides::fit(shape, direction) && (Y::IS_BF16 || epilogue.is_none());
    let registers = if slides { Registers::Slide } else { Registers::Square };
    with_tiles(cpu, depth, registers, images, |tiles| {
        let product = TileProduct { source, weights, depth, tiles };
        let gather = Gather { shape, direction, product, images, epilogue };
        if slides {
            dispatch(cpu, Slides::new(gather, rows, target));
        } else {
            dispatch(cpu, Pixels::new(gather, rows, target));
        }
    });
}

/// The depth of tile products over `channels`.
fn depth_of(channels: usize) -> Depth {
    assert_padded(channels);
    Depth::of(channels)
}

fn assert_padded(channels: usize) {
    assert!(channels.is_multiple_of(PANEL), "a channel stride of {channels}: these kernels need multiples of {PANEL}");
}
