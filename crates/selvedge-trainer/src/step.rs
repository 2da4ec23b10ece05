//! [`TrainingStep`]: one step of training, the same for the training loop and for the profile of a recipe.
//!
//! A step runs the network forward and backward over a batch; at the same time, on the same threads, it draws and augments
//! the next batch; then the [`Learner`] updates the weights.

use std::mem;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use selvedge_augment::Batch;
use selvedge_compute::Cpu;
use selvedge_model::{BatchMetrics, Loss, Network, ParamEntry, StepKey, Targets};

use crate::averaging::Averaging;
use crate::loader::Loader;
use crate::optimizer::{Optimizer, groups};
use crate::recipe::Recipe;

/// What a step changes: the weights and the state of what updates them.
pub(crate) struct Learner {
    pub(crate) network: Network,
    pub(crate) optimizer: Optimizer,
    pub(crate) averaging: Option<Averaging>,
}

impl Learner {
    /// A network before its first step, of a run with so many steps per epoch.
    pub(crate) fn new(recipe: &Recipe, network: Network, cpu: Cpu, steps_per_epoch: usize) -> Self {
        let spec = recipe.optimizer;
        let group = |entry: &ParamEntry| groups::options(&spec, &recipe.groups, entry);
        let averaging = recipe.averaging;
        Self {
            optimizer: Optimizer::with_groups(spec, network.params(), cpu, group),
            averaging: averaging.map(|spec| Averaging::new(spec, recipe.epochs, steps_per_epoch as u64, &network)),
            network,
        }
    }

    /// Updates the weights by the gradients of the step's batch, then their average.
    fn update(&mut self, rate: f64) {
        self.optimizer.step(self.network.params_mut(), rate);
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
    /// The step's number in the run, counted from 0: dropout draws from it.
    pub(crate) step: u64,
    /// The learning rate.
    pub(crate) rate: f64,
    /// The batch of the epoch to draw for the next step; `None` keeps the current batch and draws none.
    pub(crate) next: Option<usize>,
}

/// Takes steps, one after the other, each on the batch that the step before has drawn.
pub(crate) struct TrainingStep<'a> {
    loader: Loader<'a>,
    loss: Loss,
    seed: u64,
    /// The batch of the next step to be taken.
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
    pub(crate) fn new(recipe: &Recipe, loader: Loader<'a>) -> Self {
        Self {
            loader,
            loss: Loss { label_smoothing: recipe.label_smoothing as f32 },
            seed: recipe.seed,
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

    /// Begins an epoch, counted from 0, at one of its batches.
    pub(crate) fn begin_epoch(&mut self, epoch: u64, batch: usize) {
        self.loader.begin_epoch(epoch);
        self.loader.fill(batch, &mut self.current);
    }

    /// Takes a step. A loss that is not finite leaves the weights alone, so that the caller can tell what went wrong.
    pub(crate) fn run(&mut self, learner: &mut Learner, StepArgs { step, rate, next }: StepArgs) -> BatchMetrics {
        let (loader, current, drawn, times) = (&self.loader, &self.current, &mut self.next, &self.times);
        let (network, loss, key) = (&mut learner.network, &self.loss, StepKey { seed: self.seed, step });
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
        if metrics.loss().is_finite() {
            let started = Instant::now();
            learner.update(rate);
            if let Some(times) = &mut self.times {
                times.update += started.elapsed();
            }
        }
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
