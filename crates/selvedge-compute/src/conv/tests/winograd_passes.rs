//! The passes by Winograd's algorithm against the naive convolution, on every instruction set.

use super::*;
use crate::Threads;
use crate::conv::winograd::{Share, Winograd};

/// Numbers of chunks to request: fewer than there are tiles, more, and more than possible.
const CHUNKS: [usize; 4] = [2, 3, 7, 100];

/// 3x3 weights on tensors around the edges of tiles of 3 and of 4 pixels, with asymmetric padding, and channels of whole and of
/// half planes.
fn cases(blocks: usize) -> Vec<Case> {
    let shapes = [
        (4, 4, 16, 16, [1, 1]),
        (3, 3, 32, 40, [1, 1]),
        (7, 5, 16, 64, [1, 1]),
        (6, 9, 48, 16, [0, 2]),
        (1, 1, 20, 33, [1, 1]),
        (5, 2, 64, 10, [2, 1]),
        (9, 13, 17, 32, [1, 1]),
        (8, 8, 96, 48, [2, 2]),
        (3, 5, 160, 144, [1, 0]),
    ];
    let case = |(i, (height, width, input, filters, padding))| {
        let shape = Conv2dShape::new(BlockShape::new(height, width, input), filters, [3, 3], 1, padding);
        Case::new(shape, blocks, i as u64)
    };
    shapes.into_iter().enumerate().map(case).collect()
}

/// Sums of hundreds to thousands of products have a mean error of 3e-7 to 2e-6 of their mean size, which the transforms at most
/// double.
#[track_caller]
pub(super) fn assert_accurate(name: &str, got: &[f64], want: &[f64]) {
    assert_eq!(got.len(), want.len(), "{name}");
    let mean = |squares: f64| (squares / want.len() as f64).sqrt();
    let size = mean(want.iter().map(|want| want * want).sum());
    let errors = || got.iter().zip(want).map(|(got, want)| (got - want).abs());
    let (error, largest) = (mean(errors().map(|error| error * error).sum()), errors().fold(0.0, f64::max));
    assert!(error <= 5e-6 * size, "{name}: a mean error of {error} on values of size {size}");
    assert!(largest <= 5e-5 * size, "{name}: an error of {largest} on values of size {size}");
}

/// Both sizes of tiles on every instruction set.
fn algorithms(shape: &Conv2dShape) -> Vec<(Cpu, Winograd)> {
    cpus().into_iter().flat_map(|cpu| Winograd::sizes(shape).map(|winograd| (cpu, winograd))).collect()
}

impl Case {
    fn transformed(&self, cpu: Cpu, winograd: &Winograd) -> Vec<f32> {
        let mut transformed = vec![f32::NAN; winograd.weights_len()];
        winograd.transform_weights(cpu, &self.panels(), &mut transformed);
        transformed
    }

    fn transformed_and_transposed(&self, cpu: Cpu, winograd: &Winograd) -> Vec<f32> {
        let (panels, mut transposed) = (self.panels(), vec![f32::NAN; winograd.transposed_len()]);
        let len = transposed.len() / (self.shape.input.channel_stride / PANEL);
        for (panel, to) in transposed.chunks_exact_mut(len).enumerate() {
            winograd.transpose_weights(cpu, &panels, panel, to);
        }
        transposed
    }

    fn bias(&self) -> Vec<f32> {
        let mut bias = vec![0.0; self.shape.output.channel_stride];
        bias[..self.shape.output.channels].iter_mut().enumerate().for_each(|(c, b)| *b = c as f32 * 0.1 - 0.5);
        bias
    }
}

#[test]
fn forward_equals_the_reference() {
    let threads = Threads::new(16).unwrap();
    for case in cases(1) {
        let (shape, bias) = (case.shape, case.bias());
        for (cpu, winograd) in algorithms(&shape) {
            let weights = case.transformed(cpu, &winograd);
            for relu in [false, true] {
                let epilogue = Epilogue { bias: Some(&bias), relu };
                let mut y = vec![f32::NAN; shape.output.len()];
                winograd.forward(cpu, &case.x, &weights, epilogue, Share::ALL, &mut y);
                padded_lanes_are_zero(&shape.output, &y);
                for image in [0, 1, 15, 31] {
                    let x = case.image(&shape.input, &case.x, 0, image);
                    let got = case.image(&shape.output, &y, 0, image);
                    let mut want: Vec<f64> =
                        (0..got.len()).map(|at| f64::from(bias[at % shape.output.channels])).collect();
                    for_each_product(&shape, |o, i, w| want[o] += x[i] * f64::from(case.weights[w]));
                    if relu {
                        want.iter_mut().for_each(|want| *want = want.max(0.0));
                    }
                    assert_accurate(&format!("{} {shape:?}", cpu.isa()), &got, &want);
                }
                for chunks in CHUNKS {
                    let mut in_chunks = vec![f32::NAN; shape.output.len()];
                    let share = Share { chunks, ..Share::ALL };
                    threads.install(|| winograd.forward(cpu, &case.x, &weights, epilogue, share, &mut in_chunks));
                    assert!(in_chunks == y, "{} {shape:?} in {chunks} chunks", cpu.isa());
                }
            }
        }
    }
}

