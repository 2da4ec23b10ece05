//! Measures each operation, and each layer of a recipe, against the hardware's limits: the command `profile`.
//!
//! [`Peaks::measure`] measures the machine's limits, [`measure_operation`] times an operation on shapes, [`TimedRecipe`]
//! times the steps of a training run, layer by layer. The results make a [`Report`]: a table ([`Report::table`]), JSON
//! (serde), and a roofline plot ([`roofline`]).
//!
//! A [`Figure`] is a time, the operations and bytes of the work as [`selvedge_compute::cost`] counts them, and the share of
//! the limit that bounds the work,
//!
//! ```text
//! share = max(operations / peak, bytes / bandwidth) / time
//! ```
//!
//! with the bandwidth of the smallest cache that holds a thread's share of the operands.

mod error;
pub mod flamegraph;
mod operation;
mod peaks;
mod recipe;
pub mod roofline;
mod shape;
mod table;

pub use error::ProfileError;
pub use operation::{Machine, OperationOptions, ProfiledOperation, measure_operation};
pub use peaks::{Bandwidths, Level, Limits, Peaks};
pub use recipe::{LayerTimes, RecipeProfile, StepTimes, TimedRecipe};
pub use shape::{OperationShape, ShapeForm};

use selvedge_compute::cost::Cost;
use selvedge_compute::{Cpu, Precision, Threads};
use serde::{Deserialize, Serialize};

use crate::machine::cpu_name;

/// The results of a profile.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Version of the program.
    pub version: String,
    /// The processor's name.
    pub cpu: String,
    /// The name of the instruction set in use: see [`selvedge_compute::Isa`].
    pub isa: String,
    /// Threads that operations and steps ran on.
    pub threads: usize,
    /// The machine's limits.
    pub peaks: Peaks,
    /// Operations, each measured alone.
    pub operations: Vec<Measurement>,
    /// The steps of a recipe; null if none was measured.
    pub recipe: Option<RecipeProfile>,
}

impl Report {
    /// A report of the machine, without measurements.
    pub fn new(cpu: Cpu, threads: &Threads, peaks: Peaks) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cpu: cpu_name(),
            isa: cpu.isa().name().to_owned(),
            threads: threads.count(),
            peaks,
            operations: Vec::new(),
            recipe: None,
        }
    }
}

/// An operation on a shape.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    /// The operation, as `--op` names it.
    pub operation: String,
    /// The shape, as `--shape` takes it.
    pub shape: String,
    /// `forward`, `backward`, `backward_data`, `backward_weights` or `update`.
    pub pass: String,
    /// The precision of the tensors: `f32` or `bf16`.
    pub precision: String,
    /// Instruction set and algorithm, such as `amx tiles`.
    pub path: String,
    /// Images of the batch; 0 for an optimizer.
    pub batch: usize,
    /// The operands of a convolution or dense layer, as `--operands` names them; null for other operations.
    pub operands: Option<String>,
    /// The figure.
    pub figure: Figure,
}

/// What bounds a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// Arithmetic: the peak in the precision of the products.
    Compute,
    /// Bandwidth of L1.
    L1,
    /// Bandwidth of L2.
    L2,
    /// Bandwidth of what lies beyond L2: shared caches and memory.
    Beyond,
}

/// A time, the work done in it, and its share of what is possible.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// The time.
    pub seconds: f64,
    /// Floating-point operations needed, without products with padding.
    pub flops: u64,
    /// The same with the products on a convolution's padding.
    pub nominal_flops: u64,
    /// Bytes moved if each operand moves once.
    pub bytes: u64,
    /// `flops / seconds`.
    pub flops_per_second: f64,
    /// `nominal_flops / seconds`, which other libraries report.
    pub nominal_flops_per_second: f64,
    /// `bytes / seconds`.
    pub bytes_per_second: f64,
    /// `flops / bytes`.
    pub intensity: f64,
    /// What bounds it.
    pub bound: Bound,
    /// The share of the time that the limit alone would take: 1 is perfect. It exceeds 1 where operands lie in a faster cache
    /// than their size suggests.
    pub share: f64,
}

impl Figure {
    /// The figure of `cost` in `seconds` by these limits. `resident`, the bytes that a thread works on, decides which cache
    /// they lie in.
    pub fn new(seconds: f64, cost: Cost, precision: Precision, resident: u64, peaks: &Peaks, limits: &Limits) -> Self {
        let level = peaks.level_of(resident);
        let peak = limits.flops(precision);
        let compute = cost.flops as f64 / peak;
        let memory = cost.bytes as f64 / limits.bandwidth(level);
        let bound = match level {
            _ if compute >= memory => Bound::Compute,
            Level::L1 => Bound::L1,
            Level::L2 => Bound::L2,
            Level::Beyond => Bound::Beyond,
        };
        let rate = |count: u64| if seconds > 0.0 { count as f64 / seconds } else { 0.0 };
        Self {
            seconds,
            flops: cost.flops,
            nominal_flops: cost.nominal_flops,
            bytes: cost.bytes,
            flops_per_second: rate(cost.flops),
            nominal_flops_per_second: rate(cost.nominal_flops),
            bytes_per_second: rate(cost.bytes),
            intensity: cost.intensity(),
            bound,
            share: if seconds > 0.0 { compute.max(memory) / seconds } else { 0.0 },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_a_share_of_its_bound() {
        let bandwidths = Bandwidths { l1: 400e9, l2: 100e9, beyond: 10e9 };
        let limits =
            Limits { threads: 1, f32_flops: 200e9, bf16_flops: Some(3e12), read: bandwidths, copy: bandwidths };
        let peaks = Peaks { l1_bytes: 48 << 10, l2_bytes: 2 << 20, one_thread: limits, all_threads: limits };
        let figure = |flops, bytes, precision, resident| {
            let cost = Cost { flops, nominal_flops: 2 * flops, bytes };
            Figure::new(1e-3, cost, precision, resident, &peaks, &limits)
        };
        // 100 MFLOP take half a millisecond at 200 GFLOP/s; 1 MB from L2 takes a hundredth of one.
        let compute = figure(100_000_000, 1_000_000, Precision::F32, 1_000_000);
        assert_eq!((compute.bound, compute.flops_per_second, compute.intensity), (Bound::Compute, 1e11, 100.0));
        assert!((compute.share - 0.5).abs() < 1e-12 && compute.nominal_flops_per_second == 2e11);
        // In bf16 it takes a thirtieth of a millisecond.
        assert!((figure(100_000_000, 1_000_000, Precision::Bf16, 0).share - 1.0 / 30.0).abs() < 1e-12);
        // 5 MB from beyond L2 take half a millisecond and hide 30 µs of arithmetic.
        let memory = figure(6_000_000, 5_000_000, Precision::F32, 5_000_000);
        assert_eq!(memory.bound, Bound::Beyond);
        assert!((memory.share - 0.5).abs() < 1e-12);
        assert_eq!(figure(0, 1000, Precision::F32, 1000).bound, Bound::L1);
        assert_eq!(figure(0, 1000, Precision::F32, 100_000).bound, Bound::L2);
    }
}
