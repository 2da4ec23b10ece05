//! The three passes of a convolution or dense layer, as a network's plan computes them.

use rayon::prelude::*;
use selvedge_compute::aligned::{bytes, bytes_mut};
use selvedge_compute::conv::Conv2dShape;
use selvedge_compute::conv::{Accumulate, Blocks, ConvPlan, ForwardArgs, Fusion, Source, WeightGradient};
use selvedge_compute::cost::{ConvPasses, Cost};
use selvedge_compute::simd::Element;
use selvedge_compute::{AlignedVec, BLOCK, Cpu, Precision, bf16};

use super::{Make, Operands, Pass, numbers};

/// The passes of a convolution with bias and ReLU between other layers, or, if its channels are not padded, next to a network's
/// input.
pub(super) fn passes(shape: Conv2dShape, operands: Operands, precision: Precision) -> Vec<Make> {
    let source = if super::is_padded(&shape.input) { Source::Layer } else { Source::Network };
    let plan = ConvPlan::new(shape, Fusion { relu: true, ..Fusion::default() }, source, precision);
    match precision {
        Precision::F32 => passes_of::<f32>(plan, operands),
        Precision::Bf16 => passes_of::<bf16>(plan, operands),
    }
}

fn passes_of<E: Element>(plan: ConvPlan, operands: Operands) -> Vec<Make> {
    let shape = *plan.shape();
    let (x_len, dy_len) = (shape.input.len(), shape.output.len());
    let pass = move |name, cpu: Cpu, of: fn(ConvPasses) -> Cost, batch, of_thread, run| Pass {
        name,
        path: plan.name(cpu),
        precision: plan.multiplies_in(),
        cost: of(plan.pass_costs(batch)),
        resident: of(plan.pass_costs(of_thread)).bytes,
        run,
    };
    let forward: Make = Box::new(move |cpu, batch, of_thread| {
        let blocks = batch.div_ceil(BLOCK);
        let (x, mut y) = (operands.numbers::<E>(blocks * x_len), numbers::<E>(blocks * dy_len));
        let (weights, bias) = (numbers::<f32>(shape.weights_len()), numbers::<f32>(shape.output.channel_stride));
        let mut packed = AlignedVec::<u8>::zeroed(plan.packed_bytes());
        plan.pack_all(cpu, &weights, &mut packed);
        let run = Box::new(move || {
            y.par_chunks_mut(dy_len).zip(x.par_chunks(x_len)).for_each(|(y, x)| {
                let block = ForwardArgs::of_block(bytes(x));
                let args = ForwardArgs { weights: &weights, packed: &packed, bias: Some(&bias), ..block };
                plan.forward(cpu, args, bytes_mut(y));
            });
        });
        pass("forward", cpu, |passes| passes.forward, batch, of_thread, run)
    });
    let backward_data: Make = Box::new(move |cpu, batch, of_thread| {
        let blocks = batch.div_ceil(BLOCK);
        let (mut dx, dy) = (numbers::<E>(blocks * x_len), operands.numbers::<E>(blocks * dy_len));
        let mut transposed = AlignedVec::<u8>::zeroed(plan.transposed_bytes());
        plan.transpose_all(cpu, &numbers::<f32>(shape.weights_len()), &mut transposed);
        let run = Box::new(move || {
            dx.par_chunks_mut(x_len).zip(dy.par_chunks(dy_len)).for_each(|(dx, dy)| {
                plan.backward_data(cpu, bytes(dy), &transposed, 1, bytes_mut(dx));
            });
        });
        pass("backward_data", cpu, |passes| passes.backward_data, batch, of_thread, run)
    });
    let backward_weights: Make = Box::new(move |cpu, batch, of_thread| {
        let blocks = batch.div_ceil(BLOCK);
        let (x, dy) = (operands.numbers::<E>(blocks * x_len), operands.numbers::<E>(blocks * dy_len));
        let run = match plan.weight_gradient() {
            WeightGradient::PerGroup => weights_by_block(plan, cpu, x, dy),
            WeightGradient::PerPanel => weights_by_panels(plan, cpu, x, dy, blocks),
            WeightGradient::Frozen => unreachable!("a layer that is measured alone is not frozen"),
        };
        pass("backward_weights", cpu, |passes| passes.backward_weights, batch, of_thread, run)
    });
    if plan.has_input_gradient() {
        vec![forward, backward_data, backward_weights]
    } else {
        vec![forward, backward_weights]
    }
}

/// Each block with sums of its own.
fn weights_by_block<E: Element>(
    plan: ConvPlan,
    cpu: Cpu,
    x: AlignedVec<E>,
    dy: AlignedVec<E>,
) -> Box<dyn FnMut() + Send> {
    let shape = *plan.shape();
    let (x_len, dy_len) = (shape.input.len(), shape.output.len());
    let mut sums = AlignedVec::<f32>::zeroed(x.len() / x_len * shape.weights_len());
    Box::new(move || {
        let operands = x.par_chunks(x_len).zip(dy.par_chunks(dy_len));
        sums.par_chunks_mut(shape.weights_len()).zip(operands).for_each(|(sums, (x, dy))| {
            plan.backward_weights_of_block(cpu, [bytes(x), bytes(dy)], Accumulate::Overwrite, sums);
        });
    })
}

/// Some panels at a time over all blocks, which are repacked first where the plan needs it.
fn weights_by_panels<E: Element>(
    plan: ConvPlan,
    cpu: Cpu,
    x: AlignedVec<E>,
    dy: AlignedVec<E>,
    blocks: usize,
) -> Box<dyn FnMut() + Send> {
    let shape = *plan.shape();
    let (x_len, dy_len) = (shape.input.len(), shape.output.len());
    let [x_bytes, dy_bytes] = plan.repacked_bytes();
    let [mut x_to, mut dy_to] = [x_bytes, dy_bytes].map(|bytes| AlignedVec::<u8>::zeroed(blocks * bytes));
    let mut dweights = AlignedVec::<f32>::zeroed(shape.weights_len());
    Box::new(move || {
        let (x, dy) = (bytes(&x), bytes(&dy));
        let stack = |data, stride| Blocks { data, stride, count: blocks };
        let operands = if plan.keeps_operands() {
            [stack(x, x.len() / blocks), stack(dy, dy.len() / blocks)]
        } else {
            let element = size_of::<E>();
            let from = x.par_chunks(x_len * element).zip(dy.par_chunks(dy_len * element));
            let to = x_to.par_chunks_mut(x_bytes).zip(dy_to.par_chunks_mut(dy_bytes));
            to.zip(from).for_each(|((x_to, dy_to), (x, dy))| plan.repack(cpu, [x, dy], [x_to, dy_to]));
            [stack(&x_to[..], x_bytes), stack(&dy_to[..], dy_bytes)]
        };
        let at_once = plan.panels_per_chunk(rayon::current_num_threads());
        dweights.par_chunks_mut(at_once * shape.panel_len()).enumerate().for_each(|(chunk, dweights)| {
            let panels = at_once * chunk..(at_once * (chunk + 1)).min(shape.panels());
            plan.backward_weights_of_panels(cpu, operands, panels, dweights);
        });
    })
}
