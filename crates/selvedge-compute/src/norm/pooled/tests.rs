//! Batch normalisation with max pooling against its definition in f64, and against separate normalisation and pooling.

use half::bf16;

use super::*;
use crate::norm::{BackwardArgs, block_gradient_sums, input_gradient, normalise};
use crate::pool::{max_backward, max_forward};
use crate::test_support::{Numbers, assert_close, cpus, wide};

/// Height, width and channels; size and stride of the windows; valid images.
type Case = ([usize; 3], [usize; 2], [usize; 2], usize);

const SHAPES: [Case; 8] = [
    ([4, 6, 16], [2, 2], [2, 2], 32),
    ([7, 7, 70], [2, 2], [2, 2], 31),
    ([5, 4, 33], [2, 2], [2, 2], 1),
    ([6, 7, 16], [3, 3], [3, 3], 17),
    ([3, 3, 100], [3, 3], [3, 3], 32),
    ([5, 7, 3], [2, 1], [2, 1], 5),
    ([7, 8, 20], [2, 2], [3, 3], 30),
    ([2, 3, 64], [1, 1], [1, 1], 0),
];

const KINDS: [Option<Activation>; 2] = [None, Some(Activation::Relu)];

fn shapes() -> impl Iterator<Item = (Pool2dShape, usize)> {
    SHAPES.iter().map(|&([height, width, channels], size, stride, valid)| {
        (Pool2dShape::new(BlockShape::new(height, width, channels), size, stride), valid)
    })
}

/// The results of the forward pass.
struct Forward<E> {
    y: Vec<E>,
    indices: Vec<u16>,
    maxima: Vec<E>,
}

impl<E: Element> Forward<E> {
    fn new(cpu: Cpu, shape: &Pool2dShape, norm: &Normalisation<'_>, x: &[E]) -> Forward<E> {
        let seven = || vec![E::from_f32(7.0); shape.output().len()];
        let mut made = Self { y: seven(), indices: vec![7; shape.output().len()], maxima: seven() };
        let maxima = PooledMaxima { indices: &mut made.indices, x: &mut made.maxima };
        normalise_pooled(cpu, shape, norm, x, &mut made.y, Some(maxima));
        made
    }

    /// The gradients of beta and gamma.
    fn gradient_sums(&self, cpu: Cpu, args: PooledBackwardArgs<'_, E>) -> [Vec<f64>; 2] {
        let stride = args.shape.output().channel_stride;
        let [mut dbeta, mut dgamma] = [(); 2].map(|()| vec![7.0; stride]);
        pooled_gradient_sums(cpu, args, &self.maxima, 0..stride, &mut dbeta, &mut dgamma);
        [dbeta, dgamma]
    }
}

/// Constants of a normalisation of a single plane, all zero.
fn zero_norm(activation: Option<Activation>) -> Normalisation<'static> {
    let zeros = &[0.0; 16];
    Normalisation { mean: zeros, rstd: zeros, factor: zeros, offset: zeros, activation }
}

/// Calls `f` with every output element, its image and channel, and the input elements of its window, in order.
fn windows(shape: &Pool2dShape, mut f: impl FnMut(usize, (usize, usize), &[usize])) {
    let (input, output, size, stride) = (shape.input(), shape.output(), shape.size(), shape.stride());
    for to in 0..output.len() {
        let (number, at) = (to / output.pixel(), to % output.pixel());
        let (y, x) = (number / output.width * stride[0], number % output.width * stride[1]);
        let pixel = |k: usize| input.offset(y + k / size[1], x + k % size[1]) + at;
        f(to, output.image_and_channel(to), &(0..size[0] * size[1]).map(pixel).collect::<Vec<_>>());
    }
}

/// A number from `of` for each channel, zero for padded channels.
fn channels(shape: &BlockShape, mut of: impl FnMut() -> f32) -> Vec<f32> {
    (0..shape.channel_stride).map(|c| if c < shape.channels { of() } else { 0.0 }).collect()
}

