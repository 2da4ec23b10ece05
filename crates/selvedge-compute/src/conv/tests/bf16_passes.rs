//! The bf16 passes against the naive convolution of inputs rounded to bf16.

use half::bf16;

use super::*;
use crate::Isa;
use crate::conv::tiles::repack;

/// Every shape of padded channels, and some with several slides per row or with ring buffers of rows that wrap around. All values
/// are rounded to bf16. `None` if the machine lacks AMX.
fn cases() -> Option<(Cpu, Vec<Case>)> {
    let Ok(cpu) = Cpu::with(Isa::Amx) else {
        eprintln!("WARNING: bf16 convolution was NOT TESTED: this machine lacks amx");
        return None;
    };
    let padded = |shape: &Conv2dShape| shape.input.channel_stride.is_multiple_of(PANEL);
    let larger = [
        (5, 9, 64, 16, [3, 3], [1, 1]),
        (9, 6, 32, 40, [3, 3], [1, 0]),
        (7, 14, 16, 16, [5, 3], [2, 1]),
        (6, 17, 48, 32, [3, 3], [1, 1]),
        (3, 5, 96, 32, [3, 3], [1, 1]),
        (2, 30, 96, 16, [3, 3], [1, 1]),
        (3, 4, 16, 128, [3, 3], [1, 1]),
    ];
    let larger = larger.map(|(height, width, input, filters, kernel, padding)| {
        Conv2dShape::new(BlockShape::new(height, width, input), filters, kernel, 1, padding)
    });
    let shapes = shapes().into_iter().filter(padded).chain(larger);
    let cases = shapes.enumerate().map(|(i, shape)| {
        let mut case = Case::new(shape, 3, i as u64);
        for values in [&mut case.x, &mut case.dy, &mut case.weights] {
            values.iter_mut().for_each(|v| *v = bf16::from_f32(*v).to_f32());
        }
        case
    });
    Some((cpu, cases.collect()))
}

fn narrow(values: &[f32]) -> Vec<bf16> {
    values.iter().map(|&v| bf16::from_f32(v)).collect()
}

impl Case {
    fn packed(&self, cpu: Cpu) -> Vec<bf16> {
        let mut packed = vec![bf16::ZERO; self.shape.weights_len()];
        repack::to_bf16(cpu, &self.panels(), &mut packed);
        packed
    }

    fn one(&self, shape: &BlockShape, values: &[f32]) -> Vec<bf16> {
        narrow(&values[..shape.len()])
    }
}

#[test]
fn forward_and_pooled() {
    let Some((cpu, cases)) = cases() else { return };
    for case in cases {
        let shape = case.shape;
        let mut bias = vec![0.0; shape.output.channel_stride];
        bias[..shape.output.channels].fill(-0.25);
        let x = case.one(&shape.input, &case.x);
        let packed = case.packed(cpu);
        let rows = 0..shape.output.height;
        let mut sums = vec![f32::NAN; shape.output.len()];
        tiles::forward(cpu, &shape, &x, &packed, Epilogue::NONE, rows.clone(), &mut sums);
        padded_lanes_are_zero(&shape.output, &sums);
        for image in [0, 15, 16, 31] {
            let x = case.image(&shape.input, &case.x, 0, image);
            let mut want = vec![0.0; shape.output.height * shape.output.width * shape.output.channels];
            for_each_product(&shape, |o, i, w| want[o] += x[i] * case.weights[w] as f64);
            for (got, want) in case.image(&shape.output, &sums, 0, image).iter().zip(want) {
                assert_close(&format!("{shape:?}"), *got as f32, want, 4 * shape.panel_len());
            }
        }
        let mut y = vec![bf16::NAN; shape.output.len()];
        tiles::forward(cpu, &shape, &x, &packed, Epilogue { bias: Some(&bias), relu: true }, rows, &mut y);
        let lane = |at: usize| shape.output.image_and_channel(at).1;
        for (at, y) in y.iter().enumerate() {
            assert_eq!(*y, bf16::from_f32((sums[at] + bias[lane(at)]).max(0.0)), "{shape:?}");
        }
        let (height, width) = (shape.output.height / 2, shape.output.width / 2);
        let pooled = BlockShape::new(height, width, shape.output.channels);
        let mut small = vec![bf16::NAN; pooled.len()];
        let output = PooledOutput { window: [2, 2], bias: Some(&bias), relu: true, y: &mut small, training: None };
        tiles::forward_pooled(cpu, &shape, &x, &packed, 0..height, output);
        for (at, small) in small.iter().enumerate() {
            let (pixel, inner) = (at / pooled.pixel(), at % pooled.pixel());
            let window = (0..4).map(|w| {
                let (row, column) = (pixel / width * 2 + w / 2, pixel % width * 2 + w % 2);
                y[shape.output.offset(row, column) + inner]
            });
            assert_eq!(small.to_f32(), window.map(bf16::to_f32).fold(0.0, f32::max), "{shape:?}");
        }
    }
}

