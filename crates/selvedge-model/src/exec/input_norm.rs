//! [`InputNorm`]: the layer next to the input and the batch normalisation behind it, computed as one convolution
//! ([`selvedge_compute::conv::first_layer::batch_norm`]).

use selvedge_compute::aligned::view_mut;
use selvedge_compute::conv::first_layer::batch_norm::{self, Patches};
use selvedge_compute::conv::{BackwardArgs, ForwardArgs};
use selvedge_compute::norm::Normalisation;
use selvedge_compute::{AlignedVec, BLOCK, BlockShape, Cpu};

use crate::exec::run::{Block, Context, GroupSums};
use crate::params::state::State;
use crate::plan::{ConvNorm, Norm, Op, Plan};

/// What the layer holds during a pass.
pub(crate) struct InputNorm {
    /// Of the batch.
    patches: Patches,
    /// Weights and bias with the normalisation folded in, and those weights packed as the plan reads them.
    weights: AlignedVec<f32>,
    bias: AlignedVec<f32>,
    packed: AlignedVec<u8>,
}

impl InputNorm {
    /// For the first operation of a plan, if it is such a layer.
    pub(crate) fn of(plan: &Plan) -> Option<Self> {
        let Some(Op::ConvNorm(layer)) = plan.ops.first() else { return None };
        let shape = layer.plan.shape();
        Some(Self {
            patches: Patches::default(),
            weights: AlignedVec::zeroed(shape.weights_len()),
            bias: AlignedVec::zeroed(shape.output.channel_stride),
            packed: AlignedVec::zeroed(layer.plan.packed_bytes()),
        })
    }

    /// The sums of one block's patches, into its arena.
    pub(crate) fn block_sums(ctx: &Context<'_>, layer: &ConvNorm, block: &mut Block<'_>) {
        let ([x], [partial]) = block.arenas.split([ctx.data(layer.x)], [&layer.partial]);
        layer.plan.patch_sums(ctx.cpu, x, view_mut(partial));
    }

    /// The moments of the layer's results from the blocks' sums, and how many results a channel has.
    pub(crate) fn combine(
        &mut self,
        layer: &ConvNorm,
        state: &State,
        parts: &[f64],
        [mean, square]: [&mut [f64]; 2],
        images: usize,
    ) -> usize {
        let BlockShape { height, width, .. } = layer.plan.shape().output;
        self.patches = Patches::of_batch(parts, images * height * width);
        let (weights, bias) = layer.params(state);
        self.patches.moments(weights, bias, mean, square);
        self.patches.count()
    }

    /// Folds factor and offset of the normalisation into the weights.
    pub(crate) fn fold(&mut self, cpu: Cpu, layer: &ConvNorm, state: &State, [factor, offset]: [&[f32]; 2]) {
        let (weights, bias) = layer.params(state);
        batch_norm::fold(weights, bias, factor, offset, &mut self.weights, &mut self.bias);
        layer.plan.pack_all(cpu, &self.weights, &mut self.packed);
    }

    /// The result of one block.
    pub(crate) fn forward(&self, ctx: &Context<'_>, layer: &ConvNorm, block: &mut Block<'_>) {
        let images = if ctx.training.is_some() { BLOCK } else { block.valid };
        let ([x], [y]) = block.arenas.split([ctx.data(layer.x)], [ctx.data(layer.y)]);
        let args = ForwardArgs {
            x,
            weights: &self.weights,
            packed: &self.packed,
            bias: Some(&self.bias),
            images,
            chunks: layer.plan.chunks(ctx.pieces, images),
            training: None,
        };
        layer.plan.forward(ctx.cpu, args, y);
    }

    /// Adds what a convolution's gradients of weights and bias are to a group's sums, those of the weights and of the shift.
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
            elementwise_chunks: ctx.pieces,
        };
        layer.plan.backward(ctx.cpu, args, sums.of(ctx, &layer.plan, layer.weight, Some(shift)));
    }

    /// Makes of what [`backward`](Self::backward) summed the gradients of weights and scale.
    pub(crate) fn finish(&self, layer: &ConvNorm, norm: &Norm, normalisation: &Normalisation<'_>, state: &mut State) {
        let params = &mut state.params;
        let range = |index: usize| params.entries[index].range.clone();
        let scale = norm.scale.map_or(0..0, range);
        let [dweights, dshift, dscale] = params
            .grads
            .get_disjoint_mut([range(layer.weight), range(norm.shift), scale])
            .expect("the gradients of different parameters do not overlap");
        let dscale = norm.scale.map(|_| dscale);
        self.patches.gradients(&params.values[range(layer.weight)], normalisation, dweights, dshift, dscale);
    }
}

impl ConvNorm {
    /// Weights, in panels, and bias.
    fn params<'a>(&self, state: &'a State) -> (&'a [f32], Option<&'a [f32]>) {
        let param = |index: usize| &state.params.values[state.params.entries[index].range.clone()];
        (param(self.weight), self.bias.map(param))
    }
}
