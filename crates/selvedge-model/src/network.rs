//! [`Network`]: a network that trains, evaluates and predicts.

mod whiten;

use std::ops::Range;

use ndarray::Array2;
use selvedge_compute::{Cpu, Precision, Threads, bf16, scratch};

use crate::exec::engine::{Engine, Wanted};
use crate::exec::images::Images;
use crate::exec::memory::{Capacity, Memory};
use crate::exec::pass::{Batch, BatchMetrics, Loss, Metrics, StepKey, Targets};
use crate::exec::timing::{PassTimes, Timing};
use crate::params::snapshot::{self, NamedArray, Snapshot};
use crate::params::state::State;
use crate::params::{Params, init};
use crate::plan::lower::lower;
use crate::profile::operations::{self, Operation};
use crate::spec::error::ModelError;
use crate::spec::inference::NetworkShape;
use crate::spec::{InputSpec, ModelSpec};

/// How a network is built.
#[derive(Clone, Debug)]
pub struct BuildOptions {
    /// The seed of the initial weights.
    pub seed: u64,
    /// The most images of a training pass: memory is planned for them.
    pub max_batch: usize,
    /// The type that activations and packed weights are stored and multiplied in.
    pub precision: Precision,
    /// The threads that passes run on.
    pub threads: Threads,
}

/// A network that trains, evaluates and predicts.
pub struct Network {
    spec: ModelSpec,
    shape: NetworkShape,
    state: State,
    engine: Engine,
    threads: Threads,
    precision: Precision,
    /// Whether parameters may have changed since the engine packed them.
    stale: bool,
}

impl Network {
    /// A network with initial weights, on the best instruction set of the processor, or the one that `SELVEDGE_ISA` names.
    ///
    /// # Errors
    /// If the layers do not fit each other, or the processor lacks what the precision needs.
    pub fn build(spec: &ModelSpec, options: &BuildOptions) -> Result<Network, ModelError> {
        Self::build_on(Cpu::detect()?, spec, options)
    }

    fn build_on(cpu: Cpu, spec: &ModelSpec, options: &BuildOptions) -> Result<Network, ModelError> {
        cpu.check(options.precision)?;
        let shape = NetworkShape::infer(spec)?;
        let initial = init::initial(&shape, options.seed);
        Ok(Self::assemble(cpu, spec.clone(), shape, &initial, options))
    }

    /// The bytes that [`Network::build`] takes for weights, gradients and the passes over a batch, known from the plan before any
    /// are taken. A process that has no room for them would be aborted.
    ///
    /// Where a batch norm parts a pass into phases, what lives beyond a phase grows with [`BuildOptions::max_batch`]; the rest
    /// grows with the threads.
    ///
    /// ```
    /// use selvedge_model::{BuildOptions, ModelSpec, Network, Precision, Threads};
    /// let spec: ModelSpec = toml::from_str(r#"
    ///     classes = 10
    ///     input = { height = 28, width = 28 }
    ///     layers = [
    ///         { layer = "conv2d", filters = 16, kernel = 3 },
    ///         { layer = "batch_norm" },
    ///         { layer = "relu" },
    ///         { layer = "global_avg_pool" },
    ///         { layer = "dense", units = "classes" },
    ///     ]
    /// "#)?;
    /// let threads = Threads::new(1)?;
    /// let bytes = |max_batch| {
    ///     let options = BuildOptions { seed: 1, max_batch, precision: Precision::F32, threads: threads.clone() };
    ///     Network::memory_bytes(&spec, &options)
    /// };
    /// // The batch norm needs the statistics of all images first, so the pixels of each are kept: four bytes for each.
    /// assert!(bytes(64_000)? - bytes(64)? >= (64_000 - 64) * 28 * 28 * 4);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Network::build`].
    pub fn memory_bytes(spec: &ModelSpec, options: &BuildOptions) -> Result<u64, ModelError> {
        Cpu::detect()?.check(options.precision)?;
        let shape = NetworkShape::infer(spec)?;
        let plan = lower(spec, &shape, options.precision);
        let entries = Params::entries_of(&shape.params);
        let capacity = Capacity { images: options.max_batch, threads: options.threads.count() };
        let weights = 2 * Params::len_of(&entries) * size_of::<f32>();
        let scratch = plan.scratch_bytes() * capacity.threads;
        let passes = Memory::bytes(&plan, &entries, capacity);
        Ok(passes.saturating_add((weights + plan.packed_bytes + scratch) as u64))
    }

