//! Callbacks at the end of an epoch: [`ReduceLrOnPlateau`] cuts the learning rate, [`EarlyStopping`] ends the run, [`Best`]
//! keeps track of the best epoch. The first two behave as Keras' callbacks of these names, except that no epoch in which the rate
//! rises is judged a plateau, and cuts multiply by the factor exactly.
//!
//! Their state is plain numbers that a checkpoint stores, so a resumed run decides as an uninterrupted one.

use bincode::{Decode, Encode};

use crate::recipe::{EarlyStoppingSpec, Monitor, ReduceLrOnPlateauSpec};

/// The figures of an epoch that a callback can monitor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EpochFigures {
    /// Mean loss of the epoch's steps.
    pub train_loss: f64,
    /// Accuracy on the training images during the epoch.
    pub train_accuracy: f64,
    /// Mean loss on the validation images; `None` if there are none.
    pub validation_loss: Option<f64>,
    /// Accuracy on the validation images; `None` if there are none.
    pub validation_accuracy: Option<f64>,
}

impl EpochFigures {
    /// The monitored figure. A recipe that monitors a missing figure is refused before training.
    pub fn get(&self, monitor: Monitor) -> Option<f64> {
        match monitor {
            Monitor::TrainLoss => Some(self.train_loss),
            Monitor::TrainAccuracy => Some(self.train_accuracy),
            Monitor::ValidationLoss => self.validation_loss,
            Monitor::ValidationAccuracy => self.validation_accuracy,
        }
    }
}

fn improves(monitor: Monitor, value: f64, best: f64, min_delta: f64) -> bool {
    if monitor.smaller_is_better() { value < best - min_delta } else { value > best + min_delta }
}

/// Cuts the learning rate when the monitored figure stops improving.
#[derive(Clone, Debug)]
pub struct ReduceLrOnPlateau {
    spec: ReduceLrOnPlateauSpec,
    /// The part that a checkpoint stores.
    pub state: ReduceLrOnPlateauState,
}

/// The state of a [`ReduceLrOnPlateau`].
#[derive(Clone, Copy, Debug, PartialEq, Encode, Decode)]
pub struct ReduceLrOnPlateauState {
    best: Option<f64>,
    wait: u64,
    cooldown: u64,
    factor: f64,
}

impl ReduceLrOnPlateau {
    /// The state before the first epoch.
    pub fn new(spec: ReduceLrOnPlateauSpec) -> Self {
        Self { spec, state: ReduceLrOnPlateauState { best: None, wait: 0, cooldown: 0, factor: 1.0 } }
    }

    /// What the schedule's learning rate is multiplied by: the product of the cuts so far.
    pub fn factor(&self) -> f64 {
        self.state.factor
    }

    /// Takes the figures of an epoch whose last step had the learning rate `rate`, earlier cuts included. Returns whether
    /// it cut the rate. Epochs during warm-up are not for it: their figures say little about the peak rate.
    pub fn end_epoch(&mut self, figures: &EpochFigures, rate: f64) -> bool {
        let Some(value) = figures.get(self.spec.monitor) else { return false };
        let (spec, state) = (&self.spec, &mut self.state);
        if state.cooldown > 0 {
            state.cooldown -= 1;
            state.wait = 0;
        }
        if state.best.is_none_or(|best| improves(spec.monitor, value, best, spec.min_delta)) {
            state.best = Some(value);
            state.wait = 0;
            return false;
        }
        if state.cooldown > 0 {
            return false;
        }
        state.wait += 1;
        if state.wait < spec.patience || rate <= spec.min_lr {
            return false;
        }
        // A quotient of rates would be off by a rounding error for each cut.
        state.factor *= if rate * spec.factor < spec.min_lr { spec.min_lr / rate } else { spec.factor };
        state.cooldown = spec.cooldown;
        state.wait = 0;
        true
    }
}

/// Ends the run when the monitored figure stops improving.
#[derive(Clone, Debug)]
pub struct EarlyStopping {
    spec: EarlyStoppingSpec,
    /// The part that a checkpoint stores.
    pub state: EarlyStoppingState,
}

/// The state of an [`EarlyStopping`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Encode, Decode)]
pub struct EarlyStoppingState {
    best: Option<f64>,
    wait: u64,
    /// Whether the run has ended.
    pub stopped: bool,
}

