//! The layer next to a network's input, which sees few channels and whose input needs no gradient.

mod backward_weights;
pub mod batch_norm;
pub mod patches;
mod pooled;

pub use backward_weights::backward_weights;
pub use pooled::{backward_pooled, forward_pooled, is_first_layer};
