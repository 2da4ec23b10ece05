//! Evaluation and prediction of whole networks, what they refuse, and that files and snapshots hold everything.

mod common;

use common::{Adam, CLASSES, SIZE, build, convolutional, gradients, images, panic_message, threads};
use selvedge_model::{Loss, Network, StepKey, Targets, Threads};

const KEY: StepKey = StepKey { seed: 1, step: 0 };

/// Takes some steps, so that weights and running statistics are none that a fresh network has.
fn train(network: &mut Network) {
    let mut adam = Adam::new(network, 0.003);
    let (images, labels) = images(64, 1);
    for step in 0..5 {
        let key = StepKey { seed: 1, step };
        network.forward_backward(&images, Targets::Labels(&labels), &Loss::default(), key);
        adam.step(network);
    }
}

#[test]
fn evaluation_agrees_with_prediction_on_any_number_of_images() {
    let mut network = build(&convolutional(), 64, &threads(2));
    train(&mut network);
    let (images, labels) = images(300, 9);
    let whole = network.predict(&images);
    for count in [0, 1, 2, 31, 32, 33, 64, 65, 200, 300] {
        let (images, labels) = (&images[..count * SIZE * SIZE], &labels[..count]);
        let probabilities = network.predict(images);
        assert_eq!(probabilities.dim(), (count, CLASSES));
        let (mut loss, mut correct) = (0.0, 0);
        for (image, &label) in labels.iter().enumerate() {
            let row = probabilities.row(image);
            assert_eq!(row, whole.row(image), "image {image} alone and among others");
            let sum: f32 = row.iter().sum();
            assert!((sum - 1.0).abs() < 1e-5 && row.iter().all(|&p| p >= 0.0), "{row}");
            let (best, _) = row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap();
            correct += usize::from(best == usize::from(label));
            loss -= f64::from(row[usize::from(label)]).ln();
        }
        let metrics = network.evaluate(images, labels);
        assert_eq!((metrics.correct, metrics.count), (correct, count));
        assert!((metrics.loss_sum - loss).abs() <= 1e-5 * loss, "{} and {loss}", metrics.loss_sum);
    }
}

#[test]
fn inference_changes_nothing() {
    let mut network = build(&convolutional(), 64, &threads(2));
    train(&mut network);
    let (before, gradient) = (network.weights_bytes(), gradients(&mut network));
    let (images, labels) = images(100, 2);
    network.evaluate(&images, &labels);
    network.predict(&images);
    assert!(network.weights_bytes() == before && gradients(&mut network) == gradient);
}

#[test]
fn a_batch_of_one_image_trains() {
    let mut network = build(&convolutional(), 1, &threads(2));
    let (images, labels) = images(1, 1);
    let mut adam = Adam::new(&network, 0.003);
    let mut pass = |network: &mut Network| {
        let metrics = network.forward_backward(&images, Targets::Labels(&labels), &Loss::default(), KEY);
        adam.step(network);
        metrics
    };
    let first = pass(&mut network);
    for _ in 0..20 {
        pass(&mut network);
    }
    let last = pass(&mut network);
    assert_eq!((first.count, last.correct), (1, 1));
    assert!(last.loss_sum < 0.5 * first.loss_sum, "{} after {}", last.loss_sum, first.loss_sum);
}

#[test]
fn hard_soft_targets_are_labels() {
    let mut network = build(&convolutional(), 70, &threads(2));
    let (images, labels) = images(70, 1);
    let mut soft = vec![0.0; 70 * CLASSES];
    labels.iter().enumerate().for_each(|(image, &label)| soft[image * CLASSES + usize::from(label)] = 1.0);
    let start = network.snapshot();
    let mut pass = |targets: Targets<'_>| {
        network.restore(&start);
        let metrics =
            network.forward_backward(&images, targets, &Loss { label_smoothing: 0.1, class_weights: None }, KEY);
        (metrics, gradients(&mut network))
    };
    let (by_label, by_share) = (pass(Targets::Labels(&labels)), pass(Targets::Soft(&soft)));
    assert_eq!(by_label.0.correct, by_share.0.correct);
    assert!((by_label.0.loss_sum - by_share.0.loss_sum).abs() < 1e-5 * by_label.0.loss_sum);
    for (a, b) in by_label.1.iter().zip(&by_share.1) {
        assert!((a - b).abs() < 1e-6, "{a} and {b}");
    }
}

