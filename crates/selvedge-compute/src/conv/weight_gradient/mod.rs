//! The gradient of the weights: what its f32 and its bf16 implementation share.
//!
//! `dW(tap) = Σ X(pixel + tap)ᵀ · dY(pixel)`, summed over pixels and images. Both operands are repacked first, so that the
//! microkernels read them contiguously ([`RepackedRows`]). A [`GradientSum`] is the gradient that is being computed, in f32
//! vectors ([`crate::conv::direct::backward_weights`]) or bf16 tiles ([`crate::conv::tiles::backward_weights`]). Two strategies
//! walk over the pixels:
//!
//! | strategy | adds per call | implemented by |
//! |---|---|---|
//! | [`tap_by_tap`] | one tap over some pixels of a row | vectors; tiles for kernels without three taps in a row |
//! | [`kernel_rows`] | a row of taps over several rows of pixels | tiles for kernels with three taps in a row |
//!
//! Either strategy sums over all blocks of a batch, or over one block whose rows are repacked on the way ([`add_block`]).

mod block;
mod blocking;
mod checks;
pub(in crate::conv) mod kernel_rows;
mod operands;
pub(in crate::conv) mod tap_by_tap;

use std::ops::Range;

use crate::conv::Conv2dShape;

pub(in crate::conv) use block::{BlockOperands, Repack, Strategy, add_block};
pub(in crate::conv) use blocking::rows_per_sum;
pub(in crate::conv) use checks::{check_block, check_blocks};
pub use operands::Blocks;
pub(in crate::conv) use operands::{RepackedRows, TILE, row_buffers};

/// What a gradient is added to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accumulate {
    /// The content of the slice.
    Add,
    /// Nothing: the slice is overwritten.
    Overwrite,
}

/// The gradient of some panels of the weights while it is being summed.
pub(in crate::conv) trait GradientSum {
    /// The element type of the repacked operands.
    type Element: Copy;

    /// The convolution.
    fn shape(&self) -> &Conv2dShape;

    /// The panels whose gradient is summed.
    fn panels(&self) -> Range<usize>;
}
