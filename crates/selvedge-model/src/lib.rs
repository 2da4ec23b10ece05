#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod exec;
mod formats;
mod network;
mod params;
mod plan;
mod profile;
mod spec;
#[cfg(test)]
mod test_support;
mod test_time_averaging;

pub use exec::images::Images;
pub use exec::pass::{BatchMetrics, Loss, Metrics, StepKey, Targets};
pub use exec::timing::PassTimes;
pub use network::{BuildOptions, Network};
pub use params::Params;
pub use params::entry::ParamEntry;
pub use params::snapshot::{NamedArray, Snapshot};
pub use profile::isolated::{IsolatedOperation, Operands, Pass};
pub use profile::operations::Operation;
pub use selvedge_compute::activation::Activation;
pub use selvedge_compute::{Precision, Threads};
pub use spec::array::ParamKind;
pub use spec::error::{FileProblem, LayerProblem, ModelError};
pub use spec::init::Init;
pub use spec::layer::LayerSpec;
pub use spec::layout::ParamLayout;
pub use spec::options::{Kernel, Padding, Units};
pub use spec::shape::Shape;
pub use spec::{InputSpec, ModelSpec};
pub use test_time_averaging::TestTimeAveraging;
