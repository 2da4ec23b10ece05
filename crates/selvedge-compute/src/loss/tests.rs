//! Loss and gradient against the definition in f64, central differences and PyTorch, on every instruction set.

use super::*;
use crate::layout::BlockShape;
use crate::test_support::{Numbers, assert_close, central_difference, cpus, wide};

/// The loss of one image in f64, from its definition.
fn reference(z: &[f64], t: &[f64], smoothing: f64) -> f64 {
    let normaliser = z.iter().map(|z| z.exp()).sum::<f64>().ln();
    let smooth = smoothing / z.len() as f64;
    z.iter().zip(t).map(|(z, t)| -((1.0 - smoothing) * t + smooth) * (z - normaliser)).sum()
}

/// Rows of `classes` values as a block, padded with `rest`.
fn block(rows: &[f32], classes: usize, rest: f32) -> Vec<f32> {
    let shape = BlockShape::new(1, 1, classes);
    let mut out = vec![rest; shape.len()];
    for (i, &value) in rows.iter().enumerate() {
        out[shape.channel(i % classes) + i / classes * shape.plane()] = value;
    }
    out
}

/// The rows that [`block`] padded; asserts that the padding is zero.
fn unpadded(block: &[f32], classes: usize, valid: usize) -> Vec<f32> {
    let shape = BlockShape::new(1, 1, classes);
    let mut out = vec![0.0; valid * classes];
    for (at, &value) in block.iter().enumerate() {
        let (image, class) = shape.image_and_channel(at);
        if image < valid && class < classes {
            out[image * classes + class] = value;
        } else {
            assert_eq!(value, 0.0, "padding of image {image}");
        }
    }
    out
}

#[test]
fn matches_reference_and_central_differences() {
    for (classes, valid) in [(1, 1), (2, 32), (10, 31), (16, 5), (17, 32), (100, 3), (256, 2), (10, 0)] {
        let mut numbers = Numbers::new(classes as u64);
        let z: Vec<f32> = (0..valid * classes).map(|_| numbers.uniform(-8.0, 8.0)).collect();
        let labels: Vec<u8> = (0..valid).map(|_| (numbers.next_u32() as usize % classes) as u8).collect();
        let soft: Vec<f32> = (0..valid * classes).map(|_| numbers.uniform(0.0, 1.0)).collect();
        let mut hard = vec![0.0; valid * classes];
        for (row, &label) in hard.chunks_mut(classes).zip(&labels) {
            row[usize::from(label)] = 1.0;
        }
        let values = block(&z, classes, 1e9);
        let logits = Logits { values: &values, classes, valid };
        for cpu in cpus() {
            for (targets, weights, smoothing) in [
                (BlockTargets::Labels(&labels), &hard, 0.0),
                (BlockTargets::Labels(&labels), &hard, 0.125),
                (BlockTargets::Soft(&soft), &soft, 0.125),
                (BlockTargets::Soft(&hard), &hard, 0.0),
            ] {
                let mut dlogits = vec![7.0; values.len()];
                let options = TargetOptions { smoothing, class_weights: None };
                let loss = cross_entropy(
                    cpu,
                    logits,
                    targets,
                    options,
                    Some(LossGradient { scale: 0.5, dlogits: &mut dlogits }),
                );
                let without = cross_entropy(cpu, logits, targets, options, None);
                assert_eq!(loss, without);
                let (mut sum, mut correct, mut gradient) = (0.0, 0, vec![]);
                for (z, t) in wide(&z).chunks(classes).zip(wide(weights).chunks(classes)) {
                    sum += reference(z, t, f64::from(smoothing));
                    let first_max = |x: &[f64]| (0..classes).rev().max_by(|&a, &b| x[a].total_cmp(&x[b]));
                    correct += usize::from(first_max(z) == first_max(t));
                    let f = |z: &[f64]| 0.5 * reference(z, t, f64::from(smoothing));
                    gradient.extend((0..classes).map(|c| central_difference(&mut z.to_vec(), c, f)));
                }
                let name = format!("{classes} classes, {valid} images on {}", cpu.isa());
                assert_close(&name, &[loss.sum as f32], &[sum], 2e-6);
                assert_eq!(loss.correct, correct, "{name}");
                assert_close(&name, &unpadded(&dlogits, classes, valid), &gradient, 3e-6);
            }
            let mut probabilities = vec![7.0; valid * classes];
            softmax(cpu, logits, &mut probabilities);
            let want: Vec<f64> = wide(&z)
                .chunks(classes)
                .flat_map(|z| {
                    let sum: f64 = z.iter().map(|z| z.exp()).sum();
                    z.iter().map(move |z| z.exp() / sum).collect::<Vec<_>>()
                })
                .collect();
            assert_close("probabilities", &probabilities, &want, 1e-6);
        }
    }
}

