//! Networks, images and optimizer steps for the tests of whole networks.

// Every test program has this module, and none needs all of it.
#![allow(dead_code)]

use selvedge_compute::optim::{AdamParams, adam};
use selvedge_compute::{Cpu, Precision, Threads};
use selvedge_model::{BuildOptions, ModelSpec, Network, Params, Snapshot};

/// Height, width and classes of [`convolutional`]'s images.
pub const SIZE: usize = 12;
pub const CLASSES: usize = 10;

/// The network of these layers, in TOML, for grey images of [`SIZE`] by [`SIZE`].
pub fn spec(layers: &str) -> ModelSpec {
    let input = format!("input = {{ height = {SIZE}, width = {SIZE}, mean = 0.25, std = 0.5 }}");
    toml::from_str(&format!("classes = {CLASSES}\n{input}\nlayers = [{layers}]")).expect("the layers are valid TOML")
}

/// A network with batch normalisation, dropout, pooling of both kinds, a residual block and dense layers.
pub fn convolutional() -> ModelSpec {
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

pub fn build(spec: &ModelSpec, max_batch: usize, threads: usize) -> Network {
    let threads = Threads::new(threads).expect("a few threads can be started");
    let options = BuildOptions { seed: 7, max_batch, precision: Precision::F32, threads };
    Network::build(spec, &options).expect("the spec is a network")
}

/// Bytes that look random and differ for each seed.
pub fn bytes(count: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(1);
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..count).map(|_| next()).collect()
}

/// `count` images of [`SIZE`] by [`SIZE`] and their labels.
pub fn images(count: usize, seed: u64) -> (Vec<u8>, Vec<u8>) {
    let labels = bytes(count, seed + 1).iter().map(|byte| byte % CLASSES as u8).collect();
    (bytes(count * SIZE * SIZE, seed), labels)
}

/// Adam, its moments beside a network's parameters.
pub struct Adam {
    m: Vec<f32>,
    v: Vec<f32>,
    step: u64,
    rate: f32,
}

impl Adam {
    pub fn new(network: &Network, rate: f32) -> Self {
        let zeros = vec![0.0; network.params().values.len()];
        Self { m: zeros.clone(), v: zeros, step: 0, rate }
    }

    pub fn step(&mut self, network: &mut Network) {
        self.step += 1;
        let cpu = Cpu::detect().expect("this machine's instruction set is not asked for by name");
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
        adam(cpu, values, grads, &mut self.m, &mut self.v, &params);
    }
}

/// The gradients of the last pass in the order and layout of [`Snapshot::params`]; the network stays as it is.
///
/// # Panics
/// If a gradient of a padded lane is not zero.
pub fn gradients(network: &mut Network) -> Vec<f32> {
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
pub fn panic_message(f: impl FnOnce()) -> String {
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)).expect_err("it should have panicked");
    match panic.downcast::<String>() {
        Ok(message) => *message,
        Err(panic) => (*panic.downcast::<&str>().expect("panics have messages")).to_owned(),
    }
}
