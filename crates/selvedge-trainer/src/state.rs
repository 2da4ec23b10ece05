//! [`TrainState`]: everything that changes from step to step, and its way into a checkpoint and back.

use std::path::Path;
use std::time::{Duration, Instant};

use selvedge_compute::Cpu;
use selvedge_model::{BatchMetrics, Metrics, Network, ParamEntry, Snapshot};
use sha2::{Digest, Sha256};

use crate::callbacks::{Best, EpochFigures, Plateau, Stopper};
use crate::checkpoint::{Checkpoint, CheckpointError, Clock, Progress};
use crate::error::TrainError;
use crate::observer::Observer;
use crate::optimizer::Optimizer;
use crate::recipe::{Monitor, Recipe};
use crate::summary::HistoryLine;

/// Everything that changes from step to step.
pub(crate) struct TrainState {
    pub(crate) network: Network,
    pub(crate) optimizer: Optimizer,
    pub(crate) plateau: Option<Plateau>,
    pub(crate) stopper: Option<Stopper>,
    pub(crate) progress: Progress,
    /// The network of the epoch that EarlyStopping would go back to.
    pub(crate) best_network: Option<Snapshot>,
}

impl TrainState {
    /// Before the first step.
    pub(crate) fn new(recipe: &Recipe, recipe_text: &str, network: Network, cpu: Cpu) -> Self {
        let progress = Progress {
            recipe_sha256: Sha256::digest(recipe_text.as_bytes()).into(),
            isa: cpu.isa().name().to_owned(),
            epoch: 0,
            batch: 0,
            step: 0,
            loss_sum: 0.0,
            correct: 0,
            count: 0,
            optimizer_steps: 0,
            plateau: None,
            stopper: None,
            best: Best::default(),
            clock: Clock::default(),
        };
        Self {
            optimizer: Optimizer::new(recipe.optimizer, network.params().values.len(), cpu),
            network,
            plateau: recipe.reduce_lr_on_plateau.map(Plateau::new),
            stopper: recipe.early_stopping.map(Stopper::new),
            progress,
            best_network: None,
        }
    }

    /// What the schedule's learning rate is multiplied by.
    pub(crate) fn rate_factor(&self) -> f64 {
        self.plateau.as_ref().map_or(1.0, Plateau::factor)
    }

    /// Whether EarlyStopping has ended the run.
    pub(crate) fn stopped(&self) -> bool {
        self.stopper.as_ref().is_some_and(|stopper| stopper.state.stopped)
    }

    /// A copy of everything. `earlier_seconds` is what the run has taken until now.
    pub(crate) fn checkpoint(&self, earlier_seconds: f64) -> Checkpoint {
        let (first, second) = self.optimizer.moments();
        Checkpoint {
            progress: Progress {
                optimizer_steps: self.optimizer.steps(),
                plateau: self.plateau.as_ref().map(|plateau| plateau.state),
                stopper: self.stopper.as_ref().map(|stopper| stopper.state),
                clock: Clock { earlier_seconds, ..self.progress.clock },
                ..self.progress.clone()
            },
            network: self.network.snapshot(),
            first_moments: first.to_vec(),
            second_moments: second.to_vec(),
            best_network: self.best_network.clone(),
        }
    }

    /// Goes to where a checkpoint of the same run stood.
    ///
    /// # Errors
    /// [`CheckpointError::Mismatch`] if it is of another run.
    pub(crate) fn restore(
        &mut self,
        checkpoint: Checkpoint,
        path: &Path,
        observer: &mut dyn Observer,
    ) -> Result<(), CheckpointError> {
        let mismatch = |problem: &str| CheckpointError::Mismatch { path: path.to_owned(), problem: problem.to_owned() };
        let Checkpoint { progress, network, first_moments, second_moments, best_network } = checkpoint;
        if progress.recipe_sha256 != self.progress.recipe_sha256 {
            return Err(mismatch(
                "the run's recipe.toml has changed since it was written. Undo the change, or train the changed recipe as \
                 a new run",
            ));
        }
        let own = self.network.snapshot();
        let fits =
            |other: &Snapshot| (other.params.len(), other.buffers.len()) == (own.params.len(), own.buffers.len());
        if !fits(&network) || !best_network.as_ref().is_none_or(fits) {
            return Err(mismatch("its network has another number of parameters"));
        }
        if progress.plateau.is_some() != self.plateau.is_some() || progress.stopper.is_some() != self.stopper.is_some()
        {
            return Err(mismatch("its callbacks are others"));
        }
        if !self.optimizer.restore(progress.optimizer_steps, &first_moments, &second_moments) {
            return Err(mismatch("its optimizer has another number of moments"));
        }
        self.network.restore(&network);
        if let (Some(plateau), Some(state)) = (&mut self.plateau, progress.plateau) {
            plateau.state = state;
        }
        if let (Some(stopper), Some(state)) = (&mut self.stopper, progress.stopper) {
            stopper.state = state;
        }
        self.best_network = best_network;
        if progress.isa != self.progress.isa {
            observer.note(&format!(
                "the run was begun with {}, this machine has {}: its weights will differ in the last bits",
                progress.isa, self.progress.isa
            ));
        }
        self.progress = Progress { isa: std::mem::take(&mut self.progress.isa), ..progress };
        Ok(())
    }

