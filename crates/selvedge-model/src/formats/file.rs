//! Writing a file so that it is whole or absent, and reading one within limits.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::spec::error::{FileProblem, ModelError};

/// Puts `bytes` at `path`, or leaves what was there.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<(), ModelError> {
    selvedge_atomic_file::write(path, bytes)
        .map_err(|error| failure(path, FileProblem::Io { action: error.action, source: error.source }))
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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

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
