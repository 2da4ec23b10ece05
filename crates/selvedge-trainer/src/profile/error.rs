//! [`ProfileError`]: why a profile fails.

use std::io;
use std::path::PathBuf;

use selvedge_compute::{CpuError, ThreadsError};
use thiserror::Error;

use super::ProfiledOperation;
use crate::error::TrainError;

/// Why a profile fails.
#[derive(Debug, Error)]
pub enum ProfileError {
    /// An operation that does not exist.
    #[error("unknown operation {asked:?}: expected one of {}", ProfiledOperation::names())]
    UnknownOperation {
        /// The value as given.
        asked: String,
    },
    /// A shape that the operation cannot have.
    #[error("shape {asked:?} of {operation}: {problem}; expected {expected}")]
    Shape {
        /// The value as given.
        asked: String,
        /// The operation.
        operation: &'static str,
        /// What is wrong.
        problem: String,
        /// How shapes of this operation are written.
        expected: &'static str,
    },
    /// A batch without images, or with too many.
    #[error("a batch of {asked} images: expected 1 to {most}")]
    Batch {
        /// The value as given.
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
        "--flamegraph needs the program perf, which is part of Linux and not installed here ({source}): on Debian \
         `apt-get install linux-perf`, on Ubuntu `apt-get install linux-tools-common linux-tools-$(uname -r)`, on Fedora \
         `dnf install perf`"
    )]
    NoPerf {
        /// Why it could not be started.
        source: io::Error,
    },
    /// `perf` failed.
    #[error("`perf {subcommand}` failed: {problem}")]
    Perf {
        /// What it was asked to do.
        subcommand: &'static str,
        /// Its own words.
        problem: String,
    },
}
