//! How well a network classifies: `HeldOut` images during training, and an [`Evaluation`] class by class afterwards.

use std::fmt;

use ndarray::Array2;
use selvedge_idx::Split;
use selvedge_model::{Metrics, Network, TestTimeAveraging};

use crate::data::{TrainingData, flat};

/// Labelled images that are not trained on, copied out of the training split.
#[derive(Debug)]
pub(crate) struct HeldOut {
    images: Vec<u8>,
    labels: Vec<u8>,
}

impl HeldOut {
    /// Copies of the images at `indices`.
    pub(crate) fn gather(data: &TrainingData, indices: &[u32]) -> Self {
        let mut images = Vec::with_capacity(indices.len() * data.image_shape().iter().product::<usize>());
        indices.iter().for_each(|&index| images.extend_from_slice(data.image(index as usize)));
        Self { images, labels: indices.iter().map(|&index| data.labels()[index as usize]).collect() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.labels.len()
    }

    /// Loss and accuracy on these images; `None` if there are none.
    pub(crate) fn evaluate(&self, network: &mut Network) -> Option<Metrics> {
        (!self.is_empty()).then(|| network.evaluate(&self.images, &self.labels))
    }

    /// The same with test-time averaging.
    pub(crate) fn evaluate_averaged(&self, network: &mut Network, averaging: TestTimeAveraging) -> Option<Metrics> {
        (!self.is_empty()).then(|| averaging.evaluate(network, &self.images, &self.labels))
    }
}

/// The standard error of an accuracy measured on `images` images that were drawn at random: √(p(1 − p)/n).
pub fn standard_error(accuracy: f64, images: usize) -> f64 {
    (accuracy * (1.0 - accuracy) / images as f64).sqrt()
}

/// Accuracy, loss and confusion matrix of a network on labelled images.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// Mean cross-entropy.
    pub loss: f64,
    /// Share of the images classified correctly.
    pub accuracy: f64,
    /// The same with test-time averaging, if that was wanted.
    pub averaged: Option<AveragedFigures>,
    /// Number of images by `[true class, predicted class]`, predicted with test-time averaging if that was wanted.
    pub confusion: Array2<usize>,
    /// Names of the classes.
    pub class_names: Vec<String>,
}

/// Figures with test-time averaging.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AveragedFigures {
    /// What was averaged.
    pub averaging: TestTimeAveraging,
    /// Mean cross-entropy.
    pub loss: f64,
    /// Share of the images classified correctly.
    pub accuracy: f64,
}

impl Evaluation {
    /// Evaluates on the network's threads.
    ///
    /// # Panics
    /// If the images do not fit the network, or a label has no name in `class_names`.
    pub fn of(
        network: &mut Network,
        split: &Split,
        class_names: &[String],
        averaging: Option<TestTimeAveraging>,
    ) -> Self {
        let (images, labels) = flat(split);
        let metrics = network.evaluate(images, labels);
        let logits = match averaging {
            Some(averaging) => averaging.logits(network, images),
            None => network.logits(images),
        };
        let averaged = averaging.map(|averaging| {
            let metrics = Metrics::of_logits(&logits, labels);
            AveragedFigures { averaging, loss: metrics.loss(), accuracy: metrics.accuracy() }
        });
        let predicted = logits.rows().into_iter().map(|row| argmax(row.iter().copied()));
        Self {
            loss: metrics.loss(),
            accuracy: metrics.accuracy(),
            averaged,
            confusion: confusion(labels, predicted, class_names.len()),
            class_names: class_names.to_vec(),
        }
    }
}

/// The index of the largest value; of equal ones, the first.
pub(crate) fn argmax(values: impl Iterator<Item = f32>) -> usize {
    let larger = |best: (usize, f32), new: (usize, f32)| if new.1 > best.1 { new } else { best };
    values.enumerate().fold((0, f32::NEG_INFINITY), larger).0
}

