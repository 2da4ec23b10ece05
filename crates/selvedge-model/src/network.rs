//! [`Network`]: a network that can be trained and asked.

use std::ops::Range;
use std::path::Path;

use ndarray::Array2;
use selvedge_compute::{BLOCK, Cpu, Precision, Threads, bf16, scratch};

use crate::Operation;
use crate::exec::engine::Engine;
use crate::exec::pass::Batch;
use crate::params::state::State;
use crate::params::{file, init, weights};
use crate::plan::lower::lower;
use crate::profile::operations;
use crate::profile::timing::{PassTimes, Timing};
use crate::spec::shape::NetworkShape;
use crate::{BatchMetrics, InputSpec, Loss, Metrics, ModelError, ModelSpec, Params, Snapshot, StepKey, Targets};

/// How a network is built.
#[derive(Clone, Debug)]
pub struct BuildOptions {
    /// What the initial weights are drawn from.
    pub seed: u64,
    /// The most images of a training pass: memory is planned for them.
    pub max_batch: usize,
    /// What activations and packed weights are stored and multiplied in.
    pub precision: Precision,
    /// The threads that passes are cut over.
    pub threads: Threads,
}

/// A network that can be trained and asked.
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
    /// A network with initial weights, on the most able instruction set that there is, or that `SELVEDGE_ISA` names.
    ///
    /// # Errors
    /// If the spec is not a network, or the processor cannot do the precision.
    pub fn build(spec: &ModelSpec, options: &BuildOptions) -> Result<Network, ModelError> {
        Self::build_on(Cpu::detect()?, spec, options)
    }

    fn build_on(cpu: Cpu, spec: &ModelSpec, options: &BuildOptions) -> Result<Network, ModelError> {
        cpu.check(options.precision)?;
        let shape = NetworkShape::infer(spec)?;
        let initial = init::initial(&shape, options.seed);
        Ok(Self::assemble(cpu, spec.clone(), shape, &initial, options))
    }

    fn assemble(
        cpu: Cpu,
        spec: ModelSpec,
        shape: NetworkShape,
        snapshot: &Snapshot,
        options: &BuildOptions,
    ) -> Network {
        let mut state = State::zeroed(&shape);
        state.restore(&shape, snapshot);
        let plan = lower(&spec, &shape, options.precision);
        // What workers keep is made before the first pass, which a worker may sleep through.
        let scratch = plan.scratch_bytes();
        options.threads.install(|| rayon::broadcast(|_| scratch::reserve(scratch)));
        let sizes = [options.max_batch, options.threads.count()];
        let engine = Engine::new(plan, &state.params.entries, cpu, spec.input.clone(), spec.classes, sizes);
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

    /// What the network was built from.
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// One training pass: the loss, and its gradients in [`Network::params`].
    ///
    /// `images` are `[N, height, width, channels]`. The loss is the mean over them; the bits of the result do not depend
    /// on the number of threads. Nothing is allocated.
    ///
    /// # Panics
    /// If there are no images, or images and targets do not fit the spec or each other, or are more than the batch
    /// planned for.
    pub fn forward_backward(&mut self, images: &[u8], targets: Targets<'_>, loss: &Loss, key: StepKey) -> BatchMetrics {
        let count = self.count(images);
        let (given, needed) = match targets {
            Targets::Labels(labels) => (labels.len(), count),
            Targets::Soft(soft) => (soft.len(), count * self.spec.classes),
        };
        assert_eq!(given, needed, "targets for {count} images");
        let capacity = self.engine.capacity();
        assert!(count > 0 && count <= capacity, "a batch of {count} images, with memory planned for {capacity}");
        let (threads, precision) = (self.threads.clone(), self.precision);
        let Self { state, engine, stale, .. } = self;
        threads.install(|| {
            if std::mem::take(stale) {
                engine.pack(state);
            }
            let batch = Batch { images, targets, count };
            match precision {
                Precision::F32 => engine.train::<f32>(state, batch, loss, key),
                Precision::Bf16 => engine.train::<bf16>(state, batch, loss, key),
            }
        })
    }

    /// Loss and accuracy on any number of images, batch normalisation by its running statistics and without dropout.
    ///
    /// # Panics
    /// If images and labels do not fit the spec or each other.
    pub fn evaluate(&mut self, images: &[u8], labels: &[u8]) -> Metrics {
        let count = self.count(images);
        assert_eq!(labels.len(), count, "labels of {count} images");
        let mut metrics = Metrics::default();
        self.for_each_part(images, |inference, images, range| {
            metrics += inference.run(images, range.len(), Some(&labels[range]), None);
        });
        metrics
    }

    /// Probabilities `[N, classes]` for any number of images.
    ///
    /// The work is handed to the network's threads and back, which takes some tens of microseconds, as long as one image of
    /// a small network. Who predicts one image after the other does so inside of [`Threads::install`] of the same threads,
    /// where it is a plain call.
    ///
    /// # Panics
    /// If the images do not fit the spec.
    pub fn predict(&mut self, images: &[u8]) -> Array2<f32> {
        let classes = self.spec.classes;
        let mut probabilities = vec![0.0; self.count(images) * classes];
        self.for_each_part(images, |inference, images, range| {
            let part = &mut probabilities[range.start * classes..range.end * classes];
            inference.run(images, range.len(), None, Some(part));
        });
        Array2::from_shape_vec((probabilities.len() / classes, classes), probabilities)
            .expect("the vector was made as long as its shape")
    }

    /// Calls `infer` on as many images at a time as memory is planned for, with their numbers.
    fn for_each_part(&mut self, images: &[u8], mut infer: impl FnMut(&mut Inference<'_>, &[u8], Range<usize>) + Send) {
        let (count, size, precision) = (self.count(images), self.image_len(), self.precision);
        let Self { state, engine, threads, stale, .. } = self;
        threads.install(|| {
            if std::mem::take(stale) {
                engine.pack(state);
            }
            let mut start = 0;
            while start < count {
                let end = count.min(start + engine.capacity());
                infer(&mut Inference { engine, state, precision }, &images[start * size..end * size], start..end);
                start = end;
            }
        });
    }

    /// Bytes of an image.
    fn image_len(&self) -> usize {
        let InputSpec { height, width, channels, .. } = self.spec.input;
        height * width * channels
    }

    fn count(&self, images: &[u8]) -> usize {
        let size = self.image_len();
        assert!(images.len().is_multiple_of(size), "{} bytes are not whole images of {size}", images.len());
        images.len() / size
    }

    /// The parameters and their gradients.
    pub fn params(&self) -> &Params {
        &self.state.params
    }

    /// The parameters, to be changed: the next pass packs them anew.
    pub fn params_mut(&mut self) -> &mut Params {
        self.stale = true;
        &mut self.state.params
    }

    /// Writes spec and weights to a safetensors file. The file is whole or not there, whatever interrupts.
    ///
    /// # Errors
    /// [`ModelError::File`] if the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), ModelError> {
        file::write(path, &weights::encode(&self.spec, &self.shape, &self.snapshot()))
    }

    /// Reads a network from a file that [`Network::save`] wrote.
    ///
    /// # Errors
    /// [`ModelError::File`] if the file cannot be read or is not such a file.
    pub fn load(path: &Path, threads: Threads) -> Result<Network, ModelError> {
        let bytes = file::read(path, weights::MAX_FILE)?;
        let (spec, shape, snapshot) = weights::decode(&bytes).map_err(|problem| file::failure(path, problem))?;
        // Two blocks for each thread keep all of them busy; more would only take memory.
        let max_batch = 2 * BLOCK * threads.count();
        let options = BuildOptions { seed: 0, max_batch, precision: Precision::F32, threads };
        Ok(Self::assemble(Cpu::detect()?, spec, shape, &snapshot, &options))
    }

    /// Every parameter and running statistic in logical order, as little-endian f32: what a checksum is taken of.
    pub fn weights_bytes(&self) -> Vec<u8> {
        weights::value_bytes(&self.shape, &self.snapshot())
    }

    /// What a pass over `images` images does, one operation after the other, and what each costs.
    ///
    /// ```
    /// use selvedge_model::{BuildOptions, InputSpec, LayerSpec, ModelSpec, Network, Precision, Threads, Units};
    /// let input = InputSpec { height: 28, width: 28, channels: 1, mean: 0.286, std: 0.353 };
    /// let layers = vec![LayerSpec::Flatten, LayerSpec::Dense { units: Units::Classes, bias: true }];
    /// let spec = ModelSpec { input, classes: 10, layers };
    /// let threads = Threads::new(1)?;
    /// let network = Network::build(&spec, &BuildOptions { seed: 1, max_batch: 64, precision: Precision::F32, threads })?;
    /// let operations = network.operations(64);
    /// assert_eq!((operations.len(), operations[0].forward.flops), (1, 2 * 64 * 784 * 10));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn operations(&self, images: usize) -> Vec<Operation> {
        operations::list(&self.engine.plan, self.engine.cpu, images)
    }

    /// Has training passes account for their threads' time from now on, from zero; or no longer.
    pub fn record_times(&mut self, on: bool) {
        self.engine.timing = on.then(|| Timing::new(self.engine.plan.ops.len()));
    }

    /// What training passes since [`Network::record_times`] spent their threads' time on; nothing if it is not recorded.
    pub fn times(&self) -> Option<PassTimes> {
        self.engine.timing.as_ref().map(Timing::times)
    }

    /// Everything learnt so far.
    pub fn snapshot(&self) -> Snapshot {
        self.state.snapshot(&self.shape)
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
    fn run(
        &mut self,
        images: &[u8],
        count: usize,
        labels: Option<&[u8]>,
        probabilities: Option<&mut [f32]>,
    ) -> Metrics {
        match self.precision {
            Precision::F32 => self.engine.infer::<f32>(self.state, images, count, labels, probabilities),
            Precision::Bf16 => self.engine.infer::<bf16>(self.state, images, count, labels, probabilities),
        }
    }
}

#[cfg(test)]
mod tests;
