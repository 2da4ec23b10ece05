//! [`Muon`]: steps of convolutions by orthogonalised momentum, all else by SGD.

use ndarray::Array2;
use selvedge_compute::Cpu;
use selvedge_compute::cost::Cost;
use selvedge_compute::optim::{SgdParams, sgd};
use selvedge_model::{ParamEntry, ParamKind, Params};
use serde::{Deserialize, Serialize};

use super::GroupOptions;
use super::newton_schulz::{NewtonSchulz, frobenius};
use super::rule::{Chunk, Rule, Update, elementwise_cost};
use crate::checks::{Range, Refusal, number};

/// Muon (Jordan et al., 2024) as in `airbench94_muon.py`. The weights of a convolution are one matrix, a row for each output.
/// A step adds its gradient to the momentum, `v = momentum v + g`, orthogonalises `g + momentum v` (without `nesterov`: `v`)
/// by a few Newton–Schulz iterations, and takes the learning rate times the result from the weights.
///
/// All other parameters, those of dense layers, biases, gamma and beta, are trained by Nesterov SGD with the settings of the
/// table `rest`. A schedule scales both learning rates.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Muon {
    /// The peak learning rate of convolutions: the singular values of the largest step.
    pub learning_rate: f64,
    /// The part of the momentum that each step keeps, from 0 to below 1; .6 unless given, as in airbench.
    #[serde(default = "default_momentum")]
    pub momentum: f64,
    /// Whether to use Nesterov momentum; true unless given.
    #[serde(default = "default_true")]
    pub nesterov: bool,
    /// Newton–Schulz iterations, from 1 to 20; 3 unless given.
    #[serde(default = "default_steps")]
    pub steps: u32,
    /// Decoupled weight decay: each step takes this times the learning rate from the weights; 0 unless given.
    #[serde(default)]
    pub weight_decay: f64,
    /// Whether each step first scales the weights of a convolution to a Frobenius norm of the root of its outputs, so that a
    /// filter has length 1 in the mean; true unless given. It suits convolutions that a batch norm follows.
    #[serde(default = "default_true")]
    pub normalise: bool,
    /// How all other parameters are trained.
    pub rest: MuonRest,
}

/// The table `[optimizer.rest]` of [`Muon`]: Nesterov SGD as in PyTorch's `SGD`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MuonRest {
    /// The peak learning rate.
    pub learning_rate: f64,
    /// The part of the velocity that each step keeps, from 0 to below 1; .85 unless given.
    #[serde(default = "default_rest_momentum")]
    pub momentum: f64,
    /// L2 penalty: this times the weight is added to its gradient, for the weights of dense layers; 0 unless given.
    #[serde(default)]
    pub weight_decay: f64,
}

/// The most iterations: with more, nothing changes.
const MAX_STEPS: u32 = 20;

/// What is the same for all parameters of a step.
#[derive(Clone, Copy)]
struct Step {
    cpu: Cpu,
    /// The learning rate of convolutions.
    rate: f64,
    /// The learning rate of all else.
    rest: f64,
}

impl Muon {
    /// Common settings, which the profile measures.
    pub(super) const COMMON: Self = Self {
        learning_rate: 0.24,
        momentum: 0.6,
        nesterov: true,
        steps: 3,
        weight_decay: 0.0,
        normalise: true,
        rest: MuonRest { learning_rate: 1e-3, momentum: 0.85, weight_decay: 0.0 },
    };

    /// Updates consecutive parameters, which begin at number `start` of the arena, in parallel.
    fn update_all(&self, step: Step, chunk: Chunk<'_, 1>, start: usize, members: Members<'_>) {
        let Members { entries, groups, matrices } = members;
        match (entries, groups, &mut *matrices) {
            ([], ..) => {}
            ([entry], [group], [Some(matrix)]) => self.update_matrix(step, chunk, entry, group, matrix),
            ([_], ..) => self.update_rest(step, chunk, start, entries, groups),
            _ => {
                // Halves of the numbers, not of the parameters: most of these are small.
                let half = start + chunk.values.len() / 2;
                let middle = entries.partition_point(|entry| entry.range.end <= half).clamp(1, entries.len() - 1);
                let border = entries[middle].range.start;
                let (left, right) = chunk.split_at(border - start);
                let (entries, more_entries) = entries.split_at(middle);
                let (groups, more_groups) = groups.split_at(middle);
                let (matrices, more_matrices) = matrices.split_at_mut(middle);
                let more = Members { entries: more_entries, groups: more_groups, matrices: more_matrices };
                rayon::join(
                    || self.update_all(step, left, start, Members { entries, groups, matrices }),
                    || self.update_all(step, right, border, more),
                );
            }
        }
    }

