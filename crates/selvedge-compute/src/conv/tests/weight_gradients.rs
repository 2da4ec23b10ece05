//! The gradient of the weights, by blocks and by panels, in f32 and in bf16, against the naive convolution.

use std::ops::Range;

use half::bf16;

use super::*;

/// The gradient of the weights by the algorithm whose operands are `Self`.
pub(super) trait WeightPasses: Element {
    fn of_block(
        cpu: Cpu,
        shape: &Conv2dShape,
        operands: [&[Self]; 2],
        rows: [&mut [Self]; 2],
        accumulate: Accumulate,
        dweights: &mut [f32],
    );
    fn repack(cpu: Cpu, shape: &Conv2dShape, from: [&[Self]; 2], to: [&mut [Self]; 2]);
    fn of_blocks(
        cpu: Cpu,
        shape: &Conv2dShape,
        operands: [Blocks<'_, Self>; 2],
        panels: Range<usize>,
        accumulate: Accumulate,
        dweights: &mut [f32],
    );
}

impl WeightPasses for f32 {
    fn of_block(
        cpu: Cpu,
        shape: &Conv2dShape,
        [x, dy]: [&[f32]; 2],
        rows: [&mut [f32]; 2],
        accumulate: Accumulate,
        dweights: &mut [f32],
    ) {
        if shape.input.channel_stride.is_multiple_of(PANEL) {
            direct::backward_weights_of_block(cpu, shape, x, dy, rows, accumulate, dweights);
        } else {
            first_layer::backward_weights(cpu, shape, x, dy, accumulate, dweights);
        }
    }

    fn repack(cpu: Cpu, shape: &Conv2dShape, [x, dy]: [&[f32]; 2], [x_to, dy_to]: [&mut [f32]; 2]) {
        direct::repack::to_planes(cpu, &shape.input, x, x_to);
        direct::repack::to_planes(cpu, &shape.output, dy, dy_to);
    }

    fn of_blocks(
        cpu: Cpu,
        shape: &Conv2dShape,
        [x, dy]: [Blocks<'_, f32>; 2],
        panels: Range<usize>,
        accumulate: Accumulate,
        dweights: &mut [f32],
    ) {
        direct::backward_weights(cpu, shape, x, dy, panels, accumulate, dweights);
    }
}

impl WeightPasses for bf16 {
    fn of_block(
        cpu: Cpu,
        shape: &Conv2dShape,
        operands: [&[bf16]; 2],
        rows: [&mut [bf16]; 2],
        accumulate: Accumulate,
        dweights: &mut [f32],
    ) {
        tiles::backward_weights_of_block(cpu, shape, operands, rows, accumulate, dweights);
    }

    fn repack(cpu: Cpu, shape: &Conv2dShape, [x, dy]: [&[bf16]; 2], [x_to, dy_to]: [&mut [bf16]; 2]) {
        tiles::repack::transpose_images(cpu, &shape.input, x, x_to);
        tiles::repack::pair_images(cpu, &shape.output, dy, dy_to);
    }

    fn of_blocks(
        cpu: Cpu,
        shape: &Conv2dShape,
        [x, dy]: [Blocks<'_, bf16>; 2],
        panels: Range<usize>,
        accumulate: Accumulate,
        dweights: &mut [f32],
    ) {
        tiles::backward_weights(cpu, shape, x, dy, panels, accumulate, dweights);
    }
}

/// Checks the gradient of the weights block by block, and by panels over all blocks. `x` and `dy` are those of the case in `E`.
pub(super) fn gradients_equal_the_reference<E: WeightPasses>(
    cpu: Cpu,
    case: &Case,
    x: &[E],
    dy: &[E],
    rounding: usize,
) {
    let shape = case.shape;
    let (x_len, dy_len) = (shape.input.len(), shape.output.len());
    let blocks = x.len() / x_len;
    let mut want = vec![0.25; case.weights.len()];
    for block in 0..blocks {
        for image in 0..BLOCK {
            let x = case.image(&shape.input, &case.x, block, image);
            let dy = case.image(&shape.output, &case.dy, block, image);
            for_each_product(&shape, |o, i, w| want[w] += x[i] * dy[o]);
        }
    }
    let terms = blocks * BLOCK * shape.output.height * shape.output.width;
    let check = |name: &str, panels: &[f32]| {
        let mut got = vec![0.0; want.len()];
        pack::from_panels(&shape, panels, &mut got);
        for (got, want) in got.iter().zip(&want) {
            assert_close(&format!("{name} {} {shape:?} {blocks} blocks", cpu.isa()), *got, *want, rounding * terms);
        }
    };
    let overwrites = |panels: &[f32], added_to_content: &[f32]| {
        for (a, b) in panels.iter().zip(added_to_content) {
            assert!((a + 0.25 - b).abs() < 1e-3, "{a} + 0.25 is not {b}");
        }
    };

    let buffers = || weight_gradient::row_buffers(&shape).map(|len| vec![E::default(); len]);
    let of_block = |block: usize, accumulate: Accumulate, dweights: &mut [f32]| {
        let [mut x_rows, mut dy_rows] = buffers();
        let operands = [&x[block * x_len..][..x_len], &dy[block * dy_len..][..dy_len]];
        E::of_block(cpu, &shape, operands, [&mut x_rows, &mut dy_rows], accumulate, dweights);
    };
    let mut added = vec![0.25; shape.weights_len()];
    (0..blocks).for_each(|block| of_block(block, Accumulate::Add, &mut added));
    check("block by block", &added);
    let mut first = vec![f32::NAN; shape.weights_len()];
    of_block(0, Accumulate::Overwrite, &mut first);
    let mut first_added = vec![0.25; shape.weights_len()];
    of_block(0, Accumulate::Add, &mut first_added);
    overwrites(&first, &first_added);

    if !shape.input.channel_stride.is_multiple_of(PANEL) {
        return;
    }
    let (mut x_to, mut dy_to) = (vec![E::default(); x.len()], vec![E::default(); dy.len()]);
    let to = x_to.chunks_exact_mut(x_len).zip(dy_to.chunks_exact_mut(dy_len));
    for ((x_to, dy_to), (x, dy)) in to.zip(x.chunks_exact(x_len).zip(dy.chunks_exact(dy_len))) {
        E::repack(cpu, &shape, [x, dy], [x_to, dy_to]);
    }
    let x = Blocks { data: &x_to[..], stride: x_len, count: blocks };
    let dy = Blocks { data: &dy_to[..], stride: dy_len, count: blocks };
    let mut dweights = vec![0.25; shape.weights_len()];
    let cut = shape.panels() / 2;
    let (left, right) = dweights.split_at_mut(cut * shape.panel_len());
    E::of_blocks(cpu, &shape, [x, dy], 0..cut, Accumulate::Add, left);
    E::of_blocks(cpu, &shape, [x, dy], cut..shape.panels(), Accumulate::Add, right);
    check("by panels", &dweights);
    let mut overwritten = vec![f32::NAN; shape.weights_len()];
    E::of_blocks(cpu, &shape, [x, dy], 0..shape.panels(), Accumulate::Overwrite, &mut overwritten);
    overwrites(&overwritten, &dweights);
}

#[test]
fn backward_weights_equals_the_reference() {
    for (i, shape) in shapes().into_iter().enumerate() {
        for blocks in [1, 3] {
            let case = Case::new(shape, blocks, i as u64);
            for cpu in cpus() {
                gradients_equal_the_reference(cpu, &case, &case.x, &case.dy, 4);
            }
        }
    }
}
