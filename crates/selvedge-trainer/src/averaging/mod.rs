//! An average of the weights over the steps of a run.
//!
//! It is updated after the optimizer, elementwise in the layout of the kernels, and part of a checkpoint. To evaluate it, it
//! trades places with the network's weights, and back.

mod spec;
#[cfg(test)]
mod tests;

pub use spec::AveragingSpec;

use rayon::prelude::*;
use selvedge_compute::AlignedVec;
use selvedge_compute::optim::CHUNK;
use selvedge_model::Network;

/// The average of a network's weights and running statistics.
#[derive(Clone, Debug)]
pub(crate) struct Averaging {
    spec: AveragingSpec,
    every: u64,
    /// Steps of the run.
    steps: u64,
    /// Averages so far. Before the first, the network's own weights count.
    updates: u64,
    weights: AlignedVec<f32>,
    statistics: AlignedVec<f32>,
}

impl Averaging {
    /// The average before the first step: the initial weights.
    pub(crate) fn new(spec: AveragingSpec, epochs: u64, steps_per_epoch: u64, network: &Network) -> Self {
        Self {
            spec,
            every: spec.every(steps_per_epoch),
            steps: epochs * steps_per_epoch,
            updates: 0,
            weights: network.params().values.clone(),
            statistics: AlignedVec::from_slice(network.statistics()),
        }
    }

    /// Batches whose statistics the average gets before it is used; 0 if it keeps the averaged ones.
    pub(crate) fn statistics_batches(&self) -> usize {
        self.spec.statistics_batches()
    }

    /// Takes the weights after step `step`, counted from 1, into the average. Look-ahead changes the weights, too.
    pub(crate) fn update(&mut self, network: &mut Network, step: u64) {
        let begun = step as f64 >= self.spec.start() * self.steps as f64;
        if !begun || !step.is_multiple_of(self.every) {
            return;
        }
        let keep = self.keep(step) as f32;
        blend(&mut self.weights, &network.params().values, keep);
        blend(&mut self.statistics, network.statistics(), keep);
        self.updates += 1;
        if let AveragingSpec::Lookahead { .. } = self.spec {
            network.params_mut().values.copy_from_slice(&self.weights);
            network.statistics_mut().copy_from_slice(&self.statistics);
        }
    }

    /// The part of the average that its next update keeps.
    fn keep(&self, step: u64) -> f64 {
        let n = self.updates as f64;
        match self.spec {
            AveragingSpec::Lookahead { decay, .. } => {
                decay.powf(self.every as f64) * (step as f64 / self.steps as f64).powi(3)
            }
            // The first of them begins with the weights as they are.
            AveragingSpec::Ema { .. } if self.updates == 0 => 0.0,
            AveragingSpec::Ema { decay, .. } => decay.powf(self.every as f64).min((1.0 + n) / (10.0 + n)),
            AveragingSpec::Swa { .. } => n / (n + 1.0),
        }
    }

    /// Lets average and network trade their weights and running statistics. Without an average it does nothing and returns
    /// false.
    pub(crate) fn swap(&mut self, network: &mut Network) -> bool {
        if self.updates == 0 {
            return false;
        }
        std::mem::swap(&mut self.weights, &mut network.params_mut().values);
        self.statistics.swap_with_slice(network.statistics_mut());
        true
    }

    /// What a checkpoint stores: the number of averages, the weights and the running statistics.
    pub(crate) fn state(&self) -> (u64, &[f32], &[f32]) {
        (self.updates, &self.weights, &self.statistics)
    }

    /// Goes back to what [`Averaging::state`] returned. If the lengths differ it changes nothing and returns false.
    #[must_use]
    pub(crate) fn restore(&mut self, updates: u64, weights: &[f32], statistics: &[f32]) -> bool {
        if (weights.len(), statistics.len()) != (self.weights.len(), self.statistics.len()) {
            return false;
        }
        self.updates = updates;
        self.weights.copy_from_slice(weights);
        self.statistics.copy_from_slice(statistics);
        true
    }
}

/// `average = keep · average + (1 − keep) · new`, in a form that is exact if `keep` is 0.
fn blend(average: &mut [f32], new: &[f32], keep: f32) {
    average.par_chunks_mut(CHUNK).zip(new.par_chunks(CHUNK)).for_each(|(average, new)| {
        average.iter_mut().zip(new).for_each(|(a, w)| *a = w + keep * (*a - w));
    });
}
