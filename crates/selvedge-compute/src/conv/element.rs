//! [`ConvElement`]: the passes of a convolution by the type that its tensors are stored in, for code that is written once
//! for f32 and bf16.

use std::ops::Range;

use half::bf16;

use super::{Accumulate, Blocks, Conv2dShape, Epilogue, Training, direct, tiles};
use crate::cpu::{Cpu, Precision};
use crate::simd::Element;

/// The passes on tensors of `Self`: each is the function of the same name, with `_bf16` behind it for bf16.
///
/// ```
/// use selvedge_compute::conv::{Conv2dShape, ConvElement, Epilogue};
/// use selvedge_compute::{AlignedVec, BlockShape, Cpu};
/// fn sums<E: ConvElement>(cpu: Cpu, shape: &Conv2dShape, x: &[E], weights: &[E]) -> AlignedVec<E> {
///     let mut y = AlignedVec::zeroed(shape.output.len());
///     E::forward(cpu, shape, x, weights, Epilogue::NONE, 0..shape.output.height, &mut y);
///     y
/// }
/// let shape = Conv2dShape::same(BlockShape::new(2, 2, 16), 16, [3, 3], 1);
/// let (x, weights) = (AlignedVec::zeroed(shape.input.len()), AlignedVec::zeroed(shape.weights_len()));
/// assert_eq!(sums::<f32>(Cpu::detect()?, &shape, &x, &weights)[0], 0.0);
/// # Ok::<(), selvedge_compute::CpuError>(())
/// ```
pub trait ConvElement: Element {
    /// What the passes multiply in.
    const PRECISION: Precision;

    /// [`direct::backward_weights_of_block`]
    fn backward_weights_of_block(
        cpu: Cpu,
        shape: &Conv2dShape,
        operands: [&[Self]; 2],
        buffers: [&mut [Self]; 2],
        accumulate: Accumulate,
        dweights: &mut [f32],
    );

    /// [`direct::forward`]
    fn forward(
        cpu: Cpu,
        shape: &Conv2dShape,
        x: &[Self],
        weights: &[Self],
        epilogue: Epilogue<'_>,
        rows: Range<usize>,
        y: &mut [Self],
    );

    /// [`direct::forward_pooled`] that keeps the indices, without a bias.
    fn forward_pooled(
        cpu: Cpu,
        shape: &Conv2dShape,
        window: [usize; 2],
        x: &[Self],
        weights: &[Self],
        rows: Range<usize>,
        y: &mut [Self],
        indices: &mut [u16],
    );

    /// [`direct::backward_data`]
    fn backward_data(
        cpu: Cpu,
        shape: &Conv2dShape,
        dy: &[Self],
        transposed: &[Self],
        rows: Range<usize>,
        dx: &mut [Self],
    );

    /// Brings x and dy of a block into the forms that [`ConvElement::backward_weights`] reads.
    fn repack(cpu: Cpu, shape: &Conv2dShape, from: [&[Self]; 2], to: [&mut [Self]; 2]);

    /// [`crate::conv::direct::backward_weights`]
    fn backward_weights(
        cpu: Cpu,
        shape: &Conv2dShape,
        x: Blocks<'_, Self>,
        dy: Blocks<'_, Self>,
        panels: Range<usize>,
        accumulate: Accumulate,
        dweights: &mut [f32],
    );
}

/// The passes of a type from the functions that do them.
macro_rules! passes_of {
    ($element:ty, $forward:path, $forward_pooled:path, $backward_data:path, $backward_weights:path) => {
        fn forward(
            cpu: Cpu,
            shape: &Conv2dShape,
            x: &[$element],
            weights: &[$element],
            epilogue: Epilogue<'_>,
            rows: Range<usize>,
            y: &mut [$element],
        ) {
            $forward(cpu, shape, x, weights, epilogue, rows, y);
        }

        fn forward_pooled(
            cpu: Cpu,
            shape: &Conv2dShape,
            window: [usize; 2],
            x: &[$element],
            weights: &[$element],
            rows: Range<usize>,
            y: &mut [$element],
            indices: &mut [u16],
        ) {
            $forward_pooled(cpu, shape, window, x, weights, None, rows, y, Some(Training { indices, dropout: None }));
        }

        fn backward_data(
            cpu: Cpu,
            shape: &Conv2dShape,
            dy: &[$element],
            transposed: &[$element],
            rows: Range<usize>,
            dx: &mut [$element],
        ) {
            $backward_data(cpu, shape, dy, transposed, rows, dx);
        }

        fn backward_weights(
            cpu: Cpu,
            shape: &Conv2dShape,
            x: Blocks<'_, $element>,
            dy: Blocks<'_, $element>,
            panels: Range<usize>,
            accumulate: Accumulate,
            dweights: &mut [f32],
        ) {
            $backward_weights(cpu, shape, x, dy, panels, accumulate, dweights);
        }
    };
}

impl ConvElement for f32 {
    const PRECISION: Precision = Precision::F32;

    passes_of!(
        f32,
        direct::forward,
        direct::forward_pooled,
        direct::backward_data,
        crate::conv::direct::backward_weights
    );

    fn backward_weights_of_block(
        cpu: Cpu,
        shape: &Conv2dShape,
        [x, dy]: [&[f32]; 2],
        buffers: [&mut [f32]; 2],
        accumulate: Accumulate,
        dweights: &mut [f32],
    ) {
        if !shape.input.channel_stride.is_multiple_of(super::PANEL) {
            return super::first_layer::backward_weights(cpu, shape, x, dy, accumulate, dweights);
        }
        direct::backward_weights_of_block(cpu, shape, x, dy, buffers, accumulate, dweights);
    }

    fn repack(cpu: Cpu, shape: &Conv2dShape, [x, dy]: [&[f32]; 2], [x_to, dy_to]: [&mut [f32]; 2]) {
        direct::repack::to_planes(cpu, &shape.input, x, x_to);
        direct::repack::to_planes(cpu, &shape.output, dy, dy_to);
    }
}

impl ConvElement for bf16 {
    const PRECISION: Precision = Precision::Bf16;

    passes_of!(bf16, tiles::forward, tiles::forward_pooled, tiles::backward_data, crate::conv::tiles::backward_weights);

    fn backward_weights_of_block(
        cpu: Cpu,
        shape: &Conv2dShape,
        operands: [&[bf16]; 2],
        buffers: [&mut [bf16]; 2],
        accumulate: Accumulate,
        dweights: &mut [f32],
    ) {
        tiles::backward_weights_of_block(cpu, shape, operands, buffers, accumulate, dweights);
    }

    fn repack(cpu: Cpu, shape: &Conv2dShape, [x, dy]: [&[bf16]; 2], [x_to, dy_to]: [&mut [bf16]; 2]) {
        tiles::repack::transpose_images(cpu, &shape.input, x, x_to);
        tiles::repack::pair_images(cpu, &shape.output, dy, dy_to);
    }
}
