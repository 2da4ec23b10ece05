#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod error;
mod exec;
mod network;
mod params;
mod plan;
mod profile;
mod spec;
#[cfg(test)]
mod test_support;

pub use error::{FileProblem, LayerProblem, ModelError};
pub use exec::images::Images;
pub use exec::pass::{BatchMetrics, Loss, Metrics, StepKey, Targets};
pub use exec::timing::PassTimes;
pub use network::{BuildOptions, Network};
pub use params::layout::ParamLayout;
pub use params::snapshot::Snapshot;
pub use params::{ParamEntry, ParamKind, Params};
pub use profile::isolated::{IsolatedOperation, Operands, Pass};
pub use profile::operations::{Operation, OperationKind};
pub use selvedge_compute::{Precision, Threads};
pub use spec::options::{Kernel, Padding, Units};
pub use spec::shape::Shape;
pub use spec::{InputSpec, LayerSpec, ModelSpec};
