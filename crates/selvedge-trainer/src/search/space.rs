//! The values that trials try: all combinations of lists, or values drawn from lists and ranges.

use std::collections::HashSet;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;
use toml::Value;

use crate::data::{Purpose, stream};
use crate::recipe::Override;

/// How often in a row a combination may be drawn that was there before, until no new one is expected.
const MOST_REPETITIONS: usize = 1000;

/// A searched key of the recipe.
#[derive(Clone, Debug)]
pub(super) struct Dimension {
    /// A dotted path.
    pub(super) key: String,
    /// The file and the line.
    pub(super) place: String,
    pub(super) domain: Domain,
}

/// What values a key may have.
#[derive(Clone, Debug)]
pub(super) enum Domain {
    /// One of these, each as likely as the others.
    Choices(Vec<Choice>),
    /// Whole numbers, both ends included; with `log`, uniform on a logarithmic scale.
    Integers { min: i64, max: i64, log: bool },
    /// Numbers with four significant digits, so that tables and recipes show them in full.
    Numbers { min: f64, max: f64, log: bool },
}

/// A value in a list.
#[derive(Clone, Debug)]
pub(super) struct Choice {
    pub(super) value: Value,
    /// The file and the line.
    pub(super) place: String,
}

/// A combination of values to train.
#[derive(Clone, Debug)]
pub(super) struct Trial {
    /// Counted from 1.
    pub(super) number: usize,
    /// The value of each searched key, in the order of the file.
    pub(super) values: Vec<(String, Value)>,
    /// The same as changes to a recipe.
    pub(super) overrides: Vec<Override>,
}

impl Trial {
    fn new(number: usize, dimensions: &[Dimension], choices: Vec<Choice>) -> Self {
        let pairs = || dimensions.iter().zip(&choices);
        Self {
            number,
            values: pairs().map(|(dimension, choice)| (dimension.key.clone(), choice.value.clone())).collect(),
            overrides: pairs()
                .map(|(dimension, choice)| Override::new(&dimension.key, choice.value.clone(), &choice.place))
                .collect(),
        }
    }
}

/// All combinations of the lists; the last key changes fastest. Ranges have no combinations.
pub(super) fn grid(dimensions: &[Dimension]) -> Vec<Trial> {
    let mut combinations: Vec<Vec<Choice>> = vec![Vec::new()];
    for dimension in dimensions {
        let Domain::Choices(choices) = &dimension.domain else { return Vec::new() };
        combinations = combinations
            .iter()
            .flat_map(|start| choices.iter().map(move |choice| start.iter().chain([choice]).cloned().collect()))
            .collect();
    }
    (1..).zip(combinations).map(|(number, choices)| Trial::new(number, dimensions, choices)).collect()
}

/// `count` different combinations, or fewer if no more are found. They depend on the seed, and a longer list begins with a
/// shorter one.
pub(super) fn random(dimensions: &[Dimension], count: usize, seed: u64) -> Vec<Trial> {
    let mut rng = stream(seed, Purpose::Search, 0);
    let (mut trials, mut known, mut repetitions) = (Vec::new(), HashSet::new(), 0);
    while trials.len() < count && repetitions < MOST_REPETITIONS {
        let choices: Vec<Choice> = dimensions.iter().map(|dimension| dimension.draw(&mut rng)).collect();
        let written: Vec<String> = choices.iter().map(|choice| choice.value.to_string()).collect();
        if known.insert(written) {
            trials.push(Trial::new(trials.len() + 1, dimensions, choices));
            repetitions = 0;
        } else {
            repetitions += 1;
        }
    }
    trials
}

