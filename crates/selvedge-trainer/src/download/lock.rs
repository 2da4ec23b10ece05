//! `selvedge.lock`: the hashes of a folder's files at its first use, which prove that later runs use the same bytes.
//!
//! One line per file: hash, two spaces, name. `sha256sum -c` reads it.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::error::DownloadError;
use super::registry::{DATASETS, NamedDataset, RAW_NAMES, TRAINING_NAMES};
use super::verify::{FileState, sha256_of, verify_file};

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

/// Compares the files of a folder that are needed, `names`, with its [`LOCK_NAME`], which is written at first use. The test files
/// may be used before the training files are there, and the other way round: the lock file is completed then.
///
/// A folder of a named data set gets no lock file: neither one whose files match the pinned hashes, nor `data_dir/NAME`,
/// whose files must match them.
///
/// # Errors
/// [`DownloadError::MissingFile`], [`DownloadError::Changed`], [`DownloadError::BadLock`],
/// [`DownloadError::BrokenNamed`] and [`DownloadError::Io`].
pub fn confirm(dir: &Path, data_dir: &Path, names: &[&'static str]) -> Result<Confirmation, DownloadError> {
    let lock = dir.join(LOCK_NAME);
    match fs::read_to_string(&lock) {
        Ok(text) => {
            return match compare(dir, &lock, &text, names)? {
                new if new.is_empty() => Ok(Confirmation::Unchanged),
                new => write(lock, &(text + &new)),
            };
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(DownloadError::io("read", &lock)(error)),
    }
    let paths = names.iter().map(|name| locate(dir, name)).collect::<Result<Vec<_>, _>>()?;
    for dataset in DATASETS {
        if is_named(dir, data_dir, dataset, names)? {
            return Ok(Confirmation::Named(dataset.name));
        }
    }
    let lines = paths.iter().map(|path| line(dir, path)).collect::<Result<String, _>>()?;
    write(lock, &lines)
}

/// The hashes are a promise to notice changes: where they cannot be kept, for whatever reason, the files can still be used.
fn write(lock: PathBuf, text: &str) -> Result<Confirmation, DownloadError> {
    match selvedge_atomic_file::write(&lock, text.as_bytes()) {
        Ok(()) => Ok(Confirmation::Written(lock)),
        Err(error) => Ok(Confirmation::NotWritable(format!(
            "{} cannot be written ({}): later changes to the files will go unnoticed",
            lock.display(),
            error.source
        ))),
    }
}

/// Compares the training files of a folder with its [`LOCK_NAME`], if it has one.
pub(super) fn compare_training(dir: &Path) -> Result<(), DownloadError> {
    let lock = dir.join(LOCK_NAME);
    match fs::read_to_string(&lock) {
        Ok(text) => compare(dir, &lock, &text, &TRAINING_NAMES).map(drop),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(DownloadError::io("read", &lock)(error)),
    }
}

/// Whether the folder holds this data set. If it should but does not, that is an error.
fn is_named(
    dir: &Path,
    data_dir: &Path,
    dataset: &'static NamedDataset,
    names: &[&str],
) -> Result<bool, DownloadError> {
    let mut broken = None;
    for pin in dataset.files.iter().filter(|pin| names.contains(&pin.raw_name())) {
        if !matches!(verify_file(dir, pin)?.state, FileState::Verified(_)) {
            broken = Some(pin.name);
            break;
        }
    }
    let Some(file) = broken else { return Ok(true) };
    let home = fs::canonicalize(data_dir.join(dataset.name)).ok();
    if home.is_some() && home == fs::canonicalize(dir).ok() {
        return Err(DownloadError::BrokenNamed { dir: dir.to_owned(), dataset: dataset.name, file });
    }
    Ok(false)
}

/// Compares the files with the lock file, and returns the lines of those that are used for the first time.
fn compare(dir: &Path, lock: &Path, text: &str, names: &[&'static str]) -> Result<String, DownloadError> {
    let bad = |problem: String| DownloadError::BadLock { lock: lock.to_owned(), problem };
    let mut locked = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let entry = line.split_once("  ").filter(|(hash, name)| is_sha256(hash) && published_name(name).is_some());
        let Some(entry) = entry else {
            return Err(bad(format!("line {} is not a SHA-256, two spaces and the name of a data file", index + 1)));
        };
        locked.push(entry);
    }
    if locked.is_empty() {
        return Err(bad("it lists no file".to_owned()));
    }
    let mut new = String::new();
    for name in names {
        let path = locate(dir, name)?;
        let file = relative_name(dir, &path);
        // A part of which no file is listed has not been used before.
        let is_of_part = |listed: &str| published_name(listed).is_some_and(|other| other[..4] == name[..4]);
        match locked.iter().find(|(_, listed)| *listed == file) {
            Some((expected, _)) => {
                let found = hash(&path)?;
                if found != *expected {
                    let (lock, expected) = (lock.to_owned(), (*expected).to_owned());
                    return Err(DownloadError::Changed { path, lock, expected, found });
                }
            }
            None if locked.iter().any(|(_, listed)| is_of_part(listed)) => {
                return Err(bad(format!("it does not list {file}")));
            }
            None => new += &line(dir, &path)?,
        }
    }
    Ok(new)
}

/// The line of a file, as `sha256sum` writes it.
fn line(dir: &Path, path: &Path) -> Result<String, DownloadError> {
    Ok(format!("{}  {}\n", hash(path)?, relative_name(dir, path)))
}

fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// The published name, without `.gz`, of a data file in the folder or below it.
fn published_name(listed: &str) -> Option<&'static str> {
    let (folders, file) = listed.rsplit_once('/').unwrap_or(("", listed));
    let is_below = folders.is_empty() && !listed.starts_with('/')
        || folders.split('/').all(|folder| !matches!(folder, "" | "." | ".."));
    let file = file.strip_suffix(".gz").unwrap_or(file).replacen(".idx", "-idx", 1);
    RAW_NAMES.into_iter().find(|name| is_below && *name == file)
}

/// The file that is read for a published name.
fn locate(dir: &Path, name: &'static str) -> Result<PathBuf, DownloadError> {
    let found = selvedge_idx::locate(dir, name).map_err(DownloadError::not_found)?;
    found.ok_or_else(|| DownloadError::MissingFile { dir: dir.to_owned(), name })
}

/// The path of a file from the folder on, with slashes on every system.
fn relative_name(dir: &Path, path: &Path) -> String {
    let below = path.strip_prefix(dir).unwrap_or(path);
    below.iter().map(|name| name.to_string_lossy()).collect::<Vec<_>>().join("/")
}

fn hash(path: &Path) -> Result<String, DownloadError> {
    File::open(path).and_then(|mut file| sha256_of(&mut file)).map_err(DownloadError::io("read", path))
}
