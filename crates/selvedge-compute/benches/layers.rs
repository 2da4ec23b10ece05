//! The kernels of a training step other than convolutions and dense layers: biases, the repacking for weight gradients,
//! pooling, activations, normalisation, dropout, sums, the loss, the optimizers and the input, on every instruction set
//! and for both element types.
//!
//! One block of 32 images with 14x14 pixels and 16 channels, or as many parameters, on one thread: all operands of a
//! kernel fit into L2. Memory bounds most of these kernels, so the figures count the bytes read and written; compare
//! them with `peak/copy/L2`.

mod common;

use common::numbers;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use selvedge_compute::activation::{self, Activation};
use selvedge_compute::conv;
use selvedge_compute::conv::direct::repack::to_planes;
use selvedge_compute::conv::tiles::repack;
use selvedge_compute::dropout::{self, DropoutMask};
use selvedge_compute::input::{self, BlockImages};
use selvedge_compute::loss::{self, BlockTargets, Logits, LossGradient, TargetOptions};
use selvedge_compute::norm::{self, BackwardArgs, Normalisation, PooledBackwardArgs, PooledMaxima};
use selvedge_compute::optim::{self, AdamParams, SgdParams};
use selvedge_compute::pool::{self, Pool2dShape, PooledGradient};
use selvedge_compute::simd::Element;
use selvedge_compute::{AlignedVec, BLOCK, BlockShape, Cpu, bf16, sum};

const SHAPE: BlockShape = BlockShape::new(14, 14, 16);

/// Measures `kernel`, which reads and writes `bytes`, on every instruction set.
fn measure(criterion: &mut Criterion, name: &str, types: &str, bytes: usize, mut kernel: impl FnMut(Cpu)) {
    let mut group = criterion.benchmark_group(name);
    group.throughput(Throughput::BytesDecimal(bytes as u64));
    for cpu in common::vector_cpus() {
        group.bench_function(BenchmarkId::new(types, cpu.isa()), |bencher| bencher.iter(|| kernel(cpu)));
    }
    group.finish();
}

/// The name of an element type.
fn type_name<E: Element>() -> &'static str {
    if E::IS_BF16 { "bf16" } else { "f32" }
}

fn biases<E: Element>(criterion: &mut Criterion) {
    let dy = numbers::<E>(SHAPE.len());
    let mut dbias = numbers::<f32>(SHAPE.channel_stride);
    measure(criterion, "conv/backward_bias", type_name::<E>(), size_of_val(&dy[..]), |cpu| {
        conv::backward_bias(cpu, &SHAPE, &dy, &mut dbias);
    });
}

/// Repacking both operands of the weight gradient: planes in f32, transposed or paired images on AMX.
fn repacking(criterion: &mut Criterion) {
    let (from, mut to) = (numbers::<f32>(SHAPE.len()), numbers::<f32>(SHAPE.len()));
    let mut group = criterion.benchmark_group("conv/repack");
    group.throughput(Throughput::BytesDecimal(2 * size_of_val(&from[..]) as u64));
    for cpu in common::vector_cpus() {
        group.bench_function(BenchmarkId::new("to_planes", cpu.isa()), |bencher| {
            bencher.iter(|| to_planes(cpu, &SHAPE, &from, &mut to));
        });
    }
    let (from, mut to) = (numbers::<bf16>(SHAPE.len()), numbers::<bf16>(SHAPE.len()));
    group.throughput(Throughput::BytesDecimal(2 * size_of_val(&from[..]) as u64));
    if let Some(cpu) = common::amx() {
        group.bench_function(BenchmarkId::new("pair_images", cpu.isa()), |bencher| {
            bencher.iter(|| repack::pair_images(cpu, &SHAPE, &from, &mut to));
        });
        group.bench_function(BenchmarkId::new("transpose_images", cpu.isa()), |bencher| {
            bencher.iter(|| repack::transpose_images(cpu, &SHAPE, &from, &mut to));
        });
    }
    group.finish();
}

