//! [`ProfileError`]: why there is no profile.

use std::io;
use std::path::PathBuf;

use selvedge_compute::{CpuError, ThreadsError};
use thiserror::Error;

use super::OperationKind;
use crate::error::TrainError;

/// Why there is no profile, or not all of it.
#[derive(Debug, Error)]
pub enum ProfileError {
    /// An operation that is none.
    #[error("unknown operation {asked:?}: there are {}", names())]
    UnknownOperation {
        /// What was asked for.
        asked: String,
    },
    /// A shape that is none, or none of this operation.
    #[error("shape {asked:?} of {operation}: {problem}; expected {expected}")]
    Shape {
        /// What was asked for.
        asked: String,
        /// The operation.
        operation: OperationKind,
        /// What is wrong.
        problem: String,
        /// How such a shape is written.
        expected: &'static str,
    },
    /// A batch without images, or of too many.
    #[error("a batch of {asked} images: from 1 to {most} are possible")]
    Batch {
        /// What was asked for.
        asked: usize,
        /// The most.
        most: usize,
    },
    /// The processor.
    #[error(transparent)]
    Cpu(#[from] CpuError),
    /// The threads.
    #[error(transparent)]
    Threads(#[from] ThreadsError),
    /// The recipe, its data set or its network.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// A file that cannot be written.
    #[error("{path} cannot be written: {source}", path = path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// No `perf` to sample with.
    #[error(
        "--flamegraph needs the program perf, which is not installed ({source}): on Debian `apt-get install linux-perf`, \
         on Ubuntu `apt-get install linux-tools-common linux-tools-$(uname -r)`, on Fedora `dnf install perf`"
    )]
    NoPerf {
        /// Why it could not be started.
        source: io::Error,
    },
    /// `perf` that failed.
    #[error("`perf {subcommand}` failed: {problem}")]
    Perf {
        /// What it was asked to do.
        subcommand: &'static str,
        /// Its own words.
        problem: String,
    },
}

fn names() -> String {
    OperationKind::ALL.map(OperationKind::name).join(", ")
}
