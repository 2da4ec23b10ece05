//! [`TrainingStep`]: one step of training, the same for the training loop and for the profile of a recipe.
//!
//! A step runs the network forward and backward over a batch, or over several whose gradients it averages; at the same time, on
//! the same threads, it draws and augments the next batch; then the [`Learner`] updates the weights.

use std::mem;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rayon::prelude::*;
use selvedge_augment::Batch;
use selvedge_compute::optim::CHUNK;
use selvedge_compute::{AlignedVec, Cpu};
use selvedge_model::{BatchMetrics, Loss, Network, ParamEntry, Params, StepKey, Targets};

use crate::averaging::Averaging;
use crate::gradients::GradientRules;
use crate::loader::Loader;
use crate::optimizer::{Optimizer, groups};
use crate::recipe::Recipe;

/// What a step changes: the weights and the state of what updates them.
pub(crate) struct Learner {
    pub(crate) network: Network,
    pub(crate) optimizer: Optimizer,
    pub(crate) averaging: Option<Averaging>,
    gradients: GradientRules,
}

impl Learner {
    /// A network before its first step, of a run with so many steps per epoch.
    pub(crate) fn new(recipe: &Recipe, network: Network, cpu: Cpu, steps_per_epoch: usize) -> Self {
        let spec = recipe.optimizer;
        let group = |entry: &ParamEntry| groups::options(&spec, &recipe.groups, entry);
        let averaging = recipe.averaging;
        let trained = |entry: &ParamEntry| group(entry).rate_factor > 0.0;
        Self {
            gradients: GradientRules::new(recipe, &network.params().entries, trained),
            optimizer: Optimizer::with_groups(spec, network.params(), cpu, group),
            averaging: averaging.map(|spec| Averaging::new(spec, recipe.epochs, steps_per_epoch as u64, &network)),
            network,
        }
    }

    /// Updates the weights by the gradients of the step's batch, then their average.
    fn update(&mut self, rate: f64) {
        let params = self.network.params_mut();
        self.gradients.apply(params);
        self.optimizer.step(params, rate);
        if let Some(averaging) = &mut self.averaging {
            averaging.update(&mut self.network, self.optimizer.steps());
        }
    }

    /// Puts the average of the weights into the network and the network's weights into its place, or back. Without an average it
    /// does nothing and returns `None`; else it returns the number of batches whose statistics the average needs.
    pub(crate) fn swap_average(&mut self) -> Option<usize> {
        let averaging = self.averaging.as_mut()?;
        averaging.swap(&mut self.network).then(|| averaging.statistics_batches())
    }
}

/// Which step to take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StepArgs {
    /// The step's number in the run, counted from 0.
    pub(crate) step: u64,
    /// The learning rate.
    pub(crate) rate: f64,
    /// The step of the epoch to draw the first batch of, for the next step; `None` keeps the current batch and draws none.
    pub(crate) next: Option<usize>,
}

/// Takes steps, one after the other, each on the batch that the step before has drawn.
pub(crate) struct TrainingStep<'a> {
    loader: Loader<'a>,
    loss: Loss,
    seed: u64,
    /// The most batches of a step.
    accumulation: usize,
    /// The batches of the epoch that the next step takes.
    batches: Range<usize>,
    /// The sum of the gradients of a step's images; empty if a step has one batch.
    sums: AlignedVec<f32>,
    /// The batch of the next step to be taken, its first.
    current: Batch,
    /// Memory for the batch after it.
    next: Batch,
    times: Option<StepTimer>,
}

/// Time spent since recording began.
#[derive(Debug, Default)]
pub(crate) struct StepTimer {
    /// Nanoseconds that threads spent augmenting, summed over threads.
    augmentation: AtomicU64,
    /// Updates of the weights, by the wall clock.
    pub(crate) update: Duration,
}

impl StepTimer {
    /// Time that threads spent augmenting, summed over threads.
    pub(crate) fn augmentation(&self) -> Duration {
        Duration::from_nanos(self.augmentation.load(Relaxed))
    }
}

impl<'a> TrainingStep<'a> {
    /// Steps over the batches of `loader`. No batch is drawn before [`TrainingStep::begin_epoch`].
    pub(crate) fn new(recipe: &Recipe, loader: Loader<'a>, class_weights: Option<Vec<f32>>) -> Self {
        Self {
            loader,
            loss: Loss { label_smoothing: recipe.label_smoothing as f32, class_weights },
            seed: recipe.seed,
            accumulation: recipe.accumulation,
            batches: 0..0,
            sums: AlignedVec::default(),
            current: Batch::new(),
            next: Batch::new(),
            times: None,
        }
    }

