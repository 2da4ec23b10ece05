//! Test-time averaging of whole networks, against the average written out view by view.

mod common;

use common::{CLASSES, SIZE, build, build_in, convolutional, images, panic_message, precisions, threads};
use ndarray::{Array2, ArrayView3, s};
use selvedge_model::{Network, TestTimeAveraging};

const ALL: [TestTimeAveraging; 4] = [
    TestTimeAveraging { mirror: true, shift: 0 },
    TestTimeAveraging { mirror: true, shift: 1 },
    TestTimeAveraging { mirror: false, shift: 1 },
    TestTimeAveraging { mirror: true, shift: 3 },
];

/// The mean of the logits of the images and, where wanted, of their mirror images: airbench's `infer_mirror`.
fn mirror_average(network: &mut Network, images: ArrayView3<'_, u8>, mirror: bool) -> Array2<f32> {
    let mut logits = |images: ArrayView3<'_, u8>| network.logits(&images.iter().copied().collect::<Vec<u8>>());
    let own = logits(images);
    if mirror { 0.5 * own + 0.5 * logits(images.slice(s![.., .., ..;-1])) } else { own }
}

/// airbench's `infer_mirror_translate`, padded by zeros.
fn naive(network: &mut Network, images: &[u8], TestTimeAveraging { mirror, shift }: TestTimeAveraging) -> Array2<f32> {
    let count = images.len() / (SIZE * SIZE);
    let images = ArrayView3::from_shape((count, SIZE, SIZE), images).unwrap();
    let own = mirror_average(network, images, mirror);
    if shift == 0 {
        return own;
    }
    let mut padded = ndarray::Array3::zeros((count, SIZE + 2 * shift, SIZE + 2 * shift));
    padded.slice_mut(s![.., shift..shift + SIZE, shift..shift + SIZE]).assign(&images);
    let mut corner = |at: usize| mirror_average(network, padded.slice(s![.., at..at + SIZE, at..at + SIZE]), mirror);
    0.5 * own + 0.5 * (0.5 * corner(0) + 0.5 * corner(2 * shift))
}

#[test]
fn it_is_the_average_written_out() {
    for precision in precisions() {
        let mut network = build_in(precision, &convolutional(), 64, &threads(2));
        // More than one part of images, the last of them not full.
        let (images, labels) = images(1100, 3);
        for averaging in ALL {
            let expected = naive(&mut network, &images, averaging);
            let logits = averaging.logits(&mut network, &images);
            let largest = expected.iter().fold(0f32, |most, logit| most.max(logit.abs()));
            for (found, wanted) in logits.iter().zip(&expected) {
                assert!((found - wanted).abs() <= 1e-6 * largest, "{averaging}: {found} and {wanted}");
            }
            assert_ne!(logits, network.logits(&images), "{averaging}");

            let (mut loss, mut correct) = (0.0, 0);
            let probabilities = averaging.predict(&mut network, &images);
            for ((row, shares), &label) in expected.rows().into_iter().zip(probabilities.rows()).zip(&labels) {
                let label = usize::from(label);
                let sum: f64 = row.iter().map(|&logit| f64::from(logit).exp()).sum();
                loss -= (f64::from(row[label]).exp() / sum).ln();
                correct += usize::from((0..CLASSES).all(|class| row[label] >= row[class]));
                for (&logit, &share) in row.iter().zip(shares) {
                    assert!((f64::from(logit).exp() / sum - f64::from(share)).abs() < 1e-5, "{averaging}: {shares}");
                }
            }
            let metrics = averaging.evaluate(&mut network, &images, &labels);
            assert_eq!((metrics.correct, metrics.count), (correct, 1100), "{averaging}");
            assert!((metrics.loss_sum - loss).abs() < 1e-5 * loss, "{averaging}: {} and {loss}", metrics.loss_sum);
        }
    }
}

#[test]
fn a_symmetric_image_keeps_its_logits() {
    let mut network = build(&convolutional(), 64, &threads(2));
    let (mut images, _) = images(40, 5);
    for row in images.chunks_exact_mut(SIZE) {
        for x in 0..SIZE / 2 {
            row[SIZE - 1 - x] = row[x];
        }
    }
    let logits = TestTimeAveraging::default().logits(&mut network, &images);
    assert_eq!(logits, network.logits(&images));
}

#[test]
fn threads_change_no_bit_and_floats_are_as_bytes() {
    let (images, _) = images(70, 6);
    let floats: Vec<f32> = images.iter().map(|&byte| f32::from(byte) / 255.0).collect();
    let mut one = build(&convolutional(), 64, &threads(1));
    for averaging in ALL {
        let expected = averaging.logits(&mut one, &images);
        for count in [2, 3] {
            let mut network = build(&convolutional(), 64, &threads(count));
            assert_eq!(averaging.logits(&mut network, &images), expected, "{averaging} on {count} threads");
        }
        let from_floats = averaging.logits(&mut one, &floats);
        assert!(from_floats.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-4), "{averaging}");
    }
}

#[test]
fn no_images_and_wrong_labels() {
    let mut network = build(&convolutional(), 64, &threads(1));
    let averaging = TestTimeAveraging::default();
    assert_eq!(averaging.logits(&mut network, &[0u8; 0]).dim(), (0, CLASSES));
    let (images, labels) = images(3, 1);
    let message = panic_message(|| _ = averaging.evaluate(&mut network, &images, &labels[1..]));
    assert!(message.contains("labels of 3 images"), "{message}");
    let message = panic_message(|| _ = averaging.evaluate(&mut network, &images, &[0, 1, 10]));
    assert!(message.contains("label 10 is not below the 10 classes"), "{message}");
}
