#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod file_system;

pub use file_system::{Lock, syncs_folders, try_lock};

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};

/// Writes smaller than this are collected before they go to the system.
const BUFFER: usize = 64 << 10;

/// Why a file could not be written whole. The file at the path is then the old one, unless only the folder's sync
/// failed: the new file is in place then, but a power cut may still undo the rename.
#[derive(Debug, thiserror::Error)]
#[error("{}: cannot {action}: {source}", path.display())]
pub struct Error {
    /// The file to be written, or its folder where the folder could not be synced. Never the temporary file.
    pub path: PathBuf,
    /// What was being done, as a verb phrase: "create the file", "write the file", "sync the file", "replace the
    /// file" or "sync the folder".
    pub action: &'static str,
    /// What the system answered.
    pub source: io::Error,
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |source| Error { path: path.to_owned(), action, source }
}

/// Puts `bytes` at `path`, in place of an older file if there is one.
///
/// # Errors
/// [`Error`]; `path` then holds what it held before.
pub fn write(path: impl AsRef<Path>, bytes: &[u8]) -> Result<(), Error> {
    let path = path.as_ref();
    let mut file = AtomicFile::create(path)?;
    file.write_all(bytes).map_err(failed("write the file", path))?;
    file.commit()
}

/// Renames a file that is complete and synced, over an older file if there is one, and makes the new name durable.
///
/// Both paths must lie on one file system. [`AtomicFile`] does this by itself; this function is for a temporary file
/// that outlives the process, such as a download that is resumed.
///
/// # Errors
/// [`Error`]
pub fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    fs::rename(from, to).map_err(failed("replace the file", to))?;
    sync_folder_of(to)
}

/// A file in the making: what is written goes to a temporary file until [`commit`](Self::commit) gives it its name.
///
/// Writes are buffered. Dropping the value instead of committing it removes the temporary file.
///
/// ```
/// use std::io::Write;
///
/// use selvedge_atomic_file::AtomicFile;
///
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("labels.txt");
/// let mut file = AtomicFile::create(&path)?;
/// file.write_all(b"0\n1\n")?;
/// assert!(!path.exists());
/// file.commit()?;
/// assert!(path.exists());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use = "the file gets its name by commit()"]
pub struct AtomicFile {
    // Declared before the guard, so that the file is closed when the guard removes it: Windows asks for that.
    out: BufWriter<File>,
    temporary: Temporary,
    path: PathBuf,
    written: u64,
}

/// Removes the temporary file when it is dropped, unless it has been renamed.
#[derive(Debug)]
struct Temporary {
    path: PathBuf,
    renamed: bool,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.renamed {
            // The error that led here is the one to report; a second one would hide it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl AtomicFile {
    /// Begins a file that is to stand at `path`.
    ///
    /// The temporary file, `.NAME.PROCESS-NUMBER.tmp`, is this value's own: threads and processes may write the same
    /// path at the same time, and the last to commit wins.
    ///
    /// # Errors
    /// [`Error`] if `path` names no file, or no file can be created beside it.
    pub fn create(path: impl AsRef<Path>) -> Result<Self, Error> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let path = path.as_ref();
        let failed = failed("create the file", path);
        let Some(name) = path.file_name() else {
            return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, "the path names no file")));
        };
        loop {
            let mut temporary = OsString::from(".");
            temporary.push(name);
            temporary.push(format!(".{}-{}.tmp", process::id(), COUNTER.fetch_add(1, Ordering::Relaxed)));
            let temporary = path.with_file_name(temporary);
            match create_new(&temporary) {
                Ok(file) => return Ok(Self::new(file, temporary, path)),
                // Left by a killed process that had the same number.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(failed(error)),
            }
        }
    }

    /// Begins a file that is to stand at `path`, with a temporary file of the given path in the same folder; an older
    /// file there is removed first.
    ///
    /// For a folder that only one process writes to: what a killed process left is then replaced by the next write,
    /// where [`create`](Self::create) would leave it and choose another name.
    ///
    /// # Errors
    /// [`Error`] if the temporary file cannot be created.
    pub fn create_through(temporary: impl AsRef<Path>, path: impl AsRef<Path>) -> Result<Self, Error> {
        let (temporary, path) = (temporary.as_ref(), path.as_ref());
        let removed = match fs::remove_file(temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
        let file = removed.and_then(|()| create_new(temporary)).map_err(failed("create the file", path))?;
        Ok(Self::new(file, temporary.to_owned(), path))
    }

    fn new(file: File, temporary: PathBuf, path: &Path) -> Self {
        let temporary = Temporary { path: temporary, renamed: false };
        Self { out: BufWriter::with_capacity(BUFFER, file), temporary, path: path.to_owned(), written: 0 }
    }

    /// Where the file is to stand.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes written so far, those still in the buffer included.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Gives the finished file its name: flush, sync, rename over an older file if there is one, and on Unix sync the
    /// folder, where its file system does that ([`syncs_folders`]).
    ///
    /// # Errors
    /// [`Error`]; the path then holds what it held before, unless only the folder's sync failed.
    pub fn commit(self) -> Result<(), Error> {
        let Self { out, mut temporary, path, .. } = self;
        let file = out.into_inner().map_err(|error| failed("write the file", &path)(error.into_error()))?;
        file.sync_all().map_err(failed("sync the file", &path))?;
        drop(file);
        fs::rename(&temporary.path, &path).map_err(failed("replace the file", &path))?;
        temporary.renamed = true;
        sync_folder_of(&path)
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.out.write(bytes)?;
        self.written += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Unlike `File::create`, follows no link that stands there.
fn create_new(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).open(path)
}

/// A folder that its file system cannot sync is left as it is.
fn sync_folder_of(path: &Path) -> Result<(), Error> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    syncs_folders(folder).map(drop)
}
