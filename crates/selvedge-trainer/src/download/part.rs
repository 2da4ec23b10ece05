//! [`Part`]: the temporary file of a download, which is renamed when it is complete and verified.

use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use selvedge_atomic_file::{Lock, try_lock};

use super::error::DownloadError;
use super::registry::PinnedFile;
use super::verify::{self, Matched};

/// `NAME.part` beside the final file: open, locked against other processes if its file system has locks, and removed if it stays
/// empty.
#[derive(Debug)]
pub(crate) struct Part {
    file: File,
    path: PathBuf,
    len: u64,
    is_locked: bool,
}

impl Part {
    /// Opens or creates the temporary file. It keeps what an interrupted download has left in it.
    pub(crate) fn open(dir: &Path, pin: &PinnedFile) -> Result<Self, DownloadError> {
        let path = dir.join(format!("{}.part", pin.name));
        loop {
            // A link would redirect the download to wherever it points.
            if fs::symlink_metadata(&path).is_ok_and(|found| !found.is_file()) {
                fs::remove_file(&path).map_err(DownloadError::io("remove", &path))?;
            }
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)
                .map_err(DownloadError::io("write", &path))?;
            let is_locked = match try_lock(&file).map_err(DownloadError::io("lock", &path))? {
                Lock::Taken => true,
                Lock::Busy => return Err(DownloadError::Busy { path }),
                Lock::Missing => false,
            };
            let metadata = file.metadata().map_err(DownloadError::io("read", &path))?;
            // Between open and lock, another process may have renamed this file to its final name: writing to it would
            // damage a verified file.
            if !same_file(&path, &metadata) {
                continue;
            }
            let mut part = Self { file, path, len: metadata.len(), is_locked };
            if part.len > pin.max_bytes() {
                part.clear()?;
            }
            return Ok(part);
        }
    }

    /// Whether other processes are kept out.
    pub(crate) fn is_locked(&self) -> bool {
        self.is_locked
    }

    /// Bytes written so far.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Discards what was written.
    pub(crate) fn clear(&mut self) -> Result<(), DownloadError> {
        self.file.set_len(0).map_err(DownloadError::io("write", &self.path))?;
        self.len = 0;
        Ok(())
    }

    /// Appends bytes.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), DownloadError> {
        self.file
            .seek(SeekFrom::Start(self.len))
            .and_then(|_| self.file.write_all(bytes))
            .map_err(DownloadError::io("write", &self.path))?;
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Syncs the file, reads it back and compares it with the pinned hashes. The inner `Err` is its hash.
    pub(crate) fn check(&mut self, pin: &PinnedFile) -> Result<Result<Matched, String>, DownloadError> {
        self.file.sync_all().map_err(DownloadError::io("sync", &self.path))?;
        verify::check(&mut self.file, pin).map_err(DownloadError::io("read", &self.path))
    }

    /// Renames the verified file to its final name.
    pub(crate) fn finish(self, target: &Path) -> Result<(), DownloadError> {
        selvedge_atomic_file::rename(&self.path, target).map_err(DownloadError::not_written)
    }

    /// Ends a failed download: bytes stay for the next run, an empty file is removed.
    pub(crate) fn abandon(self) -> Result<(), DownloadError> {
        if self.len == 0 {
            fs::remove_file(&self.path).map_err(DownloadError::io("remove", &self.path))?;
        }
        Ok(())
    }
}

#[cfg(unix)]
fn same_file(path: &Path, opened: &fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(path).is_ok_and(|found| (found.dev(), found.ino()) == (opened.dev(), opened.ino()))
}

/// Elsewhere the standard library cannot compare the identity of files. A renamed file is no longer at its path, unless a
/// third process has created it again in the same moment.
#[cfg(not(unix))]
fn same_file(path: &Path, _opened: &fs::Metadata) -> bool {
    path.exists()
}