    /// Takes what a step found, and how long it took.
    pub(crate) fn end_step(&mut self, metrics: &BatchMetrics, lap: Duration, started: Instant) {
        let progress = &mut self.progress;
        if progress.step == 0 {
            progress.clock.seconds_to_first_step = started.elapsed().as_secs_f64();
        }
        progress.step += 1;
        progress.batch += 1;
        progress.loss_sum += metrics.loss_sum;
        progress.correct += metrics.correct as u64;
        progress.count += metrics.count as u64;
        progress.clock.images += metrics.count as u64;
        progress.clock.train_seconds += lap.as_secs_f64();
        progress.clock.epoch_seconds += lap.as_secs_f64();
    }

    /// The figures of the epoch whose last step was just done, at this learning rate.
    pub(crate) fn history_line(&self, learning_rate: f64, validation: Option<&Metrics>) -> HistoryLine {
        let progress = &self.progress;
        let images = progress.count as f64;
        HistoryLine {
            epoch: progress.epoch + 1,
            step: progress.step,
            learning_rate,
            train_loss: progress.loss_sum / images,
            train_accuracy: progress.correct as f64 / images,
            validation_loss: validation.map(Metrics::loss),
            validation_accuracy: validation.map(Metrics::accuracy),
            images_per_second: images / progress.clock.epoch_seconds,
            seconds: progress.clock.epoch_seconds,
        }
    }

    /// Lets the callbacks have the epoch's figures and goes to the next epoch; true if this one was the best so far.
    pub(crate) fn end_epoch(&mut self, line: &HistoryLine, best_monitor: Monitor) -> bool {
        let figures = EpochFigures {
            train_loss: line.train_loss,
            train_accuracy: line.train_accuracy,
            validation_loss: line.validation_loss,
            validation_accuracy: line.validation_accuracy,
        };
        let epoch = self.progress.epoch;
        if let Some(plateau) = &mut self.plateau {
            plateau.end_epoch(&figures, line.learning_rate);
        }
        if let Some(stopper) = &mut self.stopper
            && stopper.end_epoch(epoch, &figures).keep
            && stopper.restores_best()
        {
            self.best_network = Some(self.network.snapshot());
        }
        let progress = &mut self.progress;
        progress.epoch += 1;
        (progress.batch, progress.loss_sum, progress.correct, progress.count) = (0, 0.0, 0, 0);
        progress.clock.epoch_seconds = 0.0;
        progress.best.end_epoch(best_monitor, epoch, &figures)
    }

    /// Refuses a loss that is no finite number; the error names the first parameter that has none either.
    pub(crate) fn check_loss(&self, what: &'static str, loss: f64, rate: f64) -> Result<(), TrainError> {
        if loss.is_finite() { Ok(()) } else { Err(self.not_finite(what, loss, rate)) }
    }

    /// Refuses to write down a state whose parameters are not all finite: the last checkpoint stays a good one.
    pub(crate) fn check_parameters(&self, rate: f64) -> Result<(), TrainError> {
        if self.network.params().values.iter().all(|value| value.is_finite()) {
            return Ok(());
        }
        let loss = self.progress.loss_sum / self.progress.count.max(1) as f64;
        Err(self.not_finite("loss", loss, rate))
    }

    fn not_finite(&self, what: &'static str, loss: f64, rate: f64) -> TrainError {
        let params = self.network.params();
        let find = |numbers: &[f32], kind: &str| {
            let bad = |entry: &&ParamEntry| numbers[entry.range.clone()].iter().any(|number| !number.is_finite());
            params.entries.iter().find(bad).map(|entry| format!("{kind} {} is not finite", entry.name))
        };
        let culprit = find(&params.values, "the parameter")
            .or_else(|| find(&params.grads, "the gradient of"))
            .unwrap_or_else(|| "all parameters are finite".to_owned());
        let (epoch, step) = (self.progress.epoch + 1, self.progress.step);
        TrainError::NotFinite { epoch, step, what, loss, culprit, rate }
    }
}
