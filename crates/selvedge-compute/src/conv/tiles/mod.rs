//! Convolutions as products of bf16 tiles on AMX: the three passes for inputs with padded channels.

mod backward_weights;
mod few_images;
mod product;
pub mod repack;
mod sliding;
mod sliding_pooled;

use std::ops::Range;

use half::bf16;

use super::implicit_gemm::{Direction, ImplicitGemm, Pixels};
use super::pooled::{ForwardPooled, PooledOutput};
use super::{Conv2dShape, Epilogue, Part};
use crate::amx::{Depth, Registers, Tiles, with_tiles};
use crate::conv::panel::assert_padded;
use crate::cpu::Cpu;
use crate::layout::BLOCK;
use crate::simd::{Element, dispatch};
use few_images::{FewImages, FewImagesPooled, rows_of_tiles};
use product::TileProduct;
use sliding::SlidingRows;
use sliding_pooled::PooledSlidingRows;

pub use backward_weights::{backward_weights, backward_weights_of_block};

/// [`crate::conv::direct::forward`] in bf16 on AMX; `weights` are packed by [`repack::to_bf16`].
///
/// # Panics
/// As [`crate::conv::direct::forward`], if `cpu` does not prove AMX, or if the input's channels are not padded.
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
    let pass = Pass { shape, direction: Direction::Forward, source: x, weights, images, epilogue };
    pass.run(cpu, rows, y);
}

/// [`crate::conv::direct::forward_pooled`] in bf16 on AMX; `weights` are packed by [`repack::to_bf16`].
///
/// # Panics
/// As [`crate::conv::direct::forward_pooled`], if `cpu` does not prove AMX, or if the input's channels are not padded.
pub fn forward_pooled<Y: Element>(
    cpu: Cpu,
    shape: &Conv2dShape,
    x: &[bf16],
    weights: &[bf16],
    part: impl Into<Part>,
    output: PooledOutput<'_, Y>,
) {
    let Part { rows, images } = part.into();
    let pass = Pass { shape, direction: Direction::Forward, source: x, weights, images, epilogue: Epilogue::NONE };
    let depth = pass.depth();
    if output.training.is_none() && few_images::fit(shape, images) {
        return with_tiles(cpu, depth, Registers::Square, rows_of_tiles(shape), |tiles| {
            dispatch(cpu, FewImagesPooled(ForwardPooled::new(pass.gemm(depth, tiles), rows, output)));
        });
    }
    let slides = PooledSlidingRows::fit(shape, output.window);
    let registers = if slides { Registers::SlidingGemm } else { Registers::Square };
    with_tiles(cpu, depth, registers, images, |tiles| {
        let pooled = ForwardPooled::new(pass.gemm(depth, tiles), rows, output);
        if slides { dispatch(cpu, PooledSlidingRows::new(pooled)) } else { dispatch(cpu, pooled) }
    });
}

/// [`crate::conv::direct::backward_data`] in bf16 on AMX; `transposed` comes from [`repack::transpose_to_bf16`].
///
/// # Panics
/// As [`crate::conv::direct::backward_data`], or if `cpu` does not prove AMX.
pub fn backward_data<Y: Element>(
    cpu: Cpu,
    shape: &Conv2dShape,
    dy: &[bf16],
    transposed: &[bf16],
    rows: Range<usize>,
    dx: &mut [Y],
) {
    assert_padded(shape.input.channel_stride);
    let (direction, epilogue) = (Direction::Backward, Epilogue::NONE);
    let pass = Pass { shape, direction, source: dy, weights: transposed, images: BLOCK, epilogue };
    pass.run(cpu, rows, dx);
}

/// The operands of the forward or the data pass.
struct Pass<'a> {
    shape: &'a Conv2dShape,
    direction: Direction,
    source: &'a [bf16],
    weights: &'a [bf16],
    images: usize,
    epilogue: Epilogue<'a>,
}

impl<'a> Pass<'a> {
    /// The depth of tile products over the channels of the source.
    fn depth(&self) -> Depth {
        let channels = match self.direction {
            Direction::Forward => self.shape.input.channel_stride,
            Direction::Backward => self.shape.output.channel_stride,
        };
        assert_padded(channels);
        Depth::of(channels)
    }

    /// The pass as an implicit GEMM of tiles.
    fn gemm(&self, depth: Depth, tiles: &'a Tiles) -> ImplicitGemm<'a, TileProduct<'a>> {
        let &Self { shape, direction, source, weights, images, epilogue } = self;
        ImplicitGemm { shape, direction, product: TileProduct { source, weights, depth, tiles }, images, epilogue }
    }

    /// Rows `rows` without pooling: by the sliding microkernel where the kernel has three taps in a row, or pixel by pixel.
    fn run<Y: Element>(&self, cpu: Cpu, rows: Range<usize>, target: &mut [Y]) {
        let depth = self.depth();
        if self.direction == Direction::Forward && few_images::fit(self.shape, self.images) {
            return with_tiles(cpu, depth, Registers::Square, rows_of_tiles(self.shape), |tiles| {
                dispatch(cpu, FewImages { gemm: self.gemm(depth, tiles), rows, target });
            });
        }
        // f32 output with bias or ReLU, of logits at most, is computed pixel by pixel.
        let slides = SlidingRows::fit(self.shape, self.direction) && (Y::IS_BF16 || self.epilogue.is_none());
        let registers = if slides { Registers::SlidingGemm } else { Registers::Square };
        with_tiles(cpu, depth, registers, self.images, |tiles| {
            let gemm = self.gemm(depth, tiles);
            if slides {
                dispatch(cpu, SlidingRows::new(gemm, rows, target));
            } else {
                dispatch(cpu, Pixels::new(gemm, rows, target));
            }
        });
    }
}
