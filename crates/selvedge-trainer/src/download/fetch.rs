//! [`fetch`]: downloads the missing files of a data set until all are present and verified.

use std::fs;
use std::mem;
use std::path::Path;

use selvedge_idx as idx;

use super::error::{DownloadError, SourceError, SourceFailure};
use super::http::{Source, Timeouts};
use super::part::Part;
use super::registry::{NamedDataset, PinnedFile, RAW_NAMES};
use super::verify::{FileState, Matched, verify_file};

/// How often a download that was cut off after some progress is resumed from the same source.
const RESUMES: usize = 3;

/// What to download, where from, and how long to wait.
#[derive(Debug, Clone, Default)]
pub struct FetchOptions {
    /// Addresses with the files directly below them, tried in this order instead of the public sources; https, or http on
    /// this machine.
    pub mirrors: Vec<String>,
    /// When to give up on a source.
    pub timeouts: Timeouts,
    /// The part whose files are needed; `None` for both.
    pub part: Option<idx::Part>,
}

impl FetchOptions {
    /// The names of the files that are needed, without `.gz`.
    pub(crate) fn names(&self) -> &'static [&'static str] {
        match self.part {
            None => &RAW_NAMES,
            Some(idx::Part::Train) => &RAW_NAMES[..2],
            Some(idx::Part::Test) => &RAW_NAMES[2..],
        }
    }
}

/// Receives the events of a download. The provided methods do nothing.
pub trait Progress {
    /// The download of a file from `url` begins.
    fn begin(&mut self, file: &str, url: &str) {
        let _ = (file, url);
    }
    /// `got` bytes have arrived, of `total` if the server said how many there are.
    fn advance(&mut self, got: u64, total: Option<u64>) {
        let _ = (got, total);
    }
    /// The file is complete and verified.
    fn end(&mut self, file: &str) {
        let _ = file;
    }
    /// Something that does not end the download, such as a failed source.
    fn note(&mut self, message: &str) {
        let _ = message;
    }
}

/// Ignores every event.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoProgress;

impl Progress for NoProgress {}

/// How [`fetch`] got a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was present and is verified.
    Present(Matched),
    /// It was downloaded and verified.
    Downloaded(Matched),
}

/// A verified file.
#[derive(Debug, Clone, Copy)]
pub struct FileOutcome {
    /// The file.
    pub pin: PinnedFile,
    /// How it came here.
    pub outcome: Outcome,
}

/// Verifies the needed files of `dataset` in `dir` and downloads those that are missing or wrong.
///
/// It does not use the network if all files are right. It replaces a wrong file only by a verified one.
///
/// # Errors
/// [`DownloadError::AllSourcesFailed`] if no source has a file, [`DownloadError::BadMirror`], [`DownloadError::Busy`] if
/// another process downloads the same file, [`DownloadError::Io`].
pub fn fetch(
    dir: &Path,
    dataset: &NamedDataset,
    options: &FetchOptions,
    progress: &mut dyn Progress,
) -> Result<Vec<FileOutcome>, DownloadError> {
    let files = match options.part {
        None => &dataset.files[..],
        Some(idx::Part::Train) => dataset.training_files(),
        Some(idx::Part::Test) => &dataset.files[2..],
    };
    fetch_files(dir, dataset, files, options, progress)
}

/// Like [`fetch`], for some of the files.
pub(super) fn fetch_files(
    dir: &Path,
    dataset: &NamedDataset,
    files: &[PinnedFile],
    options: &FetchOptions,
    progress: &mut dyn Progress,
) -> Result<Vec<FileOutcome>, DownloadError> {
    // First: a bad mirror is an error even if nothing is missing.
    let sources = open_sources(dataset, options)?;
    let mut outcomes = Vec::new();
    for pin in files {
        let outcome = match verify_file(dir, pin)?.state {
            FileState::Verified(matched) => Outcome::Present(matched),
            FileState::Missing | FileState::Wrong { .. } => {
                fs::create_dir_all(dir).map_err(DownloadError::io("create", dir))?;
                let matched = fetch_file(dir, dataset, pin, &sources, progress)?;
                progress.end(pin.name);
                Outcome::Downloaded(matched)
            }
        };
        outcomes.push(FileOutcome { pin: *pin, outcome });
    }
    Ok(outcomes)
}

