//! Convolutions, by sums and by Winograd's algorithm, and dense layers: every pass, on every instruction set.
//!
//! A batch of 64 images, two blocks, on one thread for each block; in bf16 on AMX, in f32 elsewhere. Figures count the
//! nominal operations, two for each multiply-add and taps on the padding included, so that criterion's Gelem/s are
//! GFLOP/s; the share of the hardware's limit is the quotient by `peak/multiply-add` of the same instruction set and
//! number of threads.

mod common;

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use rayon::prelude::*;
use selvedge_compute::conv::winograd::{Share, Winograd};
use selvedge_compute::conv::{Accumulate, Blocks, Conv2dShape, ConvElement, Epilogue, Training, row_buffers};
use selvedge_compute::simd::Element;
use selvedge_compute::{AlignedVec, BLOCK, BlockShape, Cpu, Threads, bf16};

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
type Prepare = fn(Conv2dShape) -> Pass;

/// Measures a pass over each shape: the first in f32, the second in bf16, if there is one.
fn measure(criterion: &mut Criterion, name: &str, shapes: &[Conv2dShape], in_f32: Prepare, in_bf16: Option<Prepare>) {
    let threads = Threads::new(BLOCKS.min(Threads::available())).expect("a pool of threads");
    let mut group = criterion.benchmark_group(name);
    group.sampling_mode(SamplingMode::Flat);
    for &shape in shapes {
        let Conv2dShape { input, output, .. } = shape;
        let title = format!("{}x{} {}-{}", input.height, input.width, input.channels, output.channels);
        group.throughput(Throughput::Elements((2 * shape.multiply_adds() * BLOCKS * BLOCK) as u64));
        // AMX needs padded channels: a network's input is convolved in f32 there, too.
        let is_padded = input.channel_stride == BlockShape::new(1, 1, input.channels).channel_stride;
        let amx = common::amx().zip(in_bf16.filter(|_| is_padded));
        for (cpu, prepare) in common::vector_cpus().into_iter().map(|cpu| (cpu, in_f32)).chain(amx) {
            // Not before criterion calls: most benchmarks may be filtered out.
            let mut pass = None;
            group.bench_function(BenchmarkId::new(&title, cpu.isa()), |bencher| {
                let pass = pass.get_or_insert_with(|| prepare(shape));
                threads.install(|| bencher.iter(|| pass(cpu)));
            });
        }
    }
    group.finish();
}

fn batch<E: Element>(shape: &BlockShape) -> AlignedVec<E> {
    common::numbers(BLOCKS * shape.len())
}

fn forward<E: ConvElement>(shape: Conv2dShape) -> Pass {
    let (x, mut y) = (batch::<E>(&shape.input), batch::<E>(&shape.output));
    let weights = common::numbers::<E>(shape.weights_len());
    let bias = common::numbers::<f32>(shape.output.channel_stride);
    Box::new(move |cpu| {
        let epilogue = Epilogue { bias: Some(&bias), relu: true };
        y.par_chunks_mut(shape.output.len()).zip(x.par_chunks(shape.input.len())).for_each(|(y, x)| {
            E::forward(cpu, &shape, x, &weights, epilogue, 0..shape.output.height, y);
        });
    })
}

fn forward_pooled<E: ConvElement>(shape: Conv2dShape) -> Pass {
    let output = shape.output;
    let pooled = BlockShape::new(output.height / 2, output.width / 2, output.channels);
    let (x, mut y) = (batch::<E>(&shape.input), batch::<E>(&pooled));
    let mut indices = AlignedVec::<u16>::zeroed(y.len());
    let weights = common::numbers::<E>(shape.weights_len());
    Box::new(move |cpu| {
        let blocks = y.par_chunks_mut(pooled.len()).zip(indices.par_chunks_mut(pooled.len()));
        blocks.zip(x.par_chunks(shape.input.len())).for_each(|((y, indices), x)| {
            E::forward_pooled(cpu, &shape, [2, 2], x, &weights, 0..pooled.height, y, indices);
        });
    })
}

