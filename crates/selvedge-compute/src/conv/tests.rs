//! Each pass on every instruction set against the naive f64 convolution, and against matrixmultiply.

mod bf16_passes;
mod plans;
mod weight_gradients;
mod winograd_passes;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::reference::for_each_product;
use super::*;
use crate::conv::direct::{backward_data, forward};
use crate::conv::first_layer::{PooledBackward, is_first_layer};
use crate::cpu::{Cpu, Precision};
use crate::dropout::{self, DropoutMask};
use crate::layout::{BLOCK, BlockShape};
use crate::simd::Element;
use crate::test_support::cpus;

/// Shapes around the edges of the tiles: channels below, at and above one and two panels, images smaller than the
/// kernel, strides, even kernels, asymmetric padding, several output columns left over from the pixel chunks.
fn shapes() -> Vec<Conv2dShape> {
    let mut shapes = vec![];
    for (height, width, input, filters, kernel, stride, padding) in [
        (5, 6, 1, 16, [3, 3], 1, [1, 1]),
        (8, 7, 1, 35, [3, 3], 1, [1, 1]),
        (4, 5, 3, 20, [3, 3], 1, [1, 1]),
        (6, 5, 2, 33, [5, 5], 1, [2, 2]),
        (5, 5, 1, 1, [1, 1], 1, [0, 0]),
        (3, 3, 15, 10, [2, 3], 2, [1, 0]),
    ] {
        shapes.push(Conv2dShape::new(BlockShape::input(height, width, input), filters, kernel, stride, padding));
    }
    for (height, width, input, filters, kernel, stride, padding) in [
        (4, 5, 16, 32, [3, 3], 1, [1, 1]),
        (3, 4, 32, 16, [3, 3], 1, [1, 1]),
        (5, 3, 17, 48, [3, 3], 1, [1, 1]),
        (2, 2, 33, 40, [3, 3], 1, [1, 1]),
        (1, 1, 16, 16, [3, 3], 1, [1, 1]),
        (7, 7, 10, 5, [3, 3], 2, [1, 1]),
        (6, 7, 16, 16, [2, 2], 2, [0, 0]),
        (6, 6, 16, 16, [1, 1], 3, [0, 0]),
        (6, 6, 16, 16, [5, 4], 1, [0, 3]),
        (4, 4, 20, 30, [1, 1], 1, [0, 0]),
        (5, 5, 16, 32, [3, 3], 3, [2, 2]),
        (2, 9, 64, 16, [3, 3], 1, [1, 1]),
        (4, 3, 16, 64, [2, 3], 1, [0, 1]),
        (3, 4, 16, 16, [3, 3], 1, [0, 2]),
    ] {
        shapes.push(Conv2dShape::new(BlockShape::new(height, width, input), filters, kernel, stride, padding));
    }
    shapes.push(Conv2dShape::same(BlockShape::new(6, 7, 16), 16, [3, 3], 2));
    shapes.push(Conv2dShape::same(BlockShape::input(7, 6, 1), 16, [4, 2], 1));
    shapes.push(Conv2dShape::dense(BlockShape::new(3, 3, 20), 37));
    shapes.push(Conv2dShape::dense(BlockShape::input(4, 4, 1), 10));
    shapes
}

/// Random tensors of a convolution of several blocks: activations in blocks, weights logical.
struct Case {
    shape: Conv2dShape,
    x: Vec<f32>,
    dy: Vec<f32>,
    weights: Vec<f32>,
}

impl Case {
    fn new(shape: Conv2dShape, blocks: usize, seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut block = |shape: &BlockShape| {
            let mut values = vec![0.0; blocks * shape.len()];
            for (i, value) in values.iter_mut().enumerate() {
                if shape.image_and_channel(i).1 < shape.channels {
                    *value = rng.random_range(-1.0..1.0);
                }
            }
            values
        };
        let (x, dy) = (block(&shape.input), block(&shape.output));
        let logical = shape.taps() * shape.input.channels * shape.output.channels;
        let weights = (0..logical).map(|_| rng.random_range(-1.0..1.0)).collect();
        Self { shape, x, dy, weights }
    }

