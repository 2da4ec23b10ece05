//! The table at the end of a search: a row for each trial, the best first.

use toml::Value;

use super::rank::Score;
use super::record::TrialRecord;
use super::space::Trial;

/// A row for each trial, at the highest rung that it reached.
pub(super) fn table(trials: &[Trial], records: &[TrialRecord]) -> String {
    let rungs = records.iter().map(|record| record.rung).max().unwrap_or(0);
    let highest = |trial: &Trial| (1..=rungs).rev().find_map(|rung| Score::of(records, trial.number, rung));
    let mut scores: Vec<(Score, &Trial)> = trials.iter().filter_map(|trial| Some((highest(trial)?, trial))).collect();
    scores.sort_by(|(one, _), (other, _)| one.cmp(other));

    let head = ["trial", "rung", "epochs", "seeds", "accuracy %", "± seeds", "± images", "loss", "seconds", "FLOPs"];
    let mut rows: Vec<Vec<String>> = vec![head.map(str::to_owned).to_vec()];
    rows[0].extend(trials.first().into_iter().flat_map(|trial| &trial.values).map(|(key, _)| key.clone()));
    rows.extend(scores.iter().map(|(score, trial)| row(score, trial)));
    aligned(&rows)
}

fn row(score: &Score, trial: &Trial) -> Vec<String> {
    let figures = match score.means {
        Some(means) => [
            format!("{:.3}", means.epochs).trim_end_matches('0').trim_end_matches('.').to_owned(),
            score.seeds.to_string(),
            format!("{:.2}", 100.0 * means.accuracy),
            means.seeds_error.map_or_else(|| "-".to_owned(), |error| format!("{:.2}", 100.0 * error)),
            format!("{:.2}", 100.0 * means.images_error),
            format!("{:.4}", means.loss),
            format!("{:.1}", means.train_seconds),
            format!("{:.2e}", means.flops),
        ],
        None => ["-", &score.seeds.to_string(), "failed", "-", "-", "-", "-", "-"].map(str::to_owned),
    };
    let values = trial.values.iter().map(|(_, value)| shown(value));
    [score.trial.to_string(), score.rung.to_string()].into_iter().chain(figures).chain(values).collect()
}

/// The rows with their columns aligned at the right.
fn aligned(rows: &[Vec<String>]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..rows.first().map_or(0, Vec::len)).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:>width$}")).collect();
        cells.join("  ") + "\n"
    };
    rows.iter().map(line).collect()
}

/// `key=value` for each value, as `--set` takes them.
pub(super) fn assignments<'a>(values: impl IntoIterator<Item = (&'a String, &'a Value)>) -> String {
    values.into_iter().map(|(key, value)| format!("{key}={}", shown(value))).collect::<Vec<_>>().join(" ")
}

/// The value as TOML; a small or large number with an exponent.
fn shown(value: &Value) -> String {
    match value {
        Value::Float(number) => format!("{number:?}"),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::rank::tests::record;
    use super::*;

    #[test]
    fn rows_are_sorted_by_rung_and_accuracy() {
        let trial = |number, rate: f64| Trial {
            number,
            values: vec![("optimizer.learning_rate".to_owned(), rate.into())],
            overrides: Vec::new(),
        };
        let trials = [trial(1, 0.05), trial(2, 0.1), trial(3, 0.2)];
        let mut records: Vec<_> =
            [0.9, 0.95].iter().zip(1..).map(|(&p, number)| record(number, 1, 1, Some(p))).collect();
        records.extend([record(3, 1, 1, None), record(1, 2, 1, Some(0.9)), record(1, 2, 2, Some(0.92))]);
        let text = table(&trials, &records);
        let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[0].last(), Some(&"optimizer.learning_rate"));
        assert_eq!(rows[1], ["1", "2", "2", "2", "91.00", "1.00", "2.86", "0.0900", "10.0", "6.00e9", "0.05"]);
        assert_eq!(rows[2][..6], ["2", "1", "2", "1", "95.00", "-"]);
        assert_eq!(rows[3], ["3", "1", "-", "1", "failed", "-", "-", "-", "-", "-", "0.2"]);
        let length = text.lines().next().unwrap().chars().count();
        assert!(text.lines().all(|line| line.chars().count() == length), "{text}");
    }
}
