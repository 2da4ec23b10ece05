//! What it costs to pass arrays: each operation of `nd` beside the kernels that it runs, on a batch that lies in blocks.
//!
//! 64 images on one thread. `blocks` is what a network runs for the batch, its weights packed before; `arrays` packs, computes
//! and unpacks. Figures are times: their quotient is the overhead.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use ndarray::{Array, Array1, Array4, Dimension, ShapeBuilder};
use selvedge_compute::activation::{self, Activation};
use selvedge_compute::aligned::{bytes, bytes_mut};
use selvedge_compute::conv::{Accumulate, Conv2dShape, ConvPlan, ForwardArgs, Fusion, Source, WeightGradient, pack};
use selvedge_compute::nd::conv::Options;
use selvedge_compute::nd::pool::Window;
use selvedge_compute::nd::{self, BlockTensor};
use selvedge_compute::norm::{self, Normalisation};
use selvedge_compute::pool::{self, Pool2dShape};
use selvedge_compute::{AlignedVec, BLOCK, BlockShape, Cpu, Precision, Threads};

const IMAGES: usize = 2 * BLOCK;

/// Pixels in each direction, input channels, filters of 3x3 convolutions.
const CONVOLUTIONS: [[usize; 3]; 4] = [[28, 1, 16], [14, 16, 32], [14, 64, 64], [7, 256, 256]];

/// Pixels in each direction and channels of what other operations work on.
const TENSORS: [[usize; 2]; 2] = [[28, 16], [14, 64]];

/// Numbers between −1 and 1.
fn numbers<D: Dimension>(shape: impl ShapeBuilder<Dim = D>) -> Array<f32, D> {
    let mut n = 0..;
    Array::from_shape_simple_fn(shape, || (n.next().unwrap_or(0) * 7919 % 2001) as f32 * 1e-3 - 1.0)
}

/// Measures both ways of an operation on one thread.
fn compare(
    criterion: &mut Criterion,
    name: &str,
    title: &str,
    mut blocks: impl FnMut() + Send,
    mut arrays: impl FnMut() + Send,
) {
    let threads = Threads::new(1).expect("a pool of one thread");
    let mut group = criterion.benchmark_group(name);
    group.bench_function(BenchmarkId::new(title, "blocks"), |bencher| {
        threads.install(|| bencher.iter(&mut blocks));
    });
    group.bench_function(BenchmarkId::new(title, "arrays"), |bencher| {
        threads.install(|| bencher.iter(&mut arrays));
    });
    group.finish();
}

fn detect() -> Cpu {
    Cpu::detect().unwrap_or_else(|error| panic!("{error}"))
}

fn convolutions(criterion: &mut Criterion) {
    let cpu = detect();
    for [size, channels, filters] in CONVOLUTIONS {
        let title = format!("{size}x{size} {channels}-{filters}");
        let is_input = channels == 1;
        let (input, source) = match is_input {
            true => (BlockShape::input(size, size, channels), Source::Network),
            false => (BlockShape::new(size, size, channels), Source::Layer),
        };
        let shape = Conv2dShape::same(input, filters, [3, 3], 1);
        let plan = ConvPlan::new(shape, Fusion::default(), source, Precision::F32);
        let x = numbers((IMAGES, size, size, channels));
        let (weights, dy) = (numbers((3, 3, channels, filters)), numbers((IMAGES, size, size, filters)));
        let x_blocks = match is_input {
            true => BlockTensor::from_input(x.view()),
            false => BlockTensor::from_array(x.view()),
        };
        let x_blocks = x_blocks.expect("a batch of images");
        let dy_blocks = BlockTensor::from_array(dy.view()).expect("a batch of images");
        let mut panels = AlignedVec::<f32>::zeroed(shape.weights_len());
        pack::to_panels(&shape, weights.as_slice().expect("a new array"), &mut panels);
        let mut packed = AlignedVec::<u8>::zeroed(plan.packed_bytes());
        plan.pack_all(cpu, &panels, &mut packed);
        let mut transposed = AlignedVec::<u8>::zeroed(plan.transposed_bytes());
        plan.transpose_all(cpu, &panels, &mut transposed);

        let mut y = BlockTensor::<f32>::zeroed(shape.output, IMAGES).expect("a batch of images");
        let forward = || {
            for (x, y) in x_blocks.iter().zip(y.iter_mut()) {
                let args = ForwardArgs { weights: &panels, packed: &packed, ..ForwardArgs::of_block(bytes(x)) };
                plan.forward(cpu, args, bytes_mut(y));
            }
        };
        compare(criterion, "nd/conv_forward", &title, forward, || {
            nd::conv::forward(cpu, Options::SAME, x.view(), weights.view(), None).expect("shapes that fit");
        });

        // Where the weights are summed by panels, the network does it in another way, which is in `conv/backward_weights`.
        if plan.weight_gradient() == WeightGradient::PerPanel {
            continue;
        }
        let mut dx = BlockTensor::<f32>::zeroed(shape.input, IMAGES).expect("a batch of images");
        let mut dweights = AlignedVec::zeroed(shape.weights_len());
        let backward = || {
            for ((x, dy), dx) in x_blocks.iter().zip(dy_blocks.iter()).zip(dx.iter_mut()) {
                plan.backward_weights_of_block(cpu, [bytes(x), bytes(dy)], Accumulate::Add, &mut dweights);
                if plan.has_input_gradient() {
                    plan.backward_data(cpu, bytes(dy), &transposed, 1, bytes_mut(dx));
                }
            }
        };
        compare(criterion, "nd/conv_backward", &title, backward, || match is_input {
            true => {
                nd::conv::backward_weights(cpu, Options::SAME, x.view(), [3, 3], dy.view()).expect("shapes that fit");
            }
            false => {
                nd::conv::backward(cpu, Options::SAME, x.view(), weights.view(), dy.view()).expect("shapes that fit");
            }
        });
    }
}

