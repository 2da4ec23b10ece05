//! What some file systems cannot do, and what a program does without it: sync a folder, lock a file.
//!
//! Network shares, FUSE file systems, shared folders of virtual machines and containers lack one or the other. The answers differ
//! by file system, so each is told apart from a failure here: what is missing is a promise that cannot be kept, and the caller
//! says so; a failure of the disk stays an error.

use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;

use crate::Error;

/// Whether the folder's file system can make names in it durable. Syncs the folder, if so.
///
/// Without it a file that was renamed is complete, and survives the end of the process; after a power cut the folder may be as it
/// was before the rename.
///
/// ```
/// let folder = tempfile::tempdir()?;
/// assert!(cfg!(not(unix)) || selvedge_atomic_file::syncs_folders(folder.path())?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`Error`] if the folder does not exist, or the disk fails.
#[cfg(unix)]
pub fn syncs_folders(folder: &Path) -> Result<bool, Error> {
    let failed = |source| Error { path: folder.to_owned(), action: "sync the folder", source };
    match File::open(folder) {
        Ok(folder) => match folder.sync_all() {
            Ok(()) => Ok(true),
            Err(error) if is_missing(&error) => Ok(false),
            Err(error) => Err(failed(error)),
        },
        // A folder may be written to and not read: it cannot be opened to be synced.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(false),
        Err(error) => Err(failed(error)),
    }
}

/// The standard library opens no folder as a file here: the rename is as durable as the file system makes it, which nobody can
/// ask.
///
/// # Errors
/// None.
#[cfg(not(unix))]
pub fn syncs_folders(_: &Path) -> Result<bool, Error> {
    Ok(true)
}

/// The result of [`try_lock`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lock {
    /// The file is locked until it is closed.
    Taken,
    /// Another process holds the lock.
    Busy,
    /// The file system has no locks.
    Missing,
}

/// Locks a file against other processes that do the same, without waiting.
///
/// ```
/// use selvedge_atomic_file::{Lock, try_lock};
///
/// let path = tempfile::NamedTempFile::new()?.into_temp_path();
/// let [first, second] = [std::fs::File::open(&path)?, std::fs::File::open(&path)?];
/// assert_eq!(try_lock(&first)?, Lock::Taken);
/// assert_eq!(try_lock(&second)?, Lock::Busy);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// What the system answers, if it is none of these.
pub fn try_lock(file: &File) -> io::Result<Lock> {
    match file.try_lock() {
        Ok(()) => Ok(Lock::Taken),
        Err(TryLockError::WouldBlock) => Ok(Lock::Busy),
        Err(TryLockError::Error(error)) if is_missing(&error) => Ok(Lock::Missing),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Whether the error means that the file system, or the server behind it, does not have the operation.
fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Unsupported | io::ErrorKind::InvalidInput) || is_missing_number(error)
}

/// `ENOLCK` is what NFS answers without its lock daemon, `ENOTTY` some FUSE file systems; the kinds of the rest differ between
/// versions of the standard library.
#[cfg(unix)]
fn is_missing_number(error: &io::Error) -> bool {
    let numbers = [libc::ENOLCK, libc::ENOSYS, libc::ENOTSUP, libc::EOPNOTSUPP, libc::ENOTTY];
    error.raw_os_error().is_some_and(|number| numbers.contains(&number))
}

#[cfg(not(unix))]
fn is_missing_number(_: &io::Error) -> bool {
    false
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_told_apart_from_failures() {
        let is_missing = |number| is_missing(&io::Error::from_raw_os_error(number));
        assert!(
            [libc::EINVAL, libc::ENOTSUP, libc::EOPNOTSUPP, libc::ENOSYS, libc::ENOLCK].into_iter().all(is_missing)
        );
        assert!(![libc::EIO, libc::ENOSPC, libc::EDQUOT, libc::EACCES, libc::EROFS].into_iter().any(is_missing));
    }

    #[test]
    fn an_absent_folder_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let message = syncs_folders(&folder.path().join("absent")).unwrap_err().to_string();
        assert!(message.contains("absent: cannot sync the folder: "), "{message}");
    }
}
