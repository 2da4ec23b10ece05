//! What can go wrong with a data set: on this machine ([`DownloadError`]) and at a source ([`SourceError`]).

use std::fmt::Write;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;

use super::registry::{DATASETS, NamedDataset, PinnedFile};

/// Why a data set could not be had.
#[derive(Debug, Error)]
pub enum DownloadError {
    /// Neither a registered name nor a folder.
    #[error(
        "data set {name:?} is neither a known name nor a folder; known names: {known}; \
         a folder must hold the four IDX files (see `download --list`)"
    )]
    UnknownDataset {
        /// What was asked for.
        name: String,
        /// The registered names, separated by commas.
        known: String,
    },
    /// A `--mirror` that may not be used.
    #[error("mirror {mirror:?} cannot be used: {reason}")]
    BadMirror {
        /// The address as given.
        mirror: String,
        /// What is wrong with it and what would be right.
        reason: String,
    },
    /// The file system refused something.
    #[error("cannot {action} {path}: {source}", path = path.display())]
    Io {
        /// What was tried, as a verb: "write", "rename".
        action: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Another process writes the same file.
    #[error("another process is downloading to {path}; wait until it has ended", path = path.display())]
    Busy {
        /// The temporary file that is locked.
        path: PathBuf,
    },
    /// Every source failed.
    #[error("{file} of {dataset} could not be downloaded\n{}by hand:\n{by_hand}", lines(failures))]
    AllSourcesFailed {
        /// The data set's name.
        dataset: &'static str,
        /// The file's name.
        file: &'static str,
        /// Each source with its failure, in the order they were tried.
        failures: Vec<SourceFailure>,
        /// Commands that fetch and verify the file.
        by_hand: String,
    },
    /// A file of a folder is not what its `selvedge.lock` says.
    #[error(
        "{path} has changed: {lock} has SHA-256 {expected}, the file has {found}; \
         restore the file, or delete {lock} if the change is meant",
        path = path.display(), lock = lock.display()
    )]
    Changed {
        /// The file that changed.
        path: PathBuf,
        /// The lock file.
        lock: PathBuf,
        /// The hash in the lock file.
        expected: String,
        /// The file's hash.
        found: String,
    },
    /// The lock file and the folder do not name the same files.
    #[error(
        "{lock} does not fit the folder: {problem}; restore the files, or delete the lock file if the change is meant",
        lock = lock.display()
    )]
    BadLock {
        /// The lock file.
        lock: PathBuf,
        /// What does not fit.
        problem: String,
    },
    /// A data set file is missing from a folder.
    #[error("{dir} has neither {name} nor {name}.gz; a data set is a folder with {}", super::registry::RAW_NAMES.join(", "), dir = dir.display())]
    MissingFile {
        /// The folder.
        dir: PathBuf,
        /// The name without `.gz`.
        name: &'static str,
    },
    /// The folder of a named data set is broken and was given by its path.
    #[error(
        "{dir} holds {dataset}, but {file} is not the published file; \
         `download --dataset {dataset}` verifies and repairs it",
        dir = dir.display()
    )]
    BrokenNamed {
        /// The folder.
        dir: PathBuf,
        /// The data set that it is the folder of.
        dataset: &'static str,
        /// The file that is not as pinned.
        file: &'static str,
    },
}

impl DownloadError {
    pub(crate) fn unknown(name: &str) -> Self {
        let known: Vec<&str> = DATASETS.iter().map(|dataset| dataset.name).collect();
        Self::UnknownDataset { name: name.to_owned(), known: known.join(", ") }
    }

    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }

    /// A file that could not be put in its place.
    pub(crate) fn not_written(error: selvedge_atomic_file::Error) -> Self {
        Self::Io { action: error.action, path: error.path, source: error.source }
    }

    pub(crate) fn sources(
        dataset: &NamedDataset,
        pin: &PinnedFile,
        dir: &Path,
        bases: &[String],
        failures: Vec<SourceFailure>,
    ) -> Self {
        let target = shell_quoted(&dir.join(pin.name));
        let mut by_hand = String::new();
        for base in bases {
            let _ = writeln!(by_hand, "  curl -fL -o {target} {base}/{}", pin.name);
        }
        let _ = write!(by_hand, "  sha256sum {target}   # must print {}", pin.gz_sha256);
        Self::AllSourcesFailed { dataset: dataset.name, file: pin.name, failures, by_hand }
    }
}

/// Single quotes, so that a folder with spaces survives being pasted into a shell.
fn shell_quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

fn lines(failures: &[SourceFailure]) -> String {
    failures.iter().map(|failure| format!("  {}: {}\n", failure.url, failure.error)).collect()
}

/// One source that did not give the file.
#[derive(Debug)]
pub struct SourceFailure {
    /// The file's address there.
    pub url: String,
    /// What happened.
    pub error: SourceError,
}

/// Why a source did not give the file.
#[derive(Debug, Error)]
pub enum SourceError {
    /// An answer other than the file.
    #[error("the server answered with HTTP status {0}")]
    Status(u16),
    /// Redirects without end.
    #[error("more than {0} redirects")]
    TooManyRedirects(usize),
    /// A redirect that may not be followed.
    #[error("redirect to {to} refused: {reason}")]
    BadRedirect {
        /// The address as the server gave it.
        to: String,
        /// Why it is refused.
        reason: &'static str,
    },
    /// No connection, a broken one, or one whose certificate does not hold.
    #[error("{0}")]
    Connection(String),
    /// Too slow, or silent.
    #[error("stalled: {got} bytes in {} s", waited.as_secs_f32())]
    Stalled {
        /// Bytes that came in that time.
        got: u64,
        /// How long was waited.
        waited: Duration,
    },
    /// Not a gzip file, most often a web page.
    #[error("not a gzip file (content type {content_type})")]
    NotGzip {
        /// What the server calls it.
        content_type: String,
    },
    /// More bytes than the file can have.
    #[error("too long: {announced} bytes announced or sent, the file has at most {most}")]
    TooLong {
        /// Bytes announced, or sent until the download was given up.
        announced: u64,
        /// The cap.
        most: u64,
    },
    /// The connection ended before the file did.
    #[error("cut short after {got} bytes")]
    CutShort {
        /// Bytes received in all.
        got: u64,
    },
    /// A partial answer to another question than was asked.
    #[error("asked for the bytes from {asked} on, got {answered:?}")]
    WrongRange {
        /// The first byte asked for.
        asked: u64,
        /// The `Content-Range` of the answer, or its status.
        answered: String,
    },
    /// The bytes are not those of the file.
    #[error("wrong content: SHA-256 {found} ({bytes} bytes), expected {expected}")]
    WrongContent {
        /// The hash of what came.
        found: String,
        /// Its length.
        bytes: u64,
        /// The pin.
        expected: &'static str,
    },
}
