//! [`RecipeProfile`]: where the time of a recipe's training steps goes.
//!
//! The steps are those of the training loop ([`TrainingStep`]). In a step of time t, T threads spend T·t. All of it belongs
//! to an operation of the network, to one of the few other parts of a step, or is left over: threads wait for others at the
//! end of a phase, or for work. Divided by T, the parts add up to t.

use std::path::Path;
use std::time::{Duration, Instant};

use selvedge_compute::{BLOCK, Cpu, Precision, Threads};
use selvedge_model::Operation;
use serde::{Deserialize, Serialize};

use super::{Figure, Peaks, ProfileError};
use crate::data::TrainingData;
use crate::download::FetchOptions;
use crate::error::TrainError;
use crate::loader::{Loader, steps_per_epoch};
use crate::observer::Observer;
use crate::recipe::{LoadedRecipe, Recipe};
use crate::schedule::Schedule;
use crate::setup::{Images, build_network, choose_precision};
use crate::step::{Learner, StepArgs, TrainingStep};

/// The least time of a round of steps, the number of rounds, and the least number of steps in a round.
const ROUND: Duration = Duration::from_millis(400);
const ROUNDS: usize = 4;
const STEPS: usize = 3;

/// The steps of a recipe, averaged over the fastest of a few rounds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecipeProfile {
    /// The recipe's name.
    pub recipe: String,
    /// `f32` or `bf16`.
    pub precision: String,
    /// Images per step.
    pub batch: usize,
    /// Worker threads.
    pub threads: usize,
    /// Number of steps that the figures average.
    pub steps: usize,
    /// Images per second.
    pub images_per_second: f64,
    /// The operations of the network, in order.
    pub layers: Vec<LayerTimes>,
    /// Where the time of a step goes.
    pub step: StepTimes,
}

/// An operation of the network: a layer, or several that are computed in one pass.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerTimes {
    /// The layers' names, as in the network's summary.
    pub name: String,
    /// The kind of operation: `conv2d`, `dense`, `norm` and so on.
    pub kind: String,
    /// Height, width and channels of the input.
    pub input: [usize; 3],
    /// Height, width and channels of the output.
    pub output: [usize; 3],
    /// Instruction set and algorithm.
    pub path: String,
    /// The precision of its products, `f32` or `bf16`, whose peak bounds it.
    pub precision: String,
    /// The forward pass: time summed over threads and divided by their number.
    pub forward: Figure,
    /// The backward pass in the same measure, gradients of weights included.
    pub backward: Figure,
}

/// Where the time of a step goes, in seconds. All but `step` and `exposed_augmentation` add up to `step`. All but these two
/// and `update` are summed over threads and divided by their number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StepTimes {
    /// A whole step, by the wall clock.
    pub step: f64,
    /// The forward passes of all layers.
    pub forward: f64,
    /// The backward passes of all layers.
    pub backward: f64,
    /// Conversion of pixels to the network's input.
    pub input: f64,
    /// The loss and its gradient.
    pub loss: f64,
    /// Packing of weights for the kernels.
    pub packing: f64,
    /// Clearing and adding up partial sums of the weights' gradients.
    pub gradient_sums: f64,
    /// Gathering and augmenting the next batch.
    pub augmentation: f64,
    /// The optimizer, by the wall clock.
    pub update: f64,
    /// The rest: threads wait for others, or for work.
    pub left_over: f64,
    /// How much longer a step takes than one without augmentation: the part that does not hide in waiting.
    pub exposed_augmentation: f64,
}

/// A recipe with its data, ready for steps.
pub struct TimedRecipe {
    recipe: Recipe,
    precision: Precision,
    threads: Threads,
    images: Images,
    learner: Learner,
}

impl TimedRecipe {
    /// Loads the data set and builds the network.
    ///
    /// # Errors
    /// [`ProfileError::Train`] if the recipe, its data set or its network cannot be used, [`ProfileError::Cpu`] if the
    /// processor cannot be.
    pub fn prepare(
        loaded: &LoadedRecipe,
        data_dir: &Path,
        threads: &Threads,
        observer: &mut dyn Observer,
    ) -> Result<Self, ProfileError> {
        let mut loaded = loaded.clone();
        // Where a step has several batches, the steps that are measured have one.
        loaded.recipe.accumulation = 1;
        let cpu = Cpu::detect()?;
        let precision = choose_precision(loaded.recipe.precision, cpu)?;
        let data = TrainingData::load(&loaded.recipe.dataset, data_dir, &FetchOptions::default(), observer)
            .map_err(TrainError::from)?;
        loaded.adapt(&data);
        let loaded = &loaded;
        let recipe = loaded.recipe.clone();
        let images = threads.install(|| Images::prepare(loaded, data))?;
        let network = build_network(loaded, &images.augmenter, precision, threads).map_err(TrainError::from)?;
        let learner = Learner::new(&recipe, network, cpu, steps_per_epoch(&recipe, images.partition.train.len()));
        Ok(Self { recipe, precision, threads: threads.clone(), images, learner })
    }

    /// Measures training steps.
    pub fn profile(&mut self, peaks: &Peaks) -> RecipeProfile {
        let threads = self.threads.clone();
        threads.install(|| threads.keep_awake(|| self.start().profile(peaks)))
    }

