//! Two-dimensional convolution, and dense layers as the convolution whose kernel is the whole image.
//!
//! With activations blocked as [`crate::layout`] says, one output pixel of a block is a matrix product
//!
//! ```text
//! Y[image][out] = Σ over the taps on the image  X(tap)[image][in] · W(tap)[in][out]
//! ```
//!
//! and the three passes of training are matrix products of the same three tensors:
//!
//! | pass | rows | columns | summed over |
//! |---|---|---|---|
//! | forward | images | output channels | taps, input channels |
//! | backward data | images | input channels | taps, output channels |
//! | backward weights | input channels | output channels | pixels, images |
//!
//! A [`ConvPlan`] decides which algorithm computes them and calls it; networks, profiles and benchmarks use the plan. The
//! algorithms are in [`direct`] (f32 vectors), [`winograd`] (f32), [`tiles`] (bf16 on AMX) and [`first_layer`] (grey images).
//!
//! Weights are stored in panels of [`PANEL`] columns, `[out/16][ky][kx][in][16]`, which a microkernel reads sequentially; see
//! [`pack`].

mod backward_bias;
pub mod direct;
mod epilogue;
pub mod first_layer;
mod implicit_gemm;
pub mod pack;
mod panel;
mod plan;
mod pooled;
mod prefetcher;
#[cfg(test)]
mod reference;
mod shape;
#[cfg(test)]
mod tests;
pub mod tiles;
mod weight_gradient;
pub mod winograd;

pub use backward_bias::backward_bias;
pub use epilogue::{Epilogue, Part};
pub use panel::PANEL;
pub use plan::{
    BackwardArgs, ConvAlgorithm, ConvPlan, ForwardArgs, Fusion, PackChunk, Source, TensorType, WeightGradient,
    WeightSums,
};
pub use pooled::{MAX_WINDOW, NO_ARGMAX, PooledOutput, Training};
pub use shape::Conv2dShape;
pub use weight_gradient::{Accumulate, Blocks};
