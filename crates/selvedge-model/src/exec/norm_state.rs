//! [`NormStates`]: what the batch normalisations of a network hold during a pass, and how it changes between phases.
//!
//! The passes of a block only read it ([`crate::exec::norm`], [`crate::exec::conv_norm`]).

use std::ops::Range;

use selvedge_compute::aligned::view;
use selvedge_compute::conv::first_layer::batch_norm::PATCH_SUMS;
use selvedge_compute::norm::{self, Normalisation};
use selvedge_compute::{AlignedVec, BlockShape, Cpu};

use crate::exec::block::BatchArenas;
use crate::exec::conv_norm_state::ConvNormState;
use crate::params::Params;
use crate::params::state::State;
use crate::plan::{BatchNorm, Norm, Op, Plan};

/// The batch normalisations of a plan, in its order.
pub(crate) struct NormStates {
    states: Vec<NormState>,
    /// The layer next to the input, if its normalisation is folded into it.
    conv_norm: Option<ConvNormState>,
    /// The partial sums of all blocks, copied from their arenas.
    gathered: Gathered,
}

/// A batch normalisation's statistics and what follows from them, one number for each channel.
pub(crate) struct NormState {
    mean: AlignedVec<f32>,
    rstd: AlignedVec<f32>,
    factor: AlignedVec<f32>,
    offset: AlignedVec<f32>,
    /// What the gradient of the input takes from the batch ([`norm::gradient_coefficients`]).
    coefficients: [AlignedVec<f32>; 2],
    /// Mean and variance forward, the two sums of the gradient backward.
    sums: [Vec<f64>; 2],
}

impl NormState {
    fn zeroed(channels: usize) -> Self {
        let zeros = || AlignedVec::zeroed(channels);
        Self {
            mean: zeros(),
            rstd: zeros(),
            factor: zeros(),
            offset: zeros(),
            coefficients: [zeros(), zeros()],
            sums: [vec![0.0; channels], vec![0.0; channels]],
        }
    }

    /// Factor and offset: the normalisation as y = factor·x + offset.
    pub(crate) fn affine(&self) -> [&[f32]; 2] {
        [&self.factor, &self.offset]
    }

    /// The two numbers of each channel that the gradient of the input needs.
    pub(crate) fn coefficients(&self) -> [&[f32]; 2] {
        self.coefficients.each_ref().map(|coefficients| &**coefficients)
    }

    /// The normalisation as kernels take it.
    pub(crate) fn normalisation(&self, norm: &Norm) -> Normalisation<'_> {
        Normalisation {
            mean: &self.mean,
            rstd: &self.rstd,
            factor: &self.factor,
            offset: &self.offset,
            activation: norm.activation,
        }
    }

    /// Sets factor and offset from mean, rstd and the parameters.
    fn set_affine(&mut self, norm: &Norm, Params { entries, values, .. }: &Params) {
        let param = |index: usize| &values[entries[index].range.clone()];
        let (scale, shift) = (norm.scale.map(param), Some(param(norm.shift)));
        norm::affine(&self.mean, &self.rstd, scale, shift, &mut self.factor, &mut self.offset);
        // Without a scale the factor of padded lanes is not zero; they must stay zero.
        self.factor[norm.shape.channels..].fill(0.0);
        self.offset[norm.shape.channels..].fill(0.0);
    }
}

impl NormStates {
    /// The states of a plan's normalisations, with room for the sums of so many blocks.
    pub(crate) fn new(plan: &Plan, blocks: usize) -> Self {
        let channels = |norm: &Norm| norm.shape.channel_stride;
        let most = blocks * plan.norms.iter().map(channels).max().unwrap_or(0).max(PATCH_SUMS);
        Self {
            states: plan.norms.iter().map(|norm| NormState::zeroed(channels(norm))).collect(),
            conv_norm: ConvNormState::of(plan),
            gathered: Gathered { halves: [Vec::with_capacity(most), Vec::with_capacity(most)] },
        }
    }

    /// The state of normalisation `number`.
    pub(crate) fn get(&self, number: usize) -> &NormState {
        &self.states[number]
    }

    /// The state of the layer next to the input whose normalisation is folded into it.
    pub(crate) fn conv_norm(&self) -> &ConvNormState {
        self.conv_norm.as_ref().expect("a plan with such a layer has its state")
    }

    /// Prepares inference: every normalisation by its running statistics.
    pub(crate) fn use_running(&mut self, cpu: Cpu, plan: &Plan, state: &State) {
        for (norm, own) in plan.norms.iter().zip(&mut self.states) {
            let running = |index: usize| &state.buffers[state.buffer_ranges[index].clone()];
            own.mean.copy_from_slice(running(norm.mean));
            for (rstd, variance) in own.rstd.iter_mut().zip(running(norm.mean + 1)) {
                *rstd = 1.0 / (variance + norm.epsilon).sqrt();
            }
            own.set_affine(norm, &state.params);
        }
        self.fold(cpu, plan, state);
    }

