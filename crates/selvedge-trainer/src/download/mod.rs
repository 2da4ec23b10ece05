//! Data sets that have a name: what they are, where they come from, and how they get here verified.
//!
//! Three data sets are known by name ([`DATASETS`]): `fashion-mnist`, which is part of the repository,
//! and `mnist` and `kmnist`, which are fetched on demand. Each of their files is pinned by SHA-256.
//! A folder of one's own needs no name: its hashes are noted at first use in a `selvedge.lock` beside
//! the files and compared from then on ([`lock::confirm`]).
//!
//! What [`fetch`] promises:
//!
//! - a file under its final name is complete and verified. Bytes arrive in `NAME.part`, are synced to
//!   the disk, read back and hashed there, and only then renamed;
//! - https only, through every redirect. `--mirror` may name an http address on one condition: the
//!   host is this machine (`localhost`, `127.0.0.0/8`, `::1`), and then no redirect may leave that
//!   host and port except to https. There is no other switch;
//! - nothing hangs: 10 s for a connection, 30 s without an answer or with less than 1 KiB/s;
//! - an interrupted download goes on where it stopped, also in the next run, also from another source;
//!   a beginning that turns out to be wrong is thrown away and fetched anew;
//! - when every source fails, the error says why each did, and which commands do the same by hand.
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

/// The folder that holds one folder for each named data set.
///
/// The first of these that applies:
/// 1. the environment variable `SELVEDGE_DATA` (`cargo xtask` sets it to the repository's `data`);
/// 2. `data` in the current folder, if it has a `fashion-mnist` in it: a checkout of the repository;
/// 3. the user's own data folder: `$XDG_DATA_HOME/selvedge`, `%LOCALAPPDATA%\selvedge` or
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

/// Turns what `--dataset` was given into a folder whose files are verified.
///
/// A registered name means `data_dir/NAME`: its files are verified, and fetched where they are missing
/// or wrong. Anything else is a folder: its files are compared with its `selvedge.lock`, which is
/// written at first use ([`lock::confirm`]).
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
        return Ok(dir);
    }
    let dir = PathBuf::from(name_or_dir);
    if !dir.is_dir() {
        return Err(DownloadError::unknown(name_or_dir));
    }
    if let lock::Confirmation::NotWritable(reason) = lock::confirm(&dir, data_dir)? {
        progress.note(&reason);
    }
    Ok(dir)
}
