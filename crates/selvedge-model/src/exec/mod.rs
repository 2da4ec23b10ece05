//! Running a plan: the memory of passes, how they are partitioned over threads, and each operation on one block.

pub(crate) mod conv;
pub(crate) mod ends;
pub(crate) mod engine;
pub(crate) mod input_norm;
pub(crate) mod norms;
pub(crate) mod pass;
pub(crate) mod pieces;
pub(crate) mod run;
pub(crate) mod workers;
