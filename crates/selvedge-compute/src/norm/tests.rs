//! Batch normalisation against its definition in f64, over batches of full and partial blocks, and against PyTorch.

use half::bf16;

use super::*;
use crate::activation::tests::kinks;
use crate::test_support::{Numbers, assert_close, central_difference, cpus, wide};

const EPSILON: f32 = 1e-5;

/// The results of [`train_step`].
struct TrainStep<E> {
    y: Vec<Vec<E>>,
    dx: Vec<Vec<E>>,
    mean: Vec<f64>,
    squared_deviations: Vec<f64>,
    count: usize,
    dgamma: Vec<f64>,
    dbeta: Vec<f64>,
}

/// Runs a batch in blocks through all steps that the module's documentation lists.
fn train_step<E: Element>(
    cpu: Cpu,
    shape: &BlockShape,
    images: usize,
    activation: Option<Activation>,
    [gamma, beta]: [&[f32]; 2],
    x: &[Vec<E>],
    dy: &[Vec<E>],
) -> TrainStep<E> {
    let stride = shape.channel_stride;
    let valid = |block: usize| BLOCK.min(images - block * BLOCK);
    let zeros = || vec![0.0f64; stride];
    let (mut means, mut squares) = (vec![7.0; x.len() * stride], vec![7.0; x.len() * stride]);
    for (block, x) in x.iter().enumerate() {
        // Each plane alone, as threads may share them.
        for plane in (0..stride).step_by(shape.plane()) {
            let channels = plane..plane + shape.plane();
            let own = block * stride + channels.start..block * stride + channels.end;
            block_moments(cpu, shape, valid(block), x, channels, &mut means[own.clone()], &mut squares[own]);
        }
    }
    let (mut mean, mut squared_deviations) = (zeros(), zeros());
    let pixels = shape.height * shape.width;
    let count = combine_moments(images, pixels, &means, &squares, &mut mean, &mut squared_deviations);
    let mean_f32: Vec<f32> = mean.iter().map(|&mean| mean as f32).collect();
    let [mut rstd_of, mut factor, mut offset] = [(); 3].map(|()| vec![0.0; stride]);
    rstd(count, &squared_deviations, EPSILON, &mut rstd_of);
    affine(&mean_f32, &rstd_of, Some(gamma), Some(beta), &mut factor, &mut offset);
    let norm = Normalisation { mean: &mean_f32, rstd: &rstd_of, factor: &factor, offset: &offset, activation };
    let seven = || vec![vec![E::from_f32(7.0); shape.len()]; x.len()];
    let (mut y, mut dx) = (seven(), seven());
    for (x, y) in x.iter().zip(&mut y) {
        normalise(cpu, shape, &norm, x, y);
    }

    for (x, y) in x.iter().zip(&y) {
        // Any tensor can be the shortcut; dy is at hand.
        let (mut fused, mut sum) = (vec![E::from_f32(7.0); shape.len()], vec![E::from_f32(7.0); shape.len()]);
        normalise_and_add(cpu, shape, &norm, x, &dy[0], &mut fused);
        crate::sum::add(cpu, y, &dy[0], &mut sum);
        assert!(fused.iter().zip(&sum).all(|(a, b)| a.to_f32().to_bits() == b.to_f32().to_bits()));
    }

    let (mut dbetas, mut dgammas) = (means, squares);
    let args = |block: usize| BackwardArgs { shape, valid: valid(block), norm: &norm, x: &x[block], dy: &dy[block] };
    for block in 0..x.len() {
        let own = block * stride..(block + 1) * stride;
        block_gradient_sums(cpu, args(block), 0..stride, &mut dbetas[own.clone()], &mut dgammas[own]);
    }
    let (mut dbeta, mut dgamma) = (zeros(), zeros());
    combine_sums(&dbetas, &mut dbeta);
    combine_sums(&dgammas, &mut dgamma);
    let (mut c0, mut c1) = (vec![0.0; stride], vec![0.0; stride]);
    gradient_coefficients(count, &norm, &dbeta, &dgamma, [&mut c0, &mut c1]);
    for (block, dx) in dx.iter_mut().enumerate() {
        input_gradient(cpu, args(block), [&c0, &c1], dx);
    }
    TrainStep { y, dx, mean, squared_deviations, count, dgamma, dbeta }
}

