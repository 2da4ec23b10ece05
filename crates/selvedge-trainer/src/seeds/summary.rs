//! The figures of several seeds, `seeds.json`, and their table.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::statistics::{Spread, median};
use crate::summary::Summary;

/// The figures of one seed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SeedFigures {
    /// The seed.
    pub seed: u64,
    /// The name of its run's folder.
    pub folder: String,
    /// Accuracy on the test images.
    pub test_accuracy: f64,
    /// The same with test-time averaging; null if the recipe has none.
    pub test_accuracy_tta: Option<f64>,
    /// Mean loss on the test images.
    pub test_loss: f64,
    /// Accuracy on the validation images, which the seed chose; null if there are none.
    pub validation_accuracy: Option<f64>,
    /// The same with test-time averaging; null without one or the other.
    pub validation_accuracy_tta: Option<f64>,
    /// Epochs that were trained.
    pub epochs: u64,
    /// Seconds of the training steps.
    pub train_seconds: f64,
    /// SHA-256 of the weights, as in the run's summary.
    pub weights_sha256: String,
}

impl SeedFigures {
    pub(super) fn of(folder: String, summary: &Summary) -> Self {
        Self {
            seed: summary.seed,
            folder,
            test_accuracy: summary.test_accuracy,
            test_accuracy_tta: summary.test_accuracy_tta,
            test_loss: summary.test_loss,
            validation_accuracy: summary.validation_accuracy,
            validation_accuracy_tta: summary.validation_accuracy_tta,
            epochs: summary.epochs,
            train_seconds: summary.train_seconds,
            weights_sha256: summary.weights_sha256.clone(),
        }
    }
}

/// The figures of several seeds. A figure that not every finished run has is null.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SeedsSummary {
    /// The recipe's name.
    pub recipe: String,
    /// The command-line options that changed the recipe.
    pub changes: Vec<String>,
    /// The seeds, in the order in which they are trained.
    pub seeds: Vec<u64>,
    /// The finished runs.
    pub runs: Vec<SeedFigures>,
    /// Accuracy on the test images.
    pub test_accuracy: Option<Spread>,
    /// The same with test-time averaging.
    pub test_accuracy_tta: Option<Spread>,
    /// Accuracy on the validation images.
    pub validation_accuracy: Option<Spread>,
    /// The same with test-time averaging.
    pub validation_accuracy_tta: Option<Spread>,
    /// The median of the seconds of training.
    pub train_seconds_median: Option<f64>,
    /// Version of the program that wrote it last.
    pub version: String,
}

