//! Whole networks on every instruction set of this machine: against PyTorch, and against each other.

mod agreement;
mod gradients;

use selvedge_compute::Threads;

use super::*;

fn options(max_batch: usize, threads: usize) -> BuildOptions {
    let threads = Threads::new(threads).expect("a few threads can be started");
    BuildOptions { seed: 1, max_batch, precision: Precision::F32, threads }
}

/// The gradients of the last pass in the order and layout of [`Snapshot::params`].
fn logical_gradients(network: &Network) -> Vec<f32> {
    let mut state = State::zeroed(&network.shape);
    state.params.values.copy_from_slice(&network.params().grads);
    state.snapshot(&network.shape).params
}

/// Panics unless each number is its expected value up to `relative` of the largest expected one, and up to `absolute`.
#[track_caller]
fn assert_close(what: &str, got: &[f32], want: &[f32], relative: f32, absolute: f32) {
    assert_eq!(got.len(), want.len(), "{what}: lengths");
    let allowed = relative * largest(want) + absolute;
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert!((got - want).abs() <= allowed, "{what}: number {i} is {got}, not {want}, up to {allowed}");
    }
}

fn largest(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |largest, x| largest.max(x.abs()))
}
