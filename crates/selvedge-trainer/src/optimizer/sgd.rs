//! [`Sgd`]: stochastic gradient descent with momentum.

use selvedge_compute::cost::Cost;
use selvedge_compute::optim::{SgdParams, sgd};
use selvedge_model::ParamEntry;
use serde::{Deserialize, Serialize};

use super::rule::{Chunk, Rule, Update, count, elementwise_cost};
use crate::checks::{Range, Refusal, number};

/// Stochastic gradient descent as in PyTorch's `SGD`: `v = momentum v + (g + decay w)`, then `w -= rate v`, or with
/// Nesterov momentum `w -= rate (g + decay w + momentum v)`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sgd {
    /// The peak learning rate.
    pub learning_rate: f64,
    /// The part of the velocity `v` that each step keeps, from 0 to below 1.
    #[serde(default)]
    pub momentum: f64,
    /// Whether to use Nesterov momentum.
    #[serde(default)]
    pub nesterov: bool,
    /// L2 penalty: this times the weight is added to its gradient.
    #[serde(default)]
    pub weight_decay: f64,
}

impl Sgd {
    /// Common settings, which the profile measures.
    pub(super) const COMMON: Self = Self { learning_rate: 1e-3, momentum: 0.9, nesterov: true, weight_decay: 5e-4 };
}

impl Rule for Sgd {
    fn name(&self) -> &'static str {
        "sgd"
    }

    fn learning_rate(&self) -> f64 {
        self.learning_rate
    }

    fn weight_decay(&self, _entry: &ParamEntry) -> f64 {
        self.weight_decay
    }

    fn check(&self) -> Result<(), Refusal> {
        number("momentum", self.momentum, Range::BelowOne)?;
        number("weight_decay", self.weight_decay, Range::NotNegative)?;
        if self.nesterov && self.momentum == 0.0 {
            return Err(Refusal::new("nesterov", true, "it needs a momentum above 0"));
        }
        Ok(())
    }

    fn moments(&self) -> usize {
        1
    }

    fn cost(&self, entries: &[ParamEntry]) -> Cost {
        // Three multiply-adds. Value, gradient and velocity are read, value and velocity are written.
        elementwise_cost(count(entries), 6, 5)
    }

    fn update(&self, update: Update<'_>) {
        let (cpu, rate) = (update.cpu, update.rate);
        update.elementwise(|Chunk { values, grads, moments: [velocity] }, group| {
            let params = SgdParams {
                rate: (rate * group.rate_factor) as f32,
                momentum: self.momentum as f32,
                nesterov: self.nesterov,
                weight_decay: group.weight_decay as f32,
            };
            sgd(cpu, values, grads, velocity, &params);
        });
    }
}
