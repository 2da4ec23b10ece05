//! [`ConvNormState`]: the layer next to the input with the batch normalisation after it folded into its weights.

use selvedge_compute::conv::first_layer::batch_norm::{self, Patches};
use selvedge_compute::norm::Normalisation;
use selvedge_compute::{AlignedVec, BlockShape, Cpu};

use crate::params::state::State;
use crate::plan::{ConvNorm, Norm, Op, Plan};

/// The layer during a pass.
pub(crate) struct ConvNormState {
    /// The moments of the batch's patches.
    patches: Patches,
    /// Weights and bias with the normalisation folded into them.
    pub weights: AlignedVec<f32>,
    pub bias: AlignedVec<f32>,
    /// Those weights packed as the layer's plan reads them.
    pub packed: AlignedVec<u8>,
}

impl ConvNormState {
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

    /// Computes the moments of the layer's results from the blocks' sums of patches. Returns how many results a channel has.
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

    /// Folds the normalisation into weights and bias.
    pub(crate) fn fold(&mut self, cpu: Cpu, layer: &ConvNorm, state: &State, affine: [&[f32]; 2]) {
        let (weights, bias) = layer.params(state);
        let [factor, offset] = affine;
        batch_norm::fold(weights, bias, factor, offset, &mut self.weights, &mut self.bias);
        layer.plan.pack_all(cpu, &self.weights, &mut self.packed);
    }

    /// Turns the sums of [`crate::exec::conv_norm::backward`] over the batch into the gradients of weights, scale and shift.
    pub(crate) fn finish(&self, layer: &ConvNorm, norm: &Norm, normalisation: &Normalisation<'_>, state: &mut State) {
        let params = &mut state.params;
        let frozen = params.entries[layer.weight].frozen;
        let range = |index: usize| params.entries[index].range.clone();
        let scale = norm.scale.map_or(0..0, range);
        let [dweights, dshift, dscale] = params
            .grads
            .get_disjoint_mut([range(layer.weight), range(norm.shift), scale])
            .expect("the gradients of different parameters do not overlap");
        let dscale = norm.scale.map(|_| dscale);
        self.patches.gradients(&params.values[range(layer.weight)], normalisation, dweights, dshift, dscale);
        if frozen {
            dweights.fill(0.0);
        }
    }
}

impl ConvNorm {
    /// Weights, in panels, and bias.
    fn params<'a>(&self, state: &'a State) -> (&'a [f32], Option<&'a [f32]>) {
        let param = |index: usize| &state.params.values[state.params.entries[index].range.clone()];
        (param(self.weight), self.bias.map(param))
    }
}
