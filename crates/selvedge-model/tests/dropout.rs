//! Dropout in whole networks: which values are dropped, seen through the gradient of the dense layer after it.

mod common;

use common::{CLASSES, SIZE, build, convolutional, gradients, images, spec, threads};
use selvedge_model::{Loss, Network, Snapshot, StepKey, Targets};

/// Values of an image.
const VALUES: usize = SIZE * SIZE;

/// A dense layer after these layers, its weights zero, so that every class gets the same probability.
fn probe(layers: &str) -> Network {
    let layers = format!(r#"{{ layer = "flatten" }}, {layers} {{ layer = "dense", units = "classes", bias = false }}"#);
    let mut spec = spec(&layers);
    (spec.input.mean, spec.input.std) = (0.0, 1.0);
    let mut network = build(&spec, 64, &threads(2));
    network.restore(&Snapshot { params: vec![0.0; VALUES * CLASSES], buffers: vec![] });
    network
}

/// What the dense layer sees of one white image: 0, or 1 divided by the share that is kept.
fn seen(network: &mut Network, key: StepKey) -> Vec<f32> {
    network.forward_backward(&[255; VALUES], Targets::Labels(&[0]), &Loss::default(), key);
    // The gradient of the weight from value v to class 1 is v times the class' probability, 1/10.
    gradients(network).chunks(CLASSES).map(|classes| classes[1] * CLASSES as f32).collect()
}

/// The share of positions that `f` holds of.
fn share<T>(x: &[T], f: impl Fn(&T) -> bool) -> f64 {
    x.iter().filter(|x| f(x)).count() as f64 / x.len() as f64
}

/// Panics unless a share of `count` draws is what is expected up to five standard deviations.
#[track_caller]
fn assert_share(share: f64, expected: f64, count: usize) {
    let deviation = (expected * (1.0 - expected) / count as f64).sqrt();
    assert!((share - expected).abs() < 5.0 * deviation, "a share of {share}, not {expected} ± {deviation}");
}

const DROPOUT: &str = r#"{ layer = "dropout", rate = 0.4 },"#;

/// What is seen in 40 steps of two runs.
fn many_seen(network: &mut Network) -> Vec<Vec<f32>> {
    let keys = (0..40).map(|i| StepKey { seed: 3 + i % 2, step: i / 2 });
    keys.map(|key| seen(network, key)).collect()
}

#[test]
fn the_mean_is_preserved() {
    let all = many_seen(&mut probe(DROPOUT)).concat();
    let kept = share(&all, |&x| x > 0.0);
    assert_share(kept, 0.6, all.len());
    assert!(all.iter().all(|&x| x == 0.0 || (x - 1.0 / 0.6).abs() < 1e-5), "kept values are divided by their share");
    let mean = all.iter().sum::<f32>() / all.len() as f32;
    assert!((f64::from(mean) - kept / 0.6).abs() < 1e-4, "{mean}");
}

#[test]
fn masks_of_steps_and_seeds_are_independent() {
    let all = many_seen(&mut probe(DROPOUT));
    for i in 0..all.len() {
        for j in 0..i {
            let both: Vec<_> = all[i].iter().zip(&all[j]).collect();
            assert_share(share(&both, |(a, b)| **a > 0.0 && **b > 0.0), 0.36, VALUES);
        }
    }
}

#[test]
fn masks_of_layers_are_independent() {
    let all = many_seen(&mut probe(&[DROPOUT, DROPOUT].concat())).concat();
    assert_share(share(&all, |&x| x > 0.0), 0.36, all.len());
}

#[test]
fn masks_of_images_are_independent() {
    let mut network = probe(DROPOUT);
    // Image i, of class i mod 10, adds to the gradients of all classes alike, but to that of its own class less.
    let labels: Vec<u8> = (0..40).map(|i| if i < 10 { i } else { 9 }).collect();
    let images = [255; 40 * VALUES].to_vec();
    network.forward_backward(&images, Targets::Labels(&labels), &Loss::default(), StepKey { seed: 1, step: 1 });
    let gradients = gradients(&mut network);
    let differs = |a: usize, b: usize| {
        let rows: Vec<&[f32]> = gradients.chunks(CLASSES).collect();
        share(&rows, |row| (row[a] - row[b]).abs() > 1e-4)
    };
    for class in 1..9 {
        assert_share(differs(0, class), 2.0 * 0.4 * 0.6, VALUES);
    }
}

#[test]
fn equal_keys_draw_equal_masks() {
    let mut network = probe(DROPOUT);
    let keys = [StepKey { seed: 1, step: 2 }, StepKey { seed: 2, step: 1 }];
    let first = keys.map(|key| seen(&mut network, key));
    assert_eq!(first, keys.map(|key| seen(&mut probe(DROPOUT), key)));
    assert_ne!(first[0], first[1]);
}

#[test]
fn inference_drops_nothing() {
    let with = convolutional();
    let mut without = with.clone();
    without.layers.retain(|layer| !matches!(layer, selvedge_model::LayerSpec::Dropout { .. }));
    assert_eq!(without.layers.len() + 2, with.layers.len());
    let [mut with, mut without] = [with, without].map(|spec| build(&spec, 64, &threads(2)));
    without.restore(&with.snapshot());
    let (images, labels) = images(50, 1);
    assert_eq!(with.predict(&images), without.predict(&images));
    assert_eq!(with.evaluate(&images, &labels), without.evaluate(&images, &labels));
}

/// A residual body that is the identity, before [`probe`]'s dense layer.
fn stochastic_depth(drop: &str) -> Network {
    let layers = format!(
        r#"
        {{ layer = "residual", {drop} layers = [{{ layer = "dropout", rate = 0.0 }}] }},
        {{ layer = "flatten" }},
        {{ layer = "dense", units = "classes", bias = false }},
        "#
    );
    let mut spec = spec(&layers);
    (spec.input.mean, spec.input.std) = (0.0, 1.0);
    let mut network = build(&spec, 64, &threads(2));
    network.restore(&Snapshot { params: vec![0.0; VALUES * CLASSES], buffers: vec![] });
    network
}

#[test]
fn stochastic_depth_drops_the_body_of_whole_images() {
    let mut network = stochastic_depth("drop = 0.4,");
    let keys = (0..400).map(|i| StepKey { seed: 3 + i % 2, step: i / 2 });
    let all: Vec<f32> = keys
        .map(|key| {
            let seen = seen(&mut network, key);
            assert!(seen.iter().all(|&x| (x - seen[0]).abs() < 1e-5), "an image is dropped in whole, or kept");
            seen[0]
        })
        .collect();
    assert!(all.iter().all(|&x| (x - 1.0).abs() < 1e-5 || (x - 1.0 - 1.0 / 0.6).abs() < 1e-5), "{all:?}");
    assert_share(share(&all, |&x| x > 1.5), 0.6, all.len());
}

#[test]
fn stochastic_depth_drops_nothing_in_inference() {
    let (images, _) = images(40, 2);
    let weights = Snapshot { params: (0..VALUES * CLASSES).map(|i| (i % 7) as f32 * 0.1).collect(), buffers: vec![] };
    let predict = |drop: &str| {
        let mut network = stochastic_depth(drop);
        network.restore(&weights);
        network.predict(&images)
    };
    assert_eq!(predict("drop = 0.4,"), predict(""));
}