fn pooling<E: Element>(criterion: &mut Criterion) {
    let (name, size) = (type_name::<E>(), size_of::<E>());
    let shape = Pool2dShape::new(SHAPE, [2, 2], [2, 2]);
    let (large, small) = (shape.input().len(), shape.output().len());
    let (rows, all_rows) = (shape.output().height, shape.input().height);
    let (mut x, mut y) = (numbers::<E>(large), numbers::<E>(small));
    let mut indices = AlignedVec::<u16>::zeroed(small);
    let (elements, index_bytes) = ((large + small) * size, small * size_of::<u16>());
    measure(criterion, "pool/max_forward", name, elements + index_bytes, |cpu| {
        pool::max_forward(cpu, &shape, 0..rows, &x, &mut y, Some(&mut indices));
    });
    measure(criterion, "pool/average_forward", name, elements, |cpu| {
        pool::average_forward(cpu, &shape, 0..rows, &x, &mut y);
    });
    measure(criterion, "pool/max_backward", name, elements + index_bytes, |cpu| {
        pool::max_backward(cpu, &shape, 0..all_rows, &y, &indices, &mut x);
    });
    measure(criterion, "pool/scatter", name, elements + index_bytes, |cpu| {
        pool::scatter(cpu, &shape, PooledGradient { dy: &y, indices: &indices, scale: 1.0 }, &mut x, None);
    });
    measure(criterion, "pool/average_backward", name, elements, |cpu| {
        pool::average_backward(cpu, &shape, 0..all_rows, &y, &mut x);
    });
}

fn activations<E: Element>(criterion: &mut Criterion) {
    let (name, bytes) = (type_name::<E>(), SHAPE.len() * size_of::<E>());
    let (x, dy, mut y) = (numbers::<E>(SHAPE.len()), numbers::<E>(SHAPE.len()), numbers::<E>(SHAPE.len()));
    for kind in Activation::ALL {
        measure(criterion, &format!("activation/{}_forward", kind.name()), name, 2 * bytes, |cpu| {
            activation::forward(cpu, kind, &x, &mut y);
        });
        measure(criterion, &format!("activation/{}_backward", kind.name()), name, 3 * bytes, |cpu| {
            activation::backward(cpu, kind, &x, &dy, &mut y);
        });
    }
}

fn normalisation<E: Element>(criterion: &mut Criterion) {
    let (name, bytes, channels) = (type_name::<E>(), SHAPE.len() * size_of::<E>(), SHAPE.channel_stride);
    let (x, dy, mut y) = (numbers::<E>(SHAPE.len()), numbers::<E>(SHAPE.len()), numbers::<E>(SHAPE.len()));
    let per_channel = numbers::<f32>(channels);
    let norm = Normalisation {
        mean: &per_channel,
        rstd: &per_channel,
        factor: &per_channel,
        offset: &per_channel,
        activation: Some(Activation::Relu),
    };
    let (mut first, mut second) = (vec![0.0; channels], vec![0.0; channels]);
    measure(criterion, "norm/block_moments", name, bytes, |cpu| {
        norm::block_moments(cpu, &SHAPE, BLOCK, &x, 0..channels, &mut first, &mut second);
    });
    measure(criterion, "norm/normalise_relu", name, 2 * bytes, |cpu| norm::normalise(cpu, &SHAPE, &norm, &x, &mut y));
    measure(criterion, "norm/normalise_and_add", name, 3 * bytes, |cpu| {
        norm::normalise_and_add(cpu, &SHAPE, &norm, &x, &dy, &mut y);
    });
    let args = BackwardArgs { shape: &SHAPE, valid: BLOCK, norm: &norm, x: &x, dy: &dy };
    measure(criterion, "norm/block_gradient_sums", name, 2 * bytes, |cpu| {
        norm::block_gradient_sums(cpu, args, 0..channels, &mut first, &mut second);
    });
    measure(criterion, "norm/input_gradient", name, 3 * bytes, |cpu| {
        norm::input_gradient(cpu, args, [&per_channel; 2], &mut y);
    });
    let shape = Pool2dShape::new(SHAPE, [2, 2], [2, 2]);
    let small = shape.output().len();
    let (mut indices, mut kept) = (AlignedVec::<u16>::zeroed(small), numbers::<E>(small));
    let small_bytes = small * (2 * size_of::<E>() + size_of::<u16>());
    measure(criterion, "norm/normalise_pooled_relu", name, bytes + small_bytes, |cpu| {
        let maxima = PooledMaxima { indices: &mut indices, x: &mut kept };
        norm::normalise_pooled(cpu, &shape, &norm, &x, &mut y[..small], Some(maxima));
    });
    let args = PooledBackwardArgs { shape: &shape, valid: BLOCK, norm: &norm, indices: &indices, dy: &dy[..small] };
    measure(criterion, "norm/pooled_gradient_sums", name, small_bytes, |cpu| {
        norm::pooled_gradient_sums(cpu, args, &kept, 0..channels, &mut first, &mut second);
    });
    let dy_bytes = small * (size_of::<E>() + size_of::<u16>());
    measure(criterion, "norm/pooled_input_gradient", name, 2 * bytes + dy_bytes, |cpu| {
        norm::pooled_input_gradient(cpu, args, [&per_channel; 2], &x, &mut y);
    });
}