fn confusion(labels: &[u8], predicted: impl Iterator<Item = usize>, classes: usize) -> Array2<usize> {
    let mut confusion = Array2::zeros((classes, classes));
    labels.iter().zip(predicted).for_each(|(&label, predicted)| confusion[[usize::from(label), predicted]] += 1);
    confusion
}

/// A share, or a dash if nothing was counted.
fn share(part: usize, of: usize) -> String {
    if of == 0 { "-".to_owned() } else { format!("{:.4}", part as f64 / of as f64) }
}

impl fmt::Display for Evaluation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let images = self.confusion.sum();
        let error = |accuracy| standard_error(accuracy, images);
        let (accuracy, loss) = (self.accuracy, self.loss);
        writeln!(f, "accuracy {accuracy:.4} ± {:.4}  loss {loss:.4}  ({images} images)", error(accuracy))?;
        if let Some(AveragedFigures { averaging, loss, accuracy }) = self.averaged {
            let error = error(accuracy);
            writeln!(
                f,
                "accuracy {accuracy:.4} ± {error:.4}  loss {loss:.4}  (averaged: {averaging}; the tables, too)"
            )?;
        }
        writeln!(f)?;
        let width = self.class_names.iter().map(|name| name.chars().count()).max().unwrap_or(0).max("class".len());
        writeln!(f, "{:width$}  images  recall  precision  F1", "class")?;
        for (class, name) in self.class_names.iter().enumerate() {
            let (right, is, called) =
                (self.confusion[[class, class]], self.confusion.row(class).sum(), self.confusion.column(class).sum());
            let (recall, precision, f1) = (share(right, is), share(right, called), share(2 * right, is + called));
            writeln!(f, "{name:width$}  {is:>6}  {recall:>6}  {precision:>9}  {f1:>6}")?;
        }
        writeln!(f, "\nconfusion matrix: a row for each true class, a column for each predicted class")?;
        let cell = images.to_string().len().max(3);
        let header: String = (0..self.class_names.len()).map(|class| format!(" {class:>cell$}")).collect();
        writeln!(f, "{:number$}  {:width$}{header}", "", "", number = 3)?;
        for (class, (name, row)) in self.class_names.iter().zip(self.confusion.rows()).enumerate() {
            let cells: String = row.iter().map(|count| format!(" {count:>cell$}")).collect();
            writeln!(f, "{class:>3}  {name:width$}{cells}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_equal_values_the_first_is_the_argmax() {
        assert_eq!(argmax([0.1, 0.4, 0.4, 0.1].into_iter()), 1);
        assert_eq!(argmax([f32::NAN, 0.2].into_iter()), 1);
    }

    #[test]
    fn the_table_has_recall_precision_and_every_cell() {
        let confusion = confusion(&[0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 0, 1].into_iter(), 3);
        let names = ["Bag", "Coat", "Shirt"].map(str::to_owned).to_vec();
        let averaging = TestTimeAveraging { mirror: true, shift: 1 };
        let averaged = Some(AveragedFigures { averaging, loss: 0.25, accuracy: 0.75 });
        let text = Evaluation { loss: 0.5, accuracy: 0.5, averaged, confusion, class_names: names }.to_string();
        // √(.25 / 6) and √(.1875 / 6).
        assert!(
            text.starts_with("accuracy 0.5000 ± 0.2041  loss 0.5000  (6 images)\naccuracy 0.7500 ± 0.1768"),
            "{text}"
        );
        assert!(text.contains("loss 0.2500  (averaged: mirror + shift 1"), "{text}");
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert!(lines.contains(&vec!["Bag", "3", "0.6667", "0.6667", "0.6667"]), "{text}");
        assert!(lines.contains(&vec!["Coat", "2", "0.5000", "0.3333", "0.4000"]), "{text}");
        assert!(lines.contains(&vec!["Shirt", "1", "0.0000", "-", "0.0000"]), "{text}");
        assert!(lines.contains(&vec!["0", "Bag", "2", "1", "0"]), "{text}");
        assert!(lines.contains(&vec!["2", "Shirt", "0", "1", "0"]), "{text}");
    }
}
