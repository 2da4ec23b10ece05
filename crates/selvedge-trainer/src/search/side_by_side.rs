//! Trains the runs of a rung, several at a time, each on threads of its own.
//!
//! The bits of a run do not depend on its threads, so neither its record nor the choice of the best trials depends on how
//! many run side by side.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use selvedge_compute::{BLOCK, Cpu, Threads};

use super::error::SearchError;
use super::plan::{Plan, TrialRun};
use super::record::TrialRecord;
use crate::data::TrainingData;
use crate::error::TrainError;
use crate::setup::Inputs;
use crate::train::train_and_validate;

/// How many trials to train at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Jobs {
    /// As many as keep all threads busy.
    Auto,
    /// This many.
    Count(usize),
}

impl Jobs {
    /// The number of jobs for runs of at least `batch` images a step on `threads` threads. A thread works on a block of 32
    /// images at a time, so a step of fewer blocks than threads leaves some of them without work.
    pub(super) fn count(self, batch: usize, threads: usize) -> usize {
        match self {
            Self::Count(count) => count,
            Self::Auto => (threads / batch.div_ceil(BLOCK).max(1)).clamp(1, threads),
        }
    }
}

/// What all runs have in common.
pub(super) struct Workshop<'a> {
    pub(super) plan: &'a Plan,
    pub(super) data: Arc<TrainingData>,
    pub(super) cpu: Cpu,
    /// The threads of each job.
    pub(super) pools: Vec<Threads>,
    /// Not 0: all runs end after the step in progress, without a record.
    pub(super) stop: &'a AtomicUsize,
}

/// The value of `stop` after an error, which ends the other runs, too. No signal has this number.
const FAILED: usize = usize::MAX;

impl Workshop<'_> {
    /// Trains the runs, and hands over each record as soon as it is there.
    ///
    /// # Errors
    /// The first error of a run or of `keep`; runs in progress are dropped.
    pub(super) fn train_all(
        &self,
        runs: &[TrialRun<'_>],
        mut keep: impl FnMut(TrialRecord) -> Result<(), SearchError>,
    ) -> Result<(), SearchError> {
        let next = AtomicUsize::new(0);
        let (sender, receiver) = mpsc::channel();
        thread::scope(|scope| {
            for threads in &self.pools {
                let (sender, next) = (sender.clone(), &next);
                scope.spawn(move || {
                    while self.stop.load(Ordering::Relaxed) == 0 {
                        let Some(run) = runs.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
                        // The receiver lives until the last sender is gone.
                        let _ = sender.send(self.train(run, threads));
                    }
                });
            }
            drop(sender);
            let mut result = Ok(());
            for record in receiver {
                let kept = record.and_then(|record| record.map_or(Ok(()), &mut keep));
                if kept.is_err() && result.is_ok() {
                    self.stop.store(FAILED, Ordering::Relaxed);
                    result = kept;
                }
            }
            result
        })
    }

    /// A run; nothing if it was stopped.
    fn train(&self, run: &TrialRun<'_>, threads: &Threads) -> Result<Option<TrialRecord>, SearchError> {
        let recipe = self.plan.recipe(run)?;
        let (inputs, network) = Inputs::prepare(recipe, Arc::clone(&self.data), self.cpu, threads, &mut |_| ())?;
        let multiply_adds = network.spec().multiply_adds().map_err(TrainError::from)? as f64;
        let (values, changes) = self.plan.tables(run);
        let empty = TrialRecord {
            trial: run.trial.number,
            rung: run.rung,
            seed: run.seed,
            values,
            changes,
            epochs: None,
            validation_loss: None,
            validation_accuracy: None,
            validation_accuracy_tta: None,
            validation_images: inputs.images.partition.validation.len(),
            train_seconds: None,
            images: None,
            flops: None,
            precision: inputs.precision.to_string(),
            isa: self.cpu.isa().name().to_owned(),
            threads: threads.count(),
            problem: None,
        };
        match train_and_validate(&inputs, network, self.stop) {
            Ok(None) => Ok(None),
            Ok(Some(found)) => Ok(Some(TrialRecord {
                epochs: Some(found.epochs),
                validation_loss: Some(found.validation.loss()),
                validation_accuracy: Some(found.validation.accuracy()),
                validation_accuracy_tta: found.averaged.map(|averaged| averaged.accuracy()),
                train_seconds: Some(found.train_seconds),
                images: Some(found.images),
                flops: Some(6.0 * multiply_adds * found.images as f64),
                ..empty
            })),
            Err(error @ TrainError::NotFinite { .. }) => {
                Ok(Some(TrialRecord { problem: Some(error.to_string()), ..empty }))
            }
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_batches_on_many_threads_run_side_by_side() {
        // A batch of 128 images is four blocks.
        for (batch, threads, expected) in
            [(128, 2, 1), (128, 4, 1), (128, 8, 2), (128, 16, 4), (1024, 16, 1), (16, 8, 8), (1, 1, 1)]
        {
            assert_eq!(Jobs::Auto.count(batch, threads), expected, "{batch} images on {threads} threads");
        }
        assert_eq!(Jobs::Count(3).count(128, 2), 3);
    }
}
