//! [`InputNorm`]: the layer next to the input and the batch normalisation behind it, computed as one convolution
//! ([`selvedge_compute::conv::first_layer::batch_norm`]).

use selvedge_compute::activation::{self, Activation};
use selvedge_compute::aligned::{view, view_mut};
use selvedge_compute::conv::first_layer::batch_norm::{self, Patches};
use selvedge_compute::conv::first_layer::patches;
use selvedge_compute::conv::{self, Accumulate, Epilogue, Part};
use selvedge_compute::norm::Normalisation;
use selvedge_compute::simd::Element;
use selvedge_compute::{AlignedVec, BLOCK, BlockShape, Cpu, Precision, bf16};

use crate::exec::cut::{RowCut, Rows, elementwise};
use crate::exec::run::{Block, Context};
use crate::params::state::State;
use crate::plan::{ConvNorm, Norm, Op, Plan};

/// What the layer holds during a pass.
pub(crate) struct InputNorm {
    /// Of the batch.
    patches: Patches,
    /// Weights and bias with the normalisation in them, and the weights as windows are multiplied with; empty if they are not.
    weights: AlignedVec<f32>,
    bias: AlignedVec<f32>,
    packed: AlignedVec<bf16>,
}

impl InputNorm {
    /// For the first operation of a plan, if it is such a layer.
    pub(crate) fn of(plan: &Plan) -> Option<Self> {
        let Some(Op::ConvNorm(layer)) = plan.ops.first() else { return None };
        let packed = if layer.reads_windows() { patches::packed_len(&layer.shape) } else { 0 };
        Some(Self {
            patches: Patches::default(),
            weights: AlignedVec::zeroed(layer.shape.weights_len()),
            bias: AlignedVec::zeroed(layer.shape.output.channel_stride),
            packed: AlignedVec::zeroed(packed),
        })
    }

    /// The sums of one block's patches, into its arena.
    pub(crate) fn block_sums(ctx: &Context<'_>, layer: &ConvNorm, block: &mut Block<'_>) {
        let ([x], [partial]) = block.arenas.split([ctx.data(layer.x)], [&layer.partial]);
        let sums = view_mut::<f64>(partial);
        if layer.reads_windows() {
            patches::patch_sums(ctx.cpu, &layer.shape, view(x), sums);
        } else {
            batch_norm::patch_sums(ctx.cpu, &layer.shape, view(x), sums);
        }
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
        let BlockShape { height, width, .. } = layer.shape.output;
        self.patches = Patches::of_batch(parts, images * height * width);
        let (weights, bias) = layer.params(state);
        self.patches.moments(weights, bias, mean, square);
        self.patches.count()
    }

    /// Brings factor and offset of the normalisation into the weights.
    pub(crate) fn fold(&mut self, cpu: Cpu, layer: &ConvNorm, state: &State, affine: [&[f32]; 2]) {
        let (weights, bias) = layer.params(state);
        batch_norm::fold(weights, bias, affine, &mut self.weights, &mut self.bias);
        if layer.reads_windows() {
            patches::pack(cpu, &layer.shape, &self.weights, &mut self.packed);
        }
    }

    /// The result of one block.
    pub(crate) fn forward<E: Element>(&self, ctx: &Context<'_>, layer: &ConvNorm, block: &mut Block<'_>) {
        let (cpu, shape) = (ctx.cpu, &layer.shape);
        let output = &shape.output;
        let images = if ctx.training.is_some() { BLOCK } else { block.valid };
        let epilogue = Epilogue { bias: Some(&self.bias), relu: layer.relu(ctx.plan) };
        let ([x], [y]) = block.arenas.split([ctx.data(layer.x)], [ctx.data(layer.y)]);
        if layer.reads_windows() {
            // Two rows at a time, as windows have them.
            let cut = RowCut::of_bytes(output.height / 2, ctx.pieces, y.len());
            cut.for_each(Rows { data: view_mut::<bf16>(y), row: 2 * output.row() }, |rows, y| {
                let part = Part { rows: 2 * rows.start..2 * rows.end, images };
                patches::forward_unpooled(cpu, shape, view(x), &self.packed, epilogue, part, y.data);
            });
        } else {
            let cut = RowCut::of_bytes(output.height, ctx.pieces, y.len());
            cut.for_each(Rows::of(output, view_mut::<E>(y)), |rows, y| {
                conv::direct::forward(cpu, shape, view(x), &self.weights, epilogue, Part { rows, images }, y.data);
            });
        }
    }

    /// Adds what a convolution's gradients of weights and bias are to a group's sums, those of the weights and of the shift.
    pub(crate) fn backward<E: Element>(ctx: &Context<'_>, layer: &ConvNorm, block: &mut Block<'_>, sums: &mut [f32]) {
        let (cpu, shape, norm) = (ctx.cpu, &layer.shape, &ctx.plan.norms[layer.norm]);
        let ranges = [layer.weight, norm.shift].map(|parameter| ctx.sum_ranges[parameter].clone());
        let [dweights, dshift] = sums.get_disjoint_mut(ranges).expect("sums of different parameters do not overlap");
        let relu = layer.relu(ctx.plan);
        let ([x, y], [dy]) = block.arenas.split([ctx.data(layer.x), ctx.data(layer.y)], [ctx.grad(layer.y)]);
        if layer.reads_windows() {
            let y = relu.then(|| view(y));
            return patches::backward_unpooled(cpu, shape, view(x), y, view(dy), dweights, dshift);
        }
        if relu {
            elementwise(ctx.pieces, [y], dy, |[y], dy| {
                activation::backward_in_place::<E>(cpu, Activation::Relu, view(y), view_mut(dy));
            });
        }
        let dy = view::<E>(dy);
        conv::backward_bias(cpu, &shape.output, dy, dshift);
        conv::first_layer::backward_weights(cpu, shape, view(x), dy, Accumulate::Add, dweights);
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

    fn relu(&self, plan: &Plan) -> bool {
        plan.norms[self.norm].activation == Some(Activation::Relu)
    }

    /// Whether x is the input as windows ([`Plan::windows`]).
    pub(crate) fn reads_windows(&self) -> bool {
        self.precision == Precision::Bf16
    }
}