fn backward_data<E: ConvElement>(shape: Conv2dShape) -> Pass {
    let (mut dx, dy) = (batch::<E>(&shape.input), batch::<E>(&shape.output));
    let transposed = common::numbers::<E>(shape.transposed_len());
    Box::new(move |cpu| {
        dx.par_chunks_mut(shape.input.len()).zip(dy.par_chunks(shape.output.len())).for_each(|(dx, dy)| {
            E::backward_data(cpu, &shape, dy, &transposed, 0..shape.input.height, dx);
        });
    })
}

/// Cut as a network cuts it: gradients larger than a block's activations two panels at a time, over all blocks; smaller
/// ones by blocks, each with a sum of its own.
fn backward_weights<E: ConvElement>(shape: Conv2dShape) -> Pass {
    let (x, dy) = (batch::<E>(&shape.input), batch::<E>(&shape.output));
    let mut dweights = AlignedVec::<f32>::zeroed(BLOCKS * shape.weights_len());
    if !shape.weights_exceed_activations(size_of::<E>()) {
        let [x_rows, dy_row] = row_buffers(&shape);
        let mut buffers: Vec<_> =
            (0..BLOCKS).map(|_| (AlignedVec::<E>::zeroed(x_rows), AlignedVec::<E>::zeroed(dy_row))).collect();
        return Box::new(move |cpu| {
            let blocks = x.par_chunks(shape.input.len()).zip(dy.par_chunks(shape.output.len()));
            let gradients = dweights.par_chunks_mut(shape.weights_len()).zip(&mut buffers);
            gradients.zip(blocks).for_each(|((dweights, (x_rows, dy_row)), (x, dy))| {
                E::backward_weights_of_block(cpu, &shape, [x, dy], [x_rows, dy_row], Accumulate::Add, dweights);
            });
        });
    }
    Box::new(move |cpu| {
        let x = Blocks { data: &x[..], stride: shape.input.len(), count: BLOCKS };
        let dy = Blocks { data: &dy[..], stride: shape.output.len(), count: BLOCKS };
        let pieces = dweights[..shape.weights_len()].par_chunks_mut(2 * shape.panel_len()).enumerate();
        pieces.for_each(|(piece, dweights)| {
            let panels = 2 * piece..(2 * piece + 2).min(shape.panels());
            E::backward_weights(cpu, &shape, x, dy, panels, Accumulate::Add, dweights);
        });
    })
}

fn convolution_passes(criterion: &mut Criterion) {
    let shapes = convolutions();
    // A network's input has no gradient.
    let inner = &shapes[1..];
    let pooled = [shapes[0], shapes[2], shapes[3]];
    measure(criterion, "conv/forward", &shapes, forward::<f32>, Some(forward::<bf16>));
    measure(criterion, "conv/forward_pooled", &pooled, forward_pooled::<f32>, Some(forward_pooled::<bf16>));
    measure(criterion, "conv/backward_data", inner, backward_data::<f32>, Some(backward_data::<bf16>));
    measure(criterion, "conv/backward_weights", &shapes, backward_weights::<f32>, Some(backward_weights::<bf16>));
}

