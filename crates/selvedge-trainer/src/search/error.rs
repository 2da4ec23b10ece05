//! [`SearchError`]: why a search fails.

use std::io;
use std::path::PathBuf;

use selvedge_compute::{CpuError, ThreadsError};
use thiserror::Error;

use crate::error::TrainError;
use crate::recipe::RecipeError;
use crate::run_folder::FolderError;

/// Why a search fails. A training run whose loss is not finite is no failure: it is recorded.
#[derive(Debug, Error)]
pub(crate) enum SearchError {
    /// The file of the search cannot be read.
    #[error("the search {path} cannot be read: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A key of the file is unknown, or a value not possible.
    #[error("{place}: {}{problem}", if key.is_empty() { String::new() } else { format!("{key}: ") })]
    Value {
        /// The file and the line.
        place: String,
        /// The key, as a dotted path.
        key: String,
        /// What is wrong, and what is allowed.
        problem: String,
    },
    /// The search in the folder was begun with another text.
    #[error(
        "{what} has changed since the search in {folder} began, and its records belong to the old text. Undo the change, or \
         begin a new search in another folder; {kept} in the folder is the old text", folder = folder.display()
    )]
    Changed {
        /// The file that has changed.
        what: String,
        /// The folder of the search.
        folder: PathBuf,
        /// The name of the folder's copy.
        kept: &'static str,
    },
    /// The folder holds no search.
    #[error("{path} is not the folder of a search: it has no {missing}", path = path.display())]
    NotASearch {
        /// The folder.
        path: PathBuf,
        /// The file it should have.
        missing: &'static str,
    },
    /// A line of the records cannot be used.
    #[error("{path}, line {line}: {problem}. Remove the line to have its trial trained again", path = path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong.
        problem: String,
    },
    /// No trial of a rung can go on.
    #[error(
        "the loss of every trial of rung {rung} stopped being finite: nothing is left for the next rung. Lower learning \
         rates or a warm-up may help"
    )]
    AllFailed {
        /// The rung, counted from 1.
        rung: usize,
    },
    /// A trial cannot be trained with its values, although no line of the file is wrong by itself.
    #[error("{file}, trial {trial} with {values}: {source}")]
    Trial {
        /// The file of the search.
        file: String,
        /// The trial, counted from 1.
        trial: usize,
        /// Its values.
        values: String,
        /// The refusal.
        source: Box<TrainError>,
    },
    /// The recipe of a trial cannot be used.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// A trial cannot be trained.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// The folder of the search cannot be used.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The processor cannot be used.
    #[error(transparent)]
    Cpu(#[from] CpuError),
    /// The threads cannot be started.
    #[error(transparent)]
    Threads(#[from] ThreadsError),
}