    /// A network with the state of `snapshot`.
    pub(crate) fn assemble(
        cpu: Cpu,
        spec: ModelSpec,
        shape: NetworkShape,
        snapshot: &Snapshot,
        options: &BuildOptions,
    ) -> Network {
        let mut state = State::zeroed(&shape);
        state.restore(&shape, snapshot);
        let plan = lower(&spec, &shape, options.precision);
        // Workers reserve their scratch memory here, because a worker may sleep through the first pass.
        let scratch = plan.scratch_bytes();
        options.threads.install(|| rayon::broadcast(|_| scratch::reserve(scratch)));
        let capacity = Capacity { images: options.max_batch, threads: options.threads.count() };
        let engine = Engine::new(cpu, &spec, plan, &state.params.entries, capacity);
        Network {
            spec,
            shape,
            state,
            engine,
            threads: options.threads.clone(),
            precision: options.precision,
            stale: true,
        }
    }

    /// The specification that the network was built from.
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// One training pass: the loss, and its gradients in [`Network::params`].
    ///
    /// `images` are bytes or floats, `[N, height, width, channels]` ([`Images`]). The loss is the mean over them, weighted if
    /// [`Loss::class_weights`] are given. The bits of the
    /// result do not depend on the number of threads. Nothing is allocated.
    ///
    /// # Panics
    /// If there are no images, if images and targets do not fit the spec or each other, or if there are more than memory is
    /// planned for.
    pub fn forward_backward<'a>(
        &mut self,
        images: impl Into<Images<'a>>,
        targets: Targets<'_>,
        loss: &Loss,
        key: StepKey,
    ) -> BatchMetrics {
        self.train(images.into(), targets, loss, key)
    }

    // Not generic, like `metrics` and `probabilities`: other crates would compile a generic function again, with every kernel.
    fn train(&mut self, images: Images<'_>, targets: Targets<'_>, loss: &Loss, key: StepKey) -> BatchMetrics {
        let count = self.batch_count(images);
        let (given, needed) = match targets {
            Targets::Labels(labels) => (labels.len(), count),
            Targets::Soft(soft) => (soft.len(), count * self.spec.classes),
        };
        assert_eq!(given, needed, "targets for {count} images");
        if let Some(weights) = &loss.class_weights {
            assert_eq!(weights.len(), self.spec.classes, "class weights and classes");
        }
        let (threads, precision) = (self.threads.clone(), self.precision);
        let Self { state, engine, stale, .. } = self;
        threads.install(|| {
            if std::mem::take(stale) {
                engine.pack(state);
            }
            let divisor = loss.divisor(targets, count);
            let batch = Batch { images, targets, count, scale: 1.0 / divisor as f32 };
            let metrics = match precision {
                Precision::F32 => engine.train::<f32>(state, batch, loss, key),
                Precision::Bf16 => engine.train::<bf16>(state, batch, loss, key),
            };
            match loss.class_weights {
                // So that the mean over the images is the weighted one.
                Some(_) => BatchMetrics { loss_sum: metrics.loss_sum / divisor * count as f64, ..metrics },
                None => metrics,
            }
        })
    }

    /// Loss and accuracy on any number of images, with batch normalisation by its running statistics and without dropout.
    ///
    /// # Panics
    /// If images and labels do not fit the spec or each other.
    pub fn evaluate<'a>(&mut self, images: impl Into<Images<'a>>, labels: &[u8]) -> Metrics {
        self.metrics(images.into(), labels)
    }

    fn metrics(&mut self, images: Images<'_>, labels: &[u8]) -> Metrics {
        let count = self.count(images);
        assert_eq!(labels.len(), count, "labels of {count} images");
        let mut metrics = Metrics::default();
        self.for_each_part(images, |inference, images, range| {
            metrics += inference.run(images, range.len(), Wanted::Metrics(&labels[range]));
        });
        metrics
    }

    /// Probabilities `[N, classes]` for any number of images.
    ///
    /// Handing the work to the network's threads and back takes some tens of microseconds, as long as one image of a small
    /// network does. To predict one image after another, call this inside of [`Threads::install`] of the same threads, where it
    /// is a plain call.
    ///
    /// # Panics
    /// If the images do not fit the spec.
    ///
    /// ```
    /// use selvedge_model::{BuildOptions, Init, InputSpec, LayerSpec, ModelSpec, Network, Precision, Threads, Units};
    /// let input = InputSpec { height: 2, width: 2, channels: 1, mean: 0.5, std: 0.25 };
    /// let dense = LayerSpec::Dense { units: Units::Classes, bias: true, init: Init::default(), frozen: false };
    /// let layers = vec![LayerSpec::Flatten, dense];
    /// let spec = ModelSpec { input, classes: 10, layers };
    /// let threads = Threads::new(1)?;
    /// let mut network = Network::build(&spec, &BuildOptions { seed: 1, max_batch: 64, precision: Precision::F32, threads })?;
    /// let from_bytes = network.predict(&[0u8, 51, 102, 255]);
    /// let from_floats = network.predict(&[0.0, 0.2, 0.4, 1.0]);
    /// assert_eq!(from_bytes.dim(), (1, 10));
    /// assert!(from_bytes.iter().zip(&from_floats).all(|(a, b)| (a - b).abs() < 1e-6));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn predict<'a>(&mut self, images: impl Into<Images<'a>>) -> Array2<f32> {
        self.probabilities(images.into())
    }

    /// Logits `[N, classes]` for any number of images: softmax makes them the probabilities of [`Network::predict`].
    ///
    /// # Panics
    /// If the images do not fit the spec.
    pub fn logits<'a>(&mut self, images: impl Into<Images<'a>>) -> Array2<f32> {
        self.rows(images.into(), |part| Wanted::Logits(part))
    }

    fn probabilities(&mut self, images: Images<'_>) -> Array2<f32> {
        self.rows(images, |part| Wanted::Probabilities(part))
    }

    /// A row of numbers for each image, `[N, classes]`.
    fn rows(&mut self, images: Images<'_>, wanted: fn(&mut [f32]) -> Wanted<'_>) -> Array2<f32> {
        let classes = self.spec.classes;
        let mut rows = vec![0.0; self.count(images) * classes];
        self.for_each_part(images, |inference, images, range| {
            let part = &mut rows[range.start * classes..range.end * classes];
            inference.run(images, range.len(), wanted(part));
        });
        Array2::from_shape_vec((rows.len() / classes, classes), rows).expect("the vector was made as long as its shape")
    }

    /// Calls `infer` on as many images at a time as memory is planned for, with their numbers.
    fn for_each_part(
        &mut self,
        images: Images<'_>,
        mut infer: impl FnMut(&mut Inference<'_>, Images<'_>, Range<usize>) + Send,
    ) {
        let (count, size, precision) = (self.count(images), self.image_len(), self.precision);
        let Self { state, engine, threads, stale, .. } = self;
        threads.install(|| {
            if std::mem::take(stale) {
                engine.pack(state);
            }
            let mut start = 0;
            while start < count {
                let end = count.min(start + engine.capacity());
                let part = images.slice(start * size..end * size);
                infer(&mut Inference { engine, state, precision }, part, start..end);
                start = end;
            }
        });
    }

    /// The threads that passes run on.
    pub(crate) fn threads(&self) -> &Threads {
        &self.threads
    }

    /// Numbers of an image.
    pub(crate) fn image_len(&self) -> usize {
        let InputSpec { height, width, channels, .. } = self.spec.input;
        height * width * channels
    }

    /// How many images these are.
    pub(crate) fn count(&self, images: Images<'_>) -> usize {
        let size = self.image_len();
        assert!(images.len().is_multiple_of(size), "{} numbers are not whole images of {size}", images.len());
        images.len() / size
    }

    /// The parameters and their gradients.
    pub fn params(&self) -> &Params {
        &self.state.params
    }

    /// The parameters for an update: the next pass packs them again.
    pub fn params_mut(&mut self) -> &mut Params {
        self.stale = true;
        &mut self.state.params
    }

    /// The running statistics of the batch norms, in the layout of the kernels: what an average of the weights averages, too.
    pub fn statistics(&self) -> &[f32] {
        &self.state.buffers
    }

    /// The running statistics, to be changed.
    pub fn statistics_mut(&mut self) -> &mut [f32] {
        &mut self.state.buffers
    }

    /// Moves the running statistics of the batch norms towards those of a batch by a share of the difference, from 0 to 1. The
    /// forward pass is that of training, with dropout, and nothing else changes. With a share of 1/n for the n-th batch, the
    /// running statistics become the means over all batches, as those of PyTorch's `update_bn`: weights that have been averaged
    /// need statistics of their own (Izmailov et al., arXiv 1803.05407).
    ///
    /// # Panics
    /// If there are no images, if images do not fit the spec, or if there are more than memory is planned for.
    pub fn estimate_statistics<'a>(&mut self, images: impl Into<Images<'a>>, key: StepKey, share: f32) {
        self.estimate(images.into(), key, share);
    }

    fn estimate(&mut self, images: Images<'_>, key: StepKey, share: f32) {
        let count = self.batch_count(images);
        let (threads, precision) = (self.threads.clone(), self.precision);
        let Self { state, engine, stale, .. } = self;
        threads.install(|| {
            if std::mem::take(stale) {
                engine.pack(state);
            }
            let batch = Batch { images, targets: Targets::Labels(&[]), count, scale: 0.0 };
            match precision {
                Precision::F32 => engine.estimate_statistics::<f32>(state, batch, key, share),
                Precision::Bf16 => engine.estimate_statistics::<bf16>(state, batch, key, share),
            }
        });
    }

    /// How many images these are, at least one and no more than memory is planned for.
    fn batch_count(&self, images: Images<'_>) -> usize {
        let (count, capacity) = (self.count(images), self.engine.capacity());
        assert!(count > 0 && count <= capacity, "a batch of {count} images, with memory planned for {capacity}");
        count
    }

    /// Every parameter and running statistic in logical order, as little-endian f32: what a checksum is taken of.
    pub fn weights_bytes(&self) -> Vec<u8> {
        let snapshot = self.snapshot();
        let values = self.arrays(&snapshot).flat_map(|array| array.values);
        values.flat_map(|value| value.to_le_bytes()).collect()
    }

    /// The operations of a pass over `images` images, in their order, with their costs.
    ///
    /// ```
    /// use selvedge_model::{BuildOptions, Init, InputSpec, LayerSpec, ModelSpec, Network, Precision, Threads, Units};
    /// let input = InputSpec { height: 28, width: 28, channels: 1, mean: 0.286, std: 0.353 };
    /// let dense = LayerSpec::Dense { units: Units::Classes, bias: true, init: Init::default(), frozen: false };
    /// let layers = vec![LayerSpec::Flatten, dense];
    /// let spec = ModelSpec { input, classes: 10, layers };
    /// let threads = Threads::new(1)?;
    /// let network = Network::build(&spec, &BuildOptions { seed: 1, max_batch: 64, precision: Precision::F32, threads })?;
    /// let operations = network.operations(64);
    /// assert_eq!((operations.len(), operations[0].forward.flops), (1, 2 * 64 * 784 * 10));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn operations(&self, images: usize) -> Vec<Operation> {
        operations::list(self.engine.plan(), self.engine.cpu(), images)
    }

    /// Records the time that training passes take of their threads from now on, from zero; or no longer.
    pub fn record_times(&mut self, on: bool) {
        self.engine.record_times(on);
    }

    /// What training passes since [`Network::record_times`] spent their threads' time on; `None` if it is not recorded.
    pub fn times(&self) -> Option<PassTimes> {
        self.engine.timing().map(Timing::times)
    }

    /// All that the network has learnt.
    pub fn snapshot(&self) -> Snapshot {
        self.state.snapshot(&self.shape)
    }

    /// The arrays of a snapshot of this network with their names and shapes: parameters, then running statistics. A format of
    /// files writes these and [`Network::spec`].
    ///
    /// ```
    /// # use selvedge_model::{BuildOptions, Init, InputSpec, LayerSpec, ModelSpec, Network, Precision, Threads, Units};
    /// # let input = InputSpec { height: 28, width: 28, channels: 1, mean: 0.286, std: 0.353 };
    /// # let dense = LayerSpec::Dense { units: Units::Classes, bias: true, init: Init::default(), frozen: false };
    /// # let layers = vec![LayerSpec::Flatten, dense];
    /// # let spec = ModelSpec { input, classes: 10, layers };
    /// # let threads = Threads::new(1)?;
    /// # let options = BuildOptions { seed: 1, max_batch: 64, precision: Precision::F32, threads };
    /// let network = Network::build(&spec, &options)?;
    /// let snapshot = network.snapshot();
    /// let arrays: Vec<_> = network.arrays(&snapshot).map(|array| (array.name, array.shape)).collect();
    /// assert_eq!(arrays, [("1.dense.weight", &[784, 10][..]), ("1.dense.bias", &[10])]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Panics
    /// If the snapshot is of a network of another shape.
    pub fn arrays<'a>(&'a self, snapshot: &'a Snapshot) -> impl Iterator<Item = NamedArray<'a>> + Clone {
        snapshot::arrays(&self.shape, snapshot)
    }

    /// Goes back to a snapshot of the same network.
    ///
    /// # Panics
    /// If the snapshot is of a network of another shape.
    pub fn restore(&mut self, snapshot: &Snapshot) {
        self.state.restore(&self.shape, snapshot);
        self.stale = true;
    }
}

/// What inference needs of a network.
struct Inference<'a> {
    engine: &'a mut Engine,
    state: &'a State,
    precision: Precision,
}

impl Inference<'_> {
    fn run(&mut self, images: Images<'_>, count: usize, wanted: Wanted<'_>) -> Metrics {
        match self.precision {
            Precision::F32 => self.engine.infer::<f32>(self.state, images, count, wanted),
            Precision::Bf16 => self.engine.infer::<bf16>(self.state, images, count, wanted),
        }
    }
}

#[cfg(test)]
mod tests;