fn elementwise<E: Element>(criterion: &mut Criterion) {
    let (name, bytes) = (type_name::<E>(), SHAPE.len() * size_of::<E>());
    let (a, b, mut y) = (numbers::<E>(SHAPE.len()), numbers::<E>(SHAPE.len()), numbers::<E>(SHAPE.len()));
    let mask = DropoutMask { key: 1, first_image: 0, rate: 0.3 };
    measure(criterion, "dropout/apply", name, 2 * bytes, |cpu| {
        dropout::apply(cpu, &SHAPE, 0..SHAPE.height, &mask, &a, &mut y);
    });
    measure(criterion, "sum/add", name, 3 * bytes, |cpu| sum::add(cpu, &a, &b, &mut y));
    let mut in_f32 = numbers::<f32>(SHAPE.len());
    measure(criterion, "sum/convert_from_f32", name, bytes + size_of_val(&in_f32[..]), |cpu| {
        sum::convert(cpu, &in_f32, &mut y);
    });
    measure(criterion, "sum/convert_to_f32", name, bytes + size_of_val(&in_f32[..]), |cpu| {
        sum::convert(cpu, &y, &mut in_f32);
    });
}

fn network_input<E: Element>(criterion: &mut Criterion) {
    for (title, channels) in [("grey", 1), ("colour", 3)] {
        let shape = BlockShape::input(28, 28, channels);
        let pixels: Vec<u8> = (0..shape.len()).map(|i| (i * 7919 % 256) as u8).collect();
        let mut out = AlignedVec::<E>::zeroed(shape.len());
        let bytes = shape.len() * (1 + size_of::<E>());
        measure(criterion, &format!("input/fill_block_{title}"), type_name::<E>(), bytes, |cpu| {
            let images = BlockImages { pixels: &pixels, valid: BLOCK, scale: 0.0125, shift: -0.75 };
            input::fill_block(cpu, shape, images, &mut out);
        });
    }
}

fn losses(criterion: &mut Criterion) {
    let values = numbers::<f32>(BLOCK * 16);
    let logits = Logits { values: &values, classes: 10, valid: BLOCK };
    let labels: Vec<u8> = (0..BLOCK).map(|image| (image % 10) as u8).collect();
    let (mut dlogits, mut probabilities) = (numbers::<f32>(values.len()), numbers::<f32>(BLOCK * 10));
    let bytes = size_of_val(&values[..]);
    measure(criterion, "loss/cross_entropy", "f32", 2 * bytes, |cpu| {
        let targets = BlockTargets::Labels(&labels);
        let gradient = LossGradient { scale: 1.0 / 64.0, dlogits: &mut dlogits };
        loss::cross_entropy(
            cpu,
            logits,
            targets,
            TargetOptions { smoothing: 0.1, class_weights: None },
            Some(gradient),
        );
    });
    let written = size_of_val(&probabilities[..]);
    measure(criterion, "loss/softmax", "f32", bytes + written, |cpu| loss::softmax(cpu, logits, &mut probabilities));
}

fn optimizers(criterion: &mut Criterion) {
    let grad = numbers::<f32>(SHAPE.len());
    let (mut value, mut first, mut second) =
        (grad.clone(), AlignedVec::zeroed(grad.len()), AlignedVec::zeroed(grad.len()));
    let bytes = size_of_val(&grad[..]);
    let params = SgdParams { rate: 1e-3, momentum: 0.9, nesterov: true, weight_decay: 5e-4 };
    // SGD reads three slices and writes two; Adam reads four and writes three.
    measure(criterion, "optim/sgd", "f32", 5 * bytes, |cpu| {
        optim::sgd(cpu, &mut value, &grad, &mut first, &params);
    });
    let mut params = AdamParams {
        rate: 1e-3,
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-7,
        weight_decay: 1e-2,
        decoupled: true,
        step: 0,
    };
    measure(criterion, "optim/adam", "f32", 7 * bytes, |cpu| {
        params.step += 1;
        optim::adam(cpu, &mut value, &grad, &mut first, &mut second, &params);
    });
}

criterion_group! {
    name = benches;
    config = common::settings();
    targets =
        biases::<f32>, biases::<bf16>, repacking, pooling::<f32>, pooling::<bf16>, activations::<f32>,
        activations::<bf16>, normalisation::<f32>, normalisation::<bf16>, elementwise::<f32>, elementwise::<bf16>,
        network_input::<f32>, network_input::<bf16>, losses, optimizers
}
criterion_main!(benches);