/// The decision of an [`EarlyStopping`] on an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The figure improved: these are the weights to restore at the end.
    pub improved: bool,
    /// Training ends here.
    pub stop: bool,
}

impl EarlyStopping {
    /// The state before the first epoch.
    pub fn new(spec: EarlyStoppingSpec) -> Self {
        Self { spec, state: EarlyStoppingState::default() }
    }

    /// Whether the run ends with the weights of the best epoch.
    pub fn restores_best(&self) -> bool {
        self.spec.restore_best
    }

    /// Takes the figures of epoch `epoch`, counted from 0.
    pub fn end_epoch(&mut self, epoch: u64, figures: &EpochFigures) -> Verdict {
        let (spec, state) = (&self.spec, &mut self.state);
        let Some(value) = figures.get(spec.monitor).filter(|_| epoch >= spec.start_from_epoch) else {
            return Verdict { improved: false, stop: false };
        };
        state.wait += 1;
        if state.best.is_none_or(|best| improves(spec.monitor, value, best, spec.min_delta)) {
            state.best = Some(value);
            if spec.baseline.is_none_or(|baseline| improves(spec.monitor, value, baseline, spec.min_delta)) {
                state.wait = 0;
            }
            return Verdict { improved: true, stop: false };
        }
        state.stopped = state.wait >= spec.patience && epoch > 0;
        Verdict { improved: false, stop: state.stopped }
    }
}

/// The best epoch so far, which `best.ckpt` holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Encode, Decode)]
pub struct Best {
    /// The monitored figure and the epoch, counted from 0.
    pub at: Option<(f64, u64)>,
}

