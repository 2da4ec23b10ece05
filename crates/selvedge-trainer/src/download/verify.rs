//! Compares files with their pinned hashes.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;
use sha2::{Digest, Sha256};

use super::error::DownloadError;
use super::registry::{NamedDataset, PinnedFile};

/// The pinned hash that a file matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Matched {
    /// That of the published gz.
    Gz,
    /// That of the published IDX bytes; the file is another gzip of them, or not compressed.
    Raw,
}

/// The state of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileState {
    /// It is the published file.
    Verified(Matched),
    /// It does not exist.
    Missing,
    /// It is not the published file.
    Wrong {
        /// Its hash.
        found: String,
    },
}

/// A file of a data set in a folder.
#[derive(Debug, Clone)]
pub struct FileReport {
    /// The published file.
    pub pin: PinnedFile,
    /// The file that was checked, or that is missing.
    pub path: PathBuf,
    /// Whether it is the published file.
    pub state: FileState,
}

/// Compares the four files of `dataset` in `dir` with their pinned hashes. It reads no other file.
///
/// A gz may be the published one or another gzip of the same bytes. Of several files, the one counts that is read
/// ([`selvedge_idx::locate`]).
///
/// # Errors
/// [`DownloadError::Io`] if a file exists but cannot be read. A missing or wrong file is not an error.
pub fn verify(dir: &Path, dataset: &NamedDataset) -> Result<Vec<FileReport>, DownloadError> {
    dataset.files.iter().map(|pin| verify_file(dir, pin)).collect()
}

pub(crate) fn verify_file(dir: &Path, pin: &PinnedFile) -> Result<FileReport, DownloadError> {
    let Some(path) = selvedge_idx::locate(dir, pin.raw_name()).map_err(DownloadError::not_found)? else {
        return Ok(FileReport { pin: *pin, path: dir.join(pin.name), state: FileState::Missing });
    };
    let checked = File::open(&path).and_then(|mut file| check(&mut file, pin));
    let state = match checked.map_err(DownloadError::io("read", &path))? {
        Ok(matched) => FileState::Verified(matched),
        Err(found) => FileState::Wrong { found },
    };
    Ok(FileReport { pin: *pin, path, state })
}

/// Hashes a file, and if that hash does not match, its decompressed content. The inner `Err` is the hash of a file that
/// matches neither.
pub(crate) fn check(file: &mut File, pin: &PinnedFile) -> io::Result<Result<Matched, String>> {
    let found = sha256_of(file)?;
    if found == pin.gz_sha256 {
        return Ok(Ok(Matched::Gz));
    }
    if Some(found.as_str()) == pin.raw_sha256 {
        return Ok(Ok(Matched::Raw));
    }
    if pin.raw_sha256.is_some() && pin.raw_sha256 == decompressed_sha256(file, pin.raw_bytes)?.as_deref() {
        return Ok(Ok(Matched::Raw));
    }
    Ok(Err(found))
}

/// SHA-256 of a file in lower-case hexadecimal.
pub(crate) fn sha256_of(file: &mut File) -> io::Result<String> {
    file.rewind()?;
    hash(file)
}

/// SHA-256 of the decompressed content; `None` if the file is not gzip, or its content has another length. A bomb is read up
/// to the first byte too many.
fn decompressed_sha256(file: &mut File, raw_bytes: u64) -> io::Result<Option<String>> {
    file.rewind()?;
    let mut limited = MultiGzDecoder::new(BufReader::new(file)).take(raw_bytes + 1);
    // The decoder's own errors mean that it is another file; errors of the disk have other kinds.
    match hash(&mut limited) {
        Ok(found) if limited.limit() == 1 => Ok(Some(found)),
        Ok(_) => Ok(None),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn hash(reader: &mut impl Read) -> io::Result<String> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => hasher.update(&buffer[..n]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
