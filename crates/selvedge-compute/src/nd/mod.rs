//! The operations on arrays of [`ndarray`], for those who do not want to learn the layout of [`crate::layout`].
//!
//! Each function takes views and gives new arrays: it packs its arguments into blocks of 32 images, runs the kernel of the same
//! name on every block, in parallel, and unpacks the result.
//!
//! | module | forward | backward |
//! |---|---|---|
//! | [`conv`] | [`forward`](conv::forward) | [`backward`](conv::backward), [`backward_weights`](conv::backward_weights) |
//! | [`dense`] | [`forward`](dense::forward) | [`backward`](dense::backward) |
//! | [`pool`] | [`max_forward`](pool::max_forward), [`average_forward`](pool::average_forward) | [`max_backward`](pool::max_backward), [`average_backward`](pool::average_backward) |
//! | [`norm`] | [`forward`](norm::forward), [`inference`](norm::inference) | [`backward`](norm::backward) |
//! | [`activation`] | [`forward`](activation::forward) | [`backward`](activation::backward) |
//! | [`dropout`] | [`apply`](dropout::apply) | the same, of the gradient |
//! | [`loss`] | [`cross_entropy`](loss::cross_entropy), [`softmax`](loss::softmax) | in the same pass |
//!
//! - **Shapes.** Batches are `[image, row, column, channel]` (NHWC) with any number of images. The strides may be any, so a
//!   batch in PyTorch's NCHW is passed as `x.permuted_axes([0, 2, 3, 1])`, without a copy. Results are in standard layout.
//! - **Errors.** Arguments that do not fit each other are an [`ArrayError`], which says what was expected and what was found.
//! - **Threads.** Work is cut over rayon's current pool: call the operations inside [`Threads::install`](crate::Threads::install)
//!   to choose how many threads there are, and to have denormals flushed. Results have the same bits for any number of them.
//! - **Precision.** f32.
//!
//! Those who stay in the layout from one kernel to the next pack once with [`BlockTensor`] instead. What they save, for 64 images
//! on one thread of an AMD EPYC with AVX-512 (`cargo bench -p selvedge-compute --bench nd`, 2026-11-28), in ms:
//!
//! | operation | kernels on blocks | on arrays |
//! |---|---|---|
//! | convolution 3x3, 28x28 pixels, 1 to 16 channels, forward | 0.22 | 1.07 |
//! | 14x14 pixels, 16 to 32 channels, forward; backward | 0.58; 1.12 | 0.69; 1.38 |
//! | 14x14 pixels, 64 to 64 channels, forward; backward | 3.76; 7.84 | 5.84; 11.6 |
//! | 7x7 pixels, 256 to 256 channels, forward; backward | 13.0; 28.6 | 16.7; 38.6 |
//! | max pooling 2x2, 14x14 pixels, 64 channels | 0.06 | 0.23 |
//! | batch norm, 14x14 pixels, 64 channels | 0.13 | 0.50 |
//! | ReLU, 14x14 pixels, 64 channels | 0.07 | 0.10 |
//!
//! Of a batch of 14x14 pixels and 64 channels in NHWC, packing takes 0.12 ms and unpacking 0.09 ms; the rest is memory that each
//! call asks for anew, and weights that each call packs.

pub mod activation;
mod blocks;
pub mod conv;
pub mod dense;
pub mod dropout;
mod error;
pub mod loss;
pub mod norm;
mod passes;
pub mod pool;
#[cfg(test)]
mod tests;

pub use blocks::BlockTensor;
pub use error::ArrayError;

use ndarray::ArrayView1;

use crate::AlignedVec;
use crate::layout::padded_channels;

/// A number for each channel, and zeros for the padding.
fn padded(channels: ArrayView1<'_, f32>) -> AlignedVec<f32> {
    let mut numbers = AlignedVec::zeroed(padded_channels(channels.len()));
    numbers.iter_mut().zip(channels).for_each(|(to, from)| *to = *from);
    numbers
}
