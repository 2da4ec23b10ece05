//! What goes into a training pass, and what comes out of it.

use ndarray::{Array2, ArrayView1};

use crate::exec::images::Images;

/// The classes that the network should find in a batch.
#[derive(Clone, Copy, Debug)]
pub enum Targets<'a> {
    /// One class for each image.
    Labels(&'a [u8]),
    /// A distribution over the classes for each image, `[N, classes]`, such as that of mixed images.
    Soft(&'a [f32]),
}

/// Softmax cross-entropy, the mean over the batch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Loss {
    /// The share of each target, from 0 to below 1, that goes evenly to all classes (Szegedy et al., 2015).
    pub label_smoothing: f32,
    /// If given, the factor of each class in the loss, above 0, as in PyTorch's `CrossEntropyLoss(weight=…)`. The mean is
    /// weighted, too: the sum over the images is divided by the sum of the weights of their targets. That of a distribution is
    /// the mean of the weights by its shares, where PyTorch divides by the number of images.
    pub class_weights: Option<Vec<f32>>,
}

impl Loss {
    /// What the losses of `count` images with these targets are divided by for their mean: their number, or the sum of their
    /// weights.
    pub(crate) fn divisor(&self, targets: Targets<'_>, count: usize) -> f64 {
        let Some(weights) = &self.class_weights else { return count as f64 };
        match targets {
            Targets::Labels(labels) => labels.iter().map(|&label| f64::from(weights[usize::from(label)])).sum(),
            Targets::Soft(soft) => {
                let of_image =
                    |row: &[f32]| row.iter().zip(weights).map(|(t, w)| f64::from(*t) * f64::from(*w)).sum::<f64>();
                soft.chunks_exact(weights.len()).map(of_image).sum()
            }
        }
    }
}

/// The key of the random numbers of a training pass: passes with equal keys on equal data are bit-identical.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StepKey {
    /// The run's seed.
    pub seed: u64,
    /// The number of the step in the run.
    pub step: u64,
}

impl StepKey {
    /// A hash of the key: the finaliser of SplitMix64 (Steele, Lea and Flood, 2014).
    pub(crate) fn hash(self) -> u32 {
        let mut x = self.seed.wrapping_add(self.step.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) >> 32) as u32
    }
}

/// Sums over images; those of several batches add up.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct BatchMetrics {
    /// Sum of the losses.
    pub loss_sum: f64,
    /// Images whose most probable class is that of the target.
    pub correct: usize,
    /// Images.
    pub count: usize,
}

/// Sums over all images of an evaluation.
pub type Metrics = BatchMetrics;

impl BatchMetrics {
    /// The metrics of logits `[N, classes]`, such as averaged ones. Of equal logits the first is the prediction; a NaN among an
    /// image's logits makes its loss NaN and its prediction wrong.
    ///
    /// # Panics
    /// If the labels are not as many as the images, or one is not below the number of classes.
    ///
    /// ```
    /// use selvedge_model::Metrics;
    /// let logits = ndarray::array![[1.0, 5.0], [2.0, 0.0]];
    /// let metrics = Metrics::of_logits(&logits, &[1, 1]);
    /// assert_eq!((metrics.correct, metrics.count), (1, 2));
    /// ```
    pub fn of_logits(logits: &Array2<f32>, labels: &[u8]) -> Self {
        let (count, classes) = logits.dim();
        assert_eq!(labels.len(), count, "labels of {count} images");
        let mut metrics = Self { count, ..Self::default() };
        for (row, &label) in logits.rows().into_iter().zip(labels) {
            let label = usize::from(label);
            assert!(label < classes, "label {label} is not below the {classes} classes");
            metrics.loss_sum += log_sum_exp(row) - f64::from(row[label]);
            let best = (0..classes).fold(0, |best, class| if row[class] > row[best] { class } else { best });
            metrics.correct += usize::from(best == label && !row.iter().any(|logit| logit.is_nan()));
        }
        metrics
    }

    /// Mean loss of an image; NaN without images.
    pub fn loss(&self) -> f64 {
        self.loss_sum / self.count as f64
    }

    /// Share of the images that are classified correctly, from 0 to 1; NaN without images.
    pub fn accuracy(&self) -> f64 {
        self.correct as f64 / self.count as f64
    }
}

impl std::ops::AddAssign for BatchMetrics {
    fn add_assign(&mut self, other: Self) {
        self.loss_sum += other.loss_sum;
        self.correct += other.correct;
        self.count += other.count;
    }
}

/// log Σ exp(z) over the logits of an image. The largest is taken out first, so no exponential overflows.
pub(crate) fn log_sum_exp(logits: ArrayView1<'_, f32>) -> f64 {
    let top = f64::from(logits.fold(f32::NEG_INFINITY, |top, &logit| top.max(logit)));
    top + logits.iter().map(|&logit| (f64::from(logit) - top).exp()).sum::<f64>().ln()
}

/// Images and their targets.
#[derive(Clone, Copy)]
pub(crate) struct Batch<'a> {
    pub images: Images<'a>,
    pub targets: Targets<'a>,
    pub count: usize,
    /// What the gradient of the summed loss is multiplied by.
    pub scale: f32,
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    #[test]
    fn metrics_of_logits_are_those_of_the_loss() {
        // The first of equal logits counts; large ones do not overflow.
        let logits = array![[5.0, 0.0, 5.0], [5.0, 0.0, 5.0], [1e30, 0.0, 0.0]];
        let metrics = Metrics::of_logits(&logits, &[0, 2, 0]);
        assert_eq!((metrics.correct, metrics.count), (2, 3));
        let loss = 2.0 * (2.0 + (-5f64).exp()).ln();
        assert!((metrics.loss_sum - loss).abs() < 1e-12, "{} and {loss}", metrics.loss_sum);
        let metrics = Metrics::of_logits(&array![[f32::NAN, 1.0], [2.0, f32::NAN]], &[1, 0]);
        assert!(metrics.correct == 0 && metrics.loss_sum.is_nan());
    }
}
