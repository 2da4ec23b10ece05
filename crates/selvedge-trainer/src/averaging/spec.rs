//! The keys of the table `[averaging]`, their defaults and their ranges.

use serde::{Deserialize, Serialize};

use crate::checks::{Range, Refusal, number};

/// The table `[averaging]`: an average of the weights over the steps of a run, kept beside them. Running statistics of batch
/// norms are averaged in the same way. Once there is an average, validation and the test use it, and `model.safetensors` holds
/// it.
///
/// `t` is a step, counted from 1, of the run's `T`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum AveragingSpec {
    /// Look-ahead (Zhang et al., arXiv 1907.08610) as in airbench: after every few steps the average becomes
    /// `d · average + (1 − d) · weights` with `d = decay^every · (t / T)³`, and the weights become the average.
    Lookahead {
        /// Steps from one average to the next, at least 1.
        #[serde(default = "default_lookahead_every")]
        every: u64,
        /// The part of the average that a step would keep at the end of the run, from 0 to below 1.
        #[serde(default = "default_lookahead_decay")]
        decay: f64,
    },
    /// An exponential moving average: `average = d · average + (1 − d) · weights`. `d` is `decay^every`, but at most
    /// `(1 + n) / (10 + n)` after `n` averages, so that the average soon forgets how the network began.
    Ema {
        /// The part of the average that each step keeps, from 0 to below 1.
        #[serde(default = "default_ema_decay")]
        decay: f64,
        /// The share of the run after which averaging begins, from 0 to below 1.
        #[serde(default)]
        start: f64,
        /// Steps from one average to the next, at least 1.
        #[serde(default = "default_ema_every")]
        every: u64,
        /// If above 0, the average gets running statistics of its own before it is used: their means over this many batches of
        /// the epoch, or all if it has fewer, augmented as in training. With 0 it keeps the averaged ones.
        #[serde(default)]
        statistics_batches: usize,
    },
    /// Stochastic weight averaging (Izmailov et al., arXiv 1803.05407): the mean of the weights after every few steps.
    Swa {
        /// The share of the run after which averaging begins, from 0 to below 1.
        #[serde(default = "default_swa_start")]
        start: f64,
        /// Steps from one average to the next, at least 1. Without it, they are an epoch.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        every: Option<u64>,
        /// As for `ema`; 40 unless given.
        #[serde(default = "default_swa_statistics_batches")]
        statistics_batches: usize,
    },
}

impl AveragingSpec {
    /// Batches whose statistics the average gets before it is used; 0 if it keeps the averaged ones.
    pub(crate) fn statistics_batches(&self) -> usize {
        match *self {
            Self::Lookahead { .. } => 0,
            Self::Ema { statistics_batches, .. } | Self::Swa { statistics_batches, .. } => statistics_batches,
        }
    }

    /// Steps from one average to the next.
    pub(crate) fn every(&self, steps_per_epoch: u64) -> u64 {
        match *self {
            Self::Lookahead { every, .. } | Self::Ema { every, .. } => every,
            Self::Swa { every, .. } => every.unwrap_or(steps_per_epoch),
        }
    }

    /// The share of the run after which averaging begins.
    pub(crate) fn start(&self) -> f64 {
        match *self {
            Self::Lookahead { .. } => 0.0,
            Self::Ema { start, .. } | Self::Swa { start, .. } => start,
        }
    }

    /// Refuses values that make no sense.
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        let decay = match *self {
            Self::Lookahead { decay, .. } | Self::Ema { decay, .. } => decay,
            Self::Swa { .. } => 0.0,
        };
        number("averaging.decay", decay, Range::BelowOne)?;
        number("averaging.start", self.start(), Range::BelowOne)?;
        if self.every(1) == 0 {
            return Err(Refusal::new("averaging.every", 0, "at least 1 step"));
        }
        Ok(())
    }

    /// Refuses an average that would begin after the end of a run.
    pub(crate) fn check_length(&self, epochs: u64, steps_per_epoch: u64) -> Result<(), Refusal> {
        let (every, steps) = (self.every(steps_per_epoch), epochs * steps_per_epoch);
        // The last step that is averaged, if there is one.
        let last = steps / every * every;
        if last == 0 {
            let allowed = format_args!("from 1 to the {steps} steps of the run").to_string();
            return Err(Refusal::new("averaging.every", every, allowed));
        }
        let latest = last as f64 / steps as f64;
        if self.start() > latest {
            let allowed =
                format!("no step would be averaged; with an average every {every} of {steps} steps, at most {latest}");
            return Err(Refusal::new("averaging.start", self.start(), allowed));
        }
        Ok(())
    }
}

fn default_lookahead_every() -> u64 {
    5
}

fn default_lookahead_decay() -> f64 {
    0.95
}

fn default_ema_decay() -> f64 {
    0.999
}

fn default_ema_every() -> u64 {
    1
}

fn default_swa_start() -> f64 {
    0.75
}

fn default_swa_statistics_batches() -> usize {
    40
}
