//! Convolutions and dense layers as their plans compute them: every pass, on every instruction set.
//!
//! A batch of 64 images, two blocks, on one thread for each block; in bf16 on AMX, in f32 elsewhere. Figures count the
//! nominal operations, two for each multiply-add and taps on the padding included, so that criterion's Gelem/s are
//! GFLOP/s; divide by `peak/multiply-add` of the same instruction set and number of threads for the share of the
//! hardware's limit.

mod common;

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use rayon::prelude::*;
use selvedge_compute::aligned::bytes;
use selvedge_compute::conv::{
    Accumulate, Blocks, Conv2dShape, ConvPlan, ForwardArgs, Fusion, Source, Training, WeightGradient,
};
use selvedge_compute::{AlignedVec, BLOCK, BlockShape, Cpu, Precision, Threads, bf16};

/// Blocks of the batch.
const BLOCKS: usize = 2;

/// Pixels in each direction, input channels, filters of 3x3 convolutions.
const CONVOLUTIONS: [[usize; 3]; 7] =
    [[28, 1, 16], [28, 64, 64], [14, 16, 32], [14, 64, 64], [14, 128, 128], [7, 256, 256], [3, 512, 512]];

/// Pixels in each direction, channels, units: the dense layers of recipe `seed`.
const DENSE: [[usize; 3]; 3] = [[3, 64, 350], [1, 350, 150], [1, 150, 10]];

fn convolutions() -> Vec<Conv2dShape> {
    let shape = |[size, channels, filters]: [usize; 3]| {
        // A single channel is a network's input; others come from a layer, which pads them.
        let input = match channels {
            1 => BlockShape::input(size, size, channels),
            _ => BlockShape::new(size, size, channels),
        };
        Conv2dShape::same(input, filters, [3, 3], 1)
    };
    CONVOLUTIONS.map(shape).to_vec()
}

fn dense_layers() -> Vec<Conv2dShape> {
    DENSE.map(|[size, channels, units]| Conv2dShape::dense(BlockShape::new(size, size, channels), units)).to_vec()
}

/// One pass over the batch.
type Pass = Box<dyn FnMut(Cpu) + Send>;

/// Makes the pass of a shape, with its tensors.
type Prepare = fn(Conv2dShape, Precision) -> Pass;

/// Measures a pass over each shape: in f32 on every instruction set of vectors, in bf16 on AMX.
fn measure(criterion: &mut Criterion, name: &str, shapes: &[Conv2dShape], prepare: Prepare) {
    let threads = Threads::new(BLOCKS.min(Threads::available())).expect("a pool of threads");
    let mut group = criterion.benchmark_group(name);
    group.sampling_mode(SamplingMode::Flat);
    for &shape in shapes {
        let Conv2dShape { input, output, .. } = shape;
        let title = format!("{}x{} {}-{}", input.height, input.width, input.channels, output.channels);
        group.throughput(Throughput::Elements((2 * shape.multiply_adds() * BLOCKS * BLOCK) as u64));
        // A network's input, whose channels are not padded, is convolved in f32 beside AMX, too.
        let amx = common::amx().filter(|_| is_padded(&input)).map(|cpu| (cpu, Precision::Bf16));
        for (cpu, precision) in common::vector_cpus().into_iter().map(|cpu| (cpu, Precision::F32)).chain(amx) {
            // Prepared only when criterion calls: most benchmarks may be filtered out.
            let mut pass = None;
            group.bench_function(BenchmarkId::new(&title, cpu.isa()), |bencher| {
                let pass = pass.get_or_insert_with(|| prepare(shape, precision));
                threads.install(|| bencher.iter(|| pass(cpu)));
            });
        }
    }
    group.finish();
}

fn is_padded(shape: &BlockShape) -> bool {
    shape.channel_stride == BlockShape::new(1, 1, shape.channels).channel_stride
}

/// The bytes of a batch of a tensor.
fn operand(shape: &BlockShape, precision: Precision) -> AlignedVec<u8> {
    let len = BLOCKS * shape.len();
    match precision {
        Precision::F32 => AlignedVec::from_slice(bytes(&common::numbers::<f32>(len))),
        Precision::Bf16 => AlignedVec::from_slice(bytes(&common::numbers::<bf16>(len))),
    }
}

/// The plan of a shape between other layers, or next to a network's input where its channels are not padded.
fn plan(shape: Conv2dShape, pool: Option<[usize; 2]>, precision: Precision) -> ConvPlan {
    let source = if is_padded(&shape.input) { Source::Layer } else { Source::Network };
    ConvPlan::new(shape, Fusion { batch_norm: false, relu: true, pool }, source, precision)
}

fn forward(shape: Conv2dShape, precision: Precision) -> Pass {
    forward_of(plan(shape, None, precision))
}

fn forward_pooled(shape: Conv2dShape, precision: Precision) -> Pass {
    forward_of(plan(shape, Some([2, 2]), precision))
}

