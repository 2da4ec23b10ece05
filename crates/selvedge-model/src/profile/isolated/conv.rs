//! The three passes of a convolution or dense layer, the same for both element types.

use rayon::prelude::*;
use selvedge_compute::conv::{Accumulate, Blocks, Conv2dShape, ConvAlgorithm, ConvElement, Epilogue};
use selvedge_compute::cost::{self, Cost, ElementBytes};
use selvedge_compute::{AlignedVec, BLOCK, Cpu, Precision};

use super::{Make, Operands, Pass, numbers, vectors};
use crate::exec::conv::{panels_at_once, with_rows};

/// The passes of a convolution on tensors of `E`.
pub(super) fn passes<E: ConvElement>(shape: Conv2dShape, operands: Operands) -> Vec<Make> {
    let element = ElementBytes::all(size_of::<E>());
    let pass = move |name, cpu: Cpu, of: fn(cost::ConvPasses) -> Cost, batch, of_thread, run| {
        let path = ConvAlgorithm::of(&shape, E::PRECISION, None);
        Pass {
            name,
            path: if path == ConvAlgorithm::Tiles { format!("{} {path}", cpu.isa()) } else { vectors(cpu) },
            precision: E::PRECISION,
            cost: of(cost::conv(&shape, batch, element)),
            resident: of(cost::conv(&shape, of_thread, element)).bytes,
            run,
        }
    };
    let forward: Make = Box::new(move |cpu, batch, of_thread| {
        let blocks = batch.div_ceil(BLOCK);
        let (x, mut y) = (operands.numbers::<E>(blocks * shape.input.len()), numbers::<E>(blocks * shape.output.len()));
        let (weights, bias) = (numbers::<E>(shape.weights_len()), numbers::<f32>(shape.output.channel_stride));
        let run = Box::new(move || {
            let epilogue = Epilogue { bias: Some(&bias), relu: true };
            let blocks = y.par_chunks_mut(shape.output.len()).zip(x.par_chunks(shape.input.len()));
            blocks.for_each(|(y, x)| E::forward(cpu, &shape, x, &weights, epilogue, 0..shape.output.height, y));
        });
        pass("forward", cpu, |passes| passes.forward, batch, of_thread, run)
    });
    let backward_data: Make = Box::new(move |cpu, batch, of_thread| {
        let blocks = batch.div_ceil(BLOCK);
        let (mut dx, dy) =
            (numbers::<E>(blocks * shape.input.len()), operands.numbers::<E>(blocks * shape.output.len()));
        let transposed = numbers::<E>(shape.transposed_len());
        let run = Box::new(move || {
            let blocks = dx.par_chunks_mut(shape.input.len()).zip(dy.par_chunks(shape.output.len()));
            blocks.for_each(|(dx, dy)| E::backward_data(cpu, &shape, dy, &transposed, 0..shape.input.height, dx));
        });
        pass("backward_data", cpu, |passes| passes.backward_data, batch, of_thread, run)
    });
    let backward_weights: Make = Box::new(move |cpu, batch, of_thread| {
        let run = weights_gradient::<E>(cpu, shape, operands, batch.div_ceil(BLOCK));
        pass("backward_weights", cpu, |passes| passes.backward_weights, batch, of_thread, run)
    });
    // A network's input has no gradient.
    if !super::is_padded(&shape.input) {
        return vec![forward, backward_weights];
    }
    vec![forward, backward_data, backward_weights]
}

/// Cut as a network cuts it: gradients larger than a block's activations some panels at a time, over all blocks; smaller
/// ones by blocks, each with a sum of its own. Operands are repacked first, or on the way.
fn weights_gradient<E: ConvElement>(
    cpu: Cpu,
    shape: Conv2dShape,
    operands: Operands,
    blocks: usize,
) -> Box<dyn FnMut() + Send> {
    let (x_len, dy_len) = (shape.input.len(), shape.output.len());
    let (x, dy) = (operands.numbers::<E>(blocks * x_len), operands.numbers::<E>(blocks * dy_len));
    if !super::is_padded(&shape.input) || !shape.weights_exceed_activations(size_of::<E>()) {
        let mut of_blocks: Vec<_> = (0..blocks).map(|_| AlignedVec::<f32>::zeroed(shape.weights_len())).collect();
        return Box::new(move || {
            let operands = x.par_chunks(x_len).zip(dy.par_chunks(dy_len));
            of_blocks.par_iter_mut().zip(operands).for_each(|(dweights, (x, dy))| {
                with_rows(&shape, |rows| {
                    E::backward_weights_of_block(cpu, &shape, [x, dy], rows, Accumulate::Overwrite, dweights);
                });
            });
        });
    }
    let [mut x_to, mut dy_to] = [x_len, dy_len].map(|len| AlignedVec::<E>::zeroed(blocks * len));
    let mut dweights = AlignedVec::<f32>::zeroed(shape.weights_len());
    Box::new(move || {
        let from = x.par_chunks(x_len).zip(dy.par_chunks(dy_len));
        let to = x_to.par_chunks_mut(x_len).zip(dy_to.par_chunks_mut(dy_len));
        to.zip(from).for_each(|((x_to, dy_to), (x, dy))| E::repack(cpu, &shape, [x, dy], [x_to, dy_to]));
        let x = Blocks { data: &x_to[..], stride: x_len, count: blocks };
        let dy = Blocks { data: &dy_to[..], stride: dy_len, count: blocks };
        let at_once = panels_at_once(&shape, E::PRECISION == Precision::Bf16, rayon::current_num_threads());
        dweights.par_chunks_mut(at_once * shape.panel_len()).enumerate().for_each(|(piece, dweights)| {
            let panels = at_once * piece..(at_once * (piece + 1)).min(shape.panels());
            E::backward_weights(cpu, &shape, x, dy, panels, Accumulate::Overwrite, dweights);
        });
    })
}
