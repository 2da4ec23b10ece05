//! Finds the files of a data set in a folder, by the names that publishers and unpackers give them.
//!
//! The published name is `train-images-idx3-ubyte.gz`. Unpackers restore the name inside the gzip file, which has a dot
//! (`train-images.idx3-ubyte`), or make a folder of the file's name with the file in it; archives add a folder around all four.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::dataset::Part;
use crate::error::{IdxError, Offset, Problem};
use crate::read;

/// The file of a data set in `dir` that is published as `name` with `.gz`, such as `train-images-idx3-ubyte`; `None` if there is
/// none.
///
/// These are accepted, the first first: `NAME.gz` and `NAME`; the same with a dot before `idx`; either of them in a folder of
/// that name. A folder without any file of a data set, and with a single folder in it, stands for that one. Of a gzipped and an
/// unpacked file, the gzipped one is taken, since published checksums are for it, unless it is broken and the other is not.
///
/// ```
/// use ndarray::arr1;
/// use selvedge_idx::{Compression, Part, locate, write};
///
/// let folder = tempfile::tempdir()?;
/// let unpacked = folder.path().join("train-labels.idx1-ubyte");
/// write(&unpacked, &arr1(&[1_u8, 0]), Compression::None)?;
/// assert_eq!(locate(folder.path(), Part::Train.label_file_name())?, Some(unpacked));
/// assert_eq!(locate(folder.path(), Part::Test.label_file_name())?, None);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`IdxError::Io`] if a folder cannot be searched.
pub fn locate(dir: impl AsRef<Path>, name: &str) -> Result<Option<PathBuf>, IdxError> {
    let found = found_below(dir.as_ref(), name)?;
    let Some(first) = found.first() else { return Ok(None) };
    // Both are read whole only where both exist.
    let unpacked = found.iter().find(|path| !is_named_gz(path)).filter(|_| is_named_gz(first));
    Ok(Some(match unpacked {
        Some(unpacked) if !is_sound(first) && is_sound(unpacked) => unpacked.clone(),
        _ => first.clone(),
    }))
}

/// The gzipped file that [`locate`] passed over because it is broken, for programs that say so.
///
/// # Errors
/// As [`locate`].
pub fn broken_gz(dir: impl AsRef<Path>, name: &str) -> Result<Option<PathBuf>, IdxError> {
    let dir = dir.as_ref();
    let (used, first) = (locate(dir, name)?, found_below(dir, name)?.into_iter().next());
    Ok(first.filter(|first| used.as_ref() != Some(first)))
}

/// What [`locate`] passed over in `dir`, although its name resembles that of the file: names for an error message, sorted.
///
/// ```
/// let folder = tempfile::tempdir()?;
/// std::fs::write(folder.path().join("train-labels-idx1-ubyte.zip"), "")?;
/// assert_eq!(selvedge_idx::near_misses(folder.path(), "train-labels-idx1-ubyte"), ["train-labels-idx1-ubyte.zip"]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use]
pub fn near_misses(dir: impl AsRef<Path>, name: &str) -> Vec<String> {
    let (part, content) =
        (&name[..name.find('-').unwrap_or(0)], if name.contains("images") { "image" } else { "label" });
    let resembles = |other: &str| {
        let other = other.to_lowercase();
        (other.contains(part) || (part == "t10k" && other.contains("test"))) && other.contains(content)
    };
    let mut near = Vec::new();
    for entry in entries(dir.as_ref()).unwrap_or_default() {
        let name = entry.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if resembles(&name) {
            near.push(if entry.is_dir() { format!("{name}/") } else { name });
        }
    }
    near.sort();
    near
}

/// The folder that the files lie in: `dir` itself, or the only folder in it where `dir` has none of the files.
pub(crate) fn folder_of_files(dir: &Path) -> Result<PathBuf, IdxError> {
    for name in Part::FILE_NAMES {
        if !found_in(dir, name)?.is_empty() {
            return Ok(dir.to_owned());
        }
    }
    // A folder that cannot be listed, or does not exist, has nothing in it: the missing file is the error to report.
    let mut folders = entries(dir).unwrap_or_default().into_iter().filter(|entry| {
        let name = entry.file_name().unwrap_or_default().to_string_lossy();
        // What macOS adds to archives.
        !name.starts_with('.') && name != "__MACOSX" && entry.is_dir()
    });
    Ok(folders.next().filter(|_| folders.next().is_none()).unwrap_or_else(|| dir.to_owned()))
}

/// The error that `dir` has no such file.
pub(crate) fn missing(dir: &Path, name: &str) -> IdxError {
    let near = near_misses(dir, name);
    let found = match (dir.is_dir(), near.is_empty()) {
        (false, _) => "no such folder".to_owned(),
        (true, true) => "neither".to_owned(),
        (true, false) => format!("neither, but {}", near.join(", ")),
    };
    let advice = if near.is_empty() {
        "give the folder that holds the four files of the data set, or download them again"
    } else {
        "unpack or rename what was found, or download the file again"
    };
    let expected = format!("this file, or {name}.gz beside it");
    IdxError::invalid(&dir.join(name), Problem::MissingFile, Offset::File(0), expected, found, advice)
}

fn found_below(dir: &Path, name: &str) -> Result<Vec<PathBuf>, IdxError> {
    found_in(&folder_of_files(dir)?, name)
}

/// The files in the folder that are accepted for a name, in order.
fn found_in(folder: &Path, name: &str) -> Result<Vec<PathBuf>, IdxError> {
    let spellings = [name.to_owned(), name.replacen("-idx", ".idx", 1)];
    let inside = spellings.iter().map(|spelling| folder.join(spelling));
    let mut found = Vec::new();
    for place in [folder.to_owned()].into_iter().chain(inside) {
        for spelling in &spellings {
            for path in [place.join(format!("{spelling}.gz")), place.join(spelling)] {
                if is_file(&path)? {
                    found.push(path);
                }
            }
        }
    }
    Ok(found)
}

fn is_file(path: &Path) -> Result<bool, IdxError> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(!metadata.is_dir()),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(false),
        Err(error) => Err(IdxError::io(path, "look for the file", error)),
    }
}

fn entries(dir: &Path) -> io::Result<Vec<PathBuf>> {
    fs::read_dir(dir)?.map(|entry| entry.map(|entry| entry.path())).collect()
}

fn is_named_gz(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "gz")
}

/// Whether the file is an IDX file of bytes from its first byte to its last.
fn is_sound(path: &Path) -> bool {
    read::read_as::<u8>(path).is_ok()
}