fn open_sources(dataset: &NamedDataset, options: &FetchOptions) -> Result<Vec<Source>, DownloadError> {
    let open = |base: &str| Source::new(base, options.timeouts);
    if options.mirrors.is_empty() {
        dataset.sources.iter().map(|base| open(base)).collect()
    } else {
        options.mirrors.iter().map(|base| open(base)).collect()
    }
}

/// Why an attempt ended: here, which ends the download, or at the source, after which the next one is tried.
enum Stop {
    Here(DownloadError),
    Source(SourceError),
}

impl From<DownloadError> for Stop {
    fn from(error: DownloadError) -> Self {
        Self::Here(error)
    }
}

impl From<SourceError> for Stop {
    fn from(error: SourceError) -> Self {
        Self::Source(error)
    }
}

fn fetch_file(
    dir: &Path,
    dataset: &NamedDataset,
    pin: &PinnedFile,
    sources: &[Source],
    progress: &mut dyn Progress,
) -> Result<Matched, DownloadError> {
    let mut part = Part::open(dir, pin)?;
    if !part.is_locked() {
        progress.note(&format!("{}: the file system has no locks: do not start a second download", dir.display()));
    }
    let target = dir.join(pin.name);
    // A process that was killed between the last byte and the rename has left a complete file.
    if let Ok(matched) = part.check(pin)? {
        part.finish(&target)?;
        return Ok(matched);
    }
    let mut failures = Vec::new();
    for source in sources {
        let url = format!("{}/{}", source.base(), pin.name);
        progress.begin(pin.name, &url);
        match fetch_from(source, pin, &mut part, progress) {
            Ok(matched) => {
                part.finish(&target)?;
                return Ok(matched);
            }
            Err(Stop::Here(error)) => return Err(error),
            Err(Stop::Source(error)) => {
                progress.note(&format!("{url}: {error}"));
                failures.push(SourceFailure { url, error });
            }
        }
    }
    part.abandon()?;
    let bases: Vec<String> = sources.iter().map(|source| source.base().to_owned()).collect();
    Err(DownloadError::sources(dataset, pin, dir, &bases, failures))
}

/// Downloads from one source: resumes after an interruption, and starts over if the part that was there is wrong.
fn fetch_from(
    source: &Source,
    pin: &PinnedFile,
    part: &mut Part,
    progress: &mut dyn Progress,
) -> Result<Matched, Stop> {
    let mut resumes = 0;
    loop {
        let start = part.len();
        match append_from(source, pin, part, progress) {
            Ok(resumed) => match part.check(pin)? {
                Ok(matched) => return Ok(matched),
                Err(found) => {
                    let bytes = part.len();
                    part.clear()?;
                    // The first bytes may have come from another source: try again with this one alone.
                    if !resumed {
                        return Err(SourceError::WrongContent { found, bytes, expected: pin.gz_sha256 }.into());
                    }
                }
            },
            Err(Stop::Source(SourceError::WrongRange { .. })) if start > 0 => part.clear()?,
            Err(Stop::Source(SourceError::CutShort { .. } | SourceError::Connection(_)))
                if part.len() > start && resumes < RESUMES =>
            {
                resumes += 1;
            }
            Err(Stop::Source(error @ SourceError::TooLong { .. })) => {
                part.clear()?;
                return Err(error.into());
            }
            Err(stop) => return Err(stop),
        }
    }
}

/// Appends what the source sends. Returns whether it resumed an earlier download.
fn append_from(source: &Source, pin: &PinnedFile, part: &mut Part, progress: &mut dyn Progress) -> Result<bool, Stop> {
    let mut answer = source.get(pin.name, part.len(), pin.max_bytes())?;
    let mut starts_over = answer.start == 0;
    let mut buffer = vec![0; 1 << 16];
    loop {
        let n = answer.read(&mut buffer)?;
        if n == 0 {
            return Ok(answer.start > 0);
        }
        // Not before: had the answer been a web page, the part on disk would still be useful.
        if mem::take(&mut starts_over) {
            part.clear()?;
        }
        part.write(&buffer[..n])?;
        progress.advance(part.len(), answer.total);
    }
}
