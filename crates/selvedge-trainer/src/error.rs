//! [`TrainError`]: why a run fails.

use selvedge_compute::{CpuError, ThreadsError};
use selvedge_model::ModelError;
use thiserror::Error;

use crate::checkpoint::CheckpointError;
use crate::data::DataError;
use crate::recipe::RecipeError;
use crate::run_folder::FolderError;

/// Why a run, or the evaluation of one, fails.
#[derive(Debug, Error)]
pub enum TrainError {
    /// The recipe cannot be used, or not with this data set.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// The data set cannot be used.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The run's folder cannot be used.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// A checkpoint cannot be used.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The network cannot be built, loaded or saved.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The processor lacks what was asked for.
    #[error(transparent)]
    Cpu(#[from] CpuError),
    /// The threads cannot be started.
    #[error(transparent)]
    Threads(#[from] ThreadsError),
    /// A loss is not finite.
    #[error(
        "epoch {epoch}, after {step} steps: the {what} is {loss}, and {culprit}; saved files are from before. \
         A lower learning rate (now {rate:e}) or a warm-up may help"
    )]
    NotFinite {
        /// The epoch, counted from 1.
        epoch: u64,
        /// Completed steps of the run.
        step: u64,
        /// Which loss.
        what: &'static str,
        /// Its value.
        loss: f64,
        /// The parameter that is not finite.
        culprit: String,
        /// The learning rate.
        rate: f64,
    },
    /// The summary of a run, or of several seeds, cannot be used.
    #[error("{path} cannot be used: {problem}", path = path.display())]
    Summary {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}