    fn panels(&self) -> Vec<f32> {
        let mut panels = vec![0.0; self.shape.weights_len()];
        pack::to_panels(&self.shape, &self.weights, &mut panels);
        panels
    }

    fn transposed(&self) -> Vec<f32> {
        let panels = self.panels();
        let mut transposed = vec![0.0; self.shape.transposed_len()];
        let len = self.shape.taps() * self.shape.output.channel_stride * PANEL;
        for (panel, to) in transposed.chunks_exact_mut(len).enumerate() {
            pack::transpose_panel(&self.shape, &panels, panel, to);
        }
        transposed
    }

    /// The logical `[pixel][channel]` values of one image of a block.
    fn image(&self, shape: &BlockShape, values: &[f32], block: usize, image: usize) -> Vec<f64> {
        let mut out = vec![];
        for y in 0..shape.height {
            for x in 0..shape.width {
                let at = block * shape.len() + shape.offset(y, x) + image * shape.plane();
                out.extend((0..shape.channels).map(|c| f64::from(values[at + shape.channel(c)])));
            }
        }
        out
    }
}

fn assert_close(name: &str, got: f32, want: f64, terms: usize) {
    let tolerance = 3e-7 * (terms as f64).sqrt().max(4.0);
    assert!((got as f64 - want).abs() <= tolerance * (1.0 + want.abs()), "{name}: {got}, not {want}");
}

fn padded_lanes_are_zero(shape: &BlockShape, values: &[f32]) {
    for (i, &value) in values.iter().enumerate() {
        assert!(shape.image_and_channel(i).1 < shape.channels || value == 0.0, "lane {i} of {shape:?} is {value}");
    }
}

#[test]
fn forward_equals_the_reference() {
    for (i, shape) in shapes().into_iter().enumerate() {
        let case = Case::new(shape, 1, i as u64);
        let mut bias = vec![0.0; shape.output.channel_stride];
        for (c, b) in bias[..shape.output.channels].iter_mut().enumerate() {
            *b = c as f32 * 0.1 - 0.5;
        }
        for cpu in cpus() {
            for relu in [false, true] {
                let mut y = vec![f32::NAN; shape.output.len()];
                // In two calls, to test the partition by rows.
                let middle = shape.output.height / 2;
                let (upper, lower) = y.split_at_mut(middle * shape.output.row());
                let epilogue = Epilogue { bias: Some(&bias), relu };
                forward(cpu, &shape, &case.x, &case.panels(), epilogue, 0..middle, upper);
                forward(cpu, &shape, &case.x, &case.panels(), epilogue, middle..shape.output.height, lower);
                padded_lanes_are_zero(&shape.output, &y);
                for image in [0, 1, 7, 8, 15, 31] {
                    let x = case.image(&shape.input, &case.x, 0, image);
                    let mut want: Vec<f64> = (0..shape.output.height * shape.output.width)
                        .flat_map(|_| bias[..shape.output.channels].iter().map(|&b| b as f64))
                        .collect();
                    for_each_product(&shape, |o, i, w| want[o] += x[i] * case.weights[w] as f64);
                    for (got, want) in case.image(&shape.output, &y, 0, image).iter().zip(want) {
                        let want = if relu { want.max(0.0) } else { want };
                        assert_close(&format!("{} {shape:?}", cpu.isa()), *got as f32, want, shape.panel_len());
                    }
                }
            }
        }
    }
}

