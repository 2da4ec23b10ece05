//! Options that several commands share.

use std::env;
use std::path::PathBuf;

use anyhow::bail;
use clap::Args;
use selvedge_compute::Threads;
use selvedge_model::TestTimeAveraging;

use crate::download::default_data_dir;
use crate::recipe::{LoadedRecipe, Override, PrecisionChoice, RecipeError, RecipeSource, built_in_names};

/// The recipe that commands use by default.
pub(crate) const DEFAULT_RECIPE: &str = "fast";

/// The help of an option that names a recipe; `before` and `after` are what the command adds.
pub(crate) fn recipe_help(before: &str, after: &str) -> String {
    format!("{before}a built-in recipe ({}), or a TOML file{after}", built_in_names())
}

/// `--data-dir`.
#[derive(Debug, Args)]
pub(crate) struct DataDirOption {
    /// The folder that holds a folder for each named data set [default: `data` here, or the user's data folder;
    /// SELVEDGE_DATA names another]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

impl DataDirOption {
    pub(crate) fn path(&self) -> PathBuf {
        self.data_dir.clone().unwrap_or_else(default_data_dir)
    }
}

/// `--threads`.
#[derive(Debug, Args)]
pub(crate) struct ThreadsOption {
    /// Worker threads [default: RAYON_NUM_THREADS, or as many as the machine runs at a time]
    #[arg(long, value_name = "N", value_parser = parse_threads)]
    threads: Option<usize>,
}

impl ThreadsOption {
    pub(crate) fn count(&self) -> anyhow::Result<usize> {
        if let Some(count) = self.threads {
            return Ok(count);
        }
        match env::var("RAYON_NUM_THREADS") {
            // rayon itself takes 0 as "the default".
            Ok(text) if !text.is_empty() && text != "0" => match parse_threads(&text) {
                Ok(count) => Ok(count),
                Err(problem) => bail!("RAYON_NUM_THREADS={text}: {problem}"),
            },
            _ => Ok(Threads::available()),
        }
    }
}

/// `--tta`.
#[derive(Debug, Args)]
pub(crate) struct TestTimeAveragingOption {
    /// Average over views of each image: itself and its mirror image, and copies shifted by a pixel [default: the run's
    /// recipe decides]
    #[arg(long, value_name = "mirror, mirror+shift or none", value_parser = parse_averaging)]
    tta: Option<Averaging>,
}

/// A choice of [`TestTimeAveragingOption`]. clap takes an `Option` as an option that may be absent, so this is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Averaging(Option<TestTimeAveraging>);

impl TestTimeAveragingOption {
    /// What was chosen, or else the run's.
    pub(crate) fn or(&self, run: Option<TestTimeAveraging>) -> Option<TestTimeAveraging> {
        self.tta.map_or(run, |Averaging(chosen)| chosen)
    }
}

fn parse_averaging(text: &str) -> Result<Averaging, String> {
    match text {
        "none" => Ok(Averaging(None)),
        "mirror" => Ok(Averaging(Some(TestTimeAveraging { mirror: true, shift: 0 }))),
        "mirror+shift" => Ok(Averaging(Some(TestTimeAveraging { mirror: true, shift: 1 }))),
        _ => Err("expected mirror, mirror+shift or none".to_owned()),
    }
}

fn parse_threads(text: &str) -> Result<usize, String> {
    let allowed = || {
        let (available, max) = (Threads::available(), Threads::MAX);
        format!("expected a number from 1 to {max}; this machine runs {available} threads at a time")
    };
    text.parse().ok().filter(|count| (1..=Threads::MAX).contains(count)).ok_or_else(allowed)
}

/// Parses `--precision`.
pub(crate) fn parse_precision(text: &str) -> Result<PrecisionChoice, String> {
    [PrecisionChoice::Auto, PrecisionChoice::F32, PrecisionChoice::Bf16]
        .into_iter()
        .find(|choice| choice.name() == text)
        .ok_or_else(|| "expected auto, f32 or bf16".to_owned())
}

/// The changes that a command's options make to a recipe, `--set` first.
#[derive(Debug, Default)]
pub(crate) struct RecipeChanges<'a> {
    pub(crate) set: &'a [String],
    pub(crate) dataset: Option<&'a str>,
    pub(crate) epochs: Option<i64>,
    pub(crate) seed: Option<i64>,
    pub(crate) batch: Option<i64>,
    pub(crate) precision: Option<PrecisionChoice>,
}

impl RecipeChanges<'_> {
    /// Loads a recipe with the changes; an error names the option that made the refused one.
    pub(crate) fn load(&self, recipe: &str) -> Result<LoadedRecipe, RecipeError> {
        let mut overrides: Vec<Override> =
            self.set.iter().map(|text| Override::parse(text)).collect::<Result<_, _>>()?;
        let text = |key: &str, value: &str| Override::new(key, value, &format!("--{key} {value}"));
        let number = |key: &str, value: i64| Override::new(key, value, &format!("--{key} {value}"));
        overrides.extend(self.dataset.map(|name| text("dataset", name)));
        overrides.extend(self.epochs.map(|epochs| number("epochs", epochs)));
        overrides.extend(self.seed.map(|seed| number("seed", seed)));
        overrides.extend(self.batch.map(|batch| number("batch", batch)));
        overrides.extend(self.precision.map(|choice| text("precision", choice.name())));
        RecipeSource::find(recipe)?.load(&overrides)
    }
}
