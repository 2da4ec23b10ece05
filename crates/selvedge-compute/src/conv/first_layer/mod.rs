//! The first layer of a network: its input has few channels, which are not padded, and needs no gradient.
//!
//! | module | layer |
//! |---|---|
//! | [`backward_weights`] | any, in f32: the gradient of the weights of unpadded channels |
//! | [`forward_pooled`], [`backward_pooled`] | 3x3 on a grey image with 2x2 max pooling, in f32 |
//! | [`patches`] | the same, or with batch norm instead of pooling, in bf16 on AMX |
//! | [`batch_norm`] | 3x3 on a grey image with batch norm folded in, from the moments of the patches |

mod backward_weights;
pub mod batch_norm;
pub mod patches;
mod pooled;

pub use backward_weights::backward_weights;
pub use pooled::{PooledBackward, backward_pooled, forward_pooled, is_first_layer};