/// With multiples of a half or less: a·x + b is exact in both element types, and pixels of a window often tie.
fn matches_definition<E: Element>() {
    for (n, (shape, valid)) in shapes().enumerate() {
        let (input, output) = (shape.input(), shape.output());
        let mut numbers = Numbers::new(n as u64);
        let mut x = numbers.block::<E>(&input);
        for x in &mut x {
            *x = E::from_f32((x.to_f32() * 2.0).round() / 2.0);
        }
        let dy = numbers.block::<E>(&output);
        let mut draw = |scale: f32| channels(&input, || (numbers.uniform(-2.0, 2.0) * scale).round() / scale);
        let [factor, offset, mean, rstd] = [2.0, 4.0, 8.0, 8.0].map(&mut draw);
        let [c0, c1] = [8.0, 8.0].map(&mut draw);
        assert!(factor.iter().any(|&a| a < 0.0) || input.channels < 4);
        for (cpu, activation) in cpus().into_iter().flat_map(|cpu| KINDS.map(|kind| (cpu, kind))) {
            let name = format!("{shape:?}, {valid} valid, {activation:?} on {}", cpu.isa());
            let norm = Normalisation { mean: &mean, rstd: &rstd, factor: &factor, offset: &offset, activation };
            let got = Forward::new(cpu, &shape, &norm, &x);
            let mut gradient = vec![0.0; input.len()];
            windows(&shape, |to, (image, c), window| {
                let z = |i: usize| f64::from(factor[c]) * f64::from(x[i].to_f32()) + f64::from(offset[c]);
                let first = (1..window.len()).fold(0, |best, k| if z(window[k]) > z(window[best]) { k } else { best });
                let largest = z(window[first]);
                let is_dead = activation.is_some() && largest <= 0.0;
                assert_eq!(f64::from(got.y[to].to_f32()), if is_dead { 0.0 } else { largest }, "{name}: y {to}");
                assert_eq!(got.indices[to], if is_dead { NO_ARGMAX } else { first as u16 }, "{name}: argmax {to}");
                assert_eq!(got.maxima[to].to_f32(), x[window[first]].to_f32(), "{name}: x of argmax {to}");
                if !is_dead && image < valid {
                    gradient[window[first]] = f64::from(dy[to].to_f32());
                }
            });
            let mut y = vec![E::from_f32(7.0); output.len()];
            normalise_pooled(cpu, &shape, &norm, &x, &mut y, None);
            assert_eq!(wide(&y), wide(&got.y), "{name}: without maxima");

            let args = PooledBackwardArgs { shape: &shape, valid, norm: &norm, indices: &got.indices, dy: &dy };
            let [dbeta, dgamma] = got.gradient_sums(cpu, args);
            let [mut want_dbeta, mut want_dgamma] = [(); 2].map(|()| vec![0.0; input.channel_stride]);
            let mut want_dx = vec![0.0; input.len()];
            for (i, &dy) in gradient.iter().enumerate() {
                let (image, c) = input.image_and_channel(i);
                let deviation = f64::from(x[i].to_f32()) - f64::from(mean[c]);
                want_dbeta[c] += dy;
                want_dgamma[c] += dy * deviation * f64::from(rstd[c]);
                if image < valid {
                    want_dx[i] = f64::from(factor[c]) * dy - f64::from(c0[c]) - f64::from(c1[c]) * deviation;
                }
            }
            for (got, want) in dbeta.iter().chain(&dgamma).zip(want_dbeta.iter().chain(&want_dgamma)) {
                assert!((got - want).abs() < 1e-4 * want.abs().max(1.0), "{name}: a sum is {got}, not {want}");
            }
            let mut dx = vec![E::from_f32(7.0); input.len()];
            pooled_input_gradient(cpu, args, [&c0, &c1], &x, &mut dx);
            assert_close(&format!("{name}: dx"), &dx, &want_dx, 1e-5);
        }
    }
}

#[test]
fn f32_matches_definition() {
    matches_definition::<f32>();
}

#[test]
fn bf16_matches_definition() {
    matches_definition::<bf16>();
}