#[test]
fn forward_pooled_equals_separate_passes() {
    for (i, shape) in shapes().into_iter().enumerate() {
        let case = Case::new(shape, 1, i as u64);
        let mut bias = vec![0.0; shape.output.channel_stride];
        bias[..shape.output.channels].fill(-0.5);
        for cpu in cpus() {
            let mut full = vec![0.0; shape.output.len()];
            let rows = 0..shape.output.height;
            forward(cpu, &shape, &case.x, &case.panels(), Epilogue::NONE, rows, &mut full);
            for window in [[2, 2], [1, 1], [3, 3], [2, 1]] {
                let (height, width) = (shape.output.height / window[0], shape.output.width / window[1]);
                let pooled = BlockShape::new(height, width, shape.output.channels);
                let mut y = vec![f32::NAN; pooled.len()];
                let mut indices = vec![77; pooled.len()];
                let training = Some(Training { indices: &mut indices, dropout: None });
                let output = PooledOutput { window, bias: Some(&bias), relu: true, y: &mut y, training };
                forward_pooled(cpu, &shape, &case.x, &case.panels(), 0..height, output);
                for at in 0..pooled.len() {
                    let (pixel, lane) = (at / pooled.pixel(), at % pooled.pixel());
                    let values: Vec<f32> = (0..window[0] * window[1])
                        .map(|w| {
                            let row = pixel / width * window[0] + w / window[1];
                            let column = pixel % width * window[1] + w % window[1];
                            full[shape.output.offset(row, column) + lane]
                        })
                        .collect();
                    let largest = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                    let argmax = values.iter().position(|&v| v == largest).unwrap() as u16;
                    let runner_up = values.iter().copied().filter(|&v| v < largest).fold(f32::NEG_INFINITY, f32::max);
                    let largest = largest + bias[shape.output.image_and_channel(lane).1];
                    // The first layer sums in another order, so near ties may be decided differently.
                    let name = format!("{} {shape:?} {window:?}", cpu.isa());
                    assert_close(&name, y[at], f64::from(largest.max(0.0)), shape.panel_len());
                    if largest - runner_up > 1e-5 && largest.abs() > 1e-5 {
                        assert_eq!(indices[at], if largest > 0.0 { argmax } else { NO_ARGMAX }, "{name}");
                    }
                }
            }
        }
    }
}

/// The pooled pass that a network uses for the shape: that of the first layer if it is of its form.
fn forward_pooled<Y: Element>(
    cpu: Cpu,
    shape: &Conv2dShape,
    x: &[f32],
    weights: &[f32],
    part: impl Into<Part>,
    output: PooledOutput<'_, Y>,
) {
    if is_first_layer(shape, output.window) {
        first_layer::forward_pooled(cpu, shape, x, weights, part, output);
    } else {
        direct::forward_pooled(cpu, shape, x, weights, part, output);
    }
}

