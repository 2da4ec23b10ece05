//! [`Saver`]: what a run writes into its folder while it trains: a line of history after each epoch, checkpoints at most
//! once a minute, and one at the end.

use std::time::{Duration, Instant};

use crate::checkpoint::Checkpoint;
use crate::error::TrainError;
use crate::observer::Observer;
use crate::run_folder::{BEST, LAST, RunFolder};
use crate::state::{EpochEnd, TrainState};

const INTERVAL: Duration = Duration::from_secs(60);

/// Writes the history and checkpoints.
pub(crate) struct Saver {
    folder: RunFolder,
    /// When a checkpoint was written, or the run began.
    last: Instant,
    /// The state after the best epoch, until it is written.
    best: Option<Checkpoint>,
}

impl Saver {
    pub(crate) fn new(folder: RunFolder) -> Self {
        Self { folder, last: Instant::now(), best: None }
    }

    pub(crate) fn folder(&self) -> &RunFolder {
        &self.folder
    }

    /// Returns to the last checkpoint. A run that was stopped before its first checkpoint starts over, and ends with the
    /// same weights.
    pub(crate) fn restore_last(
        &mut self,
        state: &mut TrainState,
        observer: &mut dyn Observer,
    ) -> Result<(), TrainError> {
        let path = self.folder.file(LAST);
        if path.exists() {
            state.restore(Checkpoint::load(&path)?, &path, observer)?;
        }
        self.folder.truncate_history(state.progress.epoch)?;
        Ok(())
    }

    /// Writes the line of an epoch that has ended. Keeps a copy of the best state, which the next save writes as
    /// `best.ckpt`. Saves when it is time; `rate` is the learning rate of the next step.
    pub(crate) fn end_epoch(&mut self, epoch: &EpochEnd, state: &TrainState, rate: f64) -> Result<(), TrainError> {
        self.folder.append_history(&epoch.line)?;
        if epoch.is_best {
            self.best = Some(state.checkpoint());
        }
        if self.last.elapsed() >= INTERVAL { self.save(state, rate) } else { Ok(()) }
    }

    /// Syncs the history, then writes `best.ckpt` if there is a new best epoch, then `last.ckpt`.
    pub(crate) fn save(&mut self, state: &TrainState, rate: f64) -> Result<(), TrainError> {
        state.check_parameters(rate)?;
        self.folder.sync_history()?;
        if let Some(best) = self.best.take() {
            self.folder.write(BEST, &best.encode())?;
        }
        self.folder.write(LAST, &state.checkpoint().encode())?;
        self.last = Instant::now();
        Ok(())
    }
}
