//! What a profile reads of a network: its operations with their costs, and where the passes' time went.

mod common;

use std::time::{Duration, Instant};

use common::{build_in, convolutional, images, precisions, threads};
use selvedge_model::{Loss, StepKey, Targets};

const BATCH: usize = 100;

#[test]
fn operations_are_named_after_the_layers_they_compute() {
    let network = build_in(precisions()[0], &convolutional(), BATCH, &threads(1));
    let operations = network.operations(BATCH);
    let names: Vec<&str> = operations.iter().map(|operation| operation.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "0.conv2d",
            "1.batch_norm + relu + max_pool2d",
            "4.dropout",
            "5.residual",
            "5.residual.0.conv2d",
            "5.residual.1.batch_norm + silu + residual",
            "6.conv2d + relu + max_pool2d",
            "10.dense",
            "11.gelu",
            "12.dropout",
            "13.dense",
        ]
    );
    let summary = convolutional().summary().unwrap();
    for name in names {
        let layer = name.split(" + ").next().unwrap();
        assert!(summary.contains(layer), "{layer} is not in the summary");
    }
}

#[test]
fn costs_follow_the_shapes() {
    for precision in precisions() {
        let network = build_in(precision, &convolutional(), BATCH, &threads(1));
        let operations = network.operations(64);
        let dense = &operations[7];
        assert_eq!((dense.kind, dense.input, dense.output), ("dense", [3, 3, 12], [1, 1, 70]));
        assert_eq!(dense.forward.flops, 2 * 64 * 3 * 3 * 12 * 70, "{precision}");
        assert_eq!(dense.backward.flops, 2 * dense.forward.flops, "{precision}");
        // Of the network's first layer, only the weights have a gradient.
        assert_eq!(operations[0].backward.flops, operations[0].forward.flops, "{precision}");
        let element = if precision == selvedge_model::Precision::Bf16 { 2 } else { 4 };
        // The normalisation reads its input twice, and writes the pooled tensor, the indices and their inputs.
        let (read, written) = (2 * 12 * 12 * element, 6 * 6 * (2 * element + 2));
        assert_eq!(operations[1].forward.bytes, 64 * 16 * (read + written), "{precision}");
        // The fused pooling's result is stored, and the indices, but not what is pooled.
        // In f32 the weights are read as they are at 36 pairs of points.
        let taps = if precision == selvedge_model::Precision::Bf16 { 9 } else { 36 };
        let (x, y, weights) = (36 * 16, 9 * 16, taps * 16 * 16);
        assert_eq!(
            operations[6].forward.bytes,
            64 * (x * element + y * (element + 2)) + weights * element,
            "{precision}"
        );
        let doubled = network.operations(128);
        assert_eq!(doubled[3].backward.bytes, 2 * operations[3].backward.bytes);
        assert_eq!(operations[3].forward.bytes, 0, "the fork does nothing");
        // The sum after the normalisation reads another tensor in the same pass.
        assert_eq!(operations[5].forward.bytes, 64 * 4 * 36 * 16 * element, "{precision}");
    }
}

#[test]
fn times_are_of_every_operation_and_no_more_than_there_was() {
    for precision in precisions() {
        let threads = threads(2);
        let mut network = build_in(precision, &convolutional(), BATCH, &threads);
        let (images, labels) = images(BATCH, 3);
        let pass = |network: &mut selvedge_model::Network, step| {
            network.params_mut();
            let key = StepKey { seed: 1, step };
            network.forward_backward(&images, Targets::Labels(&labels), &Loss::default(), key)
        };
        pass(&mut network, 0);
        assert_eq!(network.times(), None);

        network.record_times(true);
        let started = Instant::now();
        (1..4).for_each(|step| {
            pass(&mut network, step);
        });
        let available = started.elapsed() * 2;
        let times = network.times().unwrap();
        let operations = network.operations(BATCH);
        assert_eq!(times.operations.len(), operations.len());
        for (operation, [forward, backward]) in operations.iter().zip(&times.operations) {
            // The beginning of a residual block does nothing forward, which may take no tick of the clock.
            assert!(*forward > Duration::ZERO || operation.forward.bytes == 0, "{}", operation.name);
            assert!(*backward > Duration::ZERO, "{}", operation.name);
        }
        for time in [times.packing, times.input, times.loss, times.gradient_sums] {
            assert!(time > Duration::ZERO, "{times:?}");
        }
        assert!(times.total() <= available, "{:?} of {available:?}", times.total());

        network.record_times(true);
        assert_eq!(network.times().unwrap().total(), Duration::ZERO, "recording begins from zero");
        network.record_times(false);
        assert_eq!(network.times(), None);
    }
}

#[test]
fn recording_changes_no_bit() {
    let (images, labels) = images(BATCH, 3);
    let grads = [false, true].map(|on| {
        let mut network = build_in(precisions()[0], &convolutional(), BATCH, &threads(2));
        network.record_times(on);
        let key = StepKey { seed: 1, step: 0 };
        network.forward_backward(&images, Targets::Labels(&labels), &Loss::default(), key);
        network.params().grads.to_vec()
    });
    assert_eq!(grads[0], grads[1]);
}
