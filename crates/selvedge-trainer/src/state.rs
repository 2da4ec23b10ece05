//! [`TrainState`]: everything that changes from step to step, and its way into a checkpoint and back.

use std::path::Path;
use std::time::{Duration, Instant};

use selvedge_model::{BatchMetrics, Metrics, Network, ParamEntry, Snapshot};
use sha2::{Digest, Sha256};

use crate::callbacks::{Best, EarlyStopping, EpochFigures, ReduceLrOnPlateau};
use crate::checkpoint::{Average, Checkpoint, CheckpointError, Clock, Progress};
use crate::error::TrainError;
use crate::loader::steps_per_epoch;
use crate::observer::Observer;
use crate::recipe::Monitor;
use crate::setup::Inputs;
use crate::step::Learner;
use crate::summary::HistoryLine;

/// What is known at the end of an epoch.
pub(crate) struct EpochEnd {
    pub(crate) line: HistoryLine,
    /// Whether it is the best epoch so far.
    pub(crate) is_best: bool,
}

/// Everything that changes from step to step.
pub(crate) struct TrainState {
    pub(crate) learner: Learner,
    pub(crate) reduce_lr_on_plateau: Option<ReduceLrOnPlateau>,
    pub(crate) early_stopping: Option<EarlyStopping>,
    pub(crate) progress: Progress,
    /// The network of the epoch that early stopping would restore.
    pub(crate) best_network: Option<Snapshot>,
    /// When the process started.
    started: Instant,
}

impl TrainState {
    /// The state before the first step.
    pub(crate) fn new(inputs: &Inputs, network: Network, started: Instant) -> Self {
        let recipe = &inputs.recipe;
        let progress = Progress {
            recipe_sha256: Sha256::digest(inputs.recipe_text.as_bytes()).into(),
            isa: inputs.cpu.isa().name().to_owned(),
            epoch: 0,
            batch: 0,
            step: 0,
            loss_sum: 0.0,
            correct: 0,
            count: 0,
            optimizer_steps: 0,
            reduce_lr_on_plateau: None,
            early_stopping: None,
            best: Best::default(),
            clock: Clock::default(),
        };
        Self {
            learner: Learner::new(
                recipe,
                network,
                inputs.cpu,
                steps_per_epoch(recipe, inputs.images.partition.train.len()),
            ),
            reduce_lr_on_plateau: recipe.reduce_lr_on_plateau.map(ReduceLrOnPlateau::new),
            early_stopping: recipe.early_stopping.map(EarlyStopping::new),
            progress,
            best_network: None,
            started,
        }
    }

    /// What the schedule's learning rate is multiplied by.
    pub(crate) fn rate_factor(&self) -> f64 {
        self.reduce_lr_on_plateau.as_ref().map_or(1.0, ReduceLrOnPlateau::factor)
    }

    /// Whether early stopping has ended the run.
    pub(crate) fn stopped_early(&self) -> bool {
        self.early_stopping.as_ref().is_some_and(|callback| callback.state.stopped)
    }

    /// Seconds that all processes of the run have taken until now.
    pub(crate) fn total_seconds(&self) -> f64 {
        self.progress.clock.earlier_seconds + self.started.elapsed().as_secs_f64()
    }

    /// A copy of everything.
    pub(crate) fn checkpoint(&self) -> Checkpoint {
        let Learner { network, optimizer, averaging, .. } = &self.learner;
        let (first, second) = optimizer.moments();
        let average = averaging.as_ref().map(|averaging| {
            let (updates, weights, statistics) = averaging.state();
            Average { updates, weights: weights.to_vec(), statistics: statistics.to_vec() }
        });
        Checkpoint {
            progress: Progress {
                optimizer_steps: optimizer.steps(),
                reduce_lr_on_plateau: self.reduce_lr_on_plateau.as_ref().map(|callback| callback.state),
                early_stopping: self.early_stopping.as_ref().map(|callback| callback.state),
                clock: Clock { earlier_seconds: self.total_seconds(), ..self.progress.clock },
                ..self.progress.clone()
            },
            network: network.snapshot(),
            first_moments: first.to_vec(),
            second_moments: second.to_vec(),
            average,
            best_network: self.best_network.clone(),
        }
    }