/// A pooled pass in two calls, because the dropout mask counts the rows of the whole image.
fn in_two_parts<E>(
    shape: &Conv2dShape,
    run: impl Fn(Part, &mut [E], Option<Training<'_>>),
) -> impl Fn(usize, &mut [E], Training<'_>) {
    let pooled = BlockShape::new(shape.output.height / 2, shape.output.width / 2, shape.output.channels);
    move |images, y, Training { indices, dropout }| {
        let middle = pooled.height / 2;
        let (upper, lower) = y.split_at_mut(middle * pooled.row());
        let (upper_indices, lower_indices) = indices.split_at_mut(middle * pooled.row());
        run(Part { rows: 0..middle, images }, upper, Some(Training { indices: upper_indices, dropout }));
        run(Part { rows: middle..pooled.height, images }, lower, Some(Training { indices: lower_indices, dropout }));
    }
}

/// Compares dropout in the pooled pass with dropout after it: the same elements are kept, and dropped ones have no argmax.
fn assert_dropout_is_that_of_separate_passes<E: Element>(
    cpu: Cpu,
    shape: &Conv2dShape,
    run: impl Fn(usize, &mut [E], Training<'_>),
    tolerance: f32,
) {
    let pooled = BlockShape::new(shape.output.height / 2, shape.output.width / 2, shape.output.channels);
    let mask = DropoutMask { key: 5, first_image: 64, rate: 0.25 };
    let pass = |images: usize, dropout: Option<&DropoutMask>| {
        let (mut y, mut indices) = (vec![E::from_f32(7.0); pooled.len()], vec![77; pooled.len()]);
        run(images, &mut y, Training { indices: &mut indices, dropout });
        (y, indices)
    };
    let (plain, plain_indices) = pass(BLOCK, None);
    let mut want = vec![E::default(); pooled.len()];
    dropout::apply(cpu, &pooled, 0..pooled.height, &mask, &plain, &mut want);
    let mut ones = vec![1.0f32; pooled.len()];
    dropout::apply_in_place(cpu, &pooled, 0..pooled.height, &mask, &mut ones);
    for images in [BLOCK, 7] {
        let (y, indices) = pass(images, Some(&mask));
        for at in (0..pooled.len()).filter(|&at| pooled.image_and_channel(at).0 < images) {
            let (got, want) = (y[at].to_f32(), want[at].to_f32());
            assert!((got - want).abs() <= tolerance * want, "{} {shape:?}: {got}, not {want}", cpu.isa());
            let argmax = if ones[at] == 0.0 { NO_ARGMAX } else { plain_indices[at] };
            assert_eq!(indices[at], argmax, "{} {shape:?}", cpu.isa());
        }
    }
}

#[test]
fn dropout_in_the_pooled_pass_equals_dropout_after_it() {
    for (i, shape) in
        shapes().into_iter().enumerate().filter(|(_, shape)| shape.output.height.min(shape.output.width) > 3)
    {
        let case = Case::new(shape, 1, i as u64);
        for cpu in cpus() {
            let run = |part: Part, y: &mut [f32], training: Option<Training<'_>>| {
                let output = PooledOutput { window: [2, 2], bias: None, relu: true, y, training };
                forward_pooled(cpu, &shape, &case.x, &case.panels(), part, output);
            };
            assert_dropout_is_that_of_separate_passes(cpu, &shape, in_two_parts(&shape, run), 0.0);
        }
    }
}

#[test]
fn the_gradient_of_a_first_layer_equals_separate_passes() {
    for (height, width, filters) in [(6, 6, 16), (7, 5, 20), (2, 3, 40), (28, 28, 16)] {
        let shape = Conv2dShape::same(BlockShape::input(height, width, 1), filters, [3, 3], 1);
        assert!(is_first_layer(&shape, [2, 2]));
        let case = Case::new(shape, 1, 3);
        let pool = crate::pool::Pool2dShape::new(shape.output, [2, 2], [2, 2]);
        let pooled = Case::new(Conv2dShape::new(pool.output(), 1, [1, 1], 1, [0, 0]), 1, 4);
        for cpu in cpus() {
            let (mut y, mut indices) = (vec![0.0f32; pool.output().len()], vec![0; pool.output().len()]);
            let training = Some(Training { indices: &mut indices, dropout: None });
            let output = PooledOutput { window: [2, 2], bias: None, relu: true, y: &mut y, training };
            forward_pooled(cpu, &shape, &case.x, &case.panels(), 0..pool.output().height, output);
            let mut full = vec![0.0; shape.output.len()];
            let (mut want_bias, mut want) = (vec![0.5; shape.output.channel_stride], vec![0.5; shape.weights_len()]);
            let gradient = crate::pool::PooledGradient { dy: &pooled.x, indices: &indices, scale: 0.5 };
            crate::pool::scatter(cpu, &pool, gradient, &mut full, Some(&mut want_bias));
            first_layer::backward_weights(cpu, &shape, &case.x, &full, Accumulate::Add, &mut want);
            let (mut dbias, mut dweights) = (vec![0.5; want_bias.len()], vec![0.5; want.len()]);
            let args = PooledBackward {
                x: &case.x,
                dy: &pooled.x,
                indices: &indices,
                scale: 0.5,
                dweights: &mut dweights,
                dbias: Some(&mut dbias),
            };
            first_layer::backward_pooled(cpu, &shape, args);
            for (got, want) in dweights.iter().chain(&dbias).zip(want.iter().chain(&want_bias)) {
                assert_close(cpu.isa().name(), *got, f64::from(*want), 4 * BLOCK * height * width);
            }
        }
    }
}

#[test]
fn backward_data_equals_the_reference() {
    for (i, shape) in shapes().into_iter().enumerate() {
        if !shape.input.channel_stride.is_multiple_of(PANEL) {
            continue;
        }
        let case = Case::new(shape, 1, i as u64);
        for cpu in cpus() {
            let mut dx = vec![f32::NAN; shape.input.len()];
            let middle = shape.input.height / 2;
            let (upper, lower) = dx.split_at_mut(middle * shape.input.row());
            backward_data(cpu, &shape, &case.dy, &case.transposed(), 0..middle, upper);
            backward_data(cpu, &shape, &case.dy, &case.transposed(), middle..shape.input.height, lower);
            padded_lanes_are_zero(&shape.input, &dx);
            for image in [0, 3, 31] {
                let dy = case.image(&shape.output, &case.dy, 0, image);
                let got = case.image(&shape.input, &dx, 0, image);
                let mut want = vec![0.0; got.len()];
                for_each_product(&shape, |o, i, w| want[i] += dy[o] * case.weights[w] as f64);
                for (got, want) in got.iter().zip(want) {
                    let terms = 4 * shape.taps() * shape.output.channels;
                    assert_close(&format!("{} {shape:?}", cpu.isa()), *got as f32, want, terms);
                }
            }
        }
    }
}

#[test]
fn backward_bias_equals_the_reference() {
    for (i, shape) in shapes().into_iter().enumerate() {
        let case = Case::new(shape, 1, i as u64);
        let mut want = vec![0.25; shape.output.channels];
        for image in 0..BLOCK {
            for (o, dy) in case.image(&shape.output, &case.dy, 0, image).into_iter().enumerate() {
                want[o % shape.output.channels] += dy;
            }
        }
        for cpu in cpus() {
            let mut dbias = vec![0.25; shape.output.channel_stride];
            backward_bias(cpu, &shape.output, &case.dy, &mut dbias);
            for (got, want) in dbias.iter().zip(&want) {
                let terms = 4 * BLOCK * shape.output.height * shape.output.width;
                assert_close(&format!("{} {shape:?}", cpu.isa()), *got, *want, terms);
            }
        }
    }
}

#[test]
fn a_pointwise_convolution_equals_matrixmultiply() {
    let shape = Conv2dShape::new(BlockShape::new(6, 5, 48), 80, [1, 1], 1, [0, 0]);
    let case = Case::new(shape, 1, 1);
    for image in [0, 13, 31] {
        let x: Vec<f32> = case.image(&shape.input, &case.x, 0, image).iter().map(|&x| x as f32).collect();
        let mut want = vec![0.0; 30 * 80];
        assert_eq!((x.len(), case.weights.len()), (30 * 48, 48 * 80));
        // SAFETY: the lengths are those of the assertion, row-major without gaps.
        unsafe {
            let (a, b, c) = (x.as_ptr(), case.weights.as_ptr(), want.as_mut_ptr());
            matrixmultiply::sgemm(30, 48, 80, 1.0, a, 48, 1, b, 80, 1, 0.0, c, 80, 1);
        }
        for cpu in cpus() {
            let mut y = vec![0.0; shape.output.len()];
            forward(cpu, &shape, &case.x, &case.panels(), Epilogue::NONE, 0..6, &mut y);
            for (got, want) in case.image(&shape.output, &y, 0, image).iter().zip(&want) {
                assert_close(cpu.isa().name(), *got as f32, f64::from(*want), 48);
            }
        }
    }
}

#[test]
fn unpacked_weights_equal_the_packed_ones() {
    for (i, shape) in shapes().into_iter().enumerate() {
        let case = Case::new(shape, 1, i as u64);
        let mut back = vec![0.0; case.weights.len()];
        pack::from_panels(&shape, &case.panels(), &mut back);
        assert_eq!(back, case.weights);
    }
}

/// The first images of each pixel, as bits.
fn first_images<E: Copy + Into<f32>>(shape: &BlockShape, values: &[E], images: usize) -> Vec<u32> {
    let of_plane = |plane: &[E]| plane[..images * shape.plane()].iter().map(|&v| v.into().to_bits()).collect();
    values.chunks_exact(shape.plane_len()).flat_map(|plane| -> Vec<u32> { of_plane(plane) }).collect()
}

#[test]
fn bits_do_not_depend_on_the_number_of_images() {
    for (i, shape) in shapes().into_iter().enumerate() {
        let case = Case::new(shape, 1, i as u64);
        let (window, panels) = ([2, 2], case.panels());
        let pooled = BlockShape::new(shape.output.height / 2, shape.output.width / 2, shape.output.channels);
        for cpu in cpus() {
            let plain = |images| {
                let mut y = vec![f32::NAN; shape.output.len()];
                let part = Part { rows: 0..shape.output.height, images };
                forward(cpu, &shape, &case.x, &panels, Epilogue { bias: None, relu: true }, part, &mut y);
                y
            };
            let with_pooling = |images| {
                let mut y = vec![f32::NAN; pooled.len()];
                let part = Part { rows: 0..pooled.height, images };
                let output = PooledOutput { window, bias: None, relu: true, y: &mut y, training: None };
                forward_pooled(cpu, &shape, &case.x, &panels, part, output);
                y
            };
            let (all, all_pooled) = (plain(BLOCK), with_pooling(BLOCK));
            for images in [1, 7, 16, 17, 31] {
                let name = format!("{images} images of {shape:?} on {}", cpu.isa());
                let want = first_images(&shape.output, &all, images);
                assert!(first_images(&shape.output, &plain(images), images) == want, "{name}");
                let want = first_images(&pooled, &all_pooled, images);
                assert!(first_images(&pooled, &with_pooling(images), images) == want, "{name}, pooled");
            }
        }
    }
}

#[test]
#[should_panic(expected = "33 images of a block of 32")]
fn more_images_than_a_block_has_are_refused() {
    let shape = Conv2dShape::new(BlockShape::new(4, 4, 16), 16, [3, 3], 1, [1, 1]);
    let (x, weights) = (vec![0.0; shape.input.len()], vec![0.0; shape.weights_len()]);
    let mut y = vec![0.0f32; shape.output.len()];
    let part = Part { rows: 0..4, images: 33 };
    forward(Cpu::detect().unwrap(), &shape, &x, &weights, Epilogue::NONE, part, &mut y);
}

#[test]
fn shapes_are_those_of_keras() {
    let same = Conv2dShape::same(BlockShape::new(28, 28, 16), 32, [3, 3], 2);
    assert_eq!((same.output.height, same.padding), (14, [0, 0]));
    let same = Conv2dShape::same(BlockShape::new(7, 7, 16), 32, [3, 3], 2);
    assert_eq!((same.output.height, same.padding), (4, [1, 1]));
    let same = Conv2dShape::same(BlockShape::new(7, 7, 16), 32, [5, 5], 1);
    assert_eq!((same.output.height, same.padding), (7, [2, 2]));
}

#[test]
#[should_panic(expected = "the source's length")]
fn a_short_source_is_refused() {
    let shape = Conv2dShape::new(BlockShape::new(4, 4, 16), 16, [3, 3], 1, [1, 1]);
    let (weights, mut y) = (vec![0.0; shape.weights_len()], vec![0.0f32; shape.output.len()]);
    forward(Cpu::detect().unwrap(), &shape, &[0.0; 15], &weights, Epilogue::NONE, 0..4, &mut y);
}
