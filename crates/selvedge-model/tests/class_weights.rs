//! Losses with a weight for each class, in whole networks.

mod common;

use common::{CLASSES, SIZE, build, gradients, images, spec, threads};
use selvedge_model::{BatchMetrics, Loss, Network, StepKey, Targets};

const KEY: StepKey = StepKey { seed: 5, step: 1 };

/// Class 4 counts three times, class 7 twice.
fn weights() -> Vec<f32> {
    let mut weights = vec![1.0; CLASSES];
    (weights[4], weights[7]) = (3.0, 2.0);
    weights
}

fn network() -> Network {
    let layers = r#"{ layer = "conv2d", filters = 5, kernel = 3 }, { layer = "relu" }, { layer = "flatten" },
        { layer = "dense", units = "classes" },"#;
    build(&spec(layers), 128, &threads(2))
}

fn soft(labels: &[u8]) -> Vec<f32> {
    labels.iter().flat_map(|&label| (0..CLASSES).map(move |class| f32::from(class == usize::from(label)))).collect()
}

#[test]
fn a_weight_of_n_counts_as_n_images() {
    let (images, labels) = images(50, 3);
    let (mut repeated, mut repeated_labels) = (vec![], vec![]);
    for (image, &label) in images.chunks(SIZE * SIZE).zip(&labels) {
        for _ in 0..weights()[usize::from(label)] as usize {
            repeated.extend_from_slice(image);
            repeated_labels.push(label);
        }
    }
    assert!(repeated_labels.len() > 60, "{}", repeated_labels.len());
    let mut network = network();
    let plain = Loss::default();
    let expected = network.forward_backward(&repeated, Targets::Labels(&repeated_labels), &plain, KEY).loss();
    let expected_gradients = gradients(&mut network);
    let weighted = Loss { class_weights: Some(weights()), ..plain };
    for targets in [Targets::Labels(&labels), Targets::Soft(&soft(&labels))] {
        let metrics: BatchMetrics = network.forward_backward(&images, targets, &weighted, KEY);
        assert!((metrics.loss() - expected).abs() < 1e-6 * expected, "{} {expected}", metrics.loss());
        assert_eq!(metrics.count, 50);
        for (found, expected) in gradients(&mut network).iter().zip(&expected_gradients) {
            assert!((found - expected).abs() < 2e-6, "{found} {expected}");
        }
    }
}

#[test]
fn equal_weights_of_any_size_change_next_to_nothing() {
    let (images, labels) = images(40, 3);
    let mut network = network();
    let plain = Loss { label_smoothing: 0.1, ..Loss::default() };
    let expected = network.forward_backward(&images, Targets::Labels(&labels), &plain, KEY);
    let weighted = Loss { class_weights: Some(vec![8.0; CLASSES]), ..plain };
    let found = network.forward_backward(&images, Targets::Labels(&labels), &weighted, KEY);
    assert!((found.loss() - expected.loss()).abs() < 1e-6, "{} {}", found.loss(), expected.loss());
    assert_eq!(found.correct, expected.correct);
}