/// With arbitrary numbers: bit-identical to separate passes, the sums up to rounding.
fn equals_separate_passes<E: Element>() {
    for (n, (shape, valid)) in shapes().enumerate() {
        let (input, output) = (shape.input(), shape.output());
        let mut numbers = Numbers::new(100 + n as u64);
        let (x, dy) = (numbers.block::<E>(&input), numbers.block::<E>(&output));
        let mut draw = || channels(&input, || numbers.uniform(-2.0, 2.0));
        let [mean, rstd, factor, offset, c0, c1] = [(); 6].map(|()| draw());
        for (cpu, activation) in cpus().into_iter().flat_map(|cpu| KINDS.map(|kind| (cpu, kind))) {
            let name = format!("{shape:?}, {valid} valid, {activation:?} on {}", cpu.isa());
            let norm = Normalisation { mean: &mean, rstd: &rstd, factor: &factor, offset: &offset, activation };
            let seven = |shape: BlockShape| vec![E::from_f32(7.0); shape.len()];
            let [mut full, mut full_dy, mut want_dx, mut dx] = [(); 4].map(|()| seven(input));
            let (mut want_y, mut want_indices) = (seven(output), vec![7; output.len()]);
            normalise(cpu, &input, &norm, &x, &mut full);
            max_forward(cpu, &shape, 0..output.height, &full, &mut want_y, Some(&mut want_indices));
            max_backward(cpu, &shape, 0..input.height, &dy, &want_indices, &mut full_dy);
            let separate = BackwardArgs { shape: &input, valid, norm: &norm, x: &x, dy: &full_dy };
            input_gradient(cpu, separate, [&c0, &c1], &mut want_dx);

            let got = Forward::new(cpu, &shape, &norm, &x);
            assert_eq!(wide(&got.y), wide(&want_y), "{name}: y");
            for (got, want) in got.indices.iter().zip(&want_indices).filter(|&(&got, _)| got != NO_ARGMAX) {
                assert_eq!(got, want, "{name}: indices");
            }
            let args = PooledBackwardArgs { shape: &shape, valid, norm: &norm, indices: &got.indices, dy: &dy };
            pooled_input_gradient(cpu, args, [&c0, &c1], &x, &mut dx);
            assert_eq!(wide(&dx), wide(&want_dx), "{name}: dx");

            let stride = input.channel_stride;
            let [mut want_dbeta, mut want_dgamma] = [(); 2].map(|()| vec![7.0; stride]);
            block_gradient_sums(cpu, separate, 0..stride, &mut want_dbeta, &mut want_dgamma);
            let [dbeta, dgamma] = got.gradient_sums(cpu, args);
            for (got, want) in dbeta.iter().chain(&dgamma).zip(want_dbeta.iter().chain(&want_dgamma)) {
                assert!((got - want).abs() < 1e-4 * want.abs().max(1.0), "{name}: a sum is {got}, not {want}");
            }
        }
    }
}

#[test]
fn f32_equals_separate_passes() {
    equals_separate_passes::<f32>();
}

#[test]
fn bf16_equals_separate_passes() {
    equals_separate_passes::<bf16>();
}

#[test]
fn a_nan_is_the_largest_and_stays() {
    let shape = Pool2dShape::new(BlockShape::new(2, 2, 16), [2, 2], [2, 2]);
    for (cpu, activation) in cpus().into_iter().flat_map(|cpu| KINDS.map(|kind| (cpu, kind))) {
        let mut x = vec![1.0f32; shape.input().len()];
        x[512..1024].fill(f32::NAN);
        let norm = Normalisation { factor: &[1.0; 16], offset: &[0.5; 16], ..zero_norm(activation) };
        let got = Forward::new(cpu, &shape, &norm, &x);
        assert!(got.y.iter().all(|y| y.is_nan()), "{activation:?} on {}", cpu.isa());
        let want = if activation.is_none() { 1 } else { NO_ARGMAX };
        assert!(got.indices.iter().all(|&argmax| argmax == want), "{activation:?} on {}", cpu.isa());
    }
}

#[test]
#[should_panic(expected = "windows of [3, 3] with a stride of [2, 2] overlap")]
fn windows_must_not_overlap() {
    let shape = Pool2dShape::new(BlockShape::new(5, 5, 16), [3, 3], [2, 2]);
    let x = vec![0.0f32; shape.input().len()];
    Forward::new(cpus()[0], &shape, &zero_norm(None), &x);
}

#[test]
#[should_panic(expected = "Some(Gelu) cannot be fused with max pooling")]
fn the_activation_must_be_monotone() {
    let shape = Pool2dShape::new(BlockShape::new(2, 2, 16), [2, 2], [2, 2]);
    let x = vec![0.0f32; shape.input().len()];
    Forward::new(cpus()[0], &shape, &zero_norm(Some(Activation::Gelu)), &x);
}

#[test]
#[should_panic(expected = "the maxima's x has 256 elements and its shape 512")]
fn maxima_must_fit() {
    let shape = Pool2dShape::new(BlockShape::new(1, 1, 16), [1, 1], [1, 1]);
    let (norm, indices, dy) = (zero_norm(None), &[0; 512], &[0.0f32; 512]);
    let args = PooledBackwardArgs { shape: &shape, valid: 1, norm: &norm, indices, dy };
    pooled_gradient_sums(cpus()[0], args, &[0.0; 256], 0..16, &mut [0.0; 16], &mut [0.0; 16]);
}
