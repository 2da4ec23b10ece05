//! `selvedge.lock`: the hashes of a folder's files at its first use, which prove that later runs use the same bytes.
//!
//! One line per file: hash, two spaces, name. `sha256sum -c` reads it.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::error::DownloadError;
use super::registry::{DATASETS, NamedDataset, RAW_NAMES, TRAINING_NAMES};
use super::verify::{FileState, sha256_of, verify};

/// Name of the lock file in a data set's folder.
pub const LOCK_NAME: &str = "selvedge.lock";

/// The result of [`confirm`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Confirmation {
    /// The files are those of this named data set, whose pinned hashes make a lock file unnecessary.
    Named(&'static str),
    /// First use: the hashes have been written to this file.
    Written(PathBuf),
    /// The files match the lock file.
    Unchanged,
    /// First use, but the folder cannot be written to: a message for the user.
    NotWritable(String),
}

/// Compares the files of a folder with its [`LOCK_NAME`], which is written at first use.
///
/// A folder of a named data set gets no lock file: neither one whose files match the pinned hashes, nor `data_dir/NAME`,
/// whose files must match them.
///
/// # Errors
/// [`DownloadError::MissingFile`], [`DownloadError::Changed`], [`DownloadError::BadLock`],
/// [`DownloadError::BrokenNamed`] and [`DownloadError::Io`].
pub fn confirm(dir: &Path, data_dir: &Path) -> Result<Confirmation, DownloadError> {
    let lock = dir.join(LOCK_NAME);
    match fs::read_to_string(&lock) {
        Ok(text) => {
            compare(dir, &lock, &text, &RAW_NAMES)?;
            return Ok(Confirmation::Unchanged);
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(DownloadError::io("read", &lock)(error)),
    }
    let paths = RAW_NAMES.map(|name| locate(dir, name));
    for (path, name) in paths.iter().zip(RAW_NAMES) {
        if path.is_none() {
            return Err(DownloadError::MissingFile { dir: dir.to_owned(), name });
        }
    }
    for dataset in DATASETS {
        if is_named(dir, data_dir, dataset)? {
            return Ok(Confirmation::Named(dataset.name));
        }
    }
    let mut text = String::new();
    for path in paths.into_iter().flatten() {
        text.push_str(&hash(&path)?);
        text.push_str("  ");
        text.push_str(&file_name(&path));
        text.push('\n');
    }
    match selvedge_atomic_file::write(&lock, text.as_bytes()).map_err(DownloadError::not_written) {
        Ok(()) => Ok(Confirmation::Written(lock)),
        Err(DownloadError::Io { source, .. })
            if matches!(source.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem) =>
        {
            Ok(Confirmation::NotWritable(format!(
                "{} cannot be written ({source}): later changes to the files will go unnoticed",
                lock.display()
            )))
        }
        Err(error) => Err(error),
    }
}

/// Compares the training files of a folder with its [`LOCK_NAME`], if it has one.
pub(super) fn compare_training(dir: &Path) -> Result<(), DownloadError> {
    let lock = dir.join(LOCK_NAME);
    match fs::read_to_string(&lock) {
        Ok(text) => compare(dir, &lock, &text, &TRAINING_NAMES),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(DownloadError::io("read", &lock)(error)),
    }
}

/// Whether the folder holds this data set. If it should but does not, that is an error.
fn is_named(dir: &Path, data_dir: &Path, dataset: &'static NamedDataset) -> Result<bool, DownloadError> {
    let reports = verify(dir, dataset)?;
    let Some(broken) = reports.iter().find(|report| !matches!(report.state, FileState::Verified(_))) else {
        return Ok(true);
    };
    let home = fs::canonicalize(data_dir.join(dataset.name)).ok();
    if home.is_some() && home == fs::canonicalize(dir).ok() {
        return Err(DownloadError::BrokenNamed { dir: dir.to_owned(), dataset: dataset.name, file: broken.pin.name });
    }
    Ok(false)
}

/// Compares the files of these names with the text of the lock file.
fn compare(dir: &Path, lock: &Path, text: &str, names: &[&'static str]) -> Result<(), DownloadError> {
    let bad = |problem: String| DownloadError::BadLock { lock: lock.to_owned(), problem };
    let mut locked = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let entry = line.split_once("  ").filter(|(hash, name)| is_sha256(hash) && is_data_file(name));
        let Some(entry) = entry else {
            return Err(bad(format!("line {} is not a SHA-256, two spaces and the name of a data file", index + 1)));
        };
        locked.push(entry);
    }
    for &name in names {
        let Some(path) = locate(dir, name) else {
            return Err(DownloadError::MissingFile { dir: dir.to_owned(), name });
        };
        let file = file_name(&path);
        let Some((expected, _)) = locked.iter().find(|(_, locked)| *locked == file) else {
            return Err(bad(format!("it does not list {file}")));
        };
        let found = hash(&path)?;
        if found != *expected {
            return Err(DownloadError::Changed {
                path,
                lock: lock.to_owned(),
                expected: (*expected).to_owned(),
                found,
            });
        }
    }
    Ok(())
}

fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_data_file(name: &str) -> bool {
    RAW_NAMES.contains(&name.strip_suffix(".gz").unwrap_or(name))
}

/// The gz if there is one, else the uncompressed file.
fn locate(dir: &Path, raw_name: &str) -> Option<PathBuf> {
    [dir.join(format!("{raw_name}.gz")), dir.join(raw_name)].into_iter().find(|path| path.is_file())
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn hash(path: &Path) -> Result<String, DownloadError> {
    File::open(path).and_then(|mut file| sha256_of(&mut file)).map_err(DownloadError::io("read", path))
}
