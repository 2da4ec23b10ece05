//! [`search`]: trains a recipe with many values of some of its keys, and compares the results on held-out training images.
//!
//! The file of a search ([`file`]) becomes trials ([`space`]), and these become training runs ([`plan`]), which are trained
//! rung by rung ([`side_by_side`], [`rank`]). Each finished run is a line of the folder's records ([`record`]); a search that
//! was interrupted goes on after the last one. The test set is never read: the data set is loaded without it, and the runs
//! end before the part of training that evaluates on it ([`train_and_validate`](crate::train::train_and_validate)).

mod entry;
mod error;
mod file;
mod plan;
mod rank;
mod record;
mod side_by_side;
mod space;
mod table;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use selvedge_compute::{Cpu, Threads};

pub(crate) use error::SearchError;
pub(crate) use side_by_side::Jobs;

use crate::data::TrainingData;
use crate::download::FetchOptions;
use crate::error::TrainError;
use crate::observer::Observer;
use crate::recipe::RecipeSource;
use crate::run_folder::{Destination, RECIPE};
use crate::setup::Inputs;
use file::SearchFile;
use plan::{Plan, TrialRun};
use record::{BEST, SEARCH, SearchFolder, TrialRecord, check_unchanged};
use side_by_side::Workshop;

/// What to search, and on what.
#[derive(Clone, Debug)]
pub(crate) struct SearchOptions {
    pub(crate) task: Task,
    /// The folder that holds the data sets known by name.
    pub(crate) data_dir: PathBuf,
    /// Threads of all jobs together.
    pub(crate) threads: usize,
    pub(crate) jobs: Jobs,
    /// Set it to a number other than 0 to end the search; runs in progress are dropped.
    pub(crate) stop: Arc<AtomicUsize>,
    /// True until the first run begins: until then a signal handler should end the process at once.
    pub(crate) exit_at_once: Arc<AtomicBool>,
}

/// A new search, or one to go on with.
#[derive(Clone, Debug)]
pub(crate) enum Task {
    /// The search of a file, from the start.
    New { file: PathBuf, destination: Destination },
    /// The search in a folder. If a file is given, the search must be that of the file; else it goes on by the copies of its
    /// file and recipe in the folder.
    Resume { folder: PathBuf, file: Option<PathBuf> },
}

/// How a search ended.
#[derive(Clone, Debug)]
pub(crate) enum SearchOutcome {
    /// All runs are recorded.
    Finished {
        folder: PathBuf,
        /// A row for each trial, the best first.
        table: String,
        /// The file with the recipe of the best trial; `None` if all have failed.
        best: Option<PathBuf>,
    },
    /// It was asked to stop, by this number.
    Stopped { folder: PathBuf, reason: usize },
}

