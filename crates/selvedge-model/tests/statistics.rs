//! Running statistics estimated by forward passes alone.

mod common;

use common::{build_in, convolutional, images, precisions, threads};
use selvedge_model::{Loss, Network, StepKey, Targets};

const KEY: StepKey = StepKey { seed: 5, step: 1 };

/// What both batch norms of the network move their statistics by in a training pass, unless they say otherwise.
const MOMENTUM: f32 = 0.1;

fn statistics(network: &Network) -> Vec<f32> {
    network.statistics().to_vec()
}

#[test]
fn a_share_as_large_as_the_momentum_moves_them_as_a_training_pass_does() {
    for precision in precisions() {
        for count in [1, 3] {
            let (images, labels) = images(70, 3);
            let mut network = build_in(precision, &convolutional(), 70, &threads(count));
            let begun = network.snapshot();
            network.forward_backward(&images, Targets::Labels(&labels), &Loss::default(), KEY);
            let expected = statistics(&network);
            network.restore(&begun);
            let grads = network.params().grads.to_vec();
            network.estimate_statistics(&images, KEY, MOMENTUM);
            assert_eq!(statistics(&network), expected, "{precision}, {count} threads");
            assert_eq!(network.snapshot().params, begun.params);
            assert_eq!(network.params().grads[..], grads[..]);
        }
    }
}

#[test]
fn shares_of_one_over_n_make_them_means() {
    let [(first, _), (second, _)] = [images(40, 3), images(40, 4)];
    let mut network = build_in(precisions()[0], &convolutional(), 40, &threads(2));
    let mut of = |images: &[u8]| {
        network.estimate_statistics(images, KEY, 1.0);
        statistics(&network)
    };
    let parts = [of(&first), of(&second)];
    network.estimate_statistics(&first, KEY, 1.0);
    network.estimate_statistics(&second, KEY, 0.5);
    for ((mean, a), b) in network.statistics().iter().zip(&parts[0]).zip(&parts[1]) {
        assert!((mean - (a + b) / 2.0).abs() <= 1e-6 * mean.abs().max(1.0), "{mean} of {a} and {b}");
    }
    assert_ne!(parts[0], parts[1]);
}