    /// Takes training steps, and does nothing else, until `stop` says so: for a sampling profiler.
    pub fn run_until(&mut self, mut stop: impl FnMut() -> bool + Send) {
        self.threads.clone().install(|| {
            let mut steps = self.start();
            while !stop() {
                steps.take_one(true);
            }
        });
    }

    fn start(&mut self) -> Steps<'_> {
        let Self { recipe, precision, threads, images, learner } = self;
        let Images { data, partition, augmenter, class_weights, .. } = images;
        let loader = Loader::new(recipe, data, &partition.train, augmenter.clone());
        let rate = Schedule::new(recipe, loader.steps() as u64).rate(0);
        let mut step = TrainingStep::new(recipe, loader, class_weights.clone());
        step.begin_epoch(0, 0);
        Steps { recipe, precision: *precision, threads: threads.count(), rate, learner, step, number: 0 }
    }
}

/// Training steps, one after the other.
struct Steps<'a> {
    recipe: &'a Recipe,
    precision: Precision,
    threads: usize,
    rate: f64,
    learner: &'a mut Learner,
    step: TrainingStep<'a>,
    number: u64,
}

impl Steps<'_> {
    /// A step that draws the next batch, or takes the same one again.
    fn take_one(&mut self, augment: bool) {
        // A smaller last batch would take less time.
        let full = self.step.loader().full_batches().max(1);
        let next = augment.then_some((self.number as usize + 1) % full);
        self.step.run(self.learner, StepArgs { step: self.number, rate: self.rate, next });
        self.number += 1;
    }

    /// The number of steps and the time of a round.
    fn round(&mut self, augment: bool) -> (usize, Duration) {
        let (started, mut steps) = (Instant::now(), 0);
        while steps < STEPS || started.elapsed() < ROUND {
            self.take_one(augment);
            steps += 1;
        }
        (steps, started.elapsed())
    }

    fn profile(&mut self, peaks: &Peaks) -> RecipeProfile {
        // Warm up: touch the memory and allocate everything.
        (0..STEPS).for_each(|_| self.take_one(true));
        let mut best: Option<RecipeProfile> = None;
        let mut without = f64::INFINITY;
        for _ in 0..ROUNDS {
            let found = self.timed_round(peaks);
            if best.as_ref().is_none_or(|best| found.step.step < best.step.step) {
                best = Some(found);
            }
            let (steps, elapsed) = self.round(false);
            without = without.min(elapsed.as_secs_f64() / steps as f64);
        }
        let mut best = best.unwrap_or_else(|| unreachable!("there is more than one round"));
        best.step.exposed_augmentation = (best.step.step - without).max(0.0);
        best
    }

    fn timed_round(&mut self, peaks: &Peaks) -> RecipeProfile {
        self.learner.network.record_times(true);
        self.step.record_times();
        let (steps, elapsed) = self.round(true);
        let timer = self.step.take_times();
        let network = &mut self.learner.network;
        let times = network.times().unwrap_or_default();
        network.record_times(false);

        let batch = self.step.batch_len();
        // A time summed over threads and steps becomes part of one step.
        let part = |time: Duration| time.as_secs_f64() / (steps * self.threads) as f64;
        let costs = network.operations(batch).into_iter().zip(network.operations(BLOCK.min(batch)));
        let layers: Vec<LayerTimes> = costs
            .zip(&times.operations)
            .map(|((operation, of_block), &[forward, backward])| {
                layer(&operation, &of_block, [part(forward), part(backward)], peaks)
            })
            .collect();
        let step = elapsed.as_secs_f64() / steps as f64;
        let mut parts = StepTimes {
            step,
            forward: layers.iter().map(|layer| layer.forward.seconds).sum(),
            backward: layers.iter().map(|layer| layer.backward.seconds).sum(),
            input: part(times.input),
            loss: part(times.loss),
            packing: part(times.packing),
            gradient_sums: part(times.gradient_sums),
            augmentation: part(timer.augmentation()),
            update: timer.update.as_secs_f64() / steps as f64,
            left_over: 0.0,
            exposed_augmentation: 0.0,
        };
        parts.left_over = step - parts.accounted();
        RecipeProfile {
            recipe: self.recipe.name.clone(),
            precision: self.precision.to_string(),
            batch,
            threads: self.threads,
            steps,
            images_per_second: batch as f64 / step,
            layers,
            step: parts,
        }
    }
}

impl StepTimes {
    /// Everything but the rest.
    pub fn accounted(&self) -> f64 {
        let Self { forward, backward, input, loss, packing, gradient_sums, augmentation, update, .. } = self;
        forward + backward + input + loss + packing + gradient_sums + augmentation + update
    }
}

/// The figures of a layer. A worker takes one block after another through the network, so the cache that the operands of a
/// block fit into decides the bandwidth.
fn layer(operation: &Operation, of_block: &Operation, seconds: [f64; 2], peaks: &Peaks) -> LayerTimes {
    let limits = &peaks.all_threads;
    let figure = |seconds, cost, resident| Figure::new(seconds, cost, operation.precision, resident, peaks, limits);
    LayerTimes {
        name: operation.name.clone(),
        kind: operation.kind.to_string(),
        input: operation.input,
        output: operation.output,
        path: operation.path.clone(),
        precision: operation.precision.to_string(),
        forward: figure(seconds[0], operation.forward, of_block.forward.bytes),
        backward: figure(seconds[1], operation.backward, of_block.backward.bytes),
    }
}