/// f(gamma·x̂ + beta) of one channel's values.
fn reference(x: &[f64], [gamma, beta]: [f64; 2], activation: Option<Activation>) -> Vec<f64> {
    let mean = x.iter().sum::<f64>() / x.len() as f64;
    let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / x.len() as f64;
    let y = x.iter().map(|x| (x - mean) / (variance + f64::from(EPSILON)).sqrt() * gamma + beta);
    y.map(|y| activation.map_or(y, |kind| crate::activation::tests::reference(kind, y))).collect()
}

/// The block and the element of each of a channel's values.
fn positions(shape: &BlockShape, images: usize, c: usize) -> Vec<(usize, usize)> {
    let mut positions = vec![];
    for image in 0..images {
        for pixel in 0..shape.height * shape.width {
            let at = shape.offset(pixel / shape.width, pixel % shape.width)
                + shape.channel(c)
                + image % BLOCK * shape.plane();
            positions.push((image / BLOCK, at));
        }
    }
    positions
}

/// Blocks of numbers whose mean and variance differ for each channel. Images beyond the batch are not zero.
fn batch<E: Element>(shape: &BlockShape, images: usize, seed: u64) -> Vec<Vec<E>> {
    let mut numbers = Numbers::new(seed);
    let mut blocks: Vec<Vec<E>> = (0..images.div_ceil(BLOCK)).map(|_| numbers.block(shape)).collect();
    for block in &mut blocks {
        for (i, x) in block.iter_mut().enumerate() {
            let (_, c) = shape.image_and_channel(i);
            if c < shape.channels {
                *x = E::from_f32(x.to_f32() * (1.0 + c as f32 / 4.0) + 3.0 * c as f32 - 5.0);
            }
        }
    }
    blocks
}

