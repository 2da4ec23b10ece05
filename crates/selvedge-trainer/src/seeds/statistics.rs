//! Statistics of a figure over several runs: mean, sample deviation and standard error; median.

use serde::{Deserialize, Serialize};

/// Mean and spread of a figure over several runs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The mean.
    pub mean: f64,
    /// The sample deviation, with n − 1 in the denominator; null for a single run.
    pub deviation: Option<f64>,
    /// The standard error of the mean: the deviation over √n; null for a single run.
    pub standard_error: Option<f64>,
}

impl Spread {
    /// The spread of these values; `None` if there are none.
    ///
    /// ```
    /// use selvedge_trainer::seeds::Spread;
    /// let spread = Spread::of(&[2.0, 4.0, 4.0, 6.0]).unwrap();
    /// assert_eq!(spread.mean, 4.0);
    /// assert_eq!(spread.deviation, Some((8.0f64 / 3.0).sqrt()));
    /// assert_eq!(spread.standard_error, Some((8.0f64 / 3.0).sqrt() / 2.0));
    /// ```
    pub fn of(values: &[f64]) -> Option<Self> {
        let count = values.len() as f64;
        if values.is_empty() {
            return None;
        }
        let mean = values.iter().sum::<f64>() / count;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let deviation = (values.len() > 1).then(|| (squares / (count - 1.0)).sqrt());
        Some(Self { mean, deviation, standard_error: deviation.map(|deviation| deviation / count.sqrt()) })
    }
}

/// The median: the mean of the two in the middle of an even number of values; `None` if there are none.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.get(middle)? {
        upper if sorted.len() % 2 == 1 => Some(*upper),
        upper => Some(f64::midpoint(sorted[middle - 1], *upper)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_value_has_no_deviation() {
        assert_eq!(Spread::of(&[3.0]), Some(Spread { mean: 3.0, deviation: None, standard_error: None }));
        assert_eq!(Spread::of(&[]), None);
    }

    #[test]
    fn medians() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[5.0]), Some(5.0));
        assert_eq!(median(&[9.0, 1.0, 5.0]), Some(5.0));
        assert_eq!(median(&[9.0, 1.0, 5.0, 7.0]), Some(6.0));
    }
}
