//! The training loop: epochs of steps, and what happens at the end of each epoch and of the run.
//!
//! [`train`] runs it in a folder, and looks at the test set at the end. [`train_and_validate`] runs the same loop without
//! files, and ends with the figures on the validation images: it never reaches `finish`, the one place that reads the test
//! set.

use std::mem;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use selvedge_model::{Metrics, Network};

use crate::error::TrainError;
use crate::evaluate::HeldOut;
use crate::finish::{FinishedRun, finish};
use crate::loader::Loader;
use crate::observer::{Observer, Silent};
use crate::recipe::Monitor;
use crate::run_folder::SUMMARY;
use crate::saver::Saver;
use crate::schedule::Schedule;
use crate::setup::{Inputs, Run, Setup, TrainOptions};
use crate::state::{EpochEnd, TrainState};
use crate::step::{StepArgs, TrainingStep};
use crate::summary::Summary;
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

/// Trains in a folder.
fn run(options: &TrainOptions, setup: Setup, observer: &mut dyn Observer) -> Result<Outcome, TrainError> {
    let Setup { inputs, network, folder, resumed } = setup;
    let state = TrainState::new(&inputs, network, options.started);
    let mut training = Training::new(&inputs, state, &options.stop);
    let mut saver = Saver::new(folder);
    if resumed {
        saver.restore_last(&mut training.state, observer)?;
    }
    while !training.is_over() {
        if let Some(reason) = training.train_epoch(observer)? {
            saver.save(&training.state, training.next_rate())?;
            return Ok(Outcome::Stopped { folder: saver.folder().path().to_owned(), reason });
        }
        let epoch = training.end_epoch()?;
        saver.end_epoch(&epoch, &training.state, training.next_rate())?;
        observer.epoch_ends(&epoch.line, inputs.recipe.epochs);
    }
    saver.save(&training.state, training.next_rate())?;
    training.use_final_weights();
    let Training { held_out, state, .. } = training;
    let summary = finish(FinishedRun { inputs: &inputs, held_out: &held_out, state, folder: saver.folder() })?;
    Ok(Outcome::Finished { folder: saver.folder().path().to_owned(), summary: Box::new(summary) })
}

/// The figures of a training run that ended without a look at the test set.
#[derive(Clone, Debug)]
pub(crate) struct Validated {
    /// On the validation images, with the final weights.
    pub(crate) validation: Metrics,
    /// The same with test-time averaging, if the recipe has it.
    pub(crate) averaged: Option<Metrics>,
    /// Epochs that were trained: fewer than the recipe's after early stopping.
    pub(crate) epochs: u64,
    /// Images that were trained on, each counted as often as it was seen.
    pub(crate) images: u64,
    /// Seconds of the training steps, without evaluation.
    pub(crate) train_seconds: f64,
}

/// Trains from the start, on the threads of `inputs`, without files and without the test set. Where `stop` is not 0 training
/// ends after the step in progress, and nothing is returned, as for a recipe without validation images.
///
/// # Errors
/// [`TrainError::NotFinite`]
pub(crate) fn train_and_validate(
    inputs: &Inputs,
    network: Network,
    stop: &AtomicUsize,
) -> Result<Option<Validated>, TrainError> {
    let state = TrainState::new(inputs, network, Instant::now());
    inputs.threads.install(|| {
        let mut training = Training::new(inputs, state, stop);
        while !training.is_over() {
            if training.train_epoch(&mut Silent)?.is_some() {
                return Ok(None);
            }
            training.end_epoch()?;
        }
        training.use_final_weights();
        let Training { held_out, mut state, .. } = training;
        let network = &mut state.learner.network;
        let validation = held_out.evaluate(network);
        let averaging = inputs.recipe.test_time_averaging;
        let averaged = averaging.and_then(|averaging| held_out.evaluate_averaged(network, averaging));
        let progress = &state.progress;
        Ok(validation.map(|validation| Validated {
            validation,
            averaged,
            epochs: progress.epoch,
            images: progress.clock.images,
            train_seconds: progress.clock.train_seconds,
        }))
    })
}

/// A run in progress.
struct Training<'a> {
    inputs: &'a Inputs,
    /// Not 0: training ends after the step in progress.
    stop: &'a AtomicUsize,
    images_per_epoch: u64,
    step: TrainingStep<'a>,
    schedule: Schedule,
    held_out: HeldOut,
    /// The figure whose best epoch `best.ckpt` holds.
    best_monitor: Monitor,
    state: TrainState,
    pace: Pace,
}

impl<'a> Training<'a> {
    fn new(inputs: &'a Inputs, state: TrainState, stop: &'a AtomicUsize) -> Self {
        let (recipe, images) = (&inputs.recipe, &inputs.images);
        let loader = Loader::new(recipe, &images.data, &images.partition.train, images.augmenter.clone());
        let held_out = HeldOut::gather(&images.data, &images.partition.validation);
        // Without validation images only the training loss can tell the best epoch.
        let default_monitor = if held_out.is_empty() { Monitor::TrainLoss } else { Monitor::ValidationLoss };
        let images_per_epoch = loader.images_per_epoch() as u64;
        Self {
            inputs,
            stop,
            images_per_epoch,
            pace: Pace::new(recipe.epochs * images_per_epoch),
            schedule: Schedule::new(recipe, loader.steps() as u64),
            step: TrainingStep::new(recipe, loader, images.class_weights.clone()),
            held_out,
            best_monitor: recipe.early_stopping.map_or(default_monitor, |spec| spec.monitor),
            state,
        }
    }

    /// Whether all epochs are trained, or early stopping has ended the run.
    fn is_over(&self) -> bool {
        self.state.progress.epoch >= self.inputs.recipe.epochs || self.state.stopped_early()
    }

    /// The learning rate of a step.
    fn rate(&self, step: u64) -> f64 {
        self.schedule.rate(step) * self.state.rate_factor()
    }

    /// The learning rate of the next step.
    fn next_rate(&self) -> f64 {
        self.rate(self.state.progress.step)
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
                let reason = self.stop.load(Ordering::Relaxed);
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

    /// Validates and runs the callbacks. If there is an average of the weights, it is what is validated.
    fn end_epoch(&mut self) -> Result<EpochEnd, TrainError> {
        let is_average = self.use_average(self.state.progress.epoch);
        let validation = self.held_out.evaluate(&mut self.state.learner.network);
        let rate = self.rate(self.state.progress.step.saturating_sub(1));
        let line = self.state.history_line(rate, validation.as_ref());
        self.state.check_loss("validation loss", line.validation_loss.unwrap_or(0.0), rate)?;
        let is_best = self.state.end_epoch(&line, self.best_monitor);
        if is_average {
            self.state.learner.swap_average();
        }
        Ok(EpochEnd { line, is_best })
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

    /// Puts the run's final weights into the network: those of the best epoch if the recipe asks for it, else the average of
    /// the weights if there is one.
    fn use_final_weights(&mut self) {
        match self.state.best_network.take() {
            // They are those that were validated: an average, if there was one.
            Some(best) => self.state.learner.network.restore(&best),
            None => {
                self.use_average(self.state.progress.epoch.saturating_sub(1));
            }
        }
    }
}