fn other_operations(criterion: &mut Criterion) {
    let cpu = detect();
    for [size, channels] in TENSORS {
        let title = format!("{size}x{size} {channels}");
        let x = numbers((IMAGES, size, size, channels));
        let blocks = BlockTensor::from_array(x.view()).expect("a batch of images");
        let shape = blocks.shape();
        let mut y = BlockTensor::<f32>::zeroed(shape, IMAGES).expect("a batch of images");

        compare(
            criterion,
            "nd/relu",
            &title,
            || activation::forward(cpu, Activation::Relu, blocks.as_slice(), y.as_mut_slice()),
            || {
                nd::activation::forward(cpu, Activation::Relu, x.view());
            },
        );

        let window = Pool2dShape::new(shape, [2, 2], [2, 2]);
        let (output, rows) = (window.output(), 0..window.output().height);
        let mut pooled = BlockTensor::<f32>::zeroed(output, IMAGES).expect("a batch of images");
        let mut indices = AlignedVec::<u16>::zeroed(output.len());
        let max_pool = || {
            for (x, y) in blocks.iter().zip(pooled.iter_mut()) {
                pool::max_forward(cpu, &window, rows.clone(), x, y, Some(&mut indices));
            }
        };
        compare(criterion, "nd/max_pool", &title, max_pool, || {
            nd::pool::max_forward(cpu, Window::square(2), x.view()).expect("shapes that fit");
        });

        let ones = Array1::ones(channels);
        let constants = AlignedVec::from_slice(&vec![1.0; shape.channel_stride]);
        let constants: &[f32] = &constants;
        let normalisation =
            Normalisation { mean: constants, rstd: constants, factor: constants, offset: constants, activation: None };
        let (mut mean, mut squared_deviations) = (vec![0.0; shape.channel_stride], vec![0.0; shape.channel_stride]);
        let batch_norm = || {
            for (x, y) in blocks.iter().zip(y.iter_mut()) {
                norm::block_moments(cpu, &shape, BLOCK, x, 0..shape.channel_stride, &mut mean, &mut squared_deviations);
                norm::normalise(cpu, &shape, &normalisation, x, y);
            }
        };
        compare(criterion, "nd/batch_norm", &title, batch_norm, || {
            nd::norm::forward(cpu, x.view(), ones.view(), ones.view(), 1e-5).expect("shapes that fit");
        });
    }
}

/// The ways from arrays to blocks and back, NHWC and NCHW.
fn conversions(criterion: &mut Criterion) {
    let threads = Threads::new(1).expect("a pool of one thread");
    for [size, channels] in [[28, 1], [28, 16], [14, 64]] {
        let nhwc = numbers((IMAGES, size, size, channels));
        let nchw = nhwc.view().permuted_axes([0, 3, 1, 2]).as_standard_layout().into_owned();
        let nchw = nchw.view().permuted_axes([0, 2, 3, 1]);
        let blocks = BlockTensor::from_array(nhwc.view()).expect("a batch of images");
        let mut to = Array4::zeros(nhwc.dim());
        let mut group = criterion.benchmark_group(format!("nd/convert {size}x{size} {channels}"));
        group.throughput(criterion::Throughput::BytesDecimal(2 * size_of_val(blocks.as_slice()) as u64));
        for (name, x) in [("from NHWC", nhwc.view()), ("from NCHW", nchw)] {
            group.bench_function(name, |bencher| threads.install(|| bencher.iter(|| BlockTensor::from_array(x))));
        }
        group.bench_function("to NHWC", |bencher| {
            threads.install(|| bencher.iter(|| blocks.copy_to(to.view_mut()).expect("shapes that fit")));
        });
        group.finish();
    }
}

/// As the other benchmarks of the crate, whose settings are for kernels on several instruction sets.
fn settings() -> Criterion {
    Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(500))
        .nresamples(10_000)
        .without_plots()
}

criterion_group! { name = benches; config = settings(); targets = convolutions, other_operations, conversions }
criterion_main!(benches);