#[test]
fn forward_pooled_equals_separate_passes() {
    let threads = Threads::new(16).unwrap();
    for case in cases(1) {
        let (shape, bias) = (case.shape, case.bias());
        for window in [[1, 1], [2, 2], [3, 3], [2, 1], [4, 2]] {
            let pooled =
                BlockShape::new(shape.output.height / window[0], shape.output.width / window[1], shape.output.channels);
            let fits = |winograd: &Winograd| window.iter().all(|&w| winograd.tile().is_multiple_of(w));
            for (cpu, winograd) in algorithms(&shape).into_iter().filter(|(_, winograd)| fits(winograd)) {
                let weights = case.transformed(cpu, &winograd);
                let mut full = vec![0.0f32; shape.output.len()];
                let epilogue = Epilogue { bias: None, relu: false };
                winograd.forward(cpu, &case.x, &weights, epilogue, Share::ALL, &mut full);
                let pass = |chunks| {
                    let (mut y, mut indices) = (vec![f32::NAN; pooled.len()], vec![77; pooled.len()]);
                    let training = Some(Training { indices: &mut indices, dropout: None });
                    let share = Share { chunks, ..Share::ALL };
                    let output = PooledOutput { window, bias: Some(&bias), relu: true, y: &mut y, training };
                    winograd.forward_pooled(cpu, &case.x, &weights, share, output);
                    (y, indices)
                };
                let (y, indices) = pass(1);
                for chunks in CHUNKS {
                    let in_chunks = threads.install(|| pass(chunks));
                    assert!(in_chunks == (y.clone(), indices.clone()), "{} {shape:?} in {chunks} chunks", cpu.isa());
                }
                for at in 0..pooled.len() {
                    let (pixel, lane) = (at / pooled.pixel(), at % pooled.pixel());
                    let [row, column] = [pixel / pooled.width * window[0], pixel % pooled.width * window[1]];
                    let values = (0..window[0] * window[1]).map(|pixel| {
                        let [row, column] = [row + pixel / window[1], column + pixel % window[1]];
                        full[shape.output.offset(row, column) + lane]
                    });
                    let values: Vec<f32> = values.collect();
                    let largest = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                    let want = (largest + bias[shape.output.image_and_channel(lane).1]).max(0.0);
                    let argmax = values.iter().position(|&value| value == largest).unwrap() as u16;
                    let argmax = if want > 0.0 { argmax } else { NO_ARGMAX };
                    assert_eq!((y[at], indices[at]), (want, argmax), "{} {shape:?} {window:?}", cpu.isa());
                }
            }
        }
    }
}

#[test]
fn dropout_in_the_pooled_pass_equals_dropout_after_it() {
    for case in cases(1).into_iter().filter(|case| case.shape.output.height.min(case.shape.output.width) > 3) {
        for (cpu, winograd) in algorithms(&case.shape).into_iter().filter(|(_, winograd)| winograd.tile() == 4) {
            let weights = case.transformed(cpu, &winograd);
            for chunks in [1, 3] {
                let run = |images, y: &mut [f32], training: Training<'_>| {
                    let share = Share { images, chunks };
                    let output = PooledOutput { window: [2, 2], bias: None, relu: true, y, training: Some(training) };
                    winograd.forward_pooled(cpu, &case.x, &weights, share, output);
                };
                assert_dropout_is_that_of_separate_passes(cpu, &case.shape, run, 0.0);
            }
        }
    }
}

