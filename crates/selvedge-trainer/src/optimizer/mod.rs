//! [`Optimizer`]: turns the gradients of a step into changes of the weights.
//!
//! [`OptimizerSpec`] is the one list of optimizers: the table `[optimizer]` of a recipe and the optimizers that the
//! profile measures. To add one, write a file beside `sgd.rs` with its keys, their checks and its `Rule`, and name
//! it in that list; a vectorised kernel belongs in [`selvedge_compute::optim`].
//!
//! A rule updates the whole arena of parameters. One whose arithmetic is elementwise hands a closure to
//! `Update::elementwise`, which runs it in parallel. One that works on whole weights walks
//! [`Params::entries`], which have each weight's shape as a matrix ([`ParamEntry::matrix_shape`]) and the way between that
//! matrix and the layout of the kernels ([`selvedge_model::ParamLayout`]).
//!
//! The state is the optimizer's own: the number of steps, the moments, and the [`GroupOptions`] of each parameter, which let
//! groups of parameters have a learning rate and a weight decay of their own.

mod adam;
pub(crate) mod groups;
mod muon;
mod newton_schulz;
mod rule;
mod sgd;

pub use adam::{Adam, AdamSpec, AdamW};
pub use groups::{GroupKind, GroupSpec};
pub use muon::{Muon, MuonRest};
pub use sgd::Sgd;

use selvedge_compute::cost::Cost;
use selvedge_compute::{AlignedVec, Cpu};
use selvedge_model::{ParamEntry, ParamKind, Params};
use serde::{Deserialize, Serialize};

use crate::checks::{Range, Refusal, number};
use newton_schulz::NewtonSchulz;
use rule::{Rule, Update};

/// The table `[optimizer]`; `kind` is the optimizer's name. Gradients are those of the mean loss of a batch. Weight decay
/// applies to the weights of convolutions and dense layers, not to biases, gamma and beta.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum OptimizerSpec {
    /// Stochastic gradient descent.
    Sgd(Sgd),
    /// Adam.
    Adam(Adam),
    /// Adam with decoupled weight decay.
    AdamW(AdamW),
    /// Orthogonalised momentum for convolutions, SGD for all else.
    Muon(Muon),
}

impl OptimizerSpec {
    /// Every optimizer with common settings: what the profile measures.
    pub const ALL: [Self; 4] =
        [Self::Sgd(Sgd::COMMON), Self::Adam(Adam::COMMON), Self::AdamW(AdamW::COMMON), Self::Muon(Muon::COMMON)];

    fn rule(&self) -> &dyn Rule {
        match self {
            Self::Sgd(rule) => rule,
            Self::Adam(rule) => rule,
            Self::AdamW(rule) => rule,
            Self::Muon(rule) => rule,
        }
    }

    /// The value of `kind` in a recipe.
    pub fn name(&self) -> &'static str {
        self.rule().name()
    }

    /// The peak learning rate; of Muon, that of convolutions.
    pub fn learning_rate(&self) -> f64 {
        self.rule().learning_rate()
    }

    /// The same optimizer with its learning rates multiplied by `factor`.
    pub fn with_rate_scaled(self, factor: f64) -> Self {
        match self {
            Self::Sgd(rule) => Self::Sgd(Sgd { learning_rate: rule.learning_rate * factor, ..rule }),
            Self::Adam(rule) => Self::Adam(Adam { learning_rate: rule.learning_rate * factor, ..rule }),
            Self::AdamW(rule) => Self::AdamW(AdamW { learning_rate: rule.learning_rate * factor, ..rule }),
            Self::Muon(rule) => {
                let rest = MuonRest { learning_rate: rule.rest.learning_rate * factor, ..rule.rest };
                Self::Muon(Muon { learning_rate: rule.learning_rate * factor, rest, ..rule })
            }
        }
    }

    /// What a step on these parameters costs.
    pub fn cost(&self, entries: &[ParamEntry]) -> Cost {
        self.rule().cost(entries)
    }

    /// The options of a parameter unless its group has others: weights decay, nothing else does. A frozen parameter stays as it
    /// is.
    pub fn group_options(&self, entry: &ParamEntry) -> GroupOptions {
        if entry.frozen {
            return GroupOptions { rate_factor: 0.0, weight_decay: 0.0 };
        }
        let decays = entry.kind == ParamKind::Weight;
        GroupOptions { rate_factor: 1.0, weight_decay: if decays { self.rule().weight_decay(entry) } else { 0.0 } }
    }

    /// Refuses values that make no sense.
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        number("learning_rate", self.learning_rate(), Range::Positive)
            .and_then(|()| self.rule().check())
            .map_err(|refusal| refusal.within("optimizer"))
    }
}

/// How an optimizer treats a group of parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupOptions {
    /// The learning rate of each step is multiplied by this.
    pub rate_factor: f64,
    /// The weight decay.
    pub weight_decay: f64,
}

