//! A network's first layer, the packing of weights, and the per-channel steps of batch normalisation between its
//! passes.
//!
//! On one thread; weights are those of a 3x3 convolution of 64 to 64 channels. Figures count the bytes read and
//! written, except for the first layer, where they count operations as in `conv`.

mod common;

use common::numbers;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use selvedge_compute::conv::first_layer::batch_norm::{self, PATCH_SUMS, Patches};
use selvedge_compute::conv::first_layer::{self, PooledBackward, patches};
use selvedge_compute::conv::tiles::repack;
use selvedge_compute::conv::winograd::Winograd;
use selvedge_compute::conv::{Conv2dShape, Epilogue, PANEL, PooledOutput, Training, pack};
use selvedge_compute::input::BlockImages;
use selvedge_compute::norm::{self, Normalisation};
use selvedge_compute::{AlignedVec, BLOCK, BlockShape, bf16};

/// The first layer on one block: in f32, and in bf16 on AMX, where it reads 4x4 patches.
fn first_layer(criterion: &mut Criterion) {
    let shape = Conv2dShape::same(BlockShape::input(28, 28, 1), 16, [3, 3], 1);
    let (pooled, ops) = (BlockShape::new(14, 14, 16), (2 * shape.multiply_adds() * BLOCK) as u64);
    let mut indices = AlignedVec::<u16>::zeroed(pooled.len());
    indices.iter_mut().enumerate().for_each(|(i, argmax)| *argmax = (i * 7919 % 4) as u16);
    let (mut dweights, mut dbias) = (numbers::<f32>(shape.weights_len()), numbers::<f32>(16));
    let mut group = criterion.benchmark_group("conv/backward_first_layer");
    group.throughput(Throughput::Elements(ops));
    let (x, dy) = (numbers::<f32>(shape.input.len()), numbers::<f32>(pooled.len()));
    for cpu in common::vector_cpus() {
        group.bench_function(BenchmarkId::new("f32", cpu.isa()), |bencher| {
            bencher.iter(|| {
                let (dweights, dbias) = (&mut dweights[..], Some(&mut dbias[..]));
                let args = PooledBackward { x: &x, dy: &dy, indices: &indices, scale: 1.0, dweights, dbias };
                first_layer::backward_pooled(cpu, &shape, args);
            });
        });
    }
    group.finish();
    let Some(cpu) = common::amx() else { return };
    let mut group = criterion.benchmark_group("conv/patches");
    group.throughput(Throughput::Elements(ops));
    let (panels, bias) = (numbers::<f32>(shape.weights_len()), numbers::<f32>(16));
    let (mut weights, mut y) = (AlignedVec::zeroed(patches::packed_len(&shape)), numbers::<bf16>(pooled.len()));
    patches::pack(cpu, &shape, &panels, &mut weights);
    let (mut x, dy) = (numbers::<bf16>(patches::shape(&shape).len()), numbers::<bf16>(pooled.len()));
    group.bench_function("forward", |bencher| {
        bencher.iter(|| {
            let training = Some(Training { indices: &mut indices, dropout: None });
            let output = PooledOutput { window: [2, 2], bias: Some(&bias), relu: true, y: &mut y, training };
            patches::forward(cpu, &shape, &x, &weights, 0..pooled.height, output);
        });
    });
    group.bench_function("backward", |bencher| {
        bencher.iter(|| {
            let (dweights, dbias) = (&mut dweights[..], Some(&mut dbias[..]));
            let args = PooledBackward { x: &x, dy: &dy, indices: &indices, scale: 1.0, dweights, dbias };
            patches::backward(cpu, &shape, args);
        });
    });
    let images = vec![7; BLOCK * 28 * 28];
    group.throughput(Throughput::BytesDecimal((images.len() + size_of_val(&x[..])) as u64));
    group.bench_function("fill", |bencher| {
        let images = BlockImages { pixels: &images[..], valid: BLOCK, scale: 0.0125, shift: -0.75 };
        bencher.iter(|| patches::fill(cpu, &shape, images, BLOCK, &mut x));
    });
    group.finish();
}

