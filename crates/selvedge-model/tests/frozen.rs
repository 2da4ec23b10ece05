//! Frozen weights, and a first layer that whitens its images: in both precisions, whatever computes the layers.

mod common;

use common::{Adam, CLASSES, SIZE, build_in, bytes, gradients, images, precisions, spec, threads};
use selvedge_model::{Loss, ModelSpec, Network, ParamKind, Precision, StepKey, Targets};

const KEY: StepKey = StepKey { seed: 5, step: 1 };

/// The gradients of each parameter with its name, after two passes: the second finds what the first left.
fn gradients_of(precision: Precision, spec: &ModelSpec) -> Vec<(String, bool, Vec<f32>)> {
    let (images, labels) = images(75, 3);
    let mut network = build_in(precision, spec, 75, &threads(2));
    for _ in 0..2 {
        network.forward_backward(&images, Targets::Labels(&labels), &Loss::default(), KEY);
    }
    let all = gradients(&mut network);
    let mut rest = &all[..];
    let entries = &network.params().entries;
    let split = entries.iter().map(|entry| {
        let (these, after) = rest.split_at(entry.shape.iter().product());
        rest = after;
        (entry.name.clone(), entry.frozen, these.to_vec())
    });
    split.collect()
}

/// First layers of every kind, then weights whose gradient is summed by groups and by panels.
#[test]
fn frozen_weights_have_no_gradient_and_change_no_other_bit() {
    let rest = r#"
        { layer = "conv2d", filters = 20, kernel = 3 FROZEN },
        { layer = "relu" },
        { layer = "max_pool2d" },
        { layer = "conv2d", filters = 16, kernel = 3, bias = false FROZEN },
        { layer = "batch_norm" },
        { layer = "gelu" },
        { layer = "flatten" },
        { layer = "dense", units = 200 FROZEN },
        { layer = "relu" },
        { layer = "dense", units = "classes" FROZEN },
    "#;
    let firsts = [
        r#"{ layer = "conv2d", filters = 10, kernel = 3 FROZEN }, { layer = "silu" },"#,
        r#"{ layer = "conv2d", filters = 10, kernel = 3, bias = false FROZEN }, { layer = "silu" },"#,
        r#"{ layer = "conv2d", filters = 10, kernel = 3, bias = false FROZEN }, { layer = "relu" },"#,
        r#"{ layer = "conv2d", filters = 10, kernel = 3 FROZEN }, { layer = "relu" }, { layer = "max_pool2d" },"#,
        r#"{ layer = "conv2d", filters = 10, kernel = 3, bias = false FROZEN }, { layer = "batch_norm" }, { layer = "relu" },"#,
    ];
    for first in firsts {
        let layers = format!("{first}{rest}");
        let trained = spec(&layers.replace("FROZEN", ""));
        let frozen = spec(&layers.replace("FROZEN", ", frozen = true"));
        for precision in precisions() {
            let [trained, frozen] = [&trained, &frozen].map(|spec| gradients_of(precision, spec));
            for ((name, _, trained), (_, is_frozen, frozen)) in trained.into_iter().zip(frozen) {
                assert_eq!(is_frozen, name.ends_with(".weight"), "{name}");
                assert!(trained.iter().any(|&gradient| gradient != 0.0), "{name} in {precision} after {first}");
                let expected = if is_frozen { vec![0.0; trained.len()] } else { trained };
                assert!(frozen == expected, "{name} in {precision} after {first}");
            }
        }
    }
}

#[test]
fn a_frozen_layer_that_whitens_keeps_its_filters_and_trains_its_bias() {
    let whitening = spec(
        r#"
        { layer = "conv2d", filters = 16, kernel = 3, init = "whitening", frozen = true },
        { layer = "gelu" },
        { layer = "conv2d", filters = 32, kernel = 3, bias = false, init = "dirac" },
        { layer = "max_pool2d" },
        { layer = "batch_norm", scale = false },
        { layer = "gelu" },
        { layer = "flatten" },
        { layer = "dense", units = "classes", bias = false, init = "fan_in_uniform" },
        "#,
    );
    let (images, labels) = images(64, 3);
    for precision in precisions() {
        let mut network = build_in(precision, &whitening, 64, &threads(2));
        let drawn = network.snapshot();
        let before = network.predict(&images);
        assert!(network.needs_whitening());
        network.whiten(&images).unwrap();
        let start = network.snapshot();
        assert_ne!(network.predict(&images), before, "the passes see the new filters");
        assert_ne!(drawn.params[..144], start.params[..144]);
        assert_eq!(drawn.params[144..], start.params[144..], "nothing else changed");

        let mut adam = Adam::new(&network, 0.01);
        let mut losses = vec![];
        for step in 0..30 {
            let key = StepKey { seed: 11, step };
            losses.push(network.forward_backward(&images, Targets::Labels(&labels), &Loss::default(), key).loss());
            adam.step(&mut network);
        }
        let end = network.snapshot();
        assert_eq!(start.params[..144], end.params[..144], "the filters in {precision}");
        assert!(end.params[144..160].iter().all(|&bias| bias != 0.0), "the biases in {precision}");
        assert!(losses[29] < 0.5 * losses[0], "{losses:?} in {precision}");
    }
}

#[test]
fn whitening_needs_enough_images() {
    let layers = r#"
        { layer = "conv2d", filters = 16, kernel = 11, init = "whitening" },
        { layer = "flatten" },
        { layer = "dense", units = "classes" },
    "#;
    let mut network = build_in(Precision::F32, &spec(layers), 32, &threads(1));
    let whiten = |network: &mut Network, count: usize| network.whiten(&bytes(count * SIZE * SIZE, 3));
    let message = whiten(&mut network, 30).unwrap_err().to_string();
    for part in ["layer 0.conv2d", "121 patches of 11x11 pixels", "30 images have 120", "more training images"] {
        assert!(message.contains(part), "{part:?} is missing from {message}");
    }
    assert!(whiten(&mut network, 31).is_ok());

    // A network without such a layer is left alone.
    let plain = spec(r#"{ layer = "flatten" }, { layer = "dense", units = "classes" }"#);
    let mut network = build_in(Precision::F32, &plain, 32, &threads(1));
    let before = network.weights_bytes();
    assert!(!network.needs_whitening() && whiten(&mut network, 1).is_ok());
    assert_eq!(network.weights_bytes(), before);
    assert_eq!(network.params().entries.iter().filter(|entry| entry.kind == ParamKind::Weight).count(), 1);
    assert_eq!(network.spec().classes, CLASSES);
}