/// An optimizer with its state: the number of steps taken and the moments, laid out as [`Params::values`].
#[derive(Clone, Debug)]
pub struct Optimizer {
    spec: OptimizerSpec,
    cpu: Cpu,
    /// Of each of [`Params::entries`].
    groups: Vec<GroupOptions>,
    steps: u64,
    first: AlignedVec<f32>,
    /// Empty if the optimizer has one moment.
    second: AlignedVec<f32>,
    /// Memory of the rule, which is no part of its state.
    matrices: Vec<Option<NewtonSchulz>>,
}

impl Optimizer {
    /// The state before the first step, with the usual groups ([`OptimizerSpec::group_options`]).
    pub fn new(spec: OptimizerSpec, params: &Params, cpu: Cpu) -> Self {
        Self::with_groups(spec, params, cpu, |entry| spec.group_options(entry))
    }

    /// The state before the first step; `group` chooses the options of each parameter by its kind, name or shape.
    ///
    /// ```
    /// use selvedge_compute::{AlignedVec, Cpu};
    /// use selvedge_model::{ParamEntry, ParamKind, ParamLayout, Params};
    /// use selvedge_trainer::optimizer::{GroupOptions, Optimizer, OptimizerSpec, Sgd};
    ///
    /// let entry = |name: &str, range, kind| ParamEntry {
    ///     name: name.to_owned(),
    ///     range,
    ///     shape: vec![16],
    ///     kind,
    ///     frozen: false,
    ///     layout: ParamLayout::Channels(16),
    /// };
    /// let mut params = Params {
    ///     values: AlignedVec::zeroed(32),
    ///     grads: AlignedVec::from_slice(&[1.0; 32]),
    ///     entries: vec![entry("0.weight", 0..16, ParamKind::Weight), entry("0.bias", 16..32, ParamKind::Bias)],
    /// };
    /// let sgd = Sgd { learning_rate: 0.5, momentum: 0.0, nesterov: false, weight_decay: 0.0 };
    /// let spec = OptimizerSpec::Sgd(sgd);
    /// let mut optimizer = Optimizer::with_groups(spec, &params, Cpu::detect()?, |entry| GroupOptions {
    ///     rate_factor: if entry.kind == ParamKind::Bias { 64.0 } else { 1.0 },
    ///     ..spec.group_options(entry)
    /// });
    /// optimizer.step(&mut params, spec.learning_rate());
    /// assert_eq!((params.values[0], params.values[16]), (-0.5, -32.0));
    /// # Ok::<(), selvedge_compute::CpuError>(())
    /// ```
    pub fn with_groups(
        spec: OptimizerSpec,
        params: &Params,
        cpu: Cpu,
        group: impl Fn(&ParamEntry) -> GroupOptions,
    ) -> Self {
        let len = params.values.len();
        let second = if spec.rule().moments() > 1 { len } else { 0 };
        let groups: Vec<GroupOptions> = params.entries.iter().map(group).collect();
        Self {
            spec,
            cpu,
            matrices: spec.rule().matrices(&params.entries, &groups),
            groups,
            steps: 0,
            first: AlignedVec::zeroed(len),
            second: AlignedVec::zeroed(second),
        }
    }

    /// Steps taken so far.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// First and second moments; the second is empty if the optimizer has one moment.
    pub fn moments(&self) -> (&[f32], &[f32]) {
        (&self.first, &self.second)
    }

    /// Goes back to a state that [`Optimizer::steps`] and [`Optimizer::moments`] returned. If the lengths differ it changes
    /// nothing and returns false.
    #[must_use]
    pub fn restore(&mut self, steps: u64, first: &[f32], second: &[f32]) -> bool {
        if first.len() != self.first.len() || second.len() != self.second.len() {
            return false;
        }
        self.steps = steps;
        self.first.copy_from_slice(first);
        self.second.copy_from_slice(second);
        true
    }

    /// Changes the values by the gradients, which are those of the mean loss, at this learning rate. The work is spread
    /// over the current rayon pool; the number of threads changes no bit.
    ///
    /// # Panics
    /// If the optimizer was made for other parameters.
    pub fn step(&mut self, params: &mut Params, rate: f64) {
        let (found, expected) = (params.values.len(), self.first.len());
        assert!(
            found == expected && params.entries.len() == self.groups.len(),
            "the optimizer was made for {} parameters of {expected} numbers, these are {} of {found}",
            self.groups.len(),
            params.entries.len(),
        );
        self.steps += 1;
        self.spec.rule().update(Update {
            cpu: self.cpu,
            step: self.steps,
            rate,
            params,
            groups: &self.groups,
            moments: [&mut self.first, &mut self.second],
            matrices: &mut self.matrices,
        });
    }
}

#[cfg(test)]
mod tests;
