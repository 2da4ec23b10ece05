//! Images as bytes and as floats, and batches of fewer images than memory is planned for.

use super::*;
use crate::LayerSpec;
use crate::LayerSpec::Flatten;
use crate::test_support::{RELU, classes, conv, grey, max_pool, norm};

const COUNT: usize = 70;

/// First layers that read the input in each of its forms: unpadded or padded channels, or on AMX 4x4 patches, for pooling and for
/// a normalisation.
fn networks() -> Vec<ModelSpec> {
    let firsts = [
        vec![conv(6, true), RELU, max_pool(2)],
        vec![conv(6, false), norm(), RELU],
        vec![conv(6, true), RELU],
        vec![max_pool(2), conv(6, true)],
    ];
    let network = |first: Vec<LayerSpec>| grey(8, 10, first.into_iter().chain([Flatten, classes()]).collect());
    let mut networks: Vec<ModelSpec> = firsts.into_iter().map(network).collect();
    let mut colour = networks[2].clone();
    colour.input.channels = 3;
    networks.push(colour);
    networks.iter_mut().for_each(|spec| (spec.input.mean, spec.input.std) = (0.25, 0.5));
    networks
}

fn labels() -> Vec<u8> {
    (0..COUNT).map(|i| (i * 3 % 10) as u8).collect()
}

/// Predictions, metrics and gradients of a network on these images.
fn results<'a>(network: &mut Network, images: impl Into<Images<'a>>) -> (Vec<f32>, Metrics, BatchMetrics, Vec<f32>) {
    let (images, labels) = (images.into(), labels());
    let predictions = network.predict(images).into_raw_vec_and_offset().0;
    let evaluated = network.evaluate(images, &labels);
    let key = StepKey { seed: 3, step: 0 };
    let trained = network.forward_backward(images, Targets::Labels(&labels), &Loss::default(), key);
    (predictions, evaluated, trained, logical_gradients(network))
}

#[test]
fn bytes_and_the_same_numbers_as_floats_are_the_same_images() {
    for cpu in Cpu::all() {
        for precision in [Precision::F32, Precision::Bf16].into_iter().filter(|&p| cpu.check(p).is_ok()) {
            // Rounding of the pixels makes a difference of 1e-7 of them in f32. In bf16 it may round a pixel to its neighbour.
            let tolerance = if precision == Precision::F32 { 1e-5 } else { 0.01 };
            for spec in networks() {
                let what = format!("{:?} in {precision} on {}", spec.layers[0], cpu.isa());
                let InputSpec { height, width, channels, .. } = spec.input;
                let bytes: Vec<u8> =
                    (0..COUNT * height * width * channels).map(|i| (i * i / 7 + i * 11) as u8).collect();
                let floats: Vec<f32> = bytes.iter().map(|&byte| f32::from(byte) / 255.0).collect();
                let mut network = Network::build_on(cpu, &spec, &options(COUNT, precision)).unwrap();
                let (predicted, evaluated, trained, gradients) = results(&mut network, &bytes);
                let start = Network::build_on(cpu, &spec, &options(COUNT, precision)).unwrap().snapshot();
                network.restore(&start);
                let of_floats = results(&mut network, &floats);
                assert_near(&format!("predictions of {what}"), &of_floats.0, &predicted, tolerance, 0.0);
                for (got, want) in [(of_floats.1, evaluated), (of_floats.2, trained)] {
                    assert_eq!(got.count, want.count, "{what}");
                    let error = (got.loss_sum / want.loss_sum - 1.0).abs();
                    assert!(error < f64::from(tolerance), "{what}: a loss of {}, not {}", got.loss_sum, want.loss_sum);
                }
                assert_near(&format!("gradients of {what}"), &of_floats.3, &gradients, tolerance, 0.0);
            }
        }
    }
}

#[test]
fn a_batch_has_the_bits_that_it_has_where_memory_is_planned_for_more() {
    // 17 blocks are groups of two, 16 blocks are groups of one: more groups.
    let [smaller, larger] = [16, 17].map(|blocks| blocks * selvedge_compute::BLOCK);
    let spec = grey(8, 8, vec![conv(6, true), RELU, max_pool(2), conv(16, true), Flatten, classes()]);
    let images: Vec<u8> = (0..smaller * 64).map(|i| (i * i / 7 + i * 11) as u8).collect();
    let labels: Vec<u8> = (0..smaller).map(|i| (i * 3 % 10) as u8).collect();
    let gradients = |max_batch: usize| {
        let mut network = Network::build(&spec, &options(max_batch, Precision::F32)).unwrap();
        let key = StepKey { seed: 3, step: 0 };
        let metrics = network.forward_backward(&images, Targets::Labels(&labels), &Loss::default(), key);
        (metrics, logical_gradients(&network))
    };
    assert!(gradients(larger) == gradients(smaller));
}
