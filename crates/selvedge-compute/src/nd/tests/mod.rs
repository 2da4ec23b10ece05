//! The operations on arrays against their definitions in f64 and against PyTorch, in several memory layouts, on every
//! instruction set, with the same bits on any number of threads.

mod blocks;
mod conv;
mod elementwise;
mod errors;
mod loss;
mod norm;
mod pool;
mod pytorch;

use ndarray::{Array, Array1, Array4, ArrayView, Dimension, ShapeBuilder, s};

use crate::test_support::Numbers;
use crate::{Cpu, Threads};

/// Batches around the size of a block.
const IMAGES: [usize; 4] = [1, 31, 32, 70];

/// Numbers between −2 and 2.
fn numbers<D: Dimension>(seed: u64, shape: impl ShapeBuilder<Dim = D>) -> Array<f32, D> {
    let mut numbers = Numbers::new(seed);
    Array::from_shape_simple_fn(shape, || numbers.uniform(-2.0, 2.0))
}

/// As f64, in the array's own order.
fn wide<D: Dimension>(x: ArrayView<'_, f32, D>) -> Array<f64, D> {
    x.mapv(f64::from)
}

/// Panics unless each element is its expected value up to `tolerance`, relative above 1 and absolute below.
#[track_caller]
fn assert_close<D: Dimension>(what: &str, got: &Array<f32, D>, want: &Array<f64, D>, tolerance: f64) {
    assert_eq!(got.shape(), want.shape(), "{what}: shapes");
    for ((at, &got), &want) in got.indexed_iter().zip(want) {
        let allowed = tolerance * want.abs().max(1.0);
        assert!((f64::from(got) - want).abs() <= allowed, "{what}: element {at:?} is {got}, not {want}");
    }
}

/// The same batch in other memory layouts: NCHW, a part of every second element of a larger array, and backwards.
fn layouts<T: Copy + Default>(x: &Array4<T>) -> Vec<(&'static str, Array4<T>)> {
    let (images, height, width, channels) = x.dim();
    let nchw = x.view().permuted_axes([0, 3, 1, 2]).as_standard_layout().into_owned().permuted_axes([0, 2, 3, 1]);
    let mut wider = Array4::from_elem((images + 1, height * 3, width + 2, channels * 2 + 1), T::default());
    wider.slice_mut(s![1.., ..;3, 1..width + 1, 1..;2]).assign(x);
    let part = wider.slice_move(s![1.., ..;3, 1..width + 1, 1..;2]);
    let mut backwards = x.clone();
    backwards.slice_mut(s![..;-1, ..;-1, ..;-1, ..;-1]).assign(x);
    let backwards = backwards.slice_move(s![..;-1, ..;-1, ..;-1, ..;-1]);
    let all = vec![("NCHW", nchw), ("a part", part), ("backwards", backwards)];
    all.iter().for_each(|(_, other)| assert_eq!(other.dim(), x.dim()));
    all
}

/// What `run` gives on every number of threads, which must be the same.
fn on_any_threads<R: Send + PartialEq>(what: &str, run: impl Fn() -> R + Sync) -> R {
    let on = |count: usize| Threads::new(count).unwrap().install(&run);
    let result = on(1);
    for count in 2..=5 {
        assert!(on(count) == result, "{what}: other bits on {count} threads than on one");
    }
    result
}

/// The name of a case in a failure.
fn named(cpu: Cpu, case: impl std::fmt::Debug) -> String {
    format!("{case:?} on {}", cpu.isa())
}

/// As many numbers as `values` has.
fn of<const N: usize>(values: [f64; N]) -> Array1<f64> {
    Array1::from_iter(values)
}