#[test]
fn wrong_lengths_are_named() {
    let mut network = build(&convolutional(), 64, &threads(2));
    let (images, labels) = images(97, 1);
    let loss = Loss::default();
    let mut train = |images: &[u8], targets: Targets<'_>| {
        panic_message(|| _ = network.forward_backward(images, targets, &loss, KEY))
    };
    let soft = vec![0.1; 31 * CLASSES];
    let image = SIZE * SIZE;
    let messages = [
        (train(&images[..image + 1], Targets::Labels(&labels[..1])), ["145", "144"]),
        (train(&images[..32 * image], Targets::Labels(&labels[..31])), ["31", "32"]),
        (train(&images[..32 * image], Targets::Soft(&soft)), ["310", "320"]),
        (train(&images, Targets::Labels(&labels)), ["97", "64"]),
        (train(&[], Targets::Labels(&[])), ["0", "64"]),
        (train(&images[..image], Targets::Labels(&[10])), ["10", "10"]),
        (panic_message(|| _ = network.evaluate(&images, &labels[1..])), ["96", "97"]),
        (panic_message(|| _ = network.predict(&images[1..])), ["13967", "144"]),
    ];
    for (message, numbers) in messages {
        assert!(numbers.iter().all(|number| message.contains(number)), "{message}: {numbers:?}");
    }
}

#[test]
fn a_network_works_on_after_a_refusal() {
    let mut network = build(&convolutional(), 64, &threads(2));
    let (images, labels) = images(40, 1);
    panic_message(|| _ = network.forward_backward(&images, Targets::Labels(&[99; 40]), &Loss::default(), KEY));
    network.restore(&build(&convolutional(), 64, &threads(2)).snapshot());
    let pass = |network: &mut Network| {
        let metrics = network.forward_backward(&images, Targets::Labels(&labels), &Loss::default(), KEY);
        (metrics, gradients(network))
    };
    assert!(pass(&mut network) == pass(&mut build(&convolutional(), 64, &threads(2))));
}

#[test]
fn a_file_holds_everything() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let mut network = build(&convolutional(), 64, &threads(2));
    train(&mut network);
    network.save(&path).unwrap();
    let images = images(150, 4).0;
    for threads in [1, 3] {
        let mut loaded = Network::load(&path, Threads::new(threads).unwrap()).unwrap();
        assert_eq!(loaded.spec(), network.spec());
        assert_eq!(loaded.weights_bytes(), network.weights_bytes());
        assert_eq!(loaded.predict(&images), network.predict(&images));
    }
}

#[test]
fn a_snapshot_holds_everything() {
    let mut network = build(&convolutional(), 64, &threads(2));
    train(&mut network);
    let (snapshot, bytes) = (network.snapshot(), network.weights_bytes());
    let images = images(50, 4).0;
    let probabilities = network.predict(&images);
    train(&mut network);
    assert!(network.snapshot() != snapshot && network.predict(&images) != probabilities);
    let mut fresh = build(&convolutional(), 64, &threads(1));
    for network in [&mut network, &mut fresh] {
        network.restore(&snapshot);
        assert!(network.weights_bytes() == bytes);
        assert_eq!(network.predict(&images), probabilities);
    }
    // What comes after a restored snapshot is what came after the original.
    train(&mut network);
    train(&mut fresh);
    assert!(network.weights_bytes() == fresh.weights_bytes());
}
