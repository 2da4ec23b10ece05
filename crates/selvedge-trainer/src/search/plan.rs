//! [`Plan`]: the trials of a search and the training runs that they consist of.

use toml::{Table, Value};

use super::error::SearchError;
use super::file::{Sampling, SearchFile};
use super::record::as_read;
use super::space::{Trial, grid, random};
use super::table::assignments;
use crate::error::TrainError;
use crate::recipe::{LoadedRecipe, Override, RecipeError};

/// What is trained, in which order.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) file: SearchFile,
    pub(super) trials: Vec<Trial>,
}

/// A training run of a trial.
#[derive(Clone, Copy, Debug)]
pub(super) struct TrialRun<'a> {
    pub(super) trial: &'a Trial,
    /// Counted from 1.
    pub(super) rung: usize,
    pub(super) seed: u64,
}

impl Plan {
    /// Makes the trials.
    pub(super) fn new(file: SearchFile) -> Result<Self, SearchError> {
        let trials = match file.sampling {
            Sampling::Grid => grid(&file.dimensions),
            Sampling::Random { trials: count, seed } => {
                let trials = random(&file.dimensions, count, seed);
                if trials.len() < count {
                    let problem = format!("{count} is not possible: `values` has only {} combinations", trials.len());
                    return Err(file.refuse_trials(problem));
                }
                trials
            }
        };
        Ok(Self { file, trials })
    }

    /// The number of rungs.
    pub(super) fn rungs(&self) -> usize {
        self.file.halving.as_ref().map_or(1, |halving| halving.rungs.len())
    }

    /// The seeds of a rung, which is counted from 1.
    pub(super) fn seeds(&self, rung: usize) -> &[u64] {
        if rung == self.rungs() { &self.file.seeds } else { &self.file.seeds[..1] }
    }

    /// All runs of these trials at a rung.
    pub(super) fn runs<'a>(&'a self, trials: &'a [usize], rung: usize) -> impl Iterator<Item = TrialRun<'a>> {
        let of_trial = move |&number: &usize| {
            let trial = &self.trials[number - 1];
            self.seeds(rung).iter().map(move |&seed| TrialRun { trial, rung, seed })
        };
        trials.iter().flat_map(of_trial)
    }

    /// All that a run changes in the recipe.
    fn overrides(&self, run: &TrialRun<'_>) -> Vec<Override> {
        let own = |key: &str, number: u64, origin: &str| {
            Override::new(key, Value::Integer(i64::try_from(number).unwrap_or(i64::MAX)), origin)
        };
        let origins = &self.file.origins;
        let mut overrides = self.file.common.clone();
        overrides.extend(run.trial.overrides.iter().cloned());
        if let Some(halving) = &self.file.halving {
            overrides.push(own("epochs", halving.rungs[run.rung - 1], &origins.rungs));
        }
        overrides.push(own("seed", run.seed, &origins.seeds));
        overrides
    }

    /// The recipe of a run. An error names the line of the search's file that makes it impossible.
    pub(super) fn recipe(&self, run: &TrialRun<'_>) -> Result<LoadedRecipe, RecipeError> {
        self.file.recipe.clone().load(&self.overrides(run))
    }

    /// The refusal of a run before it is trained. If it does not name a line of the search's file, it names the trial.
    pub(super) fn refusal(&self, run: &TrialRun<'_>, error: TrainError) -> SearchError {
        let file = &self.file.origin;
        match error {
            TrainError::Recipe(RecipeError::Value { ref place, .. }) if !place.contains(file.as_str()) => {
                let values = assignments(run.trial.values.iter().map(|(key, value)| (key, value)));
                let trial = run.trial.number;
                SearchError::Trial { file: file.clone(), trial, values, source: Box::new(error) }
            }
            other => other.into(),
        }
    }

    /// The recipe of a trial for a run on all training images: with the epochs of the last rung, but with the seed and the
    /// validation images of the recipe, unless it needs some for a callback.
    pub(super) fn final_recipe(&self, trial: usize) -> Result<LoadedRecipe, RecipeError> {
        let run = TrialRun { trial: &self.trials[trial - 1], rung: self.rungs(), seed: self.file.seeds[0] };
        let mut overrides = self.overrides(&run);
        overrides.retain(|change| change.key() != "seed");
        let all = self.file.recipe.clone().load(&overrides);
        overrides.retain(|change| change.key() != "validation");
        self.file.recipe.clone().load(&overrides).or(all)
    }

    /// The searched values of a run and all its changes, as its record has them.
    pub(super) fn tables(&self, run: &TrialRun<'_>) -> (Table, Table) {
        let overrides = self.overrides(run);
        let changes = overrides.iter().map(|change| (change.key().to_owned(), change.value().clone()));
        (as_read(&run.trial.values.iter().cloned().collect()), as_read(&changes.collect()))
    }
}
