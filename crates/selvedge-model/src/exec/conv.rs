//! Convolutions and dense layers of a plan: where their tensors and weights lie. Their plan decides how
//! they are computed, and does it ([`selvedge_compute::conv::ConvPlan`]).

use selvedge_compute::aligned::{view, view_mut};
use selvedge_compute::conv::{BackwardArgs, Blocks, ForwardArgs, PackChunk, Training};
use selvedge_compute::{BLOCK, Cpu};

use crate::exec::block::{BatchArenas, Block};
use crate::exec::chunks::Chunk;
use crate::exec::context::Context;
use crate::exec::gradients::GroupSums;
use crate::plan::{Conv, Plan};

/// The chunks of the network's buffer of packed weights that belong to a layer, in bytes.
pub(crate) fn packed_chunks(conv: &Conv) -> impl Iterator<Item = Chunk<PackChunk>> {
    let at = |start: usize| {
        move |chunk: PackChunk| Chunk { range: start + chunk.range.start..start + chunk.range.end, job: chunk }
    };
    let packed = conv.plan.packed_chunks().map(at(conv.packed.start));
    packed.chain(conv.plan.transposed_chunks().map(at(conv.transposed.start)))
}

/// The forward pass of one block.
pub(crate) fn forward(ctx: &Context<'_>, conv: &Conv, block: &mut Block<'_>) {
    // Training computes missing images, too: the backward pass multiplies their results by zero, and NaN times zero is NaN.
    let images = if ctx.training.is_some() { BLOCK } else { block.valid };
    let mask = conv.pool.as_ref().and_then(|pool| pool.dropout).and_then(|dropout| ctx.mask(dropout, block));
    let indices = conv.pool.as_ref().map_or(&(0..0), |pool| &pool.indices);
    let ([x], [y, indices]) = block.arenas.split([ctx.data(conv.x)], [ctx.data(conv.y), indices]);
    let has_indices = ctx.training.is_some() && conv.pool.is_some();
    let args = ForwardArgs {
        x,
        weights: ctx.param(conv.weight),
        packed: &ctx.packed[conv.packed.clone()],
        bias: conv.bias.map(|bias| ctx.param(bias)),
        images,
        chunks: conv.plan.chunks(ctx.chunks, images),
        training: has_indices.then(|| Training { indices: view_mut(indices), dropout: mask.as_ref() }),
    };
    conv.plan.forward(ctx.cpu, args, y);
}

/// The backward pass of one block. Gradients that each group sums on its own are added to `sums`.
pub(crate) fn backward(ctx: &Context<'_>, conv: &Conv, block: &mut Block<'_>, sums: GroupSums<'_>) {
    let plan = &conv.plan;
    let dropout = conv.pool.as_ref().and_then(|pool| pool.dropout);
    let scale = dropout.and_then(|dropout| ctx.mask(dropout, block)).map_or(1.0, |mask| mask.scale());
    let none = 0..0;
    let [full, indices] = match &conv.pool {
        Some(pool) if plan.takes_fused_gradient() => [&none, &pool.indices],
        Some(pool) => [ctx.grad(pool.full), &pool.indices],
        None => [&none, &none],
    };
    let y = if plan.fusion().relu && conv.pool.is_none() { ctx.data(conv.y) } else { &none };
    let [x_to, dy_to] = &conv.repacked;
    let ([x, y, indices], [dy, full, x_to, dy_to, dx]) =
        block.arenas.split([ctx.data(conv.x), y, indices], [ctx.grad(conv.y), full, x_to, dy_to, ctx.grad(conv.x)]);
    let args = BackwardArgs {
        x,
        y,
        dy,
        indices: view(indices),
        scale,
        full,
        transposed: &ctx.packed[conv.transposed.clone()],
        dx,
        repacked: [x_to, dy_to],
        chunks: plan.chunks(ctx.chunks, BLOCK),
        elementwise_chunks: ctx.chunks,
    };
    plan.backward(ctx.cpu, args, sums.of(plan, conv.weight, conv.bias));
}

