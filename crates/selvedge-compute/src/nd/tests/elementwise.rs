//! Activations and dropout of arrays against the kernels' own definitions.

use ndarray::{Array, Array4, s};

use super::*;
use crate::activation::{Activation, tests::reference, tests::slope};
use crate::nd::{activation, dropout};
use crate::test_support::cpus;

#[test]
fn activations_of_any_shape_match_their_definition() {
    for (cpu, kind) in cpus().into_iter().flat_map(|cpu| Activation::ALL.map(|kind| (cpu, kind))) {
        for len in [0, 1, 15, 16, 33, 40_000] {
            let (x, dy) = (numbers(1, len), numbers(2, len));
            let name = named(cpu, (kind, len));
            let y = activation::forward(cpu, kind, x.view());
            assert_close(&name, &y, &wide(x.view()).mapv(|x| reference(kind, x)), 1e-6);
            let dx = activation::backward(cpu, kind, x.view(), dy.view()).unwrap();
            assert_close(&name, &dx, &(wide(x.view()).mapv(|x| slope(kind, x)) * wide(dy.view())), 2e-6);
        }
    }
}

#[test]
fn layouts_and_threads_change_no_activation() {
    let cpu = *cpus().last().unwrap();
    let (x, dy) = (numbers(1, (40, 9, 8, 19)), numbers(2, (40, 9, 8, 19)));
    let run = |x: &Array4<f32>, dy: &Array4<f32>| {
        let y = activation::forward(cpu, Activation::Gelu, x.view());
        (y, activation::backward(cpu, Activation::Gelu, x.view(), dy.view()).unwrap())
    };
    let want = on_any_threads("activation", || run(&x, &dy));
    for ((name, x), (_, dy)) in layouts(&x).into_iter().zip(layouts(&dy).into_iter().rev()) {
        assert!(run(&x, &dy) == want, "{name}");
    }
    let zero_dimensional = Array::from_elem((), -1.0);
    assert_eq!(activation::forward(cpu, Activation::Relu, zero_dimensional.view()), Array::from_elem((), 0.0));
}

#[test]
fn dropout_keeps_its_share_whatever_the_batch() {
    let cpu = *cpus().last().unwrap();
    let x = numbers(1, (70, 9, 8, 19));
    let want = on_any_threads("dropout", || dropout::apply(cpu, x.view(), 0.25, 3).unwrap());
    let kept = want.iter().filter(|&&y| y != 0.0).count() as f64 / want.len() as f64;
    assert!((kept - 0.75).abs() < 0.01, "{kept} of the elements are kept");
    assert!(want.iter().zip(&x).all(|(&y, &x)| y == 0.0 || (y - x / 0.75).abs() < 1e-6));
    for (name, x) in layouts(&x) {
        assert!(dropout::apply(cpu, x.view(), 0.25, 3).unwrap() == want, "{name}");
    }
    for cpu in cpus() {
        let first = dropout::apply(cpu, x.slice(s![..5, .., .., ..]), 0.25, 3).unwrap();
        assert_eq!(first, want.slice(s![..5, .., .., ..]), "{}", cpu.isa());
    }
    let nothing = Array4::<f32>::zeros((0, 3, 3, 3));
    assert_eq!(dropout::apply(cpu, nothing.view(), 0.5, 1).unwrap(), nothing);
}