impl Best {
    /// Takes the figures of epoch `epoch`, counted from 0; true if it is the best so far.
    pub fn end_epoch(&mut self, monitor: Monitor, epoch: u64, figures: &EpochFigures) -> bool {
        let Some(value) = figures.get(monitor) else { return false };
        let better = self.at.is_none_or(|(best, _)| improves(monitor, value, best, 0.0));
        if better {
            self.at = Some((value, epoch));
        }
        better
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(validation_loss: f64) -> EpochFigures {
        EpochFigures {
            train_loss: 1.0,
            train_accuracy: 0.5,
            validation_loss: Some(validation_loss),
            validation_accuracy: Some(1.0 - validation_loss),
        }
    }

    /// The learning rate of each epoch.
    fn rates(spec: ReduceLrOnPlateauSpec, losses: &[f64]) -> Vec<f64> {
        let mut callback = ReduceLrOnPlateau::new(spec);
        let epoch = |&loss: &f64| {
            let rate = callback.factor();
            callback.end_epoch(&figures(loss), rate);
            rate
        };
        losses.iter().map(epoch).collect()
    }

    #[test]
    fn the_rate_is_cut_after_the_patience() {
        let spec = ReduceLrOnPlateauSpec { factor: 0.5, patience: 2, ..ReduceLrOnPlateauSpec::default() };
        // .50005 and .49995 are within min_delta of .5: no improvement.
        let losses = [0.5, 0.500_05, 0.499_95, 0.6, 0.6, 0.4, 0.41, 0.41, 0.1];
        assert_eq!(rates(spec, &losses), [1.0, 1.0, 1.0, 0.5, 0.5, 0.25, 0.25, 0.25, 0.125]);
    }

    #[test]
    fn no_epoch_counts_during_the_cooldown() {
        let spec = ReduceLrOnPlateauSpec { factor: 0.5, patience: 1, cooldown: 2, ..ReduceLrOnPlateauSpec::default() };
        // A cut after epoch 1. In epoch 2 the cooldown falls from 2 to 1, so it does not count; in epoch 3 to 0: it counts.
        assert_eq!(rates(spec, &[0.5; 7]), [1.0, 1.0, 0.5, 0.5, 0.25, 0.25, 0.125]);
    }

    #[test]
    fn cuts_stop_at_the_least_rate() {
        let spec = ReduceLrOnPlateauSpec { factor: 0.1, patience: 1, min_lr: 0.05, ..ReduceLrOnPlateauSpec::default() };
        let found = rates(spec, &[0.5; 5]);
        for (found, expected) in found.iter().zip([1.0, 1.0, 0.1, 0.05, 0.05]) {
            assert!((found - expected).abs() < 1e-12, "{found} for {expected}");
        }
    }

    /// 2e-4 · 0.3 / 2e-4 is not 0.3: after some cuts the rate would be another number than the recipe says.
    #[test]
    fn cuts_multiply_by_the_factor_exactly() {
        let spec = ReduceLrOnPlateauSpec { factor: 0.3, patience: 1, ..ReduceLrOnPlateauSpec::default() };
        let mut callback = ReduceLrOnPlateau::new(spec);
        let (mut expected, peak) = (1.0, 2e-4);
        callback.end_epoch(&figures(0.5), peak);
        for _ in 0..10 {
            assert!(callback.end_epoch(&figures(0.5), peak * callback.factor()));
            expected *= 0.3;
            assert_eq!(callback.factor(), expected);
        }
    }

    #[test]
    fn an_accuracy_can_be_monitored() {
        let spec = ReduceLrOnPlateauSpec {
            monitor: Monitor::ValidationAccuracy,
            factor: 0.5,
            patience: 1,
            ..ReduceLrOnPlateauSpec::default()
        };
        assert_eq!(rates(spec, &[0.5, 0.4, 0.3, 0.3, 0.3]), [1.0, 1.0, 1.0, 1.0, 0.5]);
    }

    fn verdicts(spec: EarlyStoppingSpec, losses: &[f64]) -> Vec<(bool, bool)> {
        let mut callback = EarlyStopping::new(spec);
        let epoch = |(epoch, &loss): (usize, &f64)| {
            let Verdict { improved, stop } = callback.end_epoch(epoch as u64, &figures(loss));
            (improved, stop)
        };
        losses.iter().enumerate().map(epoch).collect()
    }

    const IMPROVED: (bool, bool) = (true, false);
    const WAIT: (bool, bool) = (false, false);
    const STOP: (bool, bool) = (false, true);

    #[test]
    fn early_stopping_waits_for_its_patience() {
        let spec = EarlyStoppingSpec { patience: 2, ..EarlyStoppingSpec::default() };
        assert_eq!(verdicts(spec, &[0.5, 0.4, 0.4, 0.3, 0.3, 0.35]), [IMPROVED, IMPROVED, WAIT, IMPROVED, WAIT, STOP]);
    }

    #[test]
    fn early_stopping_without_patience_stops_at_the_first_epoch_without_improvement() {
        assert_eq!(verdicts(EarlyStoppingSpec::default(), &[0.5, 0.4, 0.4]), [IMPROVED, IMPROVED, STOP]);
    }

    #[test]
    fn early_stopping_needs_an_improvement_of_min_delta() {
        let spec = EarlyStoppingSpec { patience: 2, min_delta: 0.1, ..EarlyStoppingSpec::default() };
        assert_eq!(verdicts(spec, &[0.5, 0.45, 0.35, 0.3, 0.3]), [IMPROVED, WAIT, IMPROVED, WAIT, STOP]);
    }

    #[test]
    fn early_stopping_goes_on_waiting_until_the_baseline_is_beaten() {
        let spec = EarlyStoppingSpec { patience: 3, baseline: Some(0.3), ..EarlyStoppingSpec::default() };
        assert_eq!(verdicts(spec, &[0.5, 0.4, 0.45]), [IMPROVED, IMPROVED, STOP]);
        assert_eq!(verdicts(spec, &[0.5, 0.2, 0.45, 0.45, 0.45]), [IMPROVED, IMPROVED, WAIT, WAIT, STOP]);
    }

    #[test]
    fn early_stopping_leaves_early_epochs_alone() {
        let spec = EarlyStoppingSpec { patience: 1, start_from_epoch: 2, ..EarlyStoppingSpec::default() };
        assert_eq!(verdicts(spec, &[0.1, 0.2, 0.5, 0.5]), [WAIT, WAIT, IMPROVED, STOP]);
    }

    #[test]
    fn best_is_the_first_of_equals() {
        let mut best = Best::default();
        let loss = Monitor::ValidationLoss;
        let found: Vec<bool> = [0.5, 0.4, 0.4, 0.6]
            .iter()
            .enumerate()
            .map(|(i, &v)| best.end_epoch(loss, i as u64, &figures(v)))
            .collect();
        assert_eq!(found, [true, true, false, false]);
        assert_eq!(best.at, Some((0.4, 1)));
    }
}
