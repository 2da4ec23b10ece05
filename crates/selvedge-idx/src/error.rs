//! The error type of the crate: the problem, the file and byte, what was expected and found there, and what to do.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Why a file could not be read as IDX, a folder not loaded as a data set, or an array not written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdxError {
    /// The operating system refused an operation on a file.
    #[error("{}: cannot {action}: {source}; {}", file.display(), advice(source.kind()))]
    Io {
        /// The file.
        file: PathBuf,
        /// The operation, as a verb phrase: "open the file".
        action: &'static str,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The content of a file is invalid. Boxed, to keep every `Result` small.
    #[error("{0}")]
    Invalid(Box<Invalid>),
}

/// The details of [`IdxError::Invalid`]. Its `Display` is the whole message for a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    /// The file, or the name given for bytes in memory.
    pub file: PathBuf,
    /// The kind of problem.
    pub problem: Problem,
    /// Where it was found.
    pub offset: Offset,
    /// What was expected there.
    pub expected: String,
    /// What was found there.
    pub found: String,
    /// What a person can do.
    pub advice: String,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, problem, offset, expected, found, advice } = self;
        write!(f, "{}: {problem} at {offset}: expected {expected}, found {found}; {advice}", file.display())
    }
}

/// A position in bytes, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offset {
    /// In the file itself.
    File(u64),
    /// In the IDX data: a gzip file's decompressed content, or a plain file itself.
    Data(u64),
}

impl Offset {
    /// The number of bytes before this position.
    #[must_use]
    pub fn bytes(self) -> u64 {
        match self {
            Self::File(n) | Self::Data(n) => n,
        }
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(n) => write!(f, "byte {n}"),
            Self::Data(n) => write!(f, "byte {n} of the IDX data"),
        }
    }
}

/// The kinds of problems, for programs that handle some of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// Neither an IDX header nor gzip.
    #[error("not an IDX file")]
    NotIdx,
    /// The third byte of the header is not one of the six element codes.
    #[error("unknown element type")]
    UnknownElementType,
    /// A valid element type, but not the requested one.
    #[error("wrong element type")]
    WrongElementType,
    /// A valid rank, but not one that images or labels have.
    #[error("wrong number of dimensions")]
    WrongRank,
    /// The product of the dimensions exceeds the address space, or the array exceeds the limits of the format.
    #[error("impossible dimensions")]
    Dimensions,
    /// The data ends too early.
    #[error("truncated file")]
    Truncated,
    /// More bytes follow the data.
    #[error("trailing bytes")]
    TrailingBytes,
    /// The gzip stream is corrupt or fails its checksum.
    #[error("corrupt gzip data")]
    Gzip,
    /// A gzip file inside a gzip file.
    #[error("gzipped twice")]
    GzippedTwice,
    /// A gzip file that would decompress to far more than is plausible for its size.
    #[error("suspicious compression ratio")]
    Bomb,
    /// One of the four files of a data set is missing.
    #[error("missing file")]
    MissingFile,
    /// Images and labels of a part differ in number.
    #[error("images and labels differ in number")]
    CountMismatch,
    /// A part without samples, or images without pixels.
    #[error("empty data set")]
    Empty,
    /// Training and test images differ in size.
    #[error("training and test images differ in size")]
    ImageSize,
    /// A label that has no class.
    #[error("label out of range")]
    Label,
    /// `classes.txt` is invalid.
    #[error("invalid class names")]
    ClassNames,
}

impl IdxError {
    /// The kind of problem, or `None` for an error of the operating system.
    #[must_use]
    pub fn problem(&self) -> Option<Problem> {
        match self {
            Self::Io { .. } => None,
            Self::Invalid(invalid) => Some(invalid.problem),
        }
    }

    /// The file, or the name given for bytes in memory.
    #[must_use]
    pub fn file(&self) -> &Path {
        match self {
            Self::Io { file, .. } => file,
            Self::Invalid(invalid) => &invalid.file,
        }
    }

    pub(crate) fn io(file: &Path, action: &'static str, source: io::Error) -> Self {
        Self::Io { file: file.to_path_buf(), action, source }
    }

    /// The error for a file that could not be written.
    pub(crate) fn not_written(error: selvedge_atomic_file::Error) -> Self {
        Self::Io { file: error.path, action: error.action, source: error.source }
    }

    pub(crate) fn invalid(
        file: &Path,
        problem: Problem,
        offset: Offset,
        expected: impl Into<String>,
        found: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self::Invalid(Box::new(Invalid {
            file: file.to_path_buf(),
            problem,
            offset,
            expected: expected.into(),
            found: found.into(),
            advice: advice.into(),
        }))
    }
}

fn advice(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::NotFound => "check the path",
        io::ErrorKind::PermissionDenied => "check the permissions of the file and of its folder",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "free some space",
        io::ErrorKind::OutOfMemory => "the data does not fit in this machine's memory",
        io::ErrorKind::IsADirectory => "give the path of a file",
        io::ErrorKind::NotADirectory => "give the path of a folder",
        io::ErrorKind::Unsupported => "give a regular file",
        _ => "check the disk or network share that holds it, and try again",
    }
}