/// The gradient of the panels from `first` on that `dweights` has room for, summed over all blocks of the batch.
pub(crate) fn panel_gradients(
    cpu: Cpu,
    plan: &Plan,
    conv: &Conv,
    first: usize,
    arenas: &BatchArenas<'_>,
    dweights: &mut [f32],
) {
    let panels = first..first + dweights.len() / conv.plan.shape().panel_len();
    let places = if conv.plan.keeps_operands() {
        [&plan.values[conv.x].data, &plan.values[conv.result()].grad]
    } else {
        conv.repacked.each_ref()
    };
    let operands = places.map(|place| Blocks {
        data: &arenas.bytes[place.start..],
        stride: arenas.arena_bytes,
        count: arenas.images.div_ceil(BLOCK),
    });
    conv.plan.backward_weights_of_panels(cpu, operands, panels, dweights);
}

#[cfg(test)]
mod tests {
    use selvedge_compute::BLOCK;
    use selvedge_compute::Precision;
    use selvedge_compute::partition::RowPartition;

    use crate::plan::Op;
    use crate::plan::lower::lower;
    use crate::spec::inference::NetworkShape;
    use crate::test_support::resnet9;

    /// Chunks of forward and backward_data of all convolutions but the first, for a batch of 128 on 16 threads.
    fn chunks_of_a_batch(precision: Precision) -> Vec<[usize; 2]> {
        let (spec, blocks, most) = (resnet9(), 4, 4);
        let plan = lower(&spec, &NetworkShape::infer(&spec).unwrap(), precision);
        let convolutions = plan.ops.iter().filter_map(|op| match op {
            Op::Conv(conv) if conv.plan.shape().kernel == [3, 3] => Some(&conv.plan),
            _ => None,
        });
        convolutions
            .map(|plan| plan.independent_chunks(plan.chunks(most, BLOCK)).map(|chunks| blocks * chunks))
            .collect()
    }

    #[test]
    fn sixteen_threads_have_a_chunk_each() {
        // 28x28 pixels, 14x14 three times, 7x7, 3x3 twice. By rows there are three chunks of 3x3 pixels.
        assert_eq!(chunks_of_a_batch(Precision::F32), [[16, 16]; 7]);
        let by_rows = [[16, 16], [16, 16], [16, 16], [16, 16], [16, 16], [12, 12], [12, 12]];
        assert_eq!(chunks_of_a_batch(Precision::Bf16), by_rows);
    }

    #[test]
    fn large_tensors_are_partitioned_and_small_ones_are_not() {
        let spec = resnet9();
        let plan = lower(&spec, &NetworkShape::infer(&spec).unwrap(), Precision::F32);
        let shapes = || plan.norms.iter().map(|norm| norm.shape);
        let chunks = |bytes: usize| -> Vec<usize> {
            shapes().map(|shape| RowPartition::of_bytes(shape.height, 4, 2 * shape.len() * bytes).chunks).collect()
        };
        // 28x28 pixels twice, 14x14 three times, 7x7, 3x3 twice; x and y in f32 and in bf16.
        assert_eq!(chunks(4), [4, 4, 4, 4, 4, 4, 1, 1]);
        assert_eq!(chunks(2), [4, 4, 3, 3, 4, 3, 1, 1]);
        // Moments read x alone, and have a chunk for each plane of 32 channels at most.
        let moments = |bytes: usize| -> Vec<usize> {
            let planes = shapes().map(|shape| (shape.channel_stride / shape.plane(), shape.len() * bytes));
            planes.map(|(planes, bytes)| RowPartition::of_bytes(planes, 4, bytes).chunks).collect()
        };
        assert_eq!(moments(4), [2, 4, 3, 3, 4, 3, 1, 1]);
        assert_eq!(moments(2), [2, 4, 1, 1, 3, 1, 1, 1]);
    }
}