    fn update_matrix(
        &self,
        step: Step,
        chunk: Chunk<'_, 1>,
        entry: &ParamEntry,
        group: &GroupOptions,
        run: &mut NewtonSchulz,
    ) {
        let Chunk { values, grads, moments: [buffer] } = chunk;
        let momentum = self.momentum as f32;
        buffer.iter_mut().zip(grads).for_each(|(v, g)| *v = momentum * *v + g);
        unpack(entry, buffer, &mut run.matrix);
        if self.nesterov {
            unpack(entry, grads, &mut run.spare);
            run.matrix.zip_mut_with(&run.spare, |v, g| *v = g + momentum * *v);
        }
        run.run(self.steps);

        unpack(entry, values, &mut run.spare);
        let rate = step.rate * group.rate_factor;
        let mut keep = 1.0 - rate * group.weight_decay;
        let norm = frobenius(&run.spare);
        if self.normalise && norm > 0.0 {
            keep *= (run.spare.ncols() as f64).sqrt() / norm;
        }
        let (keep, rate) = (keep as f32, rate as f32);
        run.spare.zip_mut_with(&run.matrix, |w, update| *w = keep * *w - rate * update);
        entry.layout.pack(run.spare.as_slice().unwrap_or_default(), values);
    }

    fn update_rest(
        &self,
        step: Step,
        chunk: Chunk<'_, 1>,
        start: usize,
        entries: &[ParamEntry],
        groups: &[GroupOptions],
    ) {
        chunk.for_each(
            start,
            entries,
            groups,
            &|Chunk { values, grads, moments: [velocity] }, group: &GroupOptions| {
                let params = SgdParams {
                    rate: (step.rest * group.rate_factor) as f32,
                    momentum: self.rest.momentum as f32,
                    nesterov: true,
                    weight_decay: group.weight_decay as f32,
                };
                sgd(step.cpu, values, grads, velocity, &params);
            },
        );
    }
}

/// Parameters with their options and, for those that are trained as matrices, the memory for that.
struct Members<'a> {
    entries: &'a [ParamEntry],
    groups: &'a [GroupOptions],
    matrices: &'a mut [Option<NewtonSchulz>],
}

impl Rule for Muon {
    fn name(&self) -> &'static str {
        "muon"
    }

    fn learning_rate(&self) -> f64 {
        self.learning_rate
    }

    fn weight_decay(&self, entry: &ParamEntry) -> f64 {
        if is_matrix(entry) { self.weight_decay } else { self.rest.weight_decay }
    }

    fn check(&self) -> Result<(), Refusal> {
        number("momentum", self.momentum, Range::BelowOne)?;
        if self.nesterov && self.momentum == 0.0 {
            return Err(Refusal::new("nesterov", true, "it needs a momentum above 0"));
        }
        if !(1..=MAX_STEPS).contains(&self.steps) {
            return Err(Refusal::new("steps", self.steps, format_args!("from 1 to {MAX_STEPS} iterations")));
        }
        number("weight_decay", self.weight_decay, Range::NotNegative)?;
        number("rest.learning_rate", self.rest.learning_rate, Range::Positive)?;
        number("rest.momentum", self.rest.momentum, Range::BelowOne)?;
        number("rest.weight_decay", self.rest.weight_decay, Range::NotNegative)
    }

    fn moments(&self) -> usize {
        1
    }

    fn matrices(&self, entries: &[ParamEntry], groups: &[GroupOptions]) -> Vec<Option<NewtonSchulz>> {
        // A parameter that is not trained must not be normalised either.
        let trained = |(entry, group): (&ParamEntry, &GroupOptions)| is_matrix(entry) && group.rate_factor > 0.0;
        let members = entries.iter().zip(groups);
        members.map(|member| trained(member).then(|| NewtonSchulz::new(member.0.matrix_shape()))).collect()
    }

    fn cost(&self, entries: &[ParamEntry]) -> Cost {
        let of = |entry: &ParamEntry| {
            // Value, gradient and velocity are read, value and velocity are written.
            let mut cost = elementwise_cost(entry.shape.iter().product(), 6, 5);
            if is_matrix(entry) {
                let products = NewtonSchulz::flops(entry.matrix_shape(), self.steps);
                (cost.flops, cost.nominal_flops) = (cost.flops + products, cost.nominal_flops + products);
            }
            cost
        };
        entries.iter().map(of).fold(Cost::default(), |sum, cost| Cost {
            flops: sum.flops + cost.flops,
            nominal_flops: sum.nominal_flops + cost.nominal_flops,
            bytes: sum.bytes + cost.bytes,
        })
    }

    fn update(&self, update: Update<'_>) {
        let Update { cpu, rate, params, groups, moments: [buffer, _], matrices, .. } = update;
        let Params { values, grads, entries } = params;
        let step = Step { cpu, rate, rest: rate / self.learning_rate * self.rest.learning_rate };
        let chunk = Chunk { values, grads, moments: [buffer] };
        self.update_all(step, chunk, 0, Members { entries, groups, matrices });
    }
}

/// Whether a parameter is the weights of a convolution.
fn is_matrix(entry: &ParamEntry) -> bool {
    entry.kind == ParamKind::Weight && entry.shape.len() == 4
}

fn unpack(entry: &ParamEntry, stored: &[f32], matrix: &mut Array2<f32>) {
    // The memory of a matrix is in standard order.
    entry.layout.unpack(stored, matrix.as_slice_mut().unwrap_or_default());
}

fn default_momentum() -> f64 {
    0.6
}

fn default_true() -> bool {
    true
}

fn default_steps() -> u32 {
    3
}

fn default_rest_momentum() -> f64 {
    0.85
}