impl Dimension {
    fn draw(&self, rng: &mut ChaCha8Rng) -> Choice {
        // 53 bits, from 0 to below 1.
        let drawn = (rng.next_u64() >> 11) as f64 * f64::powi(2.0, -53);
        let between = |min: f64, max: f64, log: bool| {
            if log { (min.ln() + drawn * (max.ln() - min.ln())).exp() } else { min + drawn * (max - min) }
        };
        let value = match &self.domain {
            Domain::Choices(choices) => {
                let index = (drawn * choices.len() as f64) as usize;
                return choices[index.min(choices.len() - 1)].clone();
            }
            &Domain::Integers { min, max, log } => {
                let number = between(min as f64, max as f64 + 1.0, log).floor() as i64;
                Value::Integer(number.clamp(min, max))
            }
            &Domain::Numbers { min, max, log } => Value::Float(rounded(between(min, max, log)).clamp(min, max)),
        };
        Choice { value, place: self.place.clone() }
    }
}

/// The number with four significant digits.
fn rounded(number: f64) -> f64 {
    format!("{number:.3e}").parse().unwrap_or(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dimension(key: &str, domain: Domain) -> Dimension {
        Dimension { key: key.to_owned(), place: "s.toml, line 1".to_owned(), domain }
    }

    fn list(key: &str, values: &[i64]) -> Dimension {
        let choice = |&value: &i64| Choice { value: Value::Integer(value), place: String::new() };
        dimension(key, Domain::Choices(values.iter().map(choice).collect()))
    }

    fn integers(trials: &[Trial]) -> Vec<Vec<i64>> {
        let of = |trial: &Trial| trial.values.iter().map(|(_, value)| value.as_integer().unwrap()).collect();
        trials.iter().map(of).collect()
    }

    #[test]
    fn a_grid_has_every_combination_once() {
        let trials = grid(&[list("a", &[1, 2]), list("b", &[3, 4, 5])]);
        assert_eq!(integers(&trials), [[1, 3], [1, 4], [1, 5], [2, 3], [2, 4], [2, 5]]);
        assert_eq!(trials.iter().map(|trial| trial.number).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn random_trials_depend_on_the_seed_and_are_all_different() {
        let dimensions = [list("a", &[1, 2, 3]), list("b", &[1, 2, 3])];
        let draw = |count, seed| integers(&random(&dimensions, count, seed));
        assert_eq!(draw(6, 1), draw(6, 1));
        assert_ne!(draw(6, 1), draw(6, 2));
        assert_eq!(draw(6, 1)[..4], draw(4, 1));
        let mut all = draw(20, 1);
        all.sort_unstable();
        assert_eq!(all, integers(&grid(&dimensions)), "nine combinations are all there are");
    }

    /// The share of values below `middle`.
    fn share_below(domain: Domain, middle: f64) -> f64 {
        let trials = random(&[dimension("a", domain)], 2000, 7);
        assert_eq!(trials.len(), 2000);
        let below = trials.iter().filter(|trial| trial.values[0].1.as_float().unwrap() < middle).count();
        below as f64 / 2000.0
    }

    #[test]
    fn ranges_are_uniform_on_their_scale() {
        // The standard deviation of a share of 2000 is .011.
        let linear = share_below(Domain::Numbers { min: 0.0, max: 1.0, log: false }, 0.5);
        assert!((linear - 0.5).abs() < 0.05, "{linear}");
        let logarithmic = share_below(Domain::Numbers { min: 1e-4, max: 1.0, log: true }, 1e-2);
        assert!((logarithmic - 0.5).abs() < 0.05, "{logarithmic}");
    }

    #[test]
    fn whole_numbers_reach_both_ends_and_numbers_are_short() {
        for log in [false, true] {
            let mut found = integers(&random(&[dimension("a", Domain::Integers { min: 2, max: 6, log })], 5, 1));
            found.sort_unstable();
            assert_eq!(found, [[2], [3], [4], [5], [6]], "log = {log}");
        }
        let domain = Domain::Numbers { min: 0.123_456, max: 0.123_457, log: false };
        let trials = random(&[dimension("a", domain)], 10, 1);
        assert!(trials.iter().all(|trial| (0.123_456..=0.123_457).contains(&trial.values[0].1.as_float().unwrap())));
        assert_eq!(rounded(0.034_567_8), 0.034_57);
    }
}
