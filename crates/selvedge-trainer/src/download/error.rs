//! Errors of data sets: on this machine ([`DownloadError`]) and at a source ([`SourceError`]).

use std::env::consts::OS;
use std::fmt::Write;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;

use super::registry::{DATASETS, NamedDataset, PinnedFile};

/// Why a data set cannot be downloaded or verified.
#[derive(Debug, Error)]
pub enum DownloadError {
    /// The data set is neither a known name nor a folder.
    #[error(
        "data set {name:?} is neither a known name nor a folder; known names: {known}; \
         a folder must hold the four IDX files (see `download --list`), and its path counts from the recipe's file if that names \
         it, else from the current folder"
    )]
    UnknownDataset {
        /// The name as given.
        name: String,
        /// The known names, separated by commas.
        known: String,
    },
    /// A `--mirror` cannot be used.
    #[error("mirror {mirror:?} cannot be used: {reason}")]
    BadMirror {
        /// The address as given.
        mirror: String,
        /// What is wrong with it, and what is expected.
        reason: String,
    },
    /// The file system refused an operation.
    #[error("cannot {action} {path}: {source}", path = path.display())]
    Io {
        /// The operation, as a verb: "write", "rename".
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Another process downloads the same file.
    #[error("another process is downloading to {path}: wait until it ends", path = path.display())]
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
        /// The sources with their errors, in the order in which they were tried.
        failures: Vec<SourceFailure>,
        /// Commands that download and verify the file.
        by_hand: String,
    },
    /// A file does not match the `selvedge.lock` of its folder.
    #[error(
        "{path} has changed: {lock} has SHA-256 {expected}, the file has {found}; \
         restore the file, or delete {lock} if you changed it on purpose",
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
    /// The lock file does not list the files of the folder.
    #[error(
        "{lock} does not fit the folder: {problem}; restore the files, or delete the lock file if you changed them on purpose",
        lock = lock.display()
    )]
    BadLock {
        /// The lock file.
        lock: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The folder lacks a file of a data set.
    #[error(
        "{dir} has neither {name} nor {name}.gz{}; a data set is a folder with {}",
        passed_over(dir, name), super::registry::RAW_NAMES.join(", "), dir = dir.display()
    )]
    MissingFile {
        /// The folder.
        dir: PathBuf,
        /// The name without `.gz`.
        name: &'static str,
    },
    /// A folder given by its path is that of a named data set, and is damaged.
    #[error(
        "{dir} holds {dataset}, but {file} is not the published file; \
         `download --dataset {dataset}` verifies and repairs it",
        dir = dir.display()
    )]
    BrokenNamed {
        /// The folder.
        dir: PathBuf,
        /// The data set.
        dataset: &'static str,
        /// The file that is not the published one.
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

    /// A folder that cannot be searched for a file.
    pub(crate) fn not_found(error: selvedge_idx::IdxError) -> Self {
        match error {
            selvedge_idx::IdxError::Io { file, action, source } => Self::Io { action, path: file, source },
            error => Self::Io { action: "search", path: error.file().to_owned(), source: io::Error::other(error) },
        }
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
        let hash = match OS {
            "windows" => format!("certutil -hashfile {target} SHA256"),
            "macos" => format!("shasum -a 256 {target}"),
            _ => format!("sha256sum {target}"),
        };
        let _ = write!(by_hand, "  {hash}   # expected: {}", pin.gz_sha256);
        Self::AllSourcesFailed { dataset: dataset.name, file: pin.name, failures, by_hand }
    }
}

/// What is in a folder in place of a file.
fn passed_over(dir: &Path, name: &str) -> String {
    match selvedge_idx::near_misses(dir, name) {
        near if near.is_empty() => String::new(),
        near => format!(", but {}: unpack or rename it", near.join(", ")),
    }
}

/// The path in quotes, so that a folder with spaces can be pasted into a shell.
#[cfg(not(windows))]
fn shell_quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

/// No file name on Windows contains a double quote.
#[cfg(windows)]
fn shell_quoted(path: &Path) -> String {
    format!("\"{}\"", path.display())
}

fn lines(failures: &[SourceFailure]) -> String {
    failures.iter().map(|failure| format!("  {}: {}\n", failure.url, failure.error)).collect()
}

/// A source that failed.
#[derive(Debug)]
pub struct SourceFailure {
    /// The address of the file.
    pub url: String,
    /// The error.
    pub error: SourceError,
}

/// Why a source failed.
#[derive(Debug, Error)]
pub enum SourceError {
    /// The server did not send the file.
    #[error("the server answered with HTTP status {0}")]
    Status(u16),
    /// Too many redirects.
    #[error("more than {0} redirects")]
    TooManyRedirects(usize),
    /// A redirect that may not be followed.
    #[error("redirect to {to} refused: {reason}")]
    BadRedirect {
        /// The address as the server sent it.
        to: String,
        /// Why it is refused.
        reason: &'static str,
    },
    /// The connection failed, or its certificate is not valid.
    #[error("{0}")]
    Connection(String),
    /// The server is too slow, or silent.
    #[error("stalled: {got} bytes in {} s", waited.as_secs_f32())]
    Stalled {
        /// Bytes received in that time.
        got: u64,
        /// That time.
        waited: Duration,
    },
    /// It sent something else than a gzip file, most often a web page.
    #[error("not a gzip file (content type {content_type})")]
    NotGzip {
        /// The content type in the answer.
        content_type: String,
    },
    /// It sent or announced more bytes than the file can have.
    #[error("too long: {announced} bytes announced or sent, expected at most {most}")]
    TooLong {
        /// Bytes announced, or sent before the download ended.
        announced: u64,
        /// The most bytes that the file can have.
        most: u64,
    },
    /// The connection ended before the file was complete.
    #[error("the connection ended after {got} bytes")]
    CutShort {
        /// All bytes received.
        got: u64,
    },
    /// It sent another part of the file than was requested.
    #[error("requested the bytes from {asked} on, received {answered:?}")]
    WrongRange {
        /// The first byte requested.
        asked: u64,
        /// The `Content-Range` of the answer, or its status.
        answered: String,
    },
    /// The bytes are not those of the file.
    #[error("wrong content: SHA-256 {found} ({bytes} bytes), expected {expected}")]
    WrongContent {
        /// The hash of the received bytes.
        found: String,
        /// Their number.
        bytes: u64,
        /// The pinned hash.
        expected: &'static str,
    },
}
