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
//! Those who stay in the layout from one kernel to the next pack once with [`BlockTensor`] instead.

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