impl SeedsSummary {
    pub(super) fn new(recipe: String, changes: Vec<String>, seeds: Vec<u64>) -> Self {
        Self {
            recipe,
            changes,
            seeds,
            runs: Vec::new(),
            test_accuracy: None,
            test_accuracy_tta: None,
            validation_accuracy: None,
            validation_accuracy_tta: None,
            train_seconds_median: None,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// Adds a run, or replaces that of its seed, and computes the statistics again.
    pub(super) fn record(&mut self, figures: SeedFigures) {
        self.runs.retain(|run| run.seed != figures.seed);
        self.runs.push(figures);
        let place = |seed: u64| self.seeds.iter().position(|&known| known == seed);
        self.runs.sort_by_key(|run| place(run.seed));
        let spread = |figure: fn(&SeedFigures) -> Option<f64>| {
            self.runs.iter().map(figure).collect::<Option<Vec<f64>>>().and_then(|values| Spread::of(&values))
        };
        self.test_accuracy = spread(|run| Some(run.test_accuracy));
        self.test_accuracy_tta = spread(|run| run.test_accuracy_tta);
        self.validation_accuracy = spread(|run| run.validation_accuracy);
        self.validation_accuracy_tta = spread(|run| run.validation_accuracy_tta);
        self.train_seconds_median = median(&self.runs.iter().map(|run| run.train_seconds).collect::<Vec<_>>());
        env!("CARGO_PKG_VERSION").clone_into(&mut self.version);
    }
}

/// A table: a row for each run, then mean, sample deviation and standard error of the mean, and the median time.
impl fmt::Display for SeedsSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        type Column = (&'static str, fn(&SeedFigures) -> Option<f64>, Option<Spread>);
        let columns: [Column; 4] = [
            ("test %", |run| Some(run.test_accuracy), self.test_accuracy),
            ("averaged %", |run| run.test_accuracy_tta, self.test_accuracy_tta),
            ("validation %", |run| run.validation_accuracy, self.validation_accuracy),
            ("averaged %", |run| run.validation_accuracy_tta, self.validation_accuracy_tta),
        ];
        let shown: Vec<Column> = columns.into_iter().filter(|(_, _, spread)| spread.is_some()).collect();
        let cell = |value: Option<f64>, digits: usize| {
            value.map_or_else(|| "-".to_owned(), |value| format!("{:.digits$}", 100.0 * value))
        };
        let row = |f: &mut fmt::Formatter<'_>, name: &str, cells: Vec<String>, time: &str| {
            let cells: String = cells.iter().map(|cell| format!("{cell:>14}")).collect();
            writeln!(f, "{}", format!("{name:<15}{cells}{time:>14}").trim_end())
        };
        row(f, "seed", shown.iter().map(|(name, ..)| (*name).to_owned()).collect(), "training s")?;
        for run in &self.runs {
            let cells = shown.iter().map(|(_, figure, _)| cell(figure(run), 2)).collect();
            row(f, &run.seed.to_string(), cells, &format!("{:.1}", run.train_seconds))?;
        }
        let spread = |of: fn(Spread) -> Option<f64>| -> Vec<String> {
            shown.iter().map(|(_, _, spread)| cell(spread.and_then(of), 3)).collect()
        };
        let median = self.train_seconds_median.map(|seconds| format!("{seconds:.1}")).unwrap_or_default();
        row(f, "mean, median s", spread(|spread| Some(spread.mean)), &median)?;
        row(f, "deviation", spread(|spread| spread.deviation), "")?;
        row(f, "standard error", spread(|spread| spread.standard_error), "")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(seed: u64, test_accuracy: f64, validation_accuracy: Option<f64>, train_seconds: f64) -> SeedFigures {
        SeedFigures {
            seed,
            folder: format!("seed-{seed}"),
            test_accuracy,
            test_accuracy_tta: Some(test_accuracy + 0.01),
            test_loss: 0.2,
            validation_accuracy,
            validation_accuracy_tta: None,
            epochs: 3,
            train_seconds,
            weights_sha256: String::new(),
        }
    }

    #[test]
    fn the_table_has_a_row_for_each_run_and_the_statistics() {
        let mut summary = SeedsSummary::new("small".to_owned(), Vec::new(), vec![7, 1, 4]);
        summary.record(figures(1, 0.92, Some(0.5), 30.0));
        summary.record(figures(7, 0.5, Some(0.5), 1.0));
        summary.record(figures(4, 0.94, None, 10.0));
        // The run of a seed replaces an earlier one; not every run has a validation accuracy.
        summary.record(figures(7, 0.90, Some(0.5), 20.0));
        assert_eq!(summary.validation_accuracy, None);
        let text = summary.to_string();
        let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[0], ["seed", "test", "%", "averaged", "%", "training", "s"]);
        assert_eq!(rows[1], ["7", "90.00", "91.00", "20.0"]);
        assert_eq!(rows[2], ["1", "92.00", "93.00", "30.0"]);
        assert_eq!(rows[3], ["4", "94.00", "95.00", "10.0"]);
        assert_eq!(rows[4], ["mean,", "median", "s", "92.000", "93.000", "20.0"]);
        assert_eq!(rows[5], ["deviation", "2.000", "2.000"]);
        assert_eq!(rows[6], ["standard", "error", "1.155", "1.155"]);
        assert!(text.lines().all(|line| line == line.trim_end()), "{text}");
    }
}