/// The layer next to the input followed by a batch norm, 64 channels of one block: sums over patches, then in bf16 both
/// passes without pooling; in f32 these are `conv/forward` and `conv/backward_weights`.
fn input_norm(criterion: &mut Criterion) {
    let shape = Conv2dShape::same(BlockShape::input(28, 28, 1), 64, [3, 3], 1);
    let mut sums = [0.0; PATCH_SUMS];
    let mut group = criterion.benchmark_group("conv/input_norm");
    let x = numbers::<f32>(shape.input.len());
    group.throughput(Throughput::BytesDecimal(size_of_val(&x[..]) as u64));
    for cpu in common::vector_cpus() {
        group.bench_function(BenchmarkId::new("patch_sums", cpu.isa()), |bencher| {
            bencher.iter(|| batch_norm::patch_sums(cpu, &shape, &x, &mut sums));
        });
    }
    let Some(cpu) = common::amx() else { return };
    let x = numbers::<bf16>(patches::shape(&shape).len());
    group.throughput(Throughput::BytesDecimal(size_of_val(&x[..]) as u64));
    group.bench_function(BenchmarkId::new("patch_sums", cpu.isa()), |bencher| {
        bencher.iter(|| patches::patch_sums(cpu, &shape, &x, &mut sums));
    });
    let (panels, bias) = (numbers::<f32>(shape.weights_len()), numbers::<f32>(64));
    let (mut weights, mut y) = (AlignedVec::zeroed(patches::packed_len(&shape)), numbers::<bf16>(shape.output.len()));
    patches::pack(cpu, &shape, &panels, &mut weights);
    group.throughput(Throughput::Elements((2 * shape.multiply_adds() * BLOCK) as u64));
    group.bench_function(BenchmarkId::new("forward", cpu.isa()), |bencher| {
        let epilogue = Epilogue { bias: Some(&bias), relu: true };
        bencher.iter(|| patches::forward_unpooled(cpu, &shape, &x, &weights, epilogue, 0..28, &mut y));
    });
    let dy = numbers::<bf16>(shape.output.len());
    let (mut dweights, mut dbias) = (numbers::<f32>(shape.weights_len()), numbers::<f32>(64));
    group.bench_function(BenchmarkId::new("backward", cpu.isa()), |bencher| {
        bencher.iter(|| patches::backward_unpooled(cpu, &shape, &x, Some(&y), &dy, &mut dweights, &mut dbias));
    });
    group.finish();
}

/// The steps of that batch norm between its passes, once per training step for all channels.
fn input_norm_channels(criterion: &mut Criterion) {
    let shape = Conv2dShape::same(BlockShape::input(28, 28, 1), 64, [3, 3], 1);
    let parts: Vec<f64> = (0..4 * PATCH_SUMS).map(|i| (i * 7919 % 101) as f64).collect();
    let [weights, mut folded] = [(); 2].map(|()| numbers::<f32>(shape.weights_len()));
    let [ones, mut shift, mut scale] = [(); 3].map(|()| AlignedVec::from_slice(&[1.0f32; 64]));
    let (mut mean, mut square) = ([0.0; 64], [0.0; 64]);
    let mut group = criterion.benchmark_group("conv/input_norm/channels");
    group.bench_function("moments", |bencher| {
        bencher.iter(|| {
            Patches::of_batch(&parts, 100_352).moments(&weights, None, &mut mean, &mut square);
            batch_norm::fold(&weights, None, &ones, &ones, &mut folded, &mut shift);
        });
    });
    let patches = Patches::of_batch(&parts, 100_352);
    group.bench_function("gradients", |bencher| {
        let norm = Normalisation { mean: &ones, rstd: &ones, factor: &ones, offset: &ones, activation: None };
        bencher.iter(|| patches.gradients(&weights, &norm, &mut folded, &shift, Some(&mut scale)));
    });
    group.finish();
}