#[test]
fn other_shapes_are_refused() {
    let shape = Conv2dShape::same(BlockShape::new(10, 10, 16), 16, [3, 3], 1);
    assert_eq!(Winograd::pooled(&shape, [3, 3]).map(|winograd| winograd.tile()), Some(3));
    assert_eq!(Winograd::pooled(&shape, [2, 2]).map(|winograd| winograd.tile()), Some(4));
    assert_eq!(Winograd::pooled(&shape, [5, 1]), None);
    let strided = Conv2dShape::same(BlockShape::new(10, 10, 16), 16, [3, 3], 2);
    let grey = Conv2dShape::same(BlockShape::input(10, 10, 1), 16, [3, 3], 1);
    let dense = Conv2dShape::dense(BlockShape::new(3, 3, 64), 350);
    // Fields are public: a shape that no constructor makes must not be read out of bounds.
    let mut unpadded = shape;
    unpadded.output.channel_stride = 10;
    assert_eq!([strided, grey, dense, unpadded].map(|shape| Winograd::of(&shape)), [None; 4]);
}

#[test]
fn the_tile_size_has_the_fewest_products() {
    let tile = |size: usize| {
        let shape = Conv2dShape::same(BlockShape::new(size, size, 16), 16, [3, 3], 1);
        Winograd::of(&shape).unwrap().tile()
    };
    assert_eq!([3, 4, 6, 7, 14, 28].map(tile), [3, 4, 3, 4, 4, 4]);
}

#[test]
fn bits_do_not_depend_on_images_or_chunks() {
    for case in cases(1) {
        let shape = case.shape;
        for (cpu, winograd) in algorithms(&shape) {
            let weights = case.transformed(cpu, &winograd);
            let run = |images, chunks| {
                let mut y = vec![f32::NAN; shape.output.len()];
                winograd.forward(cpu, &case.x, &weights, Epilogue::NONE, Share { images, chunks }, &mut y);
                y
            };
            let all = run(BLOCK, 1);
            for images in [1, 2, 7, 16, 17, 31] {
                let want = first_images(&shape.output, &all, images);
                for chunks in [1, 3] {
                    let got = first_images(&shape.output, &run(images, chunks), images);
                    assert!(got == want, "{images} images of {shape:?} on {} in {chunks} chunks", cpu.isa());
                }
            }
        }
    }
}

#[test]
fn backward_data_equals_the_reference() {
    let threads = Threads::new(16).unwrap();
    for case in cases(1) {
        let shape = case.shape;
        for (cpu, winograd) in algorithms(&shape) {
            let transposed = case.transformed_and_transposed(cpu, &winograd);
            let pass = |chunks| {
                let mut dx = vec![f32::NAN; shape.input.len()];
                winograd.backward_data(cpu, &case.dy, &transposed, chunks, &mut dx);
                dx
            };
            let dx = pass(1);
            for chunks in CHUNKS {
                let in_chunks = threads.install(|| pass(chunks));
                assert!(in_chunks == dx, "{} {shape:?} in {chunks} chunks", cpu.isa());
            }
            padded_lanes_are_zero(&shape.input, &dx);
            for image in [0, 3, 31] {
                let dy = case.image(&shape.output, &case.dy, 0, image);
                let got = case.image(&shape.input, &dx, 0, image);
                let mut want = vec![0.0; got.len()];
                for_each_product(&shape, |o, i, w| want[i] += dy[o] * f64::from(case.weights[w]));
                assert_accurate(&format!("{} {shape:?}", cpu.isa()), &got, &want);
            }
        }
    }
}

#[test]
fn backward_weights_equals_the_reference() {
    for blocks in [1, 3] {
        for case in cases(blocks) {
            let shape = case.shape;
            let mut want = vec![0.25; case.weights.len()];
            for (block, image) in (0..blocks).flat_map(|block| (0..BLOCK).map(move |image| (block, image))) {
                let x = case.image(&shape.input, &case.x, block, image);
                let dy = case.image(&shape.output, &case.dy, block, image);
                for_each_product(&shape, |o, i, w| want[w] += x[i] * dy[o]);
            }
            let x = Blocks { data: &case.x[..], stride: shape.input.len(), count: blocks };
            let dy = Blocks { data: &case.dy[..], stride: shape.output.len(), count: blocks };
            for (cpu, winograd) in algorithms(&shape) {
                let mut added = vec![0.25; shape.weights_len()];
                let middle = shape.panels() / 2;
                let (left, right) = added.split_at_mut(middle * shape.panel_len());
                winograd.backward_weights(cpu, x, dy, 0..middle, Accumulate::Add, left);
                winograd.backward_weights(cpu, x, dy, middle..shape.panels(), Accumulate::Add, right);
                let mut got = vec![0.0; want.len()];
                pack::from_panels(&shape, &added, &mut got);
                let got: Vec<f64> = got.into_iter().map(f64::from).collect();
                assert_accurate(&format!("{} {shape:?} {blocks} blocks", cpu.isa()), &got, &want);
                let mut overwritten = vec![f32::NAN; shape.weights_len()];
                winograd.backward_weights(cpu, x, dy, 0..shape.panels(), Accumulate::Overwrite, &mut overwritten);
                let mut parts = vec![f32::NAN; shape.weights_len()];
                for (panel, part) in parts.chunks_exact_mut(shape.panel_len()).enumerate() {
                    winograd.backward_weights(cpu, x, dy, panel..panel + 1, Accumulate::Overwrite, part);
                }
                assert!(parts == overwritten, "{} {shape:?}: panels one by one", cpu.isa());
                for (overwritten, added) in overwritten.iter().zip(&added) {
                    assert!((overwritten + 0.25 - added).abs() < 1e-3, "{overwritten} + 0.25 is not {added}");
                }
            }
        }
    }
}