fn forward_of(plan: ConvPlan) -> Pass {
    let (input, output) = (plan.input(), plan.output());
    let (x, mut y) = (operand(&input.shape, input.precision), operand(&output.shape, output.precision));
    let weights = common::numbers::<f32>(plan.shape().weights_len());
    let bias = common::numbers::<f32>(output.shape.channel_stride);
    let mut packed = AlignedVec::<u8>::zeroed(plan.packed_bytes());
    let mut indices = AlignedVec::<u16>::zeroed(BLOCKS * output.shape.len());
    let (x_bytes, y_bytes) = (x.len() / BLOCKS, y.len() / BLOCKS);
    let mut is_packed = false;
    Box::new(move |cpu| {
        if !std::mem::replace(&mut is_packed, true) {
            plan.pack_all(cpu, &weights, &mut packed);
        }
        let blocks = y.par_chunks_mut(y_bytes).zip(indices.par_chunks_mut(output.shape.len()));
        blocks.zip(x.par_chunks(x_bytes)).for_each(|((y, indices), x)| {
            let training = plan.fusion().pool.map(|_| Training { indices, dropout: None });
            let block = ForwardArgs::of_block(x);
            plan.forward(
                cpu,
                ForwardArgs { weights: &weights, packed: &packed, bias: Some(&bias), training, ..block },
                y,
            );
        });
    })
}

fn backward_data(shape: Conv2dShape, precision: Precision) -> Pass {
    let plan = plan(shape, None, precision);
    let (mut dx, dy) = (operand(&shape.input, precision), operand(&shape.output, precision));
    let (x_bytes, dy_bytes) = (dx.len() / BLOCKS, dy.len() / BLOCKS);
    let weights = common::numbers::<f32>(shape.weights_len());
    let mut transposed = AlignedVec::<u8>::zeroed(plan.transposed_bytes());
    let mut is_packed = false;
    Box::new(move |cpu| {
        if !std::mem::replace(&mut is_packed, true) {
            plan.transpose_all(cpu, &weights, &mut transposed);
        }
        dx.par_chunks_mut(x_bytes).zip(dy.par_chunks(dy_bytes)).for_each(|(dx, dy)| {
            plan.backward_data(cpu, dy, &transposed, 1, dx);
        });
    })
}

/// Partitioned as a network partitions it: gradients larger than a block's activations by panels, over all blocks;
/// smaller ones by blocks, each with a sum of its own.
fn backward_weights(shape: Conv2dShape, precision: Precision) -> Pass {
    let plan = plan(shape, None, precision);
    let (x, dy) = (operand(&shape.input, precision), operand(&shape.output, precision));
    let (x_bytes, dy_bytes) = (x.len() / BLOCKS, dy.len() / BLOCKS);
    let mut dweights = AlignedVec::<f32>::zeroed(BLOCKS * shape.weights_len());
    if plan.weight_gradient() == WeightGradient::PerGroup {
        return Box::new(move |cpu| {
            let blocks = x.par_chunks(x_bytes).zip(dy.par_chunks(dy_bytes));
            dweights.par_chunks_mut(shape.weights_len()).zip(blocks).for_each(|(dweights, (x, dy))| {
                plan.backward_weights_of_block(cpu, [x, dy], Accumulate::Add, dweights);
            });
        });
    }
    let [x_to, dy_to] = plan.repacked_bytes();
    let (x_to, dy_to) = (AlignedVec::<u8>::zeroed(BLOCKS * x_to), AlignedVec::<u8>::zeroed(BLOCKS * dy_to));
    Box::new(move |cpu| {
        let (x, dy) = if plan.keeps_operands() { (&x, &dy) } else { (&x_to, &dy_to) };
        let stack = |data, bytes: usize| Blocks { data, stride: bytes / BLOCKS, count: BLOCKS };
        let operands = [stack(&x[..], x.len()), stack(&dy[..], dy.len())];
        let at_once = plan.panels_per_chunk(rayon::current_num_threads());
        let chunks = dweights[..shape.weights_len()].par_chunks_mut(at_once * shape.panel_len()).enumerate();
        chunks.for_each(|(chunk, dweights)| {
            let panels = at_once * chunk..(at_once * (chunk + 1)).min(shape.panels());
            plan.backward_weights_of_panels(cpu, operands, panels, dweights);
        });
    })
}

fn convolution_passes(criterion: &mut Criterion) {
    let shapes = convolutions();
    // A network's input has no gradient.
    let inner = &shapes[1..];
    let pooled = [shapes[0], shapes[2], shapes[3]];
    measure(criterion, "conv/forward", &shapes, forward);
    measure(criterion, "conv/forward_pooled", &pooled, forward_pooled);
    measure(criterion, "conv/backward_data", inner, backward_data);
    measure(criterion, "conv/backward_weights", &shapes, backward_weights);
}

fn dense_passes(criterion: &mut Criterion) {
    let shapes = dense_layers();
    measure(criterion, "dense/forward", &shapes, forward);
    measure(criterion, "dense/backward_data", &shapes, backward_data);
    measure(criterion, "dense/backward_weights", &shapes, backward_weights);
}

criterion_group! { name = benches; config = common::settings(); targets = convolution_passes, dense_passes }
criterion_main!(benches);
