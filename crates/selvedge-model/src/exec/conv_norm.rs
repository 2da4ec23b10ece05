//! The passes of [`ConvNorm`]: the layer next to the input with the batch norm after it folded in, computed as one convolution
//! ([`selvedge_compute::conv::first_layer::batch_norm`]).

use selvedge_compute::BLOCK;
use selvedge_compute::aligned::view_mut;
use selvedge_compute::conv::{BackwardArgs, ForwardArgs};

use crate::exec::block::Block;
use crate::exec::context::Context;
use crate::exec::gradients::GroupSums;
use crate::plan::ConvNorm;

/// Writes the sums of one block's patches into its arena: the moments of the results follow from them.
pub(crate) fn patch_sums(ctx: &Context<'_>, layer: &ConvNorm, block: &mut Block<'_>) {
    let ([x], [partial]) = block.arenas.split([ctx.data(layer.x)], [&layer.partial]);
    layer.plan.patch_sums(ctx.cpu, x, view_mut(partial));
}

/// The forward pass of one block.
pub(crate) fn forward(ctx: &Context<'_>, layer: &ConvNorm, block: &mut Block<'_>) {
    let own = ctx.norms.conv_norm();
    let images = if ctx.training.is_some() { BLOCK } else { block.valid };
    let ([x], [y]) = block.arenas.split([ctx.data(layer.x)], [ctx.data(layer.y)]);
    let args = ForwardArgs {
        x,
        weights: &own.weights,
        packed: &own.packed,
        bias: Some(&own.bias),
        images,
        chunks: layer.plan.chunks(ctx.chunks, images),
        training: None,
    };
    layer.plan.forward(ctx.cpu, args, y);
}

/// Adds the gradients of the convolution's weights and bias to a group's sums, those of weights and shift.
/// [`crate::exec::norm_state::NormStates::finish_conv_norm`] turns the sums of the batch into the gradients of the parameters.
pub(crate) fn backward(ctx: &Context<'_>, layer: &ConvNorm, block: &mut Block<'_>, sums: GroupSums<'_>) {
    let shift = ctx.plan.norms[layer.norm].shift;
    let ([x, y], [dy]) = block.arenas.split([ctx.data(layer.x), ctx.data(layer.y)], [ctx.grad(layer.y)]);
    let args = BackwardArgs {
        x,
        y,
        dy,
        indices: &[],
        scale: 1.0,
        full: &mut [],
        transposed: &[],
        dx: &mut [],
        repacked: [&mut [], &mut []],
        chunks: 1,
        elementwise_chunks: ctx.chunks,
    };
    layer.plan.backward(ctx.cpu, args, sums.of(&layer.plan, layer.weight, Some(shift)));
}
