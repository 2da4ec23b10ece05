//! [`Saver`]: when checkpoints are written: at most one a minute, and at the end.

use std::time::{Duration, Instant};

use crate::checkpoint::Checkpoint;
use crate::error::TrainError;
use crate::run_folder::{BEST, LAST, RunFolder};
use crate::state::TrainState;

const INTERVAL: Duration = Duration::from_secs(60);

/// Writes checkpoints.
pub(crate) struct Saver {
    /// When the process started.
    started: Instant,
    last: Instant,
    /// The state after the best epoch, if it is not on the disk yet.
    best: Option<Checkpoint>,
}

impl Saver {
    pub(crate) fn new(started: Instant) -> Self {
        Self { started, last: Instant::now(), best: None }
    }

    /// Whether it is time to save.
    pub(crate) fn is_due(&self) -> bool {
        self.last.elapsed() >= INTERVAL
    }

    /// Keeps a copy of the state, to be written as `best.ckpt` the next time.
    pub(crate) fn keep_best(&mut self, state: &TrainState) {
        self.best = Some(self.checkpoint(state));
    }

    /// Writes `best.ckpt` if there is a new best epoch, then `last.ckpt`; the history reaches the disk before them.
    pub(crate) fn save(&mut self, state: &TrainState, rate: f64, folder: &RunFolder) -> Result<(), TrainError> {
        state.check_parameters(rate)?;
        folder.sync_history()?;
        if let Some(best) = self.best.take() {
            folder.write(BEST, &best.encode())?;
        }
        folder.write(LAST, &self.checkpoint(state).encode())?;
        self.last = Instant::now();
        Ok(())
    }

    fn checkpoint(&self, state: &TrainState) -> Checkpoint {
        state.checkpoint(state.progress.clock.earlier_seconds + self.started.elapsed().as_secs_f64())
    }
}
