//! The training loop: epochs of steps, and what happens at the end of each epoch and of the run.

use std::mem;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Instant;

use selvedge_model::Network;

use crate::checkpoint::Checkpoint;
use crate::error::TrainError;
use crate::evaluate::HeldOut;
use crate::finish::{FinishedRun, finish};
use crate::loader::Loader;
use crate::observer::Observer;
use crate::recipe::Monitor;
use crate::run_folder::{LAST, RunFolder, SUMMARY};
use crate::saver::Saver;
use crate::schedule::Schedule;
use crate::setup::{Inputs, Run, Setup, TrainOptions};
use crate::state::TrainState;
use crate::step::{StepArgs, TrainingStep};
use crate::summary::{HistoryLine, Summary};
use crate::time_left::{Estimate, Pace};

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// All results are in the folder.
    Finished {
        /// The run's folder.
        folder: PathBuf,
        /// Its figures.
        summary: Box<Summary>,
    },
    /// It was asked to stop; the folder holds everything needed to resume it.
    Stopped {
        /// The run's folder.
        folder: PathBuf,
        /// The value of [`TrainOptions::stop`]: a signal's number.
        reason: usize,
    },
}

/// Trains, from the start or from a run's last checkpoint.
///
/// # Errors
/// [`TrainError`]. The files in the run's folder are complete even then.
pub fn train(options: &TrainOptions, observer: &mut dyn Observer) -> Result<Outcome, TrainError> {
    if let Run::Resume(folder) = &options.run
        && folder.join(SUMMARY).is_file()
    {
        observer.note("the run is already finished: nothing to do");
        return Ok(Outcome::Finished { folder: folder.clone(), summary: Box::new(Summary::load(folder)?) });
    }
    let setup = Setup::prepare(options, observer)?;
    options.exit_at_once.store(false, Ordering::Relaxed);
    let threads = setup.inputs.threads.clone();
    threads.install(|| run(options, setup, observer))
}

/// The training loop.
fn run(options: &TrainOptions, setup: Setup, observer: &mut dyn Observer) -> Result<Outcome, TrainError> {
    let Setup { inputs, network, folder, resumed } = setup;
    let mut training = Training::new(options, &inputs, network, folder);
    if resumed {
        training.restore_last_checkpoint(observer)?;
    }
    let epochs = inputs.recipe.epochs;
    while training.state.progress.epoch < epochs && !training.state.stopped_early() {
        if let Some(reason) = training.train_epoch(observer)? {
            training.save()?;
            return Ok(Outcome::Stopped { folder: training.folder.path().to_owned(), reason });
        }
        let line = training.end_epoch()?;
        observer.epoch_ends(&line, epochs);
    }
    training.save()?;
    training.finish()
}

/// A run in progress.
struct Training<'a> {
    options: &'a TrainOptions,
    inputs: &'a Inputs,
    images_per_epoch: u64,
    step: TrainingStep<'a>,
    schedule: Schedule,
    held_out: HeldOut,
    /// The figure whose best epoch `best.ckpt` holds.
    best_monitor: Monitor,
    state: TrainState,
    pace: Pace,
    saver: Saver,
    folder: RunFolder,
}

impl<'a> Training<'a> {
    fn new(options: &'a TrainOptions, inputs: &'a Inputs, network: Network, folder: RunFolder) -> Self {
        let (recipe, images) = (&inputs.recipe, &inputs.images);
        let loader = Loader::new(recipe, &images.data, &images.partition.train, images.augmenter.clone());
        let held_out = HeldOut::gather(&images.data, &images.partition.validation);
        // Without validation images only the training loss can tell the best epoch.
        let default_monitor = if held_out.is_empty() { Monitor::TrainLoss } else { Monitor::ValidationLoss };
        let images_per_epoch = loader.images_per_epoch() as u64;
        Self {
            options,
            inputs,
            images_per_epoch,
            pace: Pace::new(recipe.epochs * images_per_epoch),
            schedule: Schedule::new(recipe, loader.steps() as u64),
            step: TrainingStep::new(recipe, loader, images.class_weights.clone()),
            held_out,
            best_monitor: recipe.early_stopping.map_or(default_monitor, |spec| spec.monitor),
            state: TrainState::new(inputs, network, options.started),
            saver: Saver::new(),
            folder,
        }
    }

    /// Returns to the last checkpoint. A run that was stopped before its first checkpoint starts over, and ends with the
    /// same weights.
    fn restore_last_checkpoint(&mut self, observer: &mut dyn Observer) -> Result<(), TrainError> {
        let path = self.folder.file(LAST);
        if path.exists() {
            self.state.restore(Checkpoint::load(&path)?, &path, observer)?;
        }
        self.folder.truncate_history(self.state.progress.epoch)?;
        Ok(())
    }

