//! [`Adam`] and [`AdamW`]: steps scaled by the root of each gradient's second moment.

use selvedge_compute::cost::Cost;
use selvedge_compute::optim::{AdamParams, adam};
use selvedge_model::ParamEntry;
use serde::{Deserialize, Serialize};

use super::rule::{Chunk, Rule, Update, count, elementwise_cost};
use crate::checks::{Range, Refusal, number};

/// Adam (Kingma and Ba, arXiv 1412.6980), with weight decay as part of the gradient.
pub type Adam = AdamSpec<false>;

/// Adam with decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101).
pub type AdamW = AdamSpec<true>;

/// The keys of [`Adam`] and [`AdamW`], which differ in `DECOUPLED`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdamSpec<const DECOUPLED: bool> {
    /// The peak learning rate.
    pub learning_rate: f64,
    /// The part of the first moment that each step keeps.
    #[serde(default = "default_beta1")]
    pub beta1: f64,
    /// The part of the second moment that each step keeps.
    #[serde(default = "default_beta2")]
    pub beta2: f64,
    /// Added to the root of the second moment.
    #[serde(default = "default_epsilon")]
    pub epsilon: f64,
    /// Adam: this times the weight is added to its gradient; 0 unless given. AdamW: each step takes this times the
    /// learning rate from the weight; .01 unless given.
    #[serde(default = "default_weight_decay::<DECOUPLED>")]
    pub weight_decay: f64,
}

impl<const DECOUPLED: bool> AdamSpec<DECOUPLED> {
    /// Common settings, which the profile measures.
    pub(super) const COMMON: Self =
        Self { learning_rate: 1e-3, beta1: 0.9, beta2: 0.999, epsilon: 1e-7, weight_decay: 1e-2 };
}

impl<const DECOUPLED: bool> Rule for AdamSpec<DECOUPLED> {
    fn name(&self) -> &'static str {
        if DECOUPLED { "adamw" } else { "adam" }
    }

    fn learning_rate(&self) -> f64 {
        self.learning_rate
    }

    fn weight_decay(&self, _entry: &ParamEntry) -> f64 {
        self.weight_decay
    }

    fn check(&self) -> Result<(), Refusal> {
        number("beta1", self.beta1, Range::BelowOne)?;
        number("beta2", self.beta2, Range::BelowOne)?;
        number("epsilon", self.epsilon, Range::Positive)?;
        number("weight_decay", self.weight_decay, Range::NotNegative)
    }

    fn moments(&self) -> usize {
        2
    }

    fn cost(&self, entries: &[ParamEntry]) -> Cost {
        // Value, gradient and both moments are read, all but the gradient are written.
        elementwise_cost(count(entries), 14, 7)
    }

    fn update(&self, update: Update<'_>) {
        let (cpu, rate, step) = (update.cpu, update.rate, update.step);
        update.elementwise(|Chunk { values, grads, moments: [m, v] }, group| {
            let params = AdamParams {
                rate: (rate * group.rate_factor) as f32,
                beta1: self.beta1 as f32,
                beta2: self.beta2 as f32,
                epsilon: self.epsilon as f32,
                weight_decay: group.weight_decay as f32,
                decoupled: DECOUPLED,
                step,
            };
            adam(cpu, values, grads, m, v, &params);
        });
    }
}

fn default_beta1() -> f64 {
    0.9
}

fn default_beta2() -> f64 {
    0.999
}

fn default_epsilon() -> f64 {
    1e-7
}

fn default_weight_decay<const DECOUPLED: bool>() -> f64 {
    if DECOUPLED { 0.01 } else { 0.0 }
}
