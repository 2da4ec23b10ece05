#![doc = include_str!("../README.md")]

pub mod activation;
pub mod aligned;
pub(crate) mod amx;
pub mod conv;
pub mod cost;
mod counting_allocator;
pub mod cpu;
pub mod dropout;
pub mod gate;
pub mod input;
pub mod layout;
pub mod loss;
#[cfg(feature = "ndarray")]
pub mod nd;
pub mod norm;
pub mod optim;
pub mod partition;
pub mod peak;
pub mod pool;
mod prefetch;
pub mod scratch;
pub mod simd;
pub mod stochastic_depth;
pub mod sum;
pub mod threads;

pub use aligned::AlignedVec;
pub use counting_allocator::CountingAllocator;
pub use cpu::{Cpu, CpuError, Isa, Precision};
pub use half::bf16;
pub use layout::{BLOCK, BlockShape, PLANE, padded_channels};
pub use prefetch::prefetch;
pub use threads::{Threads, ThreadsError};

#[cfg(test)]
mod test_support;