fn matches_reference<E: Element>() {
    let kinds: Vec<Option<Activation>> = [None].into_iter().chain(Activation::ALL.map(Some)).collect();
    let small = [(1, 1, 1, 2), (3, 2, 5, 33), (2, 3, 16, 31), (4, 5, 35, 7), (1, 2, 64, 70), (2, 1, 100, 5)];
    // The last two: more channels than are summed at a time, in planes of 16 and of 32.
    let sizes = [&small[..], &[(1, 2, 1100, 3), (2, 1, 1056, 33)]].concat();
    for (n, &(height, width, channels, images)) in sizes.iter().enumerate() {
        let shape = BlockShape::new(height, width, channels);
        let mut numbers = Numbers::new(n as u64);
        let (x, mut dy) = (batch::<E>(&shape, images, 1), vec![]);
        for _ in &x {
            dy.push(numbers.block::<E>(&shape));
        }
        let [mut gamma, mut beta] = [(); 2].map(|()| numbers.elements::<f32>(shape.channel_stride));
        gamma[channels..].fill(0.0);
        beta[channels..].fill(0.0);
        for (cpu, activation) in cpus().into_iter().flat_map(|cpu| kinds.iter().map(move |&kind| (cpu, kind))) {
            let name = format!("{shape:?}, {images} images, {activation:?} on {}", cpu.isa());
            let got = train_step(cpu, &shape, images, activation, [&gamma, &beta], &x, &dy);
            assert_eq!(got.count, images * height * width);
            for c in (0..channels).step_by(1 + channels / 7) {
                let positions = positions(&shape, images, c);
                let pick =
                    |blocks: &[Vec<E>]| -> Vec<E> { positions.iter().map(|&(block, i)| blocks[block][i]).collect() };
                let (xs, dys) = (wide(&pick(&x)), wide(&pick(&dy)));
                let [gamma, beta] = [f64::from(gamma[c]), f64::from(beta[c])];
                let mean = xs.iter().sum::<f64>() / xs.len() as f64;
                let square: f64 = xs.iter().map(|x| (x - mean).powi(2)).sum();
                assert!((got.mean[c] - mean).abs() < 1e-6 * mean.abs().max(1.0), "{name}: mean of channel {c}");
                assert!((got.squared_deviations[c] - square).abs() < 1e-5 * square, "{name}: squares of channel {c}");
                // b of a·x + b is as large as mean/deviation, and its rounding error is relative to that.
                let magnitude = 1.0 + mean.abs() / (square / xs.len() as f64).sqrt().max(1e-3);
                assert_close(&name, &pick(&got.y), &reference(&xs, [gamma, beta], activation), 2e-6 * magnitude);

                let weighted = |y: Vec<f64>| -> f64 { y.iter().zip(&dys).map(|(y, dy)| y * dy).sum() };
                let dx = pick(&got.dx);
                // Differences beside a kink are wrong.
                let kink = |i: usize| {
                    let at = reference(&xs, [gamma, beta], None)[i];
                    activation.into_iter().flat_map(kinks).any(|kink| (at - kink).abs() < 1e-3)
                };
                for i in (0..xs.len()).step_by(1 + xs.len() / 9).filter(|&i| !kink(i)) {
                    let f = |x: &[f64]| weighted(reference(x, [gamma, beta], activation));
                    let want = central_difference(&mut xs.clone(), i, f);
                    let tolerance = 2e-5 * magnitude + if xs.len() == 2 { 1e-4 } else { 0.0 };
                    assert_close(&format!("{name}: dx {i} of channel {c}"), &dx[i..=i], &[want], tolerance);
                }
                let f = |p: &[f64]| weighted(reference(&xs, [p[0], p[1]], activation));
                let want = [0, 1].map(|i| central_difference(&mut [gamma, beta], i, f));
                let sums = [got.dgamma[c] as f32, got.dbeta[c] as f32];
                assert_close(&format!("{name}: gamma and beta of channel {c}"), &sums, &want, 2e-5 * magnitude);
            }
            for (block, dx) in got.dx.iter().enumerate() {
                for (i, dx) in dx.iter().enumerate() {
                    let (image, channel) = shape.image_and_channel(i);
                    if block * BLOCK + image >= images || channel >= channels {
                        assert_eq!(dx.to_f32(), 0.0, "{name}: dx beyond the images and channels");
                    }
                    if channel >= channels {
                        assert_eq!(got.y[block][i].to_f32(), 0.0, "{name}: y beyond the channels");
                    }
                }
            }
        }
    }
}

#[test]
fn f32_matches_reference() {
    matches_reference::<f32>();
}

#[test]
fn bf16_matches_reference() {
    matches_reference::<bf16>();
}