/// The passes by Winograd's algorithm, in f32 on every instruction set of vectors.
fn winograd_passes(criterion: &mut Criterion) {
    let inner = &convolutions()[1..];
    fn of(shape: &Conv2dShape) -> Winograd {
        Winograd::of(shape).expect("3x3 weights, padded channels")
    }
    let forward: Prepare = |shape| {
        let winograd = of(&shape);
        let (x, mut y) = (batch::<f32>(&shape.input), batch::<f32>(&shape.output));
        let (weights, bias) =
            (common::numbers::<f32>(winograd.weights_len()), common::numbers(shape.output.channel_stride));
        Box::new(move |cpu| {
            let epilogue = Epilogue { bias: Some(&bias), relu: true };
            let blocks = y.par_chunks_mut(shape.output.len()).zip(x.par_chunks(shape.input.len()));
            blocks.for_each(|(y, x)| winograd.forward(cpu, x, &weights, epilogue, Share::ALL, y));
        })
    };
    let forward_pooled: Prepare = |shape| {
        let winograd = Winograd::pooled(&shape, [2, 2]).expect("windows that tiles hold");
        let output = shape.output;
        let pooled = BlockShape::new(output.height / 2, output.width / 2, output.channels);
        let (x, mut y) = (batch::<f32>(&shape.input), batch::<f32>(&pooled));
        let mut indices = AlignedVec::<u16>::zeroed(y.len());
        let weights = common::numbers::<f32>(winograd.weights_len());
        Box::new(move |cpu| {
            let blocks = y.par_chunks_mut(pooled.len()).zip(indices.par_chunks_mut(pooled.len()));
            blocks.zip(x.par_chunks(shape.input.len())).for_each(|((y, indices), x)| {
                let training = Some(Training { indices, dropout: None });
                winograd.forward_pooled(cpu, [2, 2], x, &weights, None, Share::ALL, y, training);
            });
        })
    };
    let backward_data: Prepare = |shape| {
        let winograd = of(&shape);
        let (mut dx, dy) = (batch::<f32>(&shape.input), batch::<f32>(&shape.output));
        let transposed = common::numbers::<f32>(winograd.transposed_len());
        Box::new(move |cpu| {
            let blocks = dx.par_chunks_mut(shape.input.len()).zip(dy.par_chunks(shape.output.len()));
            blocks.for_each(|(dx, dy)| winograd.backward_data(cpu, dy, &transposed, 1, dx));
        })
    };
    let backward_weights: Prepare = |shape| {
        let winograd = of(&shape);
        let (x, dy) = (batch::<f32>(&shape.input), batch::<f32>(&shape.output));
        let mut dweights = AlignedVec::<f32>::zeroed(BLOCKS * shape.weights_len());
        Box::new(move |cpu| {
            if shape.weights_exceed_activations(size_of::<f32>()) {
                let x = Blocks { data: &x[..], stride: shape.input.len(), count: BLOCKS };
                let dy = Blocks { data: &dy[..], stride: shape.output.len(), count: BLOCKS };
                let pieces = dweights[..shape.weights_len()].par_chunks_mut(4 * shape.panel_len()).enumerate();
                pieces.for_each(|(piece, dweights)| {
                    let panels = 4 * piece..(4 * piece + 4).min(shape.panels());
                    winograd.backward_weights(cpu, x, dy, panels, Accumulate::Add, dweights);
                });
            } else {
                let blocks = x.par_chunks(shape.input.len()).zip(dy.par_chunks(shape.output.len()));
                dweights.par_chunks_mut(shape.weights_len()).zip(blocks).for_each(|(dweights, (x, dy))| {
                    let (x, dy) = (Blocks::one(x), Blocks::one(dy));
                    winograd.backward_weights(cpu, x, dy, 0..shape.panels(), Accumulate::Add, dweights);
                });
            }
        })
    };
    for (name, prepare) in
        [("forward", forward), ("backward_data", backward_data), ("backward_weights", backward_weights)]
    {
        measure(criterion, &format!("winograd/{name}"), inner, prepare, None);
    }
    measure(criterion, "winograd/forward_pooled", &inner[1..3], forward_pooled, None);
}

fn dense_passes(criterion: &mut Criterion) {
    let shapes = dense_layers();
    measure(criterion, "dense/forward", &shapes, forward::<f32>, Some(forward::<bf16>));
    measure(criterion, "dense/backward_data", &shapes, backward_data::<f32>, Some(backward_data::<bf16>));
    measure(criterion, "dense/backward_weights", &shapes, backward_weights::<f32>, Some(backward_weights::<bf16>));
}

criterion_group! { name = benches; config = common::settings(); targets = convolution_passes, winograd_passes, dense_passes }
criterion_main!(benches);
