//! Networks, images and optimizer steps for the tests of whole networks.

// Every test program has this module, and none needs all of it.
#![allow(dead_code)]

use selvedge_compute::optim::{AdamParams, adam};
use selvedge_compute::{Cpu, Precision, Threads};
use selvedge_model::{BuildOptions, ModelSpec, Network, Params, Snapshot};

/// Height and width of [`spec`]'s images.
pub(crate) const SIZE: usize = 12;
pub(crate) const CLASSES: usize = 10;

/// The network of these layers, in TOML, for grey images of [`SIZE`] by [`SIZE`].
pub(crate) fn spec(layers: &str) -> ModelSpec {
    let input = format!("input = {{ height = {SIZE}, width = {SIZE}, mean = 0.25, std = 0.5 }}");
    toml::from_str(&format!("classes = {CLASSES}\n{input}\nlayers = [{layers}]")).expect("the layers are valid TOML")
}

/// A network with batch normalisation, dropout, pooling of both kinds, a residual block and dense layers.
pub(crate) fn convolutional() -> ModelSpec {
    spec(
        r#"
        { layer = "conv2d", filters = 8, kernel = 3, bias = false },
        { layer = "batch_norm" },
        { layer = "relu" },
        { layer = "max_pool2d" },
        { layer = "dropout", rate = 0.2 },
        { layer = "residual", layers = [
            { layer = "conv2d", filters = 8, kernel = 3, bias = false },
            { layer = "batch_norm", scale = false },
            { layer = "silu" },
        ] },
        { layer = "conv2d", filters = 12, kernel = 3 },
        { layer = "relu" },
        { layer = "max_pool2d" },
        { layer = "flatten" },
        { layer = "dense", units = 70 },
        { layer = "gelu" },
        { layer = "dropout", rate = 0.4 },
        { layer = "dense", units = "classes" },
        "#,
    )
}

pub(crate) fn threads(count: usize) -> Threads {
    Threads::new(count).expect("a few threads can be started")
}

fn cpu() -> Cpu {
    Cpu::detect().expect("SELVEDGE_ISA is unset or names an instruction set of this machine")
}

/// The precisions that this machine computes in.
pub(crate) fn precisions() -> Vec<Precision> {
    [Precision::F32, Precision::Bf16].into_iter().filter(|&precision| cpu().check(precision).is_ok()).collect()
}

pub(crate) fn build(spec: &ModelSpec, max_batch: usize, threads: &Threads) -> Network {
    build_in(Precision::F32, spec, max_batch, threads)
}

pub(crate) fn build_in(precision: Precision, spec: &ModelSpec, max_batch: usize, threads: &Threads) -> Network {
    let options = BuildOptions { seed: 7, max_batch, precision, threads: threads.clone() };
    Network::build(spec, &options).expect("the spec is a network")
}

/// Bytes that look random and differ for each seed.
pub(crate) fn bytes(count: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(1);
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..count).map(|_| next()).collect()
}

/// `count` images of [`SIZE`] by [`SIZE`] and their labels.
pub(crate) fn images(count: usize, seed: u64) -> (Vec<u8>, Vec<u8>) {
    let labels = bytes(count, seed + 1).iter().map(|byte| byte % CLASSES as u8).collect();
    (bytes(count * SIZE * SIZE, seed), labels)
}

/// Adam, its moments beside a network's parameters.
pub(crate) struct Adam {
    cpu: Cpu,
    m: Vec<f32>,
    v: Vec<f32>,
    step: u64,
    rate: f32,
}

impl Adam {
    pub(crate) fn new(network: &Network, rate: f32) -> Self {
        let zeros = vec![0.0; network.params().values.len()];
        Self { cpu: cpu(), m: zeros.clone(), v: zeros, step: 0, rate }
    }

    pub(crate) fn step(&mut self, network: &mut Network) {
        self.step += 1;
        let Params { values, grads, .. } = network.params_mut();
        let params = AdamParams {
            rate: self.rate,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-7,
            weight_decay: 0.0,
            decoupled: false,
            step: self.step,
        };
        adam(self.cpu, values, grads, &mut self.m, &mut self.v, &params);
    }
}

/// The gradients of the last pass in the order and layout of [`Snapshot::params`]; the network stays as it is.
///
/// # Panics
/// If a gradient of a padded lane is not zero.
pub(crate) fn gradients(network: &mut Network) -> Vec<f32> {
    let before = network.snapshot();
    let Params { values, grads, .. } = network.params_mut();
    values.copy_from_slice(grads);
    let Snapshot { params: gradients, buffers } = network.snapshot();
    network.restore(&Snapshot { params: gradients.clone(), buffers });
    let Params { values, grads, .. } = network.params();
    assert!(values.iter().eq(grads.iter()), "padded lanes have gradients");
    network.restore(&before);
    gradients
}

/// What `f` panics with.
pub(crate) fn panic_message(f: impl FnOnce()) -> String {
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)).expect_err("it should have panicked");
    match panic.downcast::<String>() {
        Ok(message) => *message,
        Err(panic) => (*panic.downcast::<&str>().expect("panics have messages")).to_owned(),
    }
}