    pub(crate) fn loader(&self) -> &Loader<'a> {
        &self.loader
    }

    /// Images of the current batch.
    pub(crate) fn batch_len(&self) -> usize {
        self.current.len()
    }

    /// Begins an epoch, counted from 0, at one of its steps.
    pub(crate) fn begin_epoch(&mut self, epoch: u64, step: usize) {
        self.loader.begin_epoch(epoch);
        self.batches = self.loader.batches_of(step);
        self.loader.fill(self.batches.start, &mut self.current);
    }

    /// Takes a step, of one batch or several. A loss that is not finite leaves the weights alone, so that the caller can tell what
    /// went wrong.
    pub(crate) fn run(&mut self, learner: &mut Learner, StepArgs { step, rate, next }: StepArgs) -> BatchMetrics {
        let following = next.map(|next| self.loader.batches_of(next));
        let mut metrics = BatchMetrics::default();
        for (place, batch) in self.batches.clone().enumerate() {
            let is_last = batch + 1 == self.batches.end;
            let next = following.as_ref().map(|following| if is_last { following.start } else { batch + 1 });
            // Each batch draws dropout masks of its own.
            let number = step * self.accumulation as u64 + place as u64;
            let of_batch = self.run_batch(&mut learner.network, number, next);
            metrics += of_batch;
            if self.accumulation > 1 {
                self.accumulate(
                    learner.network.params_mut(),
                    place == 0,
                    of_batch.count,
                    is_last.then_some(metrics.count),
                );
            }
        }
        if metrics.loss().is_finite() {
            let started = Instant::now();
            learner.update(rate);
            if let Some(times) = &mut self.times {
                times.update += started.elapsed();
            }
        }
        if let Some(following) = following {
            self.batches = following;
        }
        metrics
    }

    /// Adds the gradients of a batch of `count` images to those of the step's batches before. After the last, of which the total
    /// number of images is given, the gradients become the mean over all images.
    fn accumulate(&mut self, params: &mut Params, is_first: bool, count: usize, total: Option<usize>) {
        let grads = &mut params.grads;
        if self.sums.is_empty() {
            self.sums = AlignedVec::zeroed(grads.len());
        }
        let (keep, count) = (if is_first { 0.0 } else { 1.0 }, count as f32);
        self.sums.par_chunks_mut(CHUNK).zip(grads.par_chunks_mut(CHUNK)).for_each(|(sums, grads)| {
            sums.iter_mut().zip(&*grads).for_each(|(sum, g)| *sum = keep * *sum + count * g);
            if let Some(total) = total {
                grads.iter_mut().zip(sums).for_each(|(g, sum)| *g = *sum / total as f32);
            }
        });
    }

    /// Computes the gradients of the current batch and draws batch `next` of the epoch meanwhile; `None` keeps the current one.
    /// `number` is that of the batch in the run: dropout draws from it.
    fn run_batch(&mut self, network: &mut Network, number: u64, next: Option<usize>) -> BatchMetrics {
        let (loader, current, drawn, times) = (&self.loader, &self.current, &mut self.next, &self.times);
        let (loss, key) = (&self.loss, StepKey { seed: self.seed, step: number });
        let (metrics, ()) = rayon::join(
            || network.forward_backward(&current.images, targets(current), loss, key),
            || match (next, times) {
                (None, _) => {}
                (Some(number), None) => loader.fill(number, drawn),
                (Some(number), Some(times)) => loader.fill_around(number, drawn, &|task| {
                    let started = Instant::now();
                    task();
                    times.augmentation.fetch_add(started.elapsed().as_nanos() as u64, Relaxed);
                }),
            },
        );
        if next.is_some() {
            mem::swap(&mut self.current, &mut self.next);
        }
        metrics
    }

    /// Sets a network's running statistics to their means over the first `batches` full batches of an epoch, drawn as for
    /// training. The next step needs [`TrainingStep::begin_epoch`].
    pub(crate) fn estimate_statistics(&mut self, network: &mut Network, epoch: u64, batches: usize) {
        self.loader.begin_epoch(epoch);
        for number in 0..batches.min(self.loader.full_batches()) {
            self.loader.fill(number, &mut self.current);
            // Dropout draws other masks than in any training step.
            let key = StepKey { seed: self.seed, step: u64::MAX - number as u64 };
            network.estimate_statistics(&self.current.images, key, 1.0 / (number + 1) as f32);
        }
    }

    /// Begins to record times.
    pub(crate) fn record_times(&mut self) {
        self.times = Some(StepTimer::default());
    }

    /// Ends recording and returns what was recorded.
    pub(crate) fn take_times(&mut self) -> StepTimer {
        self.times.take().unwrap_or_default()
    }
}

/// The network's targets: class labels, or shares of classes where images were mixed.
fn targets(batch: &Batch) -> Targets<'_> {
    match &batch.soft {
        Some(soft) => Targets::Soft(soft),
        None => Targets::Labels(&batch.labels),
    }
}
