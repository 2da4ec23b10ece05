//! Compares files with their pins.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;
use sha2::{Digest, Sha256};

use super::error::DownloadError;
use super::registry::{NamedDataset, PinnedFile};

/// Which of a file's two pins was met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Matched {
    /// The gz is the published one.
    Gz,
    /// The IDX bytes are the published ones, gzipped anew or not at all.
    Raw,
}

/// What [`verify`] found about a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileState {
    /// It is the published file.
    Verified(Matched),
    /// There is no such file.
    Missing,
    /// It is another file.
    Wrong {
        /// The hash it has.
        found: String,
    },
}

/// One file of a data set as it stands in a folder.
#[derive(Debug, Clone)]
pub struct FileReport {
    /// What it must be.
    pub pin: PinnedFile,
    /// The file that was looked at: the gz, or the plain file where there is no gz.
    pub path: PathBuf,
    /// Whether it is what it must be.
    pub state: FileState,
}

/// Compares the four files of `dataset` in `dir` with their pins, reading nothing but them.
///
/// A gz may be the published one or another gzip of the same bytes; without a gz, the plain file counts.
///
/// # Errors
/// [`DownloadError::Io`] if a file is there and cannot be read. A missing or wrong file is no error.
pub fn verify(dir: &Path, dataset: &NamedDataset) -> Result<Vec<FileReport>, DownloadError> {
    dataset.files.iter().map(|pin| verify_file(dir, pin)).collect()
}

pub(crate) fn verify_file(dir: &Path, pin: &PinnedFile) -> Result<FileReport, DownloadError> {
    let gz = dir.join(pin.name);
    let plain = dir.join(pin.raw_name());
    let path = if !gz.exists() && plain.exists() { plain } else { gz };
    let state = match File::open(&path) {
        Ok(mut file) => match check(&mut file, pin).map_err(DownloadError::io("read", &path))? {
            Ok(matched) => FileState::Verified(matched),
            Err(found) => FileState::Wrong { found },
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => FileState::Missing,
        Err(error) => return Err(DownloadError::io("read", &path)(error)),
    };
    Ok(FileReport { pin: *pin, path, state })
}

/// Hashes a file, as it is and, if that does not fit, what it holds when decompressed.
/// The inner `Err` is the hash of a file that fits neither pin.
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

/// SHA-256 of a whole file, lower-case hexadecimal.
pub(crate) fn sha256_of(file: &mut File) -> io::Result<String> {
    file.rewind()?;
    hash(file)
}

/// `None` if it is not gzip, or holds another number of bytes: a bomb ends at the first byte too many.
fn decompressed_sha256(file: &mut File, raw_bytes: u64) -> io::Result<Option<String>> {
    file.rewind()?;
    let mut limited = MultiGzDecoder::new(BufReader::new(file)).take(raw_bytes + 1);
    // A fault of the disk shows as another kind; the decoder's own complaints only mean "not this file".
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
