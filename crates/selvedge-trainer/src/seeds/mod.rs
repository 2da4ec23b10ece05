//! Trains a recipe with several seeds, one after another, and sums up their figures.
//!
//! Each seed is a run with a folder of its own, as if it had been trained alone; [`SeedsFolder`] holds them all. What is
//! interrupted is resumed: finished seeds are left as they are, the one in progress continues, the others follow.

mod choice;
mod folder;
mod statistics;
mod summary;

use std::sync::atomic::Ordering;

use crate::error::TrainError;
use crate::observer::Observer;
use crate::run_folder::{Destination, RECIPE, SUMMARY};
use crate::setup::{Run, TrainOptions};
use crate::summary::Summary;
use crate::train::{Outcome, train};

pub use choice::SeedChoice;
pub use folder::{SEEDS, SeedsFolder};
pub use statistics::Spread;
pub use summary::{SeedFigures, SeedsSummary};

/// A seed's turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// The seed.
    pub seed: u64,
    /// Its place among the folder's seeds, counted from 1.
    pub number: usize,
    /// Seeds of the folder.
    pub of: usize,
}

/// Follows the training of several seeds.
pub trait SeedsObserver {
    /// A seed's training begins or continues: returns who follows it.
    fn begin(&mut self, turn: Turn) -> Box<dyn Observer>;
    /// A seed is finished, now or before.
    fn end(&mut self, figures: &SeedFigures);
}

/// How the training of several seeds ended.
#[derive(Clone, Debug, PartialEq)]
pub enum SeedsOutcome {
    /// All are finished.
    Finished(Box<SeedsSummary>),
    /// It was asked to stop; the folder holds everything needed to resume it.
    Stopped {
        /// The value of [`TrainOptions::stop`]: a signal's number.
        reason: usize,
    },
}

/// Trains the folder's seeds that are not finished. `options` gives each of their runs its options; all of them must share one
/// [`TrainOptions::stop`].
///
/// # Errors
/// [`TrainError`], with the seeds before it finished. If not even the first run could be started, nothing is left behind.
pub fn train_seeds(
    mut folder: SeedsFolder,
    options: &mut dyn FnMut(Run) -> TrainOptions,
    observer: &mut dyn SeedsObserver,
) -> Result<SeedsOutcome, TrainError> {
    let trained = train_all(&mut folder, options, observer);
    if trained.is_err() {
        folder.remove_if_unused();
    }
    trained
}

fn train_all(
    folder: &mut SeedsFolder,
    options: &mut dyn FnMut(Run) -> TrainOptions,
    observer: &mut dyn SeedsObserver,
) -> Result<SeedsOutcome, TrainError> {
    let seeds = folder.summary().seeds.clone();
    for (index, &seed) in seeds.iter().enumerate() {
        let path = folder.run(seed);
        let summary = if path.join(SUMMARY).is_file() {
            Summary::load(&path)?
        } else {
            let run = if path.join(RECIPE).is_file() {
                Run::Resume(path)
            } else {
                Run::New { recipe: Box::new(folder.recipe(seed)?), destination: Destination::Folder(path) }
            };
            let options = options(run);
            // A signal between two seeds: the next need not begin.
            let reason = options.stop.load(Ordering::Relaxed);
            if reason != 0 {
                return Ok(SeedsOutcome::Stopped { reason });
            }
            let mut follower = observer.begin(Turn { seed, number: index + 1, of: seeds.len() });
            match train(&options, &mut *follower)? {
                Outcome::Finished { summary, .. } => *summary,
                Outcome::Stopped { reason, .. } => return Ok(SeedsOutcome::Stopped { reason }),
            }
        };
        observer.end(folder.record(seed, &summary)?);
    }
    Ok(SeedsOutcome::Finished(Box::new(folder.summary().clone())))
}
