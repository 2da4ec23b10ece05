//! Data sets known by name: what they are, where they come from, and how they are downloaded and verified.
//!
//! Three data sets have names ([`DATASETS`]): `fashion-mnist`, which is part of the repository, and `mnist` and `kmnist`,
//! which are downloaded on demand. Each of their files is pinned by SHA-256. Any other folder is a data set too: its hashes
//! are written to a `selvedge.lock` beside the files at first use, and compared from then on ([`lock::confirm`]).
//!
//! [`fetch`] guarantees:
//!
//! - A file under its final name is complete and verified. Bytes arrive in `NAME.part`, are synced to disk, read back and
//!   hashed, and only then renamed.
//! - Downloads use https through every redirect. `--mirror` may name an http address if its host is this machine
//!   (`localhost`, `127.0.0.0/8`, `::1`); then a redirect may lead to that host and port, or to https.
//! - Nothing hangs: 10 s for a connection, 30 s without an answer or with less than 1 KiB/s.
//! - An interrupted download resumes where it stopped, even in the next run or from another source. A part that turns out
//!   to be wrong is discarded and downloaded again.
//! - When every source fails, the error says why each did, and which commands do the same by hand.
//!
//! ```no_run
//! use selvedge_trainer::download::{self, FetchOptions, NoProgress};
//!
//! let folder = download::ensure("mnist", &download::default_data_dir(), &FetchOptions::default(), &mut NoProgress)?;
//! println!("verified: {}", folder.display());
//! # Ok::<(), download::DownloadError>(())
//! ```

mod console;
mod error;
mod fetch;
mod http;
pub mod lock;
mod part;
mod registry;
mod verify;

#[cfg(test)]
mod tests;

pub use console::ConsoleProgress;
pub(crate) use console::tell;
pub use error::{DownloadError, SourceError, SourceFailure};
pub use fetch::{FetchOptions, FileOutcome, NoProgress, Outcome, Progress, fetch};
pub use http::Timeouts;
pub use registry::{DATASETS, NamedDataset, PinnedFile, find, list};
pub use verify::{FileReport, FileState, Matched, verify};

use std::env;
use std::path::{Path, PathBuf};

/// The folder that holds a folder for each named data set: the first of these that applies.
///
/// 1. the environment variable `SELVEDGE_DATA` (`cargo xtask` sets it to the repository's `data`);
/// 2. `data` in the current folder, if it has a `fashion-mnist` in it: a checkout of the repository;
/// 3. the user's data folder: `$XDG_DATA_HOME/selvedge`, `%LOCALAPPDATA%\selvedge` or
///    `~/.local/share/selvedge`;
/// 4. `data` in the current folder.
pub fn default_data_dir() -> PathBuf {
    let variable = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(folder) = variable("SELVEDGE_DATA") {
        return folder;
    }
    let local = PathBuf::from("data");
    if local.join("fashion-mnist").is_dir() {
        return local;
    }
    variable("XDG_DATA_HOME")
        .or_else(|| variable("LOCALAPPDATA"))
        .or_else(|| variable("HOME").map(|home| home.join(".local").join("share")))
        .map_or(local, |base| base.join("selvedge"))
}

/// The folder of the data set that `--dataset` names, with its files verified.
///
/// A known name means `data_dir/NAME`: missing or wrong files are downloaded. Anything else is a folder: its files are
/// compared with its `selvedge.lock`, which is written at first use ([`lock::confirm`]).
///
/// # Errors
/// [`DownloadError::UnknownDataset`] if it is neither a name nor a folder, and whatever [`fetch`] and
/// [`lock::confirm`] return.
pub fn ensure(
    name_or_dir: &str,
    data_dir: &Path,
    options: &FetchOptions,
    progress: &mut dyn Progress,
) -> Result<PathBuf, DownloadError> {
    if let Some(dataset) = find(name_or_dir) {
        let dir = data_dir.join(dataset.name);
        fetch(&dir, dataset, options, progress)?;
        note_broken_files(&dir, options, progress)?;
        return Ok(dir);
    }
    let dir = PathBuf::from(name_or_dir);
    if !dir.is_dir() {
        return Err(DownloadError::unknown(name_or_dir));
    }
    if let lock::Confirmation::NotWritable(reason) = lock::confirm(&dir, data_dir, options.names())? {
        progress.note(&reason);
    }
    note_broken_files(&dir, options, progress)?;
    Ok(dir)
}

/// Like [`ensure`], for the two training files alone. The first use of a folder leaves no `selvedge.lock`, which lists all
/// four files.
pub(crate) fn ensure_training(
    name_or_dir: &str,
    data_dir: &Path,
    options: &FetchOptions,
    progress: &mut dyn Progress,
) -> Result<PathBuf, DownloadError> {
    if let Some(dataset) = find(name_or_dir) {
        let dir = data_dir.join(dataset.name);
        fetch::fetch_files(&dir, dataset, dataset.training_files(), options, progress)?;
        return Ok(dir);
    }
    let dir = PathBuf::from(name_or_dir);
    if !dir.is_dir() {
        return Err(DownloadError::unknown(name_or_dir));
    }
    lock::compare_training(&dir)?;
    Ok(dir)
}

/// Says which gzipped files are passed over.
fn note_broken_files(dir: &Path, options: &FetchOptions, progress: &mut dyn Progress) -> Result<(), DownloadError> {
    for name in options.names() {
        if let Some(broken) = selvedge_idx::broken_gz(dir, name).map_err(DownloadError::not_found)? {
            progress.note(&format!("{} is broken: the unpacked file beside it is used", broken.display()));
        }
    }
    Ok(())
}
