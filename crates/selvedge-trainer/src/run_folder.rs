//! [`RunFolder`]: the folder that a run writes its results into. A file there under its final name is complete.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use selvedge_atomic_file::{AtomicFile, Lock, syncs_folders, try_lock};
use serde::Serialize;
use thiserror::Error;

/// The recipe as it was run.
pub const RECIPE: &str = "recipe.toml";
/// A JSON line for each epoch.
pub const HISTORY: &str = "history.jsonl";
/// The run's figures. It is written last: a run that has it is finished.
pub const SUMMARY: &str = "summary.json";
/// The trained network.
pub const MODEL: &str = "model.safetensors";
/// The state to resume from.
pub const LAST: &str = "last.ckpt";
/// The state after the best epoch.
pub const BEST: &str = "best.ckpt";
/// The figures of all seeds, and which seeds there are, in a folder of several.
pub const SEEDS: &str = "seeds.json";
/// Locked while a process trains in the folder.
const LOCK: &str = ".lock";

/// Why a run's folder cannot be used.
#[derive(Debug, Error)]
pub enum FolderError {
    /// The folder is not empty.
    #[error("{path} exists and is not empty: name another folder, or continue its run with --resume", path = path.display())]
    NotEmpty {
        /// The folder.
        path: PathBuf,
    },
    /// A file has that name.
    #[error("{path} exists and is not a folder: use another name", path = path.display())]
    NotAFolder {
        /// The file.
        path: PathBuf,
    },
    /// The folder holds no run.
    #[error("{path} is not the folder of a run: it has no {missing}", path = path.display())]
    NotARun {
        /// The folder.
        path: PathBuf,
        /// The file it should have.
        missing: &'static str,
    },
    /// The folder does not hold several seeds.
    #[error(
        "{path} is not a folder of several seeds: it has no seeds.json. To continue a single run, leave out --seeds",
        path = path.display()
    )]
    NotSeveralSeeds {
        /// The folder.
        path: PathBuf,
    },
    /// Another process trains in the folder.
    #[error("another process is training in {path}", path = path.display())]
    Busy {
        /// The folder.
        path: PathBuf,
    },
    /// The file system refused an operation.
    #[error("cannot {action} {path}: {source}", path = path.display())]
    Io {
        /// The operation, as a verb.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

fn refused(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FolderError {
    move |source| FolderError::Io { action, path: path.to_owned(), source }
}

fn not_written(error: selvedge_atomic_file::Error) -> FolderError {
    FolderError::Io { action: error.action, path: error.path, source: error.source }
}

/// Where a new run goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Into this folder, which must be empty or not exist.
    Folder(PathBuf),
    /// Into `DIR/<date-time>-<recipe>`.
    Below(PathBuf),
}

impl Destination {
    /// Refuses a folder that cannot be used, before any work is done.
    ///
    /// # Errors
    /// [`FolderError::NotEmpty`], [`FolderError::NotAFolder`], [`FolderError::Io`]
    pub fn check(&self) -> Result<(), FolderError> {
        match self {
            Self::Folder(path) if path.exists() && !path.is_dir() => {
                Err(FolderError::NotAFolder { path: path.clone() })
            }
            Self::Folder(path) if path.exists() => {
                let entries = fs::read_dir(path).map_err(refused("read", path))?;
                let names = entries.map(|entry| entry.map(|entry| entry.file_name())).collect::<io::Result<Vec<_>>>();
                // A process that was killed before it wrote its recipe has left no more than these.
                let is_leftover = |name: &OsString| {
                    let is_part = [RECIPE, SEEDS].into_iter().any(|file| *name == *part_of(file));
                    name == LOCK
                        || is_part
                        || (name == HISTORY && fs::metadata(path.join(name)).is_ok_and(|file| file.len() == 0))
                };
                if names.map_err(refused("read", path))?.iter().all(is_leftover) {
                    Ok(())
                } else {
                    Err(FolderError::NotEmpty { path: path.clone() })
                }
            }
            _ => Ok(()),
        }
    }
}

/// The temporary name of a file of the folder.
fn part_of(name: &str) -> String {
    format!(".{name}.part")
}

/// A folder, locked against other processes while this value lives, if its file system has locks.
#[derive(Debug)]
pub(crate) struct LockedFolder {
    path: PathBuf,
    _lock: File,
    /// Whether this value made the folder.
    is_new: bool,
    is_locked: bool,
    is_synced: bool,
}

impl LockedFolder {
    /// Makes the folder; the name of a dated one ends with `name`.
    pub(crate) fn create(destination: &Destination, name: &str) -> Result<Self, FolderError> {
        destination.check()?;
        let (path, is_new) = match destination {
            Destination::Folder(path) => {
                let is_new = !path.exists();
                fs::create_dir_all(path).map_err(refused("create", path))?;
                (path.clone(), is_new)
            }
            Destination::Below(parent) => (create_dated(parent, name)?, true),
        };
        match Self::open(&path) {
            Ok(folder) => Ok(Self { is_new, ..folder }),
            Err(error) => {
                if is_new {
                    remove(&path, &[LOCK]);
                }
                Err(error)
            }
        }
    }

    /// Locks a folder that exists.
    pub(crate) fn open(path: &Path) -> Result<Self, FolderError> {
        let lock_path = path.join(LOCK);
        // Without truncation: Windows refuses to change a file that another process has locked.
        let lock = OpenOptions::new().write(true).create(true).truncate(false).open(&lock_path);
        let lock = lock.map_err(refused("write", &lock_path))?;
        let is_locked = match try_lock(&lock).map_err(refused("lock", &lock_path))? {
            Lock::Taken => true,
            Lock::Busy => return Err(FolderError::Busy { path: path.to_owned() }),
            Lock::Missing => false,
        };
        let is_synced = syncs_folders(path).map_err(not_written)?;
        Ok(Self { path: path.to_owned(), _lock: lock, is_new: false, is_locked, is_synced })
    }

    /// What the folder's file system cannot promise, for the user.
    fn notes(&self) -> impl Iterator<Item = String> {
        let path = self.path.display();
        let locks = format!("{path}: the file system has no locks: do not start a second run in this folder");
        let syncs = format!(
            "{path}: the file system does not sync folders: after a power cut the last file may be missing or an older one"
        );
        [(self.is_locked, locks), (self.is_synced, syncs)].into_iter().filter(|(has, _)| !has).map(|(_, note)| note)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The path of one of its files.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Writes a file atomically: `name` is always a complete file, the old one or the new one.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> Result<(), FolderError> {
        let (temporary, path) = (self.path.join(part_of(name)), self.path.join(name));
        // The folder is locked: what a killed process left under the one temporary name is replaced.
        let mut file = AtomicFile::create_through(temporary, &path).map_err(not_written)?;
        file.write_all(bytes).map_err(refused("write the file", &path))?;
        file.commit().map_err(not_written)
    }

    /// Removes the folder with these files in it, if this value made it; else only the files.
    pub(crate) fn abandon(&self, files: &[&str]) {
        let files = [files, &[LOCK]].concat();
        if self.is_new {
            remove(&self.path, &files);
        } else {
            files.iter().for_each(|name| drop(fs::remove_file(self.file(name))));
        }
    }
}

/// A file of JSON lines that grows at its end.
#[derive(Debug)]
pub(crate) struct JsonLines {
    path: PathBuf,
    file: File,
}

impl JsonLines {
    /// Opens the file, or makes an empty one.
    pub(crate) fn open(path: PathBuf) -> Result<Self, FolderError> {
        let file = OpenOptions::new().create(true).append(true).open(&path).map_err(refused("write", &path))?;
        Ok(Self { path, file })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn append(&mut self, line: &impl Serialize) -> Result<(), FolderError> {
        let mut text = serde_json::to_string(line).map_err(|error| refused("write", &self.path)(error.into()))?;
        text.push('\n');
        self.file.write_all(text.as_bytes()).map_err(refused("write", &self.path))
    }

    /// Writes what was appended to the disk.
    pub(crate) fn sync(&self) -> Result<(), FolderError> {
        self.file.sync_all().map_err(refused("sync", &self.path))
    }

    pub(crate) fn read(&self) -> Result<String, FolderError> {
        fs::read_to_string(&self.path).map_err(refused("read", &self.path))
    }

    /// Keeps the first `bytes` of the file.
    pub(crate) fn truncate(&self, bytes: usize) -> Result<(), FolderError> {
        // `self.file` is open for appending, and on Windows such a handle may not change the length.
        let file = OpenOptions::new().write(true).open(&self.path).map_err(refused("write", &self.path))?;
        file.set_len(bytes as u64).map_err(refused("write", &self.path))
    }
}

/// Removes a folder with these files in it. What cannot be removed stays, and does no harm.
fn remove(folder: &Path, files: &[&str]) {
    files.iter().for_each(|name| drop(fs::remove_file(folder.join(name))));
    let _ = fs::remove_dir(folder);
}

/// The folder of a run, locked against other processes while this value lives.
#[derive(Debug)]
pub struct RunFolder {
    folder: LockedFolder,
    history: JsonLines,
}

impl RunFolder {
    /// Makes the folder of a new run.
    ///
    /// # Errors
    /// [`FolderError`]
    pub fn create(destination: &Destination, recipe: &str) -> Result<Self, FolderError> {
        Self::of(LockedFolder::create(destination, recipe)?)
    }

    /// Opens the folder of a run to resume it.
    ///
    /// # Errors
    /// [`FolderError`]
    pub fn open(path: &Path) -> Result<Self, FolderError> {
        if !path.join(RECIPE).is_file() {
            return Err(FolderError::NotARun { path: path.to_owned(), missing: RECIPE });
        }
        Self::of(LockedFolder::open(path)?)
    }

    fn of(folder: LockedFolder) -> Result<Self, FolderError> {
        let history = JsonLines::open(folder.file(HISTORY))?;
        Ok(Self { folder, history })
    }

    /// What the folder's file system cannot promise, for the user: that two runs never write into the folder, or that its
    /// files survive a power cut.
    pub fn notes(&self) -> impl Iterator<Item = String> {
        self.folder.notes()
    }

    /// Removes what [`RunFolder::create`] made, and the recipe: a run that failed before its first step leaves nothing that is in
    /// the way of the next try.
    pub fn abandon(self) {
        self.folder.abandon(&[RECIPE, HISTORY]);
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The path of one of its files.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.file(name)
    }

    /// Writes a file atomically: `name` is always a complete file, the old one or the new one.
    ///
    /// # Errors
    /// [`FolderError::Io`]
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), FolderError> {
        self.folder.write(name, bytes)
    }

    /// Appends a line to the history.
    ///
    /// # Errors
    /// [`FolderError::Io`]
    pub fn append_history(&mut self, line: &impl Serialize) -> Result<(), FolderError> {
        self.history.append(line)
    }

    /// Syncs the history to disk, so that no checkpoint is newer than it.
    ///
    /// # Errors
    /// [`FolderError::Io`]
    pub fn sync_history(&self) -> Result<(), FolderError> {
        self.history.sync()
    }

    /// Keeps the first `epochs` lines of the history. The epochs after the checkpoint that the run resumes from will be
    /// trained again.
    ///
    /// # Errors
    /// [`FolderError::Io`]
    pub fn truncate_history(&mut self, epochs: u64) -> Result<(), FolderError> {
        let text = self.history.read()?;
        let keep = usize::try_from(epochs).unwrap_or(usize::MAX);
        let kept: usize = text.split_inclusive('\n').take(keep).filter(|line| line.ends_with('\n')).map(str::len).sum();
        self.history.truncate(kept)
    }
}

fn create_dated(parent: &Path, recipe: &str) -> Result<PathBuf, FolderError> {
    fs::create_dir_all(parent).map_err(refused("create", parent))?;
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let name = format!("{}-{recipe}", date_time(seconds));
    for number in 1..=1000 {
        let path = parent.join(if number == 1 { name.clone() } else { format!("{name}-{number}") });
        match fs::create_dir(&path) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(refused("create", &path)(error)),
        }
    }
    Err(FolderError::NotEmpty { path: parent.join(name) })
}

/// `2026-11-24T03-34-12Z`: UTC in a form that every system allows in file names. The date comes from the day's number in its
/// era of 400 years, which begins on 1 March: leap days are then at the end of a year.
fn date_time(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute) = (second / 3600, second / 60 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}-{minute:02}-{:02}Z", second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, expected) in [
            (0, "1970-01-01T00-00-00Z"),
            (951_782_399, "2000-02-28T23-59-59Z"),
            (951_782_400, "2000-02-29T00-00-00Z"),
            (1_795_491_252, "2026-11-24T03-34-12Z"),
            (4_107_542_400, "2100-03-01T00-00-00Z"),
        ] {
            assert_eq!(date_time(seconds), expected);
        }
    }

    #[test]
    fn a_folder_in_use_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        fs::create_dir(&out).unwrap();
        fs::write(out.join("notes.txt"), "mine").unwrap();
        let error = RunFolder::create(&Destination::Folder(out.clone()), "seed").unwrap_err();
        assert!(error.to_string().contains("not empty"), "{error}");
        assert_eq!(fs::read_dir(&out).unwrap().count(), 1);
    }

    #[test]
    fn a_folder_whose_run_wrote_no_recipe_is_taken_again() {
        let dir = tempfile::tempdir().unwrap();
        let destination = Destination::Folder(dir.path().to_owned());
        drop(RunFolder::create(&destination, "seed").unwrap());
        fs::write(dir.path().join(".recipe.toml.part"), "half").unwrap();
        let mut again = RunFolder::create(&destination, "seed").unwrap();
        assert!(matches!(RunFolder::create(&destination, "seed"), Err(FolderError::Busy { .. })));
        again.append_history(&"one").unwrap();
        drop(again);
        assert!(matches!(RunFolder::create(&destination, "seed"), Err(FolderError::NotEmpty { .. })));
    }

    #[test]
    fn an_abandoned_folder_leaves_only_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        for (path, stays) in [(dir.path().join("new"), false), (dir.path().to_owned(), true)] {
            let folder = RunFolder::create(&Destination::Folder(path.clone()), "seed").unwrap();
            folder.write(RECIPE, b"x").unwrap();
            folder.abandon();
            assert_eq!((path.exists(), path.join(RECIPE).exists(), path.join(LOCK).exists()), (stays, false, false));
        }
    }

    #[test]
    fn dated_folders_never_collide_and_are_locked() {
        let dir = tempfile::tempdir().unwrap();
        let below = Destination::Below(dir.path().join("runs"));
        let (first, second) = (RunFolder::create(&below, "seed").unwrap(), RunFolder::create(&below, "seed").unwrap());
        assert_ne!(first.path(), second.path());
        first.write(RECIPE, b"x").unwrap();
        assert!(matches!(RunFolder::open(first.path()), Err(FolderError::Busy { .. })));
        assert!(matches!(RunFolder::open(second.path()), Err(FolderError::NotARun { .. })));
        let path = first.path().to_owned();
        drop(first);
        RunFolder::open(&path).unwrap();
    }

    #[test]
    fn the_history_is_truncated_to_whole_epochs() {
        let dir = tempfile::tempdir().unwrap();
        let mut folder = RunFolder::create(&Destination::Folder(dir.path().to_owned()), "seed").unwrap();
        for line in ["one", "two", "three"] {
            folder.append_history(&line).unwrap();
        }
        folder.truncate_history(2).unwrap();
        folder.append_history(&"three again").unwrap();
        let text = fs::read_to_string(folder.file(HISTORY)).unwrap();
        assert_eq!(text, "\"one\"\n\"two\"\n\"three again\"\n");
    }

    #[test]
    fn a_file_is_replaced_atomically() {
        let dir = tempfile::tempdir().unwrap();
        let folder = RunFolder::create(&Destination::Folder(dir.path().to_owned()), "seed").unwrap();
        folder.write(LAST, b"one").unwrap();
        folder.write(LAST, b"two").unwrap();
        assert_eq!(fs::read(folder.file(LAST)).unwrap(), b"two");
        assert!(!folder.file(".last.ckpt.part").exists());
    }

    #[test]
    fn a_write_that_fails_leaves_nothing_half_written() {
        let dir = tempfile::tempdir().unwrap();
        let folder = RunFolder::create(&Destination::Folder(dir.path().to_owned()), "seed").unwrap();
        // A folder has the file's name: the bytes can be written, but not renamed.
        fs::create_dir(folder.file(LAST)).unwrap();
        fs::write(folder.file(LAST).join("inside"), "kept").unwrap();
        let message = folder.write(LAST, b"one").unwrap_err().to_string();
        assert!(message.contains("cannot replace the file") && message.contains("last.ckpt"), "{message}");
        assert!(!folder.file(".last.ckpt.part").exists());
        assert!(folder.file(LAST).join("inside").exists());
    }
}
