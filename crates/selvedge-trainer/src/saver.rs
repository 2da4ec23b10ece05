//! [`Saver`]: writes checkpoints, at most one a minute, and one at the end.

use std::time::{Duration, Instant};

use crate::checkpoint::Checkpoint;
use crate::error::TrainError;
use crate::run_folder::{BEST, LAST, RunFolder};
use crate::state::TrainState;

const INTERVAL: Duration = Duration::from_secs(60);

/// Writes checkpoints.
pub(crate) struct Saver {
    /// When a checkpoint was written, or the run began.
    last: Instant,
    /// The state after the best epoch, until it is written.
    best: Option<Checkpoint>,
}

impl Saver {
    pub(crate) fn new() -> Self {
        Self { last: Instant::now(), best: None }
    }

    /// Whether it is time to save.
    pub(crate) fn is_due(&self) -> bool {
        self.last.elapsed() >= INTERVAL
    }

    /// Keeps a copy of the state; the next save writes it as `best.ckpt`.
    pub(crate) fn keep_best(&mut self, state: &TrainState) {
        self.best = Some(state.checkpoint());
    }

    /// Syncs the history, then writes `best.ckpt` if there is a new best epoch, then `last.ckpt`.
    pub(crate) fn save(&mut self, state: &TrainState, rate: f64, folder: &RunFolder) -> Result<(), TrainError> {
        state.check_parameters(rate)?;
        folder.sync_history()?;
        if let Some(best) = self.best.take() {
            folder.write(BEST, &best.encode())?;
        }
        folder.write(LAST, &state.checkpoint().encode())?;
        self.last = Instant::now();
        Ok(())
    }
}
