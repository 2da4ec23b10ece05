//! [`write`]: a file appears under its name when it is complete and on the disk, or not at all.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// What was refused on the way.
#[derive(Debug)]
pub(crate) struct Refused {
    /// What was tried, as a verb.
    pub(crate) action: &'static str,
    /// The cause.
    pub(crate) source: io::Error,
}

fn refused(action: &'static str) -> impl FnOnce(io::Error) -> Refused {
    move |source| Refused { action, source }
}

/// Puts `bytes` at `path`, or leaves what was there: they are written to `temporary`, a name in the same folder that
/// nobody else uses meanwhile, synced, and renamed.
pub(crate) fn write(temporary: &Path, path: &Path, bytes: &[u8]) -> Result<(), Refused> {
    let written = write_synced(temporary, bytes).and_then(|()| fs::rename(temporary, path).map_err(refused("rename")));
    if written.is_err() {
        // The first error is the one to tell. On a full disk the half of a file would be in the way.
        let _ = fs::remove_file(temporary);
    }
    written?;
    sync_folder(path).map_err(refused("sync"))
}

fn write_synced(path: &Path, bytes: &[u8]) -> Result<(), Refused> {
    let mut file = File::create(path).map_err(refused("create"))?;
    file.write_all(bytes).map_err(refused("write"))?;
    file.sync_all().map_err(refused("sync"))
}

/// Makes the name of the file at `path` survive a power cut.
#[cfg(unix)]
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

/// Elsewhere a rename is the system's to keep.
#[cfg(not(unix))]
pub(crate) fn sync_folder(_: &Path) -> io::Result<()> {
    Ok(())
}
