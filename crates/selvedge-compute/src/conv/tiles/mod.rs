//! Convolutions as products of bf16 tiles on AMX.

mod backward_weights;
mod few_images;
mod product;
pub mod repack;
mod sliding;
mod sliding_pooled;

use std::ops::Range;

use half::bf16;

use super::implicit_gemm::{Direction, ImplicitGemm, Pixels};
use super::pooled::ForwardPooled;
use super::{Conv2dShape, Epilogue, Part, Training};
use crate::amx::{Depth, Registers, with_tiles};
use crate::conv::panel::assert_padded;
use crate::cpu::Cpu;
use crate::layout::BLOCK;
use crate::simd::{Element, dispatch};
use few_images::{FewImages, FewImagesPooled, rows_of_tiles};
use product::TileProduct;
use sliding::SlidingRows;
use sliding_pooled::PooledSlidingRows;

pub use backward_weights::{backward_weights, backward_weights_of_block};

/// [`forward`] in bf16 on AMX; `weights` are packed by [`crate::conv::tiles::repack::to_bf16`].
///
/// # Panics
/// As [`forward`], if `cpu` does not prove AMX, or if the input's channels are not padded.
pub fn forward<Y: Element>(
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

/// [`forward_pooled`] in bf16 on AMX; `weights` are packed by [`crate::conv::tiles::repack::to_bf16`].
///
/// # Panics
/// As [`forward_pooled`], if `cpu` does not prove AMX, or if the input's channels are not padded.
pub fn forward_pooled<Y: Element>(
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
            let gather = ImplicitGemm { shape, direction, product, images, epilogue: Epilogue::NONE };
            dispatch(cpu, FewImagesPooled(ForwardPooled::new(window, gather, bias, rows, y, None)));
        });
    }
    let slides = PooledSlidingRows::fit(shape, window);
    let registers = if slides { Registers::SlidingGemm } else { Registers::Square };
    with_tiles(cpu, depth, registers, images, |tiles| {
        let (direction, product) = (Direction::Forward, TileProduct { source: x, weights, depth, tiles });
        let gather = ImplicitGemm { shape, direction, product, images, epilogue: Epilogue::NONE };
        let pass = ForwardPooled::new(window, gather, bias, rows, y, training);
        if slides { dispatch(cpu, PooledSlidingRows::new(pass)) } else { dispatch(cpu, pass) }
    });
}

/// [`backward_data`] in bf16 on AMX; `transposed` comes from [`crate::conv::tiles::repack::transpose_to_bf16`].
///
/// # Panics
/// As [`backward_data`], or if `cpu` does not prove AMX.
pub fn backward_data<Y: Element>(
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
            let gather = ImplicitGemm { shape, direction, product, images, epilogue };
            dispatch(cpu, FewImages { gather, rows, target });
        });
    }
    // What is written in f32 with bias or ReLU, logits at most, goes pixel by pixel.
    let slides = SlidingRows::fit(shape, direction) && (Y::IS_BF16 || epilogue.is_none());
    let registers = if slides { Registers::SlidingGemm } else { Registers::Square };
    with_tiles(cpu, depth, registers, images, |tiles| {
        let product = TileProduct { source, weights, depth, tiles };
        let gather = ImplicitGemm { shape, direction, product, images, epilogue };
        if slides {
            dispatch(cpu, SlidingRows::new(gather, rows, target));
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
