//! [`SeedsFolder`]: the folder of several seeds: `recipe.toml`, `seeds.json`, and a run's folder `seed-N` for each.

use std::fs;
use std::path::{Path, PathBuf};

use selvedge_compute::Cpu;

use super::choice::SeedChoice;
use super::summary::{SeedFigures, SeedsSummary};
use crate::error::TrainError;
use crate::recipe::{LoadedRecipe, Override, RecipeError, RecipeSource};
use crate::run_folder::{Destination, FolderError, LockedFolder, RECIPE};
use crate::setup::{choose_precision, settle};
use crate::summary::Summary;

pub use crate::run_folder::SEEDS;

/// The folder of several seeds, locked against other processes while this value lives.
#[derive(Debug)]
pub struct SeedsFolder {
    folder: LockedFolder,
    /// What [`SeedsFolder::create`] made, to be removed if it was in vain; `None` if the folder was there before.
    made: Option<Vec<PathBuf>>,
    summary: SeedsSummary,
}

impl SeedsFolder {
    /// Makes the folder. A dated one has a name that ends with the recipe's and `-seeds`.
    ///
    /// # Errors
    /// [`TrainError::Folder`], and [`TrainError::Cpu`] if the processor lacks the recipe's precision.
    pub fn create(destination: &Destination, mut recipe: LoadedRecipe, seeds: Vec<u64>) -> Result<Self, TrainError> {
        // What depends on this machine and the current folder is the same for all seeds, wherever they are resumed.
        let precision = choose_precision(recipe.recipe.precision, Cpu::detect()?)?;
        let dataset = PathBuf::from(&recipe.recipe.dataset);
        settle(&mut recipe, precision, &dataset);

        let (Destination::Folder(outer) | Destination::Below(outer)) = destination;
        let outer_is_new = !outer.exists();
        let folder = LockedFolder::create(destination, &format!("{}-seeds", recipe.recipe.name))?;
        let is_new = |path: &PathBuf| outer_is_new || path != outer;
        let mut made = vec![folder.path().to_owned(), outer.clone()];
        made.dedup();
        made.retain(is_new);
        let changes = recipe.changes().map(str::to_owned).collect();
        let summary = SeedsSummary::new(recipe.recipe.name.clone(), changes, seeds);
        let created = Self { folder, made: Some(made), summary };
        let written = created.folder.write(RECIPE, recipe.to_toml().as_bytes()).map_err(TrainError::from);
        match written.and_then(|()| created.write()) {
            Ok(()) => Ok(created),
            Err(error) => {
                created.remove_if_unused();
                Err(error)
            }
        }
    }

    /// Opens a folder to continue its seeds, and `more`, if given: a number of seeds counts from the folder's first.
    ///
    /// # Errors
    /// [`TrainError::Folder`] if it is in use or not a folder of several seeds, [`TrainError::Summary`] if `seeds.json` is
    /// broken, or there are no such seeds.
    pub fn open(path: &Path, more: Option<&SeedChoice>) -> Result<Self, TrainError> {
        if !Self::is_one(path) {
            return Err(FolderError::NotSeveralSeeds { path: path.to_owned() }.into());
        }
        let folder = LockedFolder::open(path)?;
        let file = path.join(SEEDS);
        let broken = |problem: String| TrainError::Summary { path: file.clone(), problem };
        let text = fs::read_to_string(&file).map_err(|error| broken(error.to_string()))?;
        let mut summary: SeedsSummary = serde_json::from_str(&text).map_err(|error| broken(error.to_string()))?;
        let first = *summary.seeds.first().ok_or_else(|| broken("it names no seeds".to_owned()))?;
        let more = more.map(|more| more.seeds(first)).transpose().map_err(broken)?.unwrap_or_default();
        for seed in more {
            if !summary.seeds.contains(&seed) {
                summary.seeds.push(seed);
            }
        }
        let opened = Self { folder, made: None, summary };
        opened.write()?;
        Ok(opened)
    }

    /// Whether a folder holds several seeds rather than one run.
    pub fn is_one(path: &Path) -> bool {
        path.join(SEEDS).is_file()
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Which seeds there are, and the figures of those that are finished.
    pub fn summary(&self) -> &SeedsSummary {
        &self.summary
    }

    /// The folder of a seed's run.
    pub(super) fn run(&self, seed: u64) -> PathBuf {
        self.folder.file(&folder_name(seed))
    }

    /// The recipe with this seed.
    pub(super) fn recipe(&self, seed: u64) -> Result<LoadedRecipe, RecipeError> {
        let value =
            toml::Value::try_from(seed).unwrap_or_else(|_| unreachable!("a choice of seeds has only TOML integers"));
        RecipeSource::read(&self.folder.file(RECIPE))?.load(&[Override::new("seed", value, &format!("seed {seed}"))])
    }

    /// Adds a finished run to `seeds.json`.
    pub(super) fn record(&mut self, seed: u64, summary: &Summary) -> Result<&SeedFigures, TrainError> {
        self.summary.record(SeedFigures::of(folder_name(seed), summary));
        self.write()?;
        // It was added just now.
        Ok(self.summary.runs.iter().find(|run| run.seed == seed).unwrap_or_else(|| unreachable!("seed {seed}")))
    }

    /// Removes what was made if no run was started: a refusal leaves nothing behind.
    pub(super) fn remove_if_unused(&self) {
        let started = self.summary.seeds.iter().any(|&seed| self.run(seed).exists());
        let Some(made) = self.made.as_ref().filter(|_| !started) else { return };
        // What cannot be removed stays, and does no harm.
        self.folder.abandon(&[SEEDS, RECIPE]);
        made.iter().for_each(|folder| drop(fs::remove_dir(folder)));
    }

    fn write(&self) -> Result<(), TrainError> {
        let json = serde_json::to_string_pretty(&self.summary).map_err(|error| FolderError::Io {
            action: "write",
            path: self.folder.file(SEEDS),
            source: error.into(),
        })?;
        Ok(self.folder.write(SEEDS, format!("{json}\n").as_bytes())?)
    }
}

fn folder_name(seed: u64) -> String {
    format!("seed-{seed}")
}
