//! The order of trials: by their mean accuracy on the validation images.

use super::record::TrialRecord;
use crate::evaluate::standard_error;
use crate::seeds::Spread;

/// The figures of a trial at a rung.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Score {
    /// The trial, counted from 1.
    pub(super) trial: usize,
    /// The rung, counted from 1.
    pub(super) rung: usize,
    /// The number of seeds.
    pub(super) seeds: usize,
    /// The means over the seeds; `None` if the loss of one of them stopped being finite.
    pub(super) means: Option<Means>,
}

/// Means over seeds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Means {
    pub(super) accuracy: f64,
    /// Standard error of the mean over seeds, from their deviation; `None` for a single seed.
    pub(super) seeds_error: Option<f64>,
    /// √(p(1 − p)/n): the standard error of an accuracy p on n validation images.
    pub(super) images_error: f64,
    pub(super) loss: f64,
    pub(super) epochs: f64,
    pub(super) train_seconds: f64,
    pub(super) flops: f64,
}

impl Score {
    /// The score of a trial at a rung, if it has records there. They are added in the order of the seeds, in whatever
    /// order the runs ended.
    pub(super) fn of(records: &[TrialRecord], trial: usize, rung: usize) -> Option<Self> {
        let mut runs: Vec<&TrialRecord> =
            records.iter().filter(|record| (record.trial, record.rung) == (trial, rung)).collect();
        runs.sort_by_key(|record| record.seed);
        let means = means(&runs);
        (!runs.is_empty()).then_some(Self { trial, rung, seeds: runs.len(), means })
    }

    /// The place in the order: the highest rung first, then accuracy, then loss, then number. Trials without figures are
    /// the last of their rung.
    pub(super) fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let key =
            |score: &Self| score.means.map_or((f64::NEG_INFINITY, f64::INFINITY), |means| (means.accuracy, means.loss));
        let ((accuracy, loss), (other_accuracy, other_loss)) = (key(self), key(other));
        (other.rung.cmp(&self.rung))
            .then(other_accuracy.total_cmp(&accuracy))
            .then(loss.total_cmp(&other_loss))
            .then(self.trial.cmp(&other.trial))
    }
}

fn means(runs: &[&TrialRecord]) -> Option<Means> {
    let spread = |figure: &dyn Fn(&TrialRecord) -> Option<f64>| {
        let figures: Option<Vec<f64>> = runs.iter().map(|run| figure(run)).collect();
        Spread::of(&figures?)
    };
    let accuracy = spread(&|run| run.validation_accuracy)?;
    // All runs hold out the same number.
    let images = runs.first()?.validation_images;
    Some(Means {
        accuracy: accuracy.mean,
        seeds_error: accuracy.standard_error,
        images_error: standard_error(accuracy.mean, images),
        loss: spread(&|run| run.validation_loss)?.mean,
        epochs: spread(&|run| run.epochs.map(|epochs| epochs as f64))?.mean,
        train_seconds: spread(&|run| run.train_seconds)?.mean,
        flops: spread(&|run| run.flops)?.mean,
    })
}

/// The trials that go on from a rung: the best `keep` of all, rounded up, in the order of their numbers. Those without
/// figures do not.
pub(super) fn promoted(records: &[TrialRecord], trials: &[usize], rung: usize, keep: f64) -> Vec<usize> {
    let mut scores: Vec<Score> = trials.iter().filter_map(|&trial| Score::of(records, trial, rung)).collect();
    scores.sort_by(Score::cmp);
    // A third of 27 trials is 9, although 27 · (1/3) may come out as a little more.
    let count = ((keep * trials.len() as f64 - 1e-9).ceil() as usize).max(1);
    let mut best: Vec<usize> =
        scores.iter().filter(|score| score.means.is_some()).take(count).map(|score| score.trial).collect();
    best.sort_unstable();
    best
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn record(trial: usize, rung: usize, seed: u64, accuracy: Option<f64>) -> TrialRecord {
        TrialRecord {
            trial,
            rung,
            seed,
            values: toml::Table::new(),
            changes: toml::Table::new(),
            epochs: accuracy.map(|_| 2),
            validation_loss: accuracy.map(|accuracy| 1.0 - accuracy),
            validation_accuracy: accuracy,
            validation_accuracy_tta: None,
            validation_images: 100,
            train_seconds: accuracy.map(|_| 10.0),
            images: accuracy.map(|_| 1000),
            flops: accuracy.map(|_| 6e9),
            precision: "f32".to_owned(),
            isa: "avx2".to_owned(),
            threads: 2,
            problem: accuracy.is_none().then(|| "the loss is NaN".to_owned()),
        }
    }

    #[test]
    fn means_and_standard_errors_are_those_of_the_formulas() {
        let records =
            [0.90, 0.92, 0.97].iter().zip(1..).map(|(&p, seed)| record(1, 1, seed, Some(p))).collect::<Vec<_>>();
        let means = Score::of(&records, 1, 1).unwrap().means.unwrap();
        // Python: statistics.stdev([.90, .92, .97]) / 3**.5, (.93 * .07 / 100)**.5
        assert!((means.accuracy - 0.93).abs() < 1e-12);
        assert!((means.seeds_error.unwrap() - 0.020_816_659_994_661_33).abs() < 1e-12, "{means:?}");
        assert!((means.images_error - 0.025_514_701_644_346_147).abs() < 1e-12, "{means:?}");
        assert_eq!(Score::of(&records[..1], 1, 1).unwrap().means.unwrap().seeds_error, None);
        assert_eq!(Score::of(&records, 2, 1), None);
    }

    #[test]
    fn the_best_share_goes_on_and_failures_never_do() {
        let accuracies = [Some(0.5), None, Some(0.9), Some(0.7), Some(0.9), Some(0.6)];
        let records: Vec<_> = accuracies.iter().zip(1..).map(|(&p, trial)| record(trial, 1, 1, p)).collect();
        let go_on = |keep| promoted(&records, &[1, 2, 3, 4, 5, 6], 1, keep);
        assert_eq!(go_on(1.0 / 3.0), [3, 5]);
        assert_eq!(go_on(0.34), [3, 4, 5]);
        assert_eq!(go_on(0.01), [3], "of equal ones the first");
        assert_eq!(go_on(0.99), [1, 3, 4, 5, 6]);
        assert!(promoted(&records, &[2], 1, 0.5).is_empty());
    }

    #[test]
    fn a_trial_with_a_failed_seed_is_the_last_of_its_rung() {
        let records =
            [record(1, 2, 1, Some(0.9)), record(1, 2, 2, None), record(2, 2, 1, Some(0.1)), record(3, 1, 1, Some(1.0))];
        let mut scores: Vec<Score> = [(3, 1), (1, 2), (2, 2)].map(|(t, r)| Score::of(&records, t, r).unwrap()).to_vec();
        scores.sort_by(Score::cmp);
        assert_eq!(scores.iter().map(|score| score.trial).collect::<Vec<_>>(), [2, 1, 3]);
    }
}
