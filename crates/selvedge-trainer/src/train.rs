//! The training loop: epochs, steps, what happens at the end of each, and the results.

use std::mem;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Instant;

use selvedge_augment::Batch;
use selvedge_model::{Loss, StepKey, Targets};

use crate::checkpoint::Checkpoint;
use crate::error::TrainError;
use crate::finish::finish;
use crate::loader::Loader;
use crate::observer::Observer;
use crate::recipe::Monitor;
use crate::run_folder::{LAST, SUMMARY};
use crate::saver::Saver;
use crate::schedule::Schedule;
use crate::setup::{Run, Setup, TrainOptions};
use crate::state::TrainState;
use crate::summary::Summary;

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
    /// It was asked to stop; everything needed to go on is in the folder.
    Stopped {
        /// The run's folder.
        folder: PathBuf,
        /// The value that asked it to: a signal's number.
        reason: usize,
    },
}

/// Trains, from the start or from a run's last checkpoint.
///
/// # Errors
/// [`TrainError`]. Whatever stands in the run's folder under its final name is then still complete.
pub fn train(options: &TrainOptions, observer: &mut dyn Observer) -> Result<Outcome, TrainError> {
    if let Run::Resume(folder) = &options.run
        && folder.join(SUMMARY).is_file()
    {
        observer.note("the run is finished already; nothing was done");
        return Ok(Outcome::Finished { folder: folder.clone(), summary: Box::new(Summary::load(folder)?) });
    }
    let setup = Setup::prepare(options, observer)?;
    options.stop_unheeded.store(false, Ordering::Relaxed);
    let threads = setup.threads.clone();
    threads.install(|| run(options, setup, observer))
}

fn run(options: &TrainOptions, setup: Setup, observer: &mut dyn Observer) -> Result<Outcome, TrainError> {
    let Setup {
        recipe,
        recipe_text,
        resumed,
        cpu,
        precision,
        threads,
        data,
        partition,
        augmenter,
        network,
        mut folder,
    } = setup;
    let recipe = recipe.recipe;
    let loader = Loader::new(&data, &partition.train, augmenter, recipe.batch, recipe.drop_last, recipe.seed);
    let (validation_images, validation_labels) = data.gather(&partition.validation);
    let steps_per_epoch = loader.steps() as u64;
    let mut state = TrainState::new(&recipe, &recipe_text, network, cpu);
    if resumed {
        let path = folder.file(LAST);
        // A run that ended before its first checkpoint begins anew, and comes to the same weights.
        if path.exists() {
            state.restore(Checkpoint::load(&path)?, &path, observer)?;
        }
        folder.truncate_history(state.progress.epoch)?;
    }
    // What `best.ckpt` goes by. Without validation images the training loss is all there is to tell the best epoch.
    let default_monitor = if validation_labels.is_empty() { Monitor::TrainLoss } else { Monitor::ValidationLoss };
    let best_monitor = recipe.early_stopping.map_or(default_monitor, |spec| spec.monitor);
    let schedule = Schedule::new(&recipe, steps_per_epoch);
    let mut epochs = Epochs { options, loader, schedule, state, current: Batch::new(), next: Batch::new() };
    let mut saver = Saver::new(options.started);
    let loss = Loss { label_smoothing: recipe.label_smoothing as f32 };

    while epochs.state.progress.epoch < recipe.epochs && !epochs.state.stopped() {
        let epoch = epochs.state.progress.epoch;
        observer.epoch_begins(epoch + 1, recipe.epochs, epochs.state.progress.batch, steps_per_epoch);
        if let Some(reason) = threads.keep_awake(|| epochs.train_epoch(&loss, recipe.seed, observer))? {
            saver.save(&epochs.state, epochs.rate(), &folder)?;
            return Ok(Outcome::Stopped { folder: folder.path().to_owned(), reason });
        }

        let state = &mut epochs.state;
        let validation =
            (!validation_labels.is_empty()).then(|| state.network.evaluate(&validation_images, &validation_labels));
        let rate = epochs.schedule.rate(state.progress.step.saturating_sub(1)) * state.rate_factor();
        let line = state.history_line(rate, validation.as_ref());
        state.check_loss("validation loss", line.validation_loss.unwrap_or(0.0), rate)?;
        folder.append_history(&line)?;
        if state.end_epoch(&line, best_monitor) {
            saver.keep_best(state);
        }
        if saver.is_due() {
            saver.save(&epochs.state, epochs.rate(), &folder)?;
        }
        observer.epoch_ends(&line, recipe.epochs);
    }

    saver.save(&epochs.state, epochs.rate(), &folder)?;
    let earlier_seconds = epochs.state.progress.clock.earlier_seconds;
    let seconds = || earlier_seconds + options.started.elapsed().as_secs_f64();
    let held_out = (&validation_images[..], &validation_labels[..]);
    let summary = finish(&recipe, epochs.state, &data, held_out, &folder, precision, threads.count(), &seconds)?;
    Ok(Outcome::Finished { folder: folder.path().to_owned(), summary: Box::new(summary) })
}

/// What the steps of an epoch need.
struct Epochs<'a> {
    options: &'a TrainOptions,
    loader: Loader<'a>,
    schedule: Schedule,
    state: TrainState,
    /// The batch that the network works on.
    current: Batch,
    /// The batch that is made meanwhile.
    next: Batch,
}

impl Epochs<'_> {
    /// The learning rate of the next step.
    fn rate(&self) -> f64 {
        self.schedule.rate(self.state.progress.step) * self.state.rate_factor()
    }

    /// Trains what is left of the epoch under way. `Some` if it was asked to stop, after the step it was at.
    fn train_epoch(
        &mut self,
        loss: &Loss,
        seed: u64,
        observer: &mut dyn Observer,
    ) -> Result<Option<usize>, TrainError> {
        let Self { options, loader, schedule, state, current, next } = self;
        let first = state.progress.batch as usize;
        loader.begin_epoch(state.progress.epoch);
        let mut lap = Instant::now();
        loader.fill(first, current);
        for batch in first..loader.steps() {
            let reason = options.stop.load(Ordering::Relaxed);
            if reason != 0 {
                return Ok(Some(reason));
            }
            let step = state.progress.step;
            let rate = schedule.rate(step) * state.rate_factor();
            let network = &mut state.network;
            let (metrics, ()) = rayon::join(
                || network.forward_backward(&current.images, targets(current), loss, StepKey { seed, step }),
                || loader.fill(batch + 1, next),
            );
            state.check_loss("loss", metrics.loss(), rate)?;
            state.optimizer.step(state.network.params_mut(), rate);
            mem::swap(current, next);

            let now = Instant::now();
            state.end_step(&metrics, now - mem::replace(&mut lap, now), options.started);
            let progress = &state.progress;
            observer
                .step_ends(progress.loss_sum / progress.count as f64, progress.correct as f64 / progress.count as f64);
        }
        Ok(None)
    }
}

/// What the network should say of a batch.
pub(crate) fn targets(batch: &Batch) -> Targets<'_> {
    match &batch.soft {
        Some(soft) => Targets::Soft(soft),
        None => Targets::Labels(&batch.labels),
    }
}