/// ```python
/// import torch, torch.nn.functional as F
/// torch.set_default_dtype(torch.float64)
/// x = torch.tensor([[1., -.5, .25, 2.], [0., 3., -1., .5], [-.75, .1, .2, .3]], requires_grad=True)
/// l = F.cross_entropy(x, torch.tensor([3, 0, 2]), label_smoothing=0.1, reduction='sum'); l.backward()
/// print(l.item(), x.grad.flatten().tolist())    # torch 2.15.0
/// q = torch.tensor([[.7, .3, 0, 0], [0, 0, .5, .5], [.25, .25, .25, .25]])
/// x.grad = None
/// l = F.cross_entropy(x, q, label_smoothing=0.1, reduction='sum'); l.backward()
/// print(l.item(), x.grad.flatten().tolist())
/// w = torch.tensor([.5, 2., 1.25, .75])
/// for t in (torch.tensor([3, 0, 2]), q):
///     x.grad = None
///     l = F.cross_entropy(x, t, weight=w, label_smoothing=0.1, reduction='sum'); l.backward()
///     print(l.item(), x.grad.flatten().tolist())
/// ```
#[test]
fn matches_pytorch() {
    let x = [1.0, -0.5, 0.25, 2.0, 0.0, 3.0, -1.0, 0.5, -0.75, 0.1, 0.2, 0.3];
    let q = [0.7, 0.3, 0.0, 0.0, 0.0, 0.0, 0.5, 0.5, 0.25, 0.25, 0.25, 0.25];
    let labelled = [
        0.2015632475,
        0.0255530937,
        0.0820209002,
        -0.3091372414,
        -0.8817139623,
        0.8444233079,
        -0.0090759567,
        0.0463666110,
        0.0888562144,
        0.2413833337,
        -0.6306008866,
        0.3003613385,
    ];
    let soft = [
        -0.4284367525,
        -0.2444469063,
        0.0820209002,
        0.5908627586,
        0.0182860377,
        0.8444233079,
        -0.4590759567,
        -0.4036333890,
        -0.1361437856,
        0.0163833337,
        0.0443991134,
        0.0753613385,
    ];
    let weighted_labelled = [
        0.1659185574,
        -0.0101894387,
        0.0530289589,
        -0.2087580776,
        -0.4381516038,
        0.4390506107,
        -0.0222927256,
        0.0213937187,
        0.1283970654,
        0.2796493754,
        -0.7919310971,
        0.3838846564,
    ];
    let weighted_soft = [
        -0.1083000581,
        -0.5410898819,
        0.0722927209,
        0.577097219,
        0.0313271131,
        0.8302910993,
        -0.5776269061,
        -0.2839913063,
        0.0030882412,
        -0.2003187496,
        0.0186990026,
        0.1785315058,
    ];
    let values = block(&x, 4, 0.0);
    let logits = Logits { values: &values, classes: 4, valid: 3 };
    let class_weights = Some(&[0.5, 2.0, 1.25, 0.75][..]);
    for cpu in cpus() {
        for (targets, class_weights, sum, gradient) in [
            (BlockTargets::Labels(&[3, 0, 2]), None, 4.939975189841707, labelled),
            (BlockTargets::Soft(&q), None, 6.683725189841708, soft),
            (BlockTargets::Labels(&[3, 0, 2]), class_weights, 3.7402345595098248, weighted_labelled),
            (BlockTargets::Soft(&q), class_weights, 7.296635355305795, weighted_soft),
        ] {
            let mut dlogits = vec![7.0; values.len()];
            let options = TargetOptions { smoothing: 0.1, class_weights };
            let loss =
                cross_entropy(cpu, logits, targets, options, Some(LossGradient { scale: 1.0, dlogits: &mut dlogits }));
            assert_close("loss", &[loss.sum as f32], &[sum], 5e-7);
            assert_close("gradient", &unpadded(&dlogits, 4, 3), &gradient, 3e-7);
        }
    }
}

#[test]
fn large_logits_ties_and_nan() {
    let rows = [1e30, 1e30, -1e30, f32::NAN, 5.0, 0.0, 5.0, f32::NAN, 0.0, 5.0, 0.0, 5.0];
    for cpu in cpus() {
        let values = block(&rows, 3, 0.0);
        let logits = Logits { values: &values, classes: 3, valid: 4 };
        let mut dlogits = vec![7.0; values.len()];
        let labels = BlockTargets::Labels(&[0, 1, 0, 0]);
        let first = Logits { valid: 1, ..logits };
        let loss = cross_entropy(
            cpu,
            first,
            BlockTargets::Labels(&[1]),
            TargetOptions::default(),
            Some(LossGradient { scale: 1.0, dlogits: &mut dlogits }),
        );
        assert_eq!(loss.correct, 0, "the first of two equal logits counts");
        assert!((loss.sum - 2f64.ln()).abs() < 1e-6, "{}", loss.sum);
        let gradient = LossGradient { scale: 1.0, dlogits: &mut dlogits };
        let loss = cross_entropy(cpu, logits, labels, TargetOptions::default(), Some(gradient));
        assert!(loss.sum.is_nan(), "{} on {}", loss.sum, cpu.isa());
        assert_eq!(loss.correct, 2, "{}", cpu.isa());
        assert!(dlogits[16].is_nan());
    }
}

#[test]
#[should_panic(expected = "label 10 is not below the 10 classes")]
fn labels_are_checked() {
    let values = [0.0; BLOCK * 16];
    let logits = Logits { values: &values, classes: 10, valid: 2 };
    cross_entropy(cpus()[0], logits, BlockTargets::Labels(&[9, 10]), TargetOptions::default(), None);
}
