//! Running a plan: the memory of passes, how they are partitioned over threads, and each operation on one block.

mod block;
mod chunks;
mod context;
mod conv;
mod conv_norm;
mod conv_norm_state;
mod ends;
pub(crate) mod engine;
mod gradients;
mod groups;
pub(crate) mod images;
pub(crate) mod memory;
mod norm;
mod norm_state;
mod operation;
pub(crate) mod pass;
pub(crate) mod timing;
mod workers;
