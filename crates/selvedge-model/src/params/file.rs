//! Writing a file so that it is whole or absent, and reading one within limits.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{FileProblem, ModelError};

/// Puts `bytes` at `path`, or leaves what was there: they are written beside it, synchronised with the disk, and moved.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<(), ModelError> {
    let at = |action| move |source| failure(path, FileProblem::Io { action, source });
    let temporary = temporary_name(path).map_err(at("write"))?;
    let result = write_new(&temporary, bytes)
        .map_err(at("write"))
        .and_then(|()| fs::rename(&temporary, path).map_err(at("move the finished file here")));
    if result.is_err() {
        // The first error is the one to tell; what is left over may not even exist.
        let _ = fs::remove_file(&temporary);
    }
    result?;
    sync_folder(path).map_err(at("synchronise the folder"))
}

/// Reads the file at `path` if it has at most `max` bytes.
pub(crate) fn read(path: &Path, max: u64) -> Result<Vec<u8>, ModelError> {
    let at = |action| move |source| failure(path, FileProblem::Io { action, source });
    let file = File::open(path).map_err(at("open"))?;
    let length = file.metadata().map_err(at("read"))?.len();
    if length > max {
        return Err(failure(path, FileProblem::TooLarge { found: length, max }));
    }
    let mut bytes = Vec::with_capacity(length as usize);
    // A device or pipe announces no length: the limit holds for what comes out of it.
    file.take(max + 1).read_to_end(&mut bytes).map_err(at("read"))?;
    if bytes.len() as u64 > max {
        return Err(failure(path, FileProblem::TooLarge { found: bytes.len() as u64, max }));
    }
    Ok(bytes)
}

/// `problem` with the file at `path`.
pub(crate) fn failure(path: &Path, problem: FileProblem) -> ModelError {
    ModelError::File { path: path.to_owned(), problem }
}

/// A name in the same folder that no other write of this or another process uses.
fn temporary_name(path: &Path) -> io::Result<PathBuf> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the path names no file"))?;
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}-{}.tmp", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
    Ok(path.with_file_name(temporary))
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Makes the new name itself durable.
#[cfg(unix)]
fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => File::open(folder)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

/// Folders cannot be opened as files here.
#[cfg(not(unix))]
fn sync_folder(_path: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_replaces_and_leaves_nothing_beside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        for content in [&b"first"[..], b"second, longer", b""] {
            write(&path, content).unwrap();
            assert_eq!(read(&path, 100).unwrap(), content);
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_write_keeps_what_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("taken");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("inside"), b"kept").unwrap();
        let message = write(&path, b"bytes").unwrap_err().to_string();
        assert!(message.contains("taken") && message.contains("cannot move"), "{message}");
        assert_eq!(fs::read(path.join("inside")).unwrap(), b"kept");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn errors_name_the_path() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("absent/model.safetensors");
        for error in [write(&path, b"").unwrap_err(), read(&path, 1).unwrap_err()] {
            let message = error.to_string();
            assert!(message.contains("absent/model.safetensors: cannot"), "{message}");
        }
        assert!(write(Path::new("/"), b"").unwrap_err().to_string().contains("names no file"));
    }

    #[test]
    fn a_large_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("large");
        fs::write(&path, [0; 101]).unwrap();
        let message = read(&path, 100).unwrap_err().to_string();
        assert!(message.contains("101") && message.contains("100"), "{message}");
        #[cfg(target_os = "linux")]
        assert!(read(Path::new("/dev/zero"), 100).unwrap_err().to_string().contains("at most 100"));
    }
}
