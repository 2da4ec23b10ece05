//! The three passes of a convolution by Winograd's algorithm.

use rayon::prelude::*;
use selvedge_compute::conv::winograd::{Share, Winograd};
use selvedge_compute::conv::{Accumulate, Blocks, ConvAlgorithm, Epilogue};
use selvedge_compute::cost::{self, Cost};
use selvedge_compute::{AlignedVec, BLOCK, Cpu, Isa, Precision};

use super::{Make, Operands, Pass, numbers};

/// The passes of a convolution in f32.
pub(super) fn passes(winograd: Winograd, operands: Operands) -> Vec<Make> {
    let shape = *winograd.shape();
    let (x_len, dy_len) = (shape.input.len(), shape.output.len());
    let pass = move |name, cpu: Cpu, of: fn(cost::ConvPasses) -> Cost, batch, of_thread, run| Pass {
        name,
        path: format!("{} {}", cpu.isa().min(Isa::Avx512), ConvAlgorithm::Winograd),
        precision: Precision::F32,
        cost: of(cost::winograd(&winograd, batch)),
        resident: of(cost::winograd(&winograd, of_thread)).bytes,
        run,
    };
    let forward: Make = Box::new(move |cpu, batch, of_thread| {
        let blocks = batch.div_ceil(BLOCK);
        let (x, mut y) = (operands.numbers::<f32>(blocks * x_len), numbers::<f32>(blocks * dy_len));
        let (weights, bias) = (numbers::<f32>(winograd.weights_len()), numbers::<f32>(shape.output.channel_stride));
        let run = Box::new(move || {
            let epilogue = Epilogue { bias: Some(&bias), relu: true };
            let blocks = y.par_chunks_mut(dy_len).zip(x.par_chunks(x_len));
            blocks.for_each(|(y, x)| winograd.forward(cpu, x, &weights, epilogue, Share::ALL, y));
        });
        pass("forward", cpu, |passes| passes.forward, batch, of_thread, run)
    });
    let backward_data: Make = Box::new(move |cpu, batch, of_thread| {
        let blocks = batch.div_ceil(BLOCK);
        let (mut dx, dy) = (numbers::<f32>(blocks * x_len), operands.numbers::<f32>(blocks * dy_len));
        let transposed = numbers::<f32>(winograd.transposed_len());
        let run = Box::new(move || {
            let blocks = dx.par_chunks_mut(x_len).zip(dy.par_chunks(dy_len));
            blocks.for_each(|(dx, dy)| winograd.backward_data(cpu, dy, &transposed, 1, dx));
        });
        pass("backward_data", cpu, |passes| passes.backward_data, batch, of_thread, run)
    });
    let backward_weights: Make = Box::new(move |cpu, batch, of_thread| {
        let blocks = batch.div_ceil(BLOCK);
        let (x, dy) = (operands.numbers::<f32>(blocks * x_len), operands.numbers::<f32>(blocks * dy_len));
        let by_panels = shape.weights_exceed_activations(size_of::<f32>());
        let sums = if by_panels { 1 } else { blocks };
        let mut dweights = AlignedVec::<f32>::zeroed(sums * shape.weights_len());
        let run = Box::new(move || {
            if by_panels {
                let x = Blocks { data: &x[..], stride: x_len, count: blocks };
                let dy = Blocks { data: &dy[..], stride: dy_len, count: blocks };
                dweights.par_chunks_mut(4 * shape.panel_len()).enumerate().for_each(|(piece, dweights)| {
                    let panels = 4 * piece..(4 * piece + 4).min(shape.panels());
                    winograd.backward_weights(cpu, x, dy, panels, Accumulate::Overwrite, dweights);
                });
            } else {
                let operands = x.par_chunks(x_len).zip(dy.par_chunks(dy_len));
                dweights.par_chunks_mut(shape.weights_len()).zip(operands).for_each(|(dweights, (x, dy))| {
                    let (x, dy) = (Blocks::one(x), Blocks::one(dy));
                    winograd.backward_weights(cpu, x, dy, 0..shape.panels(), Accumulate::Overwrite, dweights);
                });
            }
        });
        pass("backward_weights", cpu, |passes| passes.backward_weights, batch, of_thread, run)
    });
    vec![forward, backward_data, backward_weights]
}