/// Runs a search, or the rest of one. `say` receives a line for each finished run, `observer` the notes and the progress of a
/// download.
///
/// # Errors
/// [`SearchError`]. Nothing is trained before the file and the recipes of all trials have been checked. The records are
/// readable even after an error.
pub(crate) fn search(
    options: &SearchOptions,
    observer: &mut dyn Observer,
    say: &mut dyn FnMut(&str),
) -> Result<SearchOutcome, SearchError> {
    let (file, opened) = options.task.open(observer)?;
    let plan = Plan::new(file)?;
    if let Opened::Existing(folder) = &opened {
        check_records(&plan, folder)?;
    }
    let all: Vec<usize> = plan.trials.iter().map(|trial| trial.number).collect();
    let smallest_batch = check_recipes(&plan, &all)?;

    let cpu = Cpu::detect()?;
    let threads = Threads::new(options.threads)?;
    let first = plan.recipe(&TrialRun { trial: &plan.trials[0], rung: 1, seed: plan.seeds(1)[0] })?;
    let (dataset, fetch) = (&first.recipe.dataset, FetchOptions::default());
    let data =
        TrainingData::load_without_test(dataset, &options.data_dir, &fetch, observer).map_err(TrainError::from)?;
    let data = Arc::new(data);
    if let Some(record) = opened.records().iter().find(|record| record.isa != cpu.isa().name()) {
        let (old, new) = (&record.isa, cpu.isa());
        observer
            .note(&format!("the search began on {old} and continues on {new}: its figures differ in the last bits"));
    }
    let (first_seed, mut known_notes) = (plan.seeds(1)[0], HashSet::new());
    for run in plan.runs(&all, 1).filter(|run| run.seed == first_seed && !is_recorded(opened.records(), run)) {
        let recipe = plan.recipe(&run)?;
        let mut note = |note: &str| {
            if known_notes.insert(note.to_owned()) {
                observer.note(note);
            }
        };
        let prepared = Inputs::prepare(recipe.clone(), Arc::clone(&data), cpu, &threads, &mut note);
        let (inputs, _) = prepared.map_err(|error| plan.refusal(&run, error))?;
        if inputs.images.partition.validation.is_empty() {
            let problem = format!("this share of the {} training images is less than one image", data.labels().len());
            return Err(recipe.error("validation", problem).into());
        }
    }

    let mut folder = opened.create(&plan.file)?;
    let jobs = options.jobs.count(smallest_batch, options.threads);
    // With one job, its threads are the ones that made the checks.
    let pools = if jobs == 1 {
        vec![threads]
    } else {
        (0..jobs).map(|_| Threads::new((options.threads / jobs).max(1))).collect::<Result<_, _>>()?
    };
    let workshop = Workshop { plan: &plan, data, cpu, pools, stop: &options.stop };
    options.exit_at_once.store(false, Ordering::Relaxed);
    if let Some(reason) = train_rungs(&workshop, &mut folder, all, say)? {
        return Ok(SearchOutcome::Stopped { folder: folder.path().to_owned(), reason });
    }
    let best = write_best(&plan, &folder)?;
    let table = table::table(&plan.trials, folder.records());
    Ok(SearchOutcome::Finished { folder: folder.path().to_owned(), table, best })
}

impl Task {
    /// The search of a file with its results in `out`: a new one, or the one that is there.
    pub(crate) fn in_folder(file: PathBuf, out: PathBuf) -> Self {
        if SearchFolder::is_search(&out) {
            Self::Resume { folder: out, file: Some(file) }
        } else {
            Self::New { file, destination: Destination::Folder(out) }
        }
    }

    /// The checked file, and the folder if there is one already: that of a new search is made after all other checks.
    fn open(&self, observer: &mut dyn Observer) -> Result<(SearchFile, Opened<'_>), SearchError> {
        let (folder, path) = match self {
            Self::New { file: path, destination } => {
                destination.check()?;
                return Ok((SearchFile::read(path, None)?, Opened::New { file: path, destination }));
            }
            Self::Resume { folder, file } => (SearchFolder::open(folder, |note| observer.note(note))?, file),
        };
        let file = match path {
            None => {
                let recipe = RecipeSource::read(&folder.path().join(RECIPE))?;
                SearchFile::read(&folder.path().join(SEARCH), Some(recipe))?
            }
            Some(path) => {
                let file = SearchFile::read(path, None)?;
                check_unchanged(folder.path(), SEARCH, &path.display().to_string(), &file.text)?;
                check_unchanged(folder.path(), RECIPE, "the recipe", file.recipe.text())?;
                file
            }
        };
        Ok((file, Opened::Existing(folder)))
    }
}

/// The folder of a search before its first run.
enum Opened<'a> {
    New { file: &'a Path, destination: &'a Destination },
    Existing(SearchFolder),
}

impl Opened<'_> {
    fn records(&self) -> &[TrialRecord] {
        match self {
            Self::New { .. } => &[],
            Self::Existing(folder) => folder.records(),
        }
    }

    fn create(self, search: &SearchFile) -> Result<SearchFolder, SearchError> {
        match self {
            Self::Existing(folder) => Ok(folder),
            Self::New { file, destination } => {
                let name = file.file_stem().unwrap_or_default().to_string_lossy();
                Ok(SearchFolder::create(destination, &name, &search.text, search.recipe.text())?)
            }
        }
    }
}

