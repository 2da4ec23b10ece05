#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod array;
mod convolve;
mod cut;
mod ends;
mod engine;
mod error;
mod file;
mod init;
mod input_norm;
mod isolated;
mod lower;
mod memory;
mod network;
mod norms;
mod operations;
mod options;
mod param;
mod pass;
mod phases;
mod pieces;
mod plan;
mod run;
mod shape;
mod snapshot;
mod spans;
mod spec;
mod state;
mod summary;
#[cfg(test)]
mod test_support;
mod timing;
mod weights;
mod workers;

pub use error::{FileProblem, LayerProblem, ModelError};
pub use isolated::{IsolatedOperation, Operands, Pass};
pub use network::{BuildOptions, Network};
pub use operations::{Operation, OperationKind};
pub use options::{Kernel, Padding, Units};
pub use param::{ParamEntry, ParamKind, Params};
pub use pass::{BatchMetrics, Loss, Metrics, StepKey, Targets};
pub use selvedge_compute::{Precision, Threads};
pub use shape::Shape;
pub use snapshot::Snapshot;
pub use spec::{InputSpec, LayerSpec, ModelSpec};
pub use timing::PassTimes;