    /// Restores a checkpoint of the same run.
    ///
    /// # Errors
    /// [`CheckpointError::Mismatch`] if it belongs to another run.
    pub(crate) fn restore(
        &mut self,
        checkpoint: Checkpoint,
        path: &Path,
        observer: &mut dyn Observer,
    ) -> Result<(), CheckpointError> {
        let mismatch = |problem: &str| CheckpointError::Mismatch { path: path.to_owned(), problem: problem.to_owned() };
        let Checkpoint { progress, network, first_moments, second_moments, average, best_network } = checkpoint;
        if progress.recipe_sha256 != self.progress.recipe_sha256 {
            return Err(mismatch(
                "the run's recipe.toml has changed since it was written. Undo the change, or train the changed recipe as \
                 a new run",
            ));
        }
        let own = self.learner.network.snapshot();
        let fits =
            |other: &Snapshot| (other.params.len(), other.buffers.len()) == (own.params.len(), own.buffers.len());
        if !fits(&network) || !best_network.as_ref().is_none_or(fits) {
            return Err(mismatch("its network has another number of parameters"));
        }
        if progress.reduce_lr_on_plateau.is_some() != self.reduce_lr_on_plateau.is_some()
            || progress.early_stopping.is_some() != self.early_stopping.is_some()
        {
            return Err(mismatch("it has the state of other callbacks"));
        }
        if !self.learner.optimizer.restore(progress.optimizer_steps, &first_moments, &second_moments) {
            return Err(mismatch("it has the state of another optimizer"));
        }
        let fits = match (&mut self.learner.averaging, average) {
            (Some(averaging), Some(Average { updates, weights, statistics })) => {
                averaging.restore(updates, &weights, &statistics)
            }
            (None, None) => true,
            _ => false,
        };
        if !fits {
            return Err(mismatch("it has another average of the weights"));
        }
        self.learner.network.restore(&network);
        if let (Some(callback), Some(state)) = (&mut self.reduce_lr_on_plateau, progress.reduce_lr_on_plateau) {
            callback.state = state;
        }
        if let (Some(callback), Some(state)) = (&mut self.early_stopping, progress.early_stopping) {
            callback.state = state;
        }
        self.best_network = best_network;
        if progress.isa != self.progress.isa {
            observer.note(&format!(
                "the run began on {} and continues on {}: its weights will differ in the last bits",
                progress.isa, self.progress.isa
            ));
        }
        self.progress = Progress { isa: std::mem::take(&mut self.progress.isa), ..progress };
        Ok(())
    }

    /// Adds up what a step found, and how long it took.
    pub(crate) fn end_step(&mut self, metrics: &BatchMetrics, lap: Duration) {
        let progress = &mut self.progress;
        if progress.step == 0 {
            progress.clock.seconds_to_first_step = self.started.elapsed().as_secs_f64();
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

    /// The figures of the epoch after its last step, which had this learning rate.
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

    /// Runs the callbacks on the epoch's figures and moves on to the next epoch; true if this one was the best so far. Early
    /// stopping keeps the network as it is now: with the weights that the figures are of.
    pub(crate) fn end_epoch(&mut self, line: &HistoryLine, best_monitor: Monitor) -> bool {
        let figures = EpochFigures {
            train_loss: line.train_loss,
            train_accuracy: line.train_accuracy,
            validation_loss: line.validation_loss,
            validation_accuracy: line.validation_accuracy,
        };
        let epoch = self.progress.epoch;
        if let Some(callback) = &mut self.reduce_lr_on_plateau {
            callback.end_epoch(&figures, line.learning_rate);
        }
        if let Some(callback) = &mut self.early_stopping
            && callback.end_epoch(epoch, &figures).improved
            && callback.restores_best()
        {
            self.best_network = Some(self.learner.network.snapshot());
        }
        let progress = &mut self.progress;
        progress.epoch += 1;
        (progress.batch, progress.loss_sum, progress.correct, progress.count) = (0, 0.0, 0, 0);
        progress.clock.epoch_seconds = 0.0;
        progress.best.end_epoch(best_monitor, epoch, &figures)
    }

    /// Refuses a loss that is not finite; the error names the first parameter or gradient that is not finite either.
    pub(crate) fn check_loss(&self, what: &'static str, loss: f64, rate: f64) -> Result<(), TrainError> {
        if loss.is_finite() { Ok(()) } else { Err(self.not_finite(what, loss, rate)) }
    }

    /// Refuses to save parameters that are not finite: the last checkpoint stays a good one.
    pub(crate) fn check_parameters(&self, rate: f64) -> Result<(), TrainError> {
        if self.learner.network.params().values.iter().all(|value| value.is_finite()) {
            return Ok(());
        }
        let loss = self.progress.loss_sum / self.progress.count.max(1) as f64;
        Err(self.not_finite("loss", loss, rate))
    }

    fn not_finite(&self, what: &'static str, loss: f64, rate: f64) -> TrainError {
        let params = self.learner.network.params();
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