/// ```python
/// import torch
/// torch.set_default_dtype(torch.float64)
/// x = torch.tensor([[1., -.5], [.25, 2.], [0., 3.], [-1., .5]], requires_grad=True)
/// bn = torch.nn.BatchNorm1d(2, eps=1e-5, momentum=.1)
/// bn.weight.data = torch.tensor([1.5, -.5]); bn.bias.data = torch.tensor([.1, .2])
/// y = bn(x); y.backward(torch.tensor([[.3, -.2], [1., .5], [-.7, .25], [.1, -.6]]))
/// print(y.flatten().tolist(), x.grad.flatten().tolist(), bn.weight.grad.tolist(), bn.bias.grad.tolist(),
///       bn.running_mean.tolist(), bn.running_var.tolist())    # torch 2.15.0
/// ```
#[test]
fn matches_pytorch() {
    let shape = BlockShape::new(1, 1, 2);
    let block = |values: [f32; 8]| {
        let mut block = vec![0.0f32; shape.len()];
        for (to, from) in block.chunks_mut(16).zip(values.chunks(2)) {
            to[..2].copy_from_slice(from);
        }
        vec![block]
    };
    let unpack =
        |blocks: &[Vec<f32>]| -> Vec<f32> { blocks[0].chunks(16).take(4).flat_map(|c| c[..2].to_vec()).collect() };
    let channels = |values: [f32; 2]| [&values[..], &[0.0; 14]].concat();
    let x = block([1.0, -0.5, 0.25, 2.0, 0.0, 3.0, -1.0, 0.5]);
    let dy = block([0.3, -0.2, 1.0, 0.5, -0.7, 0.25, 0.1, -0.6]);
    let (gamma, beta) = (channels([1.5, -0.5]), channels([0.1, 0.2]));
    for cpu in cpus() {
        let got = train_step(cpu, &shape, 4, None, [&gamma, &beta], &x, &dy);
        let y = [
            2.0658149196,
            0.8499318907,
            0.4931629839,
            -0.0785422389,
            -0.0310543280,
            -0.4499318907,
            -2.1279235756,
            0.4785422389,
        ];
        let dx = [
            -0.1280454594,
            -0.0749174598,
            1.6518863062,
            -0.1283859025,
            -1.8087503173,
            0.0470632359,
            0.2849094705,
            0.1562401264,
        ];
        assert_close("y", &unpack(&got.y), &y, 5e-7);
        assert_close("dx", &unpack(&got.dx), &dx, 5e-7);
        let sums: Vec<f32> = got.dgamma[..2].iter().chain(&got.dbeta[..2]).map(|&x| x as f32).collect();
        assert_close("gamma and beta", &sums, &[0.5679020879, 1.1977316272, 0.7, -0.05], 5e-7);
        let (mut mean, mut variance) = (channels([0.0; 2]), channels([1.0; 2]));
        update_running(got.count, &got.mean, &got.squared_deviations, 0.1, &mut mean, &mut variance);
        assert_close("running mean", &mean[..2], &[0.00625, 0.125], 1e-7);
        assert_close("running variance", &variance[..2], &[0.9682291667, 1.1416666667], 1e-7);
    }
}

#[test]
fn a_single_element_moves_the_running_mean_and_not_the_variance() {
    let (mut mean, mut variance) = ([1.0], [4.0]);
    update_running(1, &[3.0], &[0.0], 0.5, &mut mean, &mut variance);
    assert_eq!((mean, variance), ([2.0], [4.0]));
    // With two elements the unbiased variance is the sum of squared deviations.
    update_running(2, &[2.0], &[2.0], 0.5, &mut mean, &mut variance);
    assert_eq!((mean, variance), ([2.0], [3.0]));
}

/// A mean a thousand times the standard deviation leaves the squared deviations accurate.
#[test]
fn moments_survive_a_large_mean() {
    let shape = BlockShape::new(9, 9, 16);
    let mut x = Numbers::new(3).block::<f32>(&shape);
    for x in &mut x {
        *x += 2000.0;
    }
    for cpu in cpus() {
        let (mut mean, mut squares) = ([0.0; 16], [0.0; 16]);
        block_moments(cpu, &shape, BLOCK, &x, 0..shape.channel_stride, &mut mean, &mut squares);
        for c in 0..16 {
            let xs: Vec<f64> = x.iter().skip(c).step_by(16).map(|&x| f64::from(x)).collect();
            let want_mean = xs.iter().sum::<f64>() / xs.len() as f64;
            let want: f64 = xs.iter().map(|x| (x - want_mean).powi(2)).sum();
            assert!((mean[c] - want_mean).abs() < 1e-3, "{} on {}", mean[c], cpu.isa());
            assert!((squares[c] - want).abs() < 1e-4 * want, "{}, not {want}, on {}", squares[c], cpu.isa());
        }
    }
}

#[test]
#[should_panic(expected = "the sums' lengths and channels 0..32")]
fn sums_must_fit_the_channels() {
    let shape = BlockShape::new(1, 1, 20);
    block_moments(cpus()[0], &shape, 1, &[0.0f32; 1024], 0..32, &mut [0.0; 16], &mut [0.0; 32]);
}

#[test]
#[should_panic(expected = "channels 0..16 are not whole planes of")]
fn channels_must_be_whole_planes() {
    let shape = BlockShape::new(1, 1, 32);
    block_moments(cpus()[0], &shape, 1, &[0.0f32; 1024], 0..16, &mut [0.0; 16], &mut [0.0; 16]);
}
