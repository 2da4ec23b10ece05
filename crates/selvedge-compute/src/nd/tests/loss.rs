//! The loss of arrays against its definition.

use ndarray::{Array2, Axis, s};

use super::*;
use crate::nd::loss::{self, Targets};
use crate::test_support::cpus;

/// The mean loss, its gradient, and the probabilities.
fn reference(logits: &Array2<f64>, targets: &Array2<f64>, smoothing: f64) -> (f64, Array2<f64>, Array2<f64>) {
    let (images, classes) = logits.dim();
    let mut probabilities = logits.mapv(f64::exp);
    for mut row in probabilities.axis_iter_mut(Axis(0)) {
        let sum = row.sum();
        row /= sum;
    }
    let smoothed = targets.mapv(|t| (1.0 - smoothing) * t + smoothing / classes as f64);
    let loss = -(&smoothed * &probabilities.mapv(f64::ln)).sum() / images as f64;
    let mass = smoothed.sum_axis(Axis(1)).insert_axis(Axis(1));
    (loss, (&mass * &probabilities - &smoothed) / images as f64, probabilities)
}

#[test]
fn matches_reference() {
    for (classes, images) in [1, 3, 10, 16, 100].into_iter().flat_map(|classes| IMAGES.map(|n| (classes, n))) {
        let logits = numbers(images as u64, (images, classes));
        let labels = Array1::from_shape_fn(images, |image| (image * 7 % classes) as u8);
        let one_hot = Array2::from_shape_fn(logits.dim(), |(n, c)| f64::from(u8::from(usize::from(labels[n]) == c)));
        let soft = numbers(3, logits.dim()).mapv(f32::abs);
        for (cpu, smoothing) in cpus().into_iter().flat_map(|cpu| [0.0, 0.125].map(|smoothing| (cpu, smoothing))) {
            let name = named(cpu, (images, classes, smoothing));
            for (targets, weights) in
                [(Targets::Labels(labels.view()), &one_hot), (Targets::Soft(soft.view()), &wide(soft.view()))]
            {
                let (mean, gradient, _) = reference(&wide(logits.view()), weights, f64::from(smoothing));
                let loss = loss::cross_entropy(cpu, logits.view(), targets, smoothing).unwrap();
                assert!((loss.mean - mean).abs() < 1e-5 * mean.abs().max(1.0), "{name}: {} and not {mean}", loss.mean);
                assert_close(&name, &loss.dlogits, &gradient, 1e-6);
            }
            let correct = logits
                .axis_iter(Axis(0))
                .zip(&labels)
                .filter(|(row, label)| row.iter().all(|&logit| logit <= row[usize::from(**label)]));
            let loss = loss::cross_entropy(cpu, logits.view(), Targets::Labels(labels.view()), smoothing).unwrap();
            assert_eq!(loss.correct, correct.count(), "{name}");
            let probabilities = loss::softmax(cpu, logits.view()).unwrap();
            assert_close(&name, &probabilities, &reference(&wide(logits.view()), &one_hot, 0.0).2, 1e-6);
        }
    }
}

#[test]
fn layouts_and_threads_change_nothing() {
    let cpu = *cpus().last().unwrap();
    let logits = numbers(1, (100, 10));
    let labels = Array1::from_shape_fn(100, |image| (image % 10) as u8);
    let run = |logits: ArrayView<'_, f32, ndarray::Ix2>| {
        let loss = loss::cross_entropy(cpu, logits, Targets::Labels(labels.view()), 0.1).unwrap();
        (loss, loss::softmax(cpu, logits).unwrap())
    };
    let want = on_any_threads("loss", || run(logits.view()));
    let transposed = logits.t().as_standard_layout().into_owned();
    assert!(run(transposed.t()) == want);
    let mut wider = Array2::zeros((200, 20));
    wider.slice_mut(s![..;2, ..;2]).assign(&logits);
    assert!(run(wider.slice(s![..;2, ..;2])) == want);
}
