//! The folder of a search: copies of its file and recipe, and a JSON line for each finished trial.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use toml::Table;

use super::error::SearchError;
use crate::run_folder::{Destination, FolderError, JsonLines, LockedFolder, RECIPE};

/// The copy of the file of the search.
pub(super) const SEARCH: &str = "search.toml";
/// A JSON line for each finished trial.
pub(super) const TRIALS: &str = "trials.jsonl";
/// The recipe of the best trial.
pub(super) const BEST: &str = "best.toml";

/// A line of `trials.jsonl`: a training run of a trial.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct TrialRecord {
    /// The trial, counted from 1.
    pub(super) trial: usize,
    /// The rung, counted from 1.
    pub(super) rung: usize,
    /// The seed of the run.
    pub(super) seed: u64,
    /// The value of each searched key.
    pub(super) values: Table,
    /// All that differs from the recipe, these values included, by dotted key.
    pub(super) changes: Table,
    /// Epochs that were trained; null if the loss stopped being finite, as in all that follow.
    pub(super) epochs: Option<u64>,
    /// Mean loss on the validation images, with the final weights.
    pub(super) validation_loss: Option<f64>,
    /// Accuracy on the validation images, with the final weights.
    pub(super) validation_accuracy: Option<f64>,
    /// The same with test-time averaging; null if the recipe has none.
    pub(super) validation_accuracy_tta: Option<f64>,
    /// The number of validation images.
    pub(super) validation_images: usize,
    /// Seconds of the training steps, without evaluation.
    pub(super) train_seconds: Option<f64>,
    /// Images that were trained on, each counted as often as it was seen.
    pub(super) images: Option<u64>,
    /// Floating-point operations of training: 6 for each multiply-add of each image's forward pass.
    pub(super) flops: Option<f64>,
    /// `f32` or `bf16`.
    pub(super) precision: String,
    /// The instruction set, on which the last bits depend.
    pub(super) isa: String,
    /// Threads of this run.
    pub(super) threads: usize,
    /// Why there are no figures; null if there are.
    pub(super) problem: Option<String>,
}

/// The folder, locked against other processes while this value lives.
pub(super) struct SearchFolder {
    folder: LockedFolder,
    lines: JsonLines,
    records: Vec<TrialRecord>,
}

impl SearchFolder {
    /// Whether a folder holds a search.
    pub(super) fn is_search(path: &Path) -> bool {
        path.join(SEARCH).is_file()
    }

    /// Makes the folder of a new search. `search.toml`, which marks it as one, is written last.
    pub(super) fn create(
        destination: &Destination,
        name: &str,
        search: &str,
        recipe: &str,
    ) -> Result<Self, FolderError> {
        let folder = LockedFolder::create(destination, &format!("search-{name}"))?;
        let lines = JsonLines::open(folder.file(TRIALS))?;
        folder.write(RECIPE, recipe.as_bytes())?;
        folder.write(SEARCH, search.as_bytes())?;
        Ok(Self { folder, lines, records: Vec::new() })
    }

    /// Opens the folder of a search and reads its records. A last line that was cut off is dropped, and `note` says so.
    pub(super) fn open(path: &Path, mut note: impl FnMut(&str)) -> Result<Self, SearchError> {
        if !Self::is_search(path) {
            return Err(SearchError::NotASearch { path: path.to_owned(), missing: SEARCH });
        }
        let folder = LockedFolder::open(path)?;
        let lines = JsonLines::open(folder.file(TRIALS))?;
        let text = lines.read()?;
        let whole = text.rfind('\n').map_or(0, |newline| newline + 1);
        if whole < text.len() {
            note(&format!(
                "{}: the last line was cut off and is dropped; its trial is trained again",
                lines.path().display()
            ));
            lines.truncate(whole)?;
        }
        let parse = |(index, line): (usize, &str)| {
            let bad = |problem: String| SearchError::Record { path: lines.path().to_owned(), line: index + 1, problem };
            serde_json::from_str(line).map_err(|error| bad(format!("not the record of a trial: {error}")))
        };
        let records = text[..whole].lines().enumerate().map(parse).collect::<Result<_, _>>()?;
        Ok(Self { folder, lines, records })
    }

    pub(super) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The records in the order of the file.
    pub(super) fn records(&self) -> &[TrialRecord] {
        &self.records
    }

    /// The error that a record, counted from 0, cannot be used.
    pub(super) fn bad_record(&self, index: usize, problem: &str) -> SearchError {
        SearchError::Record { path: self.lines.path().to_owned(), line: index + 1, problem: problem.to_owned() }
    }

    /// Appends a record and syncs it to the disk.
    pub(super) fn append(&mut self, record: &TrialRecord) -> Result<&TrialRecord, FolderError> {
        self.lines.append(record)?;
        self.lines.sync()?;
        self.records.push(as_read(record));
        Ok(&self.records[self.records.len() - 1])
    }

    pub(super) fn write(&self, name: &str, text: &str) -> Result<(), FolderError> {
        self.folder.write(name, text.as_bytes())
    }
}

/// The value as it is read from a file: the last bit of a number may change on the way. What is compared has gone that way,
/// so a resumed search decides as an uninterrupted one.
pub(super) fn as_read<T: Clone + Serialize + for<'a> Deserialize<'a>>(value: &T) -> T {
    serde_json::to_string(value).and_then(|text| serde_json::from_str(&text)).unwrap_or_else(|_| value.clone())
}

/// Refuses a search whose text differs from the copy in its folder.
pub(super) fn check_unchanged(folder: &Path, kept: &'static str, what: &str, text: &str) -> Result<(), SearchError> {
    let path = folder.join(kept);
    match fs::read_to_string(&path) {
        Ok(old) if old == text => Ok(()),
        Ok(_) => Err(SearchError::Changed { what: what.to_owned(), folder: PathBuf::from(folder), kept }),
        Err(source) => Err(SearchError::Read { path, source }),
    }
}
