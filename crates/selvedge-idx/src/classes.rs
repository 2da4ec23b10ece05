//! `classes.txt`: the names of a data set's classes, one per line, the first for label 0.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::error::{IdxError, Offset, Problem};
use crate::locate::folder_of_files;

/// The name of the file with the class names, in the folder of the four data files.
pub const CLASSES_FILE: &str = "classes.txt";

/// The largest number of classes, since labels are bytes.
pub const MAX_CLASSES: usize = 256;

/// Ample for 256 names; a larger file is not read whole.
const MAX_BYTES: u64 = 1 << 20;

/// The lines of `classes.txt` in `dir`, the first for label 0; `None` without that file. Where `dir` stands for the only folder
/// in it ([`locate`](crate::locate)), the file may be in either.
///
/// # Errors
/// [`Problem::ClassNames`] as [`class_names`](crate::class_names), [`IdxError::Io`].
///
/// ```
/// let folder = tempfile::tempdir()?;
/// assert_eq!(selvedge_idx::listed_class_names(folder.path())?, None);
/// std::fs::write(folder.path().join("classes.txt"), "cat\ndog\n")?;
/// assert_eq!(selvedge_idx::listed_class_names(folder.path())?.unwrap(), ["cat", "dog"]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn listed_class_names(dir: impl AsRef<Path>) -> Result<Option<Vec<String>>, IdxError> {
    let dir = dir.as_ref();
    match read_names(dir)? {
        None => match folder_of_files(dir)? {
            folder if folder == dir => Ok(None),
            folder => read_names(&folder),
        },
        names => Ok(names),
    }
}

fn read_names(dir: &Path) -> Result<Option<Vec<String>>, IdxError> {
    let path = dir.join(CLASSES_FILE);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(IdxError::io(&path, "open the file", error)),
    };
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|e| IdxError::io(&path, "read the file", e))?;
    parse(&bytes, &path).map(Some)
}

fn parse(bytes: &[u8], path: &Path) -> Result<Vec<String>, IdxError> {
    let unusable = |offset: usize, expected: String, found: String| {
        let advice = "write one name per line, in UTF-8, the first for label 0";
        let at = Offset::File(offset as u64);
        IdxError::invalid(path, Problem::ClassNames, at, expected, found, advice)
    };
    if bytes.len() as u64 > MAX_BYTES {
        return Err(unusable(0, format!("{MAX_BYTES} bytes at most"), "more".to_owned()));
    }
    let text = str::from_utf8(bytes)
        .map_err(|error| unusable(error.valid_up_to(), "UTF-8 text".to_owned(), "other bytes".to_owned()))?;
    let start = text.len() - text.trim_start_matches('\u{feff}').len();
    let text = &text[start..];

    let mut names = Vec::new();
    let mut seen = HashSet::new();
    let mut offset = start;
    for line in text.trim_end().split('\n') {
        let name = line.trim();
        let label = names.len();
        if name.is_empty() {
            return Err(unusable(offset, format!("a name for label {label}"), "none".to_owned()));
        }
        if label == MAX_CLASSES {
            return Err(unusable(offset, format!("{MAX_CLASSES} names at most"), "more".to_owned()));
        }
        if name.chars().any(char::is_control) {
            let expected = "a name without control characters".to_owned();
            return Err(unusable(offset, expected, format!("{name:?}")));
        }
        if !seen.insert(name) {
            let expected = "each name once".to_owned();
            return Err(unusable(offset, expected, format!("{name:?} again")));
        }
        names.push(name.to_owned());
        offset += line.len() + 1;
    }
    Ok(names)
}