#[test]
fn without_blocks_the_gradient_is_zero() {
    let shape = Conv2dShape::same(BlockShape::new(4, 4, 16), 16, [3, 3], 1);
    let (winograd, none) = (Winograd::of(&shape).unwrap(), Blocks { data: &[][..], stride: 0, count: 0 });
    let mut dweights = vec![0.25; shape.weights_len()];
    winograd.backward_weights(Cpu::detect().unwrap(), none, none, 0..1, Accumulate::Add, &mut dweights);
    assert!(dweights.iter().all(|&gradient| gradient == 0.25));
    winograd.backward_weights(Cpu::detect().unwrap(), none, none, 0..1, Accumulate::Overwrite, &mut dweights);
    assert!(dweights.iter().all(|&gradient| gradient == 0.0));
}

#[test]
#[should_panic(expected = "the source's length")]
fn a_short_source_is_refused() {
    let shape = Conv2dShape::same(BlockShape::new(4, 4, 16), 16, [3, 3], 1);
    let winograd = Winograd::of(&shape).unwrap();
    let (weights, mut y) = (vec![0.0; winograd.weights_len()], vec![0.0f32; shape.output.len()]);
    winograd.forward(Cpu::detect().unwrap(), &[0.0; 15], &weights, Epilogue::NONE, Share::ALL, &mut y);
}

#[test]
#[should_panic(expected = "the transformed weights' length")]
fn plain_weights_are_refused() {
    let shape = Conv2dShape::same(BlockShape::new(4, 4, 16), 16, [3, 3], 1);
    let winograd = Winograd::of(&shape).unwrap();
    let (x, weights) = (vec![0.0; shape.input.len()], vec![0.0; shape.weights_len()]);
    let mut y = vec![0.0f32; shape.output.len()];
    winograd.forward(Cpu::detect().unwrap(), &x, &weights, Epilogue::NONE, Share::ALL, &mut y);
}

#[test]
#[should_panic(expected = "33 images of a block of 32")]
fn more_images_than_a_block_has_are_refused() {
    let shape = Conv2dShape::same(BlockShape::new(4, 4, 16), 16, [3, 3], 1);
    let winograd = Winograd::of(&shape).unwrap();
    let (x, weights) = (vec![0.0; shape.input.len()], vec![0.0; winograd.weights_len()]);
    let (share, mut y) = (Share { images: 33, chunks: 1 }, vec![0.0f32; shape.output.len()]);
    winograd.forward(Cpu::detect().unwrap(), &x, &weights, Epilogue::NONE, share, &mut y);
}

/// The layers of a residual network of nine, for each of four blocks on sixteen threads: 16 chunks.
#[test]
fn chunks_for_sixteen_threads() {
    for (size, channels) in [(28, 128), (14, 128), (14, 256), (7, 512), (3, 512)] {
        let shape = Conv2dShape::same(BlockShape::new(size, size, channels), channels, [3, 3], 1);
        let winograd = Winograd::of(&shape).unwrap();
        assert_eq!((winograd.forward_chunks(None, 4), winograd.backward_data_chunks(4)), (4, 4), "{shape:?}");
        if let Some(pooled) = Winograd::pooled(&shape, [2, 2]) {
            assert_eq!(pooled.forward_chunks(Some([2, 2]), 4), 4, "{shape:?}");
        }
    }
}