/// Checks the recipe of every run that may come, and returns their smallest batch.
fn check_recipes(plan: &Plan, trials: &[usize]) -> Result<usize, SearchError> {
    let mut smallest = usize::MAX;
    for rung in 1..=plan.rungs() {
        for run in plan.runs(trials, rung) {
            let recipe = plan.recipe(&run).map_err(|error| plan.refusal(&run, error.into()))?;
            smallest = smallest.min(recipe.recipe.batch);
        }
    }
    Ok(smallest)
}

fn is_recorded(records: &[TrialRecord], run: &TrialRun<'_>) -> bool {
    records.iter().any(|record| (record.trial, record.rung, record.seed) == (run.trial.number, run.rung, run.seed))
}

/// Refuses records that are not those of the plan's runs.
fn check_records(plan: &Plan, folder: &SearchFolder) -> Result<(), SearchError> {
    let mut known = HashSet::new();
    for (index, record) in folder.records().iter().enumerate() {
        let run = plan.trials.get(record.trial.wrapping_sub(1)).map(|trial| TrialRun {
            trial,
            rung: record.rung,
            seed: record.seed,
        });
        let run = run.filter(|run| (1..=plan.rungs()).contains(&run.rung) && plan.seeds(run.rung).contains(&run.seed));
        match run {
            Some(run) if plan.tables(&run).0 == record.values => {}
            _ => return Err(folder.bad_record(index, "the search has no such run of a trial")),
        }
        if !known.insert((record.trial, record.rung, record.seed)) {
            return Err(folder.bad_record(index, "an earlier line is the record of the same run"));
        }
    }
    Ok(())
}

/// Trains all rungs; returns the reason if it was asked to stop.
fn train_rungs(
    workshop: &Workshop<'_>,
    folder: &mut SearchFolder,
    mut trials: Vec<usize>,
    say: &mut dyn FnMut(&str),
) -> Result<Option<usize>, SearchError> {
    let plan = workshop.plan;
    for rung in 1..=plan.rungs() {
        let runs: Vec<TrialRun<'_>> =
            plan.runs(&trials, rung).filter(|run| !is_recorded(folder.records(), run)).collect();
        let (all, mut left) = (trials.len() * plan.seeds(rung).len(), runs.len());
        workshop.train_all(&runs, |record| {
            left -= 1;
            let place = if plan.rungs() > 1 { format!("rung {rung}: ") } else { String::new() };
            say(&format!("{place}{} of {all}  {}", all - left, line(folder.append(&record)?)));
            Ok(())
        })?;
        let reason = workshop.stop.load(Ordering::Relaxed);
        if reason != 0 {
            return Ok(Some(reason));
        }
        if let Some(halving) = plan.file.halving.as_ref().filter(|_| rung < plan.rungs()) {
            trials = rank::promoted(folder.records(), &trials, rung, halving.keep);
            if trials.is_empty() {
                return Err(SearchError::AllFailed { rung });
            }
        }
    }
    Ok(None)
}

/// A finished run in a line.
fn line(record: &TrialRecord) -> String {
    let figures = match (record.validation_accuracy, record.validation_loss, record.train_seconds) {
        (Some(accuracy), Some(loss), Some(seconds)) => {
            format!("accuracy {:.2} %  loss {loss:.4}  {seconds:.1} s", 100.0 * accuracy)
        }
        _ => format!("failed: {}", record.problem.as_deref().unwrap_or("no figures")),
    };
    format!("trial {} seed {}: {figures}  {}", record.trial, record.seed, table::assignments(&record.values))
}

/// Writes the recipe of the best trial of the last rung.
fn write_best(plan: &Plan, folder: &SearchFolder) -> Result<Option<PathBuf>, SearchError> {
    let of = |trial: &space::Trial| rank::Score::of(folder.records(), trial.number, plan.rungs());
    let scores = plan.trials.iter().filter_map(of).filter(|score| score.means.is_some());
    let Some(best) = scores.min_by(rank::Score::cmp) else { return Ok(None) };
    folder.write(BEST, &plan.final_recipe(best.trial)?.to_toml())?;
    Ok(Some(folder.path().join(Path::new(BEST))))
}