fn packing(criterion: &mut Criterion) {
    let shape = Conv2dShape::same(BlockShape::new(14, 14, 64), 64, [3, 3], 1);
    let panels = numbers::<f32>(shape.weights_len());
    let panel_len = shape.taps() * shape.output.channel_stride * PANEL;
    let mut group = criterion.benchmark_group("conv/pack");
    group.throughput(Throughput::BytesDecimal(2 * size_of_val(&panels[..]) as u64));
    let mut transposed = numbers::<f32>(shape.transposed_len());
    group.bench_function("transpose_panel", |bencher| {
        bencher.iter(|| {
            let all = transposed.chunks_exact_mut(panel_len).enumerate();
            all.for_each(|(panel, to)| pack::transpose_panel(&shape, &panels, panel, to));
        });
    });
    let winograd = Winograd::of(&shape).expect("3x3 weights, padded channels");
    let input_panels = shape.input.channels / PANEL;
    let mut to = numbers::<f32>(winograd.weights_len());
    let mut rotation = numbers::<f32>(winograd.transposed_len() / input_panels);
    for cpu in common::vector_cpus() {
        group.throughput(Throughput::BytesDecimal((size_of_val(&panels[..]) + size_of_val(&to[..])) as u64));
        group.bench_function(BenchmarkId::new("winograd", cpu.isa()), |bencher| {
            bencher.iter(|| winograd.transform_weights(cpu, &panels, &mut to));
        });
        let bytes = size_of_val(&panels[..]) / input_panels + size_of_val(&rotation[..]);
        group.throughput(Throughput::BytesDecimal(bytes as u64));
        group.bench_function(BenchmarkId::new("winograd_transposed_panel", cpu.isa()), |bencher| {
            bencher.iter(|| winograd.transpose_weights(cpu, &panels, 0, &mut rotation));
        });
    }
    if let Some(cpu) = common::amx() {
        group.throughput(Throughput::BytesDecimal((panels.len() * (size_of::<f32>() + size_of::<bf16>())) as u64));
        let mut packed = numbers::<bf16>(shape.weights_len());
        group.bench_function("to_bf16", |bencher| bencher.iter(|| repack::to_bf16(cpu, &panels, &mut packed)));
        let mut transposed = numbers::<bf16>(shape.transposed_len());
        group.bench_function("transpose_to_bf16", |bencher| {
            bencher.iter(|| {
                let all = transposed.chunks_exact_mut(panel_len).enumerate();
                all.for_each(|(panel, to)| repack::transpose_to_bf16(cpu, &shape, &panels, panel, to));
            });
        });
    }
    group.finish();
}

/// The per-channel steps for a batch of 128 images of 14x14 pixels and 64 channels, from its blocks' sums.
fn channels(criterion: &mut Criterion) {
    const CHANNELS: usize = 64;
    const IMAGES: usize = 128;
    let block_sums: Vec<f64> =
        numbers::<f32>(IMAGES / BLOCK * CHANNELS).iter().map(|&sum| f64::from(sum).abs()).collect();
    let (mut mean, mut squares) = (vec![0.0; CHANNELS], vec![0.0; CHANNELS]);
    let [ones, mut first, mut second] = [(); 3].map(|()| AlignedVec::from_slice(&[1.0f32; CHANNELS]));
    let mut group = criterion.benchmark_group("norm/channels");
    group.throughput(Throughput::BytesDecimal(2 * size_of_val(&block_sums[..]) as u64));
    group.bench_function("moments", |bencher| {
        bencher.iter(|| {
            let count = norm::combine_moments(IMAGES, 14 * 14, &block_sums, &block_sums, &mut mean, &mut squares);
            norm::rstd(count, &squares, 1e-5, &mut first);
            norm::update_running(count, &mean, &squares, 0.1, &mut first, &mut second);
            norm::affine(&ones, &ones, None, None, &mut first, &mut second);
        });
    });
    group.bench_function("gradients", |bencher| {
        let norm = Normalisation { mean: &ones, rstd: &ones, factor: &ones, offset: &ones, activation: None };
        bencher.iter(|| {
            norm::combine_sums(&block_sums, &mut mean);
            norm::combine_sums(&block_sums, &mut squares);
            norm::gradient_coefficients(IMAGES * 14 * 14, &norm, &mean, &squares, [&mut first, &mut second]);
        });
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = common::settings();
    targets = first_layer, input_norm, input_norm_channels, packing, channels
}
criterion_main!(benches);