    /// The learning rate of a step.
    fn rate(&self, step: u64) -> f64 {
        self.schedule.rate(step) * self.state.rate_factor()
    }

    /// Trains the rest of the current epoch. If asked to stop it returns the reason, after the step in progress.
    fn train_epoch(&mut self, observer: &mut dyn Observer) -> Result<Option<usize>, TrainError> {
        let (first, steps) = (self.state.progress.batch as usize, self.step.loader().steps());
        observer.epoch_begins(self.state.progress.epoch + 1, self.inputs.recipe.epochs, first as u64, steps as u64);
        let inputs = self.inputs;
        inputs.threads.keep_awake(|| {
            let mut lap = Instant::now();
            self.step.begin_epoch(self.state.progress.epoch, first);
            for number in first..steps {
                let reason = self.options.stop.load(Ordering::Relaxed);
                if reason != 0 {
                    return Ok(Some(reason));
                }
                let step = self.state.progress.step;
                let rate = self.rate(step);
                // After an epoch's last step the loader has no batch to draw.
                let args = StepArgs { step, rate, next: Some(number + 1) };
                let metrics = self.step.run(&mut self.state.learner, args);
                self.state.check_loss("loss", metrics.loss(), rate)?;

                let now = Instant::now();
                self.state.end_step(&metrics, now - mem::replace(&mut lap, now));
                self.tell_time_left(now, observer);
                let progress = &self.state.progress;
                let (loss, accuracy) = (progress.loss_sum, progress.correct as f64);
                observer.step_ends(loss / progress.count as f64, accuracy / progress.count as f64);
            }
            Ok(None)
        })
    }

    /// Tells the observer how long the run will take, after a step that ended `now`.
    fn tell_time_left(&mut self, now: Instant, observer: &mut dyn Observer) {
        let progress = &self.state.progress;
        let done = progress.epoch * self.images_per_epoch + progress.count;
        let Some(left) = self.pace.end_step(now, done) else { return };
        observer.time_left(left);
        if self.pace.settles(now) {
            observer.estimate(&Estimate {
                left,
                threads: self.inputs.threads.count(),
                isa: progress.isa.clone(),
                precision: self.inputs.precision.to_string(),
                may_stop_early: self.inputs.recipe.early_stopping.is_some(),
            });
        }
    }

    /// Validates, writes the epoch's line of history, runs the callbacks and saves when it is time. If there is an average of the
    /// weights, it is what is validated.
    fn end_epoch(&mut self) -> Result<HistoryLine, TrainError> {
        let is_average = self.use_average(self.state.progress.epoch);
        let validation = self.held_out.evaluate(&mut self.state.learner.network);
        let rate = self.rate(self.state.progress.step.saturating_sub(1));
        let line = self.state.history_line(rate, validation.as_ref());
        self.state.check_loss("validation loss", line.validation_loss.unwrap_or(0.0), rate)?;
        self.folder.append_history(&line)?;
        let is_best = self.state.end_epoch(&line, self.best_monitor);
        if is_average {
            self.state.learner.swap_average();
        }
        if is_best {
            self.saver.keep_best(&self.state);
        }
        if self.saver.is_due() {
            self.save()?;
        }
        Ok(line)
    }

    /// Puts the average of the weights into the network, if there is one, with the statistics of batches of the epoch that was
    /// trained last. Returns whether there is one.
    fn use_average(&mut self, epoch: u64) -> bool {
        let Some(batches) = self.state.learner.swap_average() else { return false };
        if batches > 0 {
            self.step.estimate_statistics(&mut self.state.learner.network, epoch, batches);
        }
        true
    }

    fn save(&mut self) -> Result<(), TrainError> {
        let rate = self.rate(self.state.progress.step);
        self.saver.save(&self.state, rate, &self.folder)
    }

    fn finish(mut self) -> Result<Outcome, TrainError> {
        // The weights of the best epoch are those that were validated: an average, if there was one.
        if self.state.best_network.is_none() {
            self.use_average(self.state.progress.epoch.saturating_sub(1));
        }
        let Self { inputs, held_out, state, folder, .. } = self;
        let summary = finish(FinishedRun { inputs, held_out: &held_out, state, folder: &folder })?;
        Ok(Outcome::Finished { folder: folder.path().to_owned(), summary: Box::new(summary) })
    }
}
