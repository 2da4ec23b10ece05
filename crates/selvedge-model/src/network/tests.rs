//! Whole networks on every instruction set of this machine: against PyTorch, and against each other.

mod agreement;
mod gradients;
mod groups;
mod images;

use super::*;

fn options(max_batch: usize, precision: Precision) -> BuildOptions {
    let threads = Threads::new(2).expect("a few threads can be started");
    BuildOptions { seed: 1, max_batch, precision, threads }
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

/// Panics unless the distance of the numbers from the expected ones is at most `relative` of the length of these, and
/// `absolute`. For bf16, whose errors are too large to ask of each number that its own be small.
#[track_caller]
fn assert_near(what: &str, got: &[f32], want: &[f32], relative: f32, absolute: f32) {
    assert_eq!(got.len(), want.len(), "{what}: lengths");
    let length = |x: &mut dyn Iterator<Item = f32>| x.map(|x| x * x).sum::<f32>().sqrt();
    let distance = length(&mut got.iter().zip(want).map(|(got, want)| got - want));
    let allowed = relative * length(&mut want.iter().copied()) + absolute;
    assert!(distance <= allowed, "{what}: {distance} away from what is expected, up to {allowed} allowed");
}