#[test]
fn dropout_in_the_pooled_pass() {
    let Some((cpu, cases)) = cases() else { return };
    for case in cases.iter().filter(|case| case.shape.output.height.min(case.shape.output.width) > 3) {
        let (x, packed) = (case.one(&case.shape.input, &case.x), case.packed(cpu));
        let run = |part: Part, y: &mut [bf16], training: Option<Training<'_>>| {
            let output = PooledOutput { window: [2, 2], bias: None, relu: true, y, training };
            tiles::forward_pooled(cpu, &case.shape, &x, &packed, part, output);
        };
        // Separate passes round the result twice.
        assert_dropout_is_that_of_separate_passes(cpu, &case.shape, in_two_parts(&case.shape, run), 1.0 / 128.0);
    }
}

#[test]
fn backward_data() {
    let Some((cpu, cases)) = cases() else { return };
    for case in cases {
        let shape = case.shape;
        let mut transposed = vec![bf16::ZERO; shape.transposed_len()];
        let len = shape.taps() * shape.output.channel_stride * PANEL;
        for (panel, to) in transposed.chunks_exact_mut(len).enumerate() {
            repack::transpose_to_bf16(cpu, &shape, &case.panels(), panel, to);
        }
        let dy = case.one(&shape.output, &case.dy);
        let mut dx = vec![f32::NAN; shape.input.len()];
        tiles::backward_data(cpu, &shape, &dy, &transposed, 0..shape.input.height, &mut dx);
        padded_lanes_are_zero(&shape.input, &dx);
        for image in [0, 17, 31] {
            let dy = case.image(&shape.output, &case.dy, 0, image);
            let got = case.image(&shape.input, &dx, 0, image);
            let mut want = vec![0.0; got.len()];
            for_each_product(&shape, |o, i, w| want[i] += dy[o] * case.weights[w] as f64);
            for (got, want) in got.iter().zip(want) {
                assert_close(&format!("{shape:?}"), *got as f32, want, 16 * shape.taps() * shape.output.channels);
            }
        }
    }
}

#[test]
fn bits_do_not_depend_on_the_number_of_images() {
    let Some((cpu, cases)) = cases() else { return };
    for case in cases {
        let shape = case.shape;
        let (x, packed) = (case.one(&shape.input, &case.x), case.packed(cpu));
        let run = |images| {
            let mut y = vec![bf16::NAN; shape.output.len()];
            let part = Part { rows: 0..shape.output.height, images };
            tiles::forward(cpu, &shape, &x, &packed, Epilogue { bias: None, relu: true }, part, &mut y);
            y
        };
        let all = run(BLOCK);
        let pooled = BlockShape::new(shape.output.height / 2, shape.output.width / 2, shape.output.channels);
        let run_pooled = |images| {
            let mut y = vec![bf16::NAN; pooled.len()];
            let part = Part { rows: 0..pooled.height, images };
            let output = PooledOutput { window: [2, 2], bias: None, relu: true, y: &mut y, training: None };
            tiles::forward_pooled(cpu, &shape, &x, &packed, part, output);
            y
        };
        let all_pooled = run_pooled(BLOCK);
        for images in [1, 4, 7, 16, 17, 31] {
            let want = first_images(&shape.output, &all, images);
            assert!(first_images(&shape.output, &run(images), images) == want, "{images} images of {shape:?}");
            let want = first_images(&pooled, &all_pooled, images);
            assert!(first_images(&pooled, &run_pooled(images), images) == want, "{images} images of {shape:?}");
        }
    }
}

#[test]
fn backward_weights() {
    let Some((cpu, cases)) = cases() else { return };
    for case in cases {
        weight_gradients::gradients_equal_the_reference(cpu, &case, &narrow(&case.x), &narrow(&case.dy), 16);
    }
}