    /// Between forward phases: the statistics of the batch from those of its blocks. Moves the running statistics along by
    /// `share`, or by the normalisation's own momentum.
    pub(crate) fn combine_moments(
        &mut self,
        cpu: Cpu,
        plan: &Plan,
        op: usize,
        arenas: &BatchArenas<'_>,
        state: &mut State,
        share: Option<f32>,
    ) {
        let (number, count) = match &plan.ops[op] {
            Op::ConvNorm(layer) => {
                let [patch_sums, _] = self.gathered.gather(arenas, &layer.partial, PATCH_SUMS);
                let [mean, square] = &mut self.states[layer.norm].sums;
                let own = self.conv_norm.as_mut().expect("a plan with such a layer has its state");
                (layer.norm, own.combine(layer, state, patch_sums, [mean, square], arenas.images))
            }
            Op::Norm(BatchNorm { norm, partial, .. }) => {
                let BlockShape { height, width, channel_stride, .. } = plan.norms[*norm].shape;
                let [means, squares] = self.gathered.gather(arenas, partial, channel_stride);
                let [mean, square] = &mut self.states[*norm].sums;
                (*norm, norm::combine_moments(arenas.images, height * width, means, squares, mean, square))
            }
            _ => unreachable!("only normalisations have moments"),
        };
        let (norm, own) = (&plan.norms[number], &mut self.states[number]);
        let [mean, square] = &mut own.sums;
        norm::rstd(count, square, norm.epsilon, &mut own.rstd);
        own.mean.iter_mut().zip(mean.iter()).for_each(|(to, from)| *to = *from as f32);
        let [mean_range, variance_range] = [norm.mean, norm.mean + 1].map(|index| state.buffer_ranges[index].clone());
        let [running_mean, running_variance] = state
            .buffers
            .get_disjoint_mut([mean_range, variance_range])
            .expect("the running statistics of a normalisation do not overlap");
        let momentum = share.unwrap_or(norm.momentum);
        norm::update_running(count, mean, square, momentum, running_mean, running_variance);
        own.set_affine(norm, &state.params);
        if matches!(plan.ops[op], Op::ConvNorm(_)) {
            self.fold(cpu, plan, state);
        }
    }

    /// Between backward phases: the gradients of scale and shift, and what the gradient of the input needs.
    pub(crate) fn combine_gradients(&mut self, plan: &Plan, op: usize, arenas: &BatchArenas<'_>, state: &mut State) {
        let Op::Norm(BatchNorm { norm: number, partial, .. }) = &plan.ops[op] else {
            unreachable!("only normalisations of their own have gradient sums")
        };
        let norm = &plan.norms[*number];
        let own = &mut self.states[*number];
        let halves = self.gathered.gather(arenas, partial, norm.shape.channel_stride);
        halves.iter().zip(&mut own.sums).for_each(|(parts, sum)| norm::combine_sums(parts, sum));
        let [sum, sum_normalised] = &own.sums;
        let params = &mut state.params;
        let mut write = |index: usize, sums: &[f64]| {
            let grads = &mut params.grads[params.entries[index].range.clone()];
            grads.iter_mut().zip(sums).for_each(|(grad, sum)| *grad = *sum as f32);
            grads[norm.shape.channels..].fill(0.0);
        };
        write(norm.shift, sum);
        if let Some(scale) = norm.scale {
            write(scale, sum_normalised);
        }
        let count = arenas.images * norm.shape.height * norm.shape.width;
        let NormState { mean, rstd, factor, offset, coefficients: [c0, c1], sums: [sum, sum_normalised] } = own;
        let normalisation = Normalisation { mean, rstd, factor, offset, activation: norm.activation };
        norm::gradient_coefficients(count, &normalisation, sum, sum_normalised, [c0, c1]);
    }

    /// After the backward pass: turns what the layer next to the input summed into the gradients of its parameters, if its
    /// normalisation is folded into it.
    pub(crate) fn finish_conv_norm(&self, plan: &Plan, state: &mut State) {
        if let (Some(own), Some(Op::ConvNorm(layer))) = (&self.conv_norm, plan.ops.first()) {
            let norm = &plan.norms[layer.norm];
            own.finish(layer, norm, &self.states[layer.norm].normalisation(norm), state);
        }
    }

    /// Folds the first normalisation into the weights of the layer next to the input, if the plan computes them as one.
    fn fold(&mut self, cpu: Cpu, plan: &Plan, state: &State) {
        if let (Some(own), Some(Op::ConvNorm(layer))) = (&mut self.conv_norm, plan.ops.first()) {
            own.fold(cpu, layer, state, self.states[layer.norm].affine());
        }
    }
}

/// The partial sums of all blocks, one block after another. A block has two numbers for each channel: its sums are halves.
struct Gathered {
    halves: [Vec<f64>; 2],
}

impl Gathered {
    /// Copies the first `len` numbers at each block's `place` together, and those after them.
    fn gather(&mut self, arenas: &BatchArenas<'_>, place: &Range<usize>, len: usize) -> [&[f64]; 2] {
        self.halves.iter_mut().for_each(Vec::clear);
        for sums in arenas.each(place) {
            let (first, second) = view::<f64>(sums).split_at(len);
            self.halves[0].extend_from_slice(first);
            self.halves[1].extend_from_slice(second);
        }
        self.halves.each_ref().map(Vec::as_slice)
    }
}
