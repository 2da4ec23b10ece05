//! [`ClassWeights`]: the weight of each class in the loss.

use std::fmt;

use serde::de::{self, Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use crate::checks::{Range, Refusal, number};

/// The key of [`ClassWeights`].
const KEY: &str = "class_weights";

/// What `class_weights` can be: `"balanced"`, or a list with a number above 0 for each class.
///
/// The loss of an image is multiplied by the weight of its class, and the sum over a batch is divided by the sum of these
/// weights, as in PyTorch's `CrossEntropyLoss(weight=...)`. Where images are mixed or labels are smoothed, each class counts by
/// its share of the target.
#[derive(Clone, Debug, PartialEq)]
pub enum ClassWeights {
    /// The weight of a class is the number of training images divided by the classes and by the images of this class, as
    /// scikit-learn's `class_weight="balanced"`: all classes count the same.
    Balanced,
    /// The weight of each class, in their order.
    List(Vec<f64>),
}

impl ClassWeights {
    /// Refuses values that make no sense for any data set.
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        let Self::List(weights) = self else { return Ok(()) };
        weights.iter().enumerate().try_for_each(|(i, &weight)| number(&format!("{KEY}.{i}"), weight, Range::Positive))
    }

    /// The weight of each class, given the labels of the training images and the names of the classes.
    pub(crate) fn of(&self, labels: impl Iterator<Item = u8>, class_names: &[String]) -> Result<Vec<f32>, Refusal> {
        let classes = class_names.len();
        match self {
            Self::List(weights) if weights.len() == classes => {
                Ok(weights.iter().map(|&weight| weight as f32).collect())
            }
            Self::List(weights) => {
                let found = format!("a list of {}", weights.len());
                Err(Refusal::new(KEY, found, format_args!("a weight for each of the {classes} classes")))
            }
            Self::Balanced => {
                let mut counts = vec![0usize; classes];
                labels.for_each(|label| counts[usize::from(label)] += 1);
                if let Some(class) = counts.iter().position(|&count| count == 0) {
                    let allowed =
                        format_args!("no training image is of class {:?}; give a list", class_names[class]).to_string();
                    return Err(Refusal::new(KEY, "\"balanced\"", allowed));
                }
                let images: usize = counts.iter().sum();
                Ok(counts.iter().map(|&count| (images as f64 / (classes * count) as f64) as f32).collect())
            }
        }
    }
}

impl Serialize for ClassWeights {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Balanced => serializer.serialize_str("balanced"),
            Self::List(weights) => weights.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for ClassWeights {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ClassWeightsVisitor)
    }
}

struct ClassWeightsVisitor;

impl<'de> Visitor<'de> for ClassWeightsVisitor {
    type Value = ClassWeights;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"balanced\", or a list with a number for each class")
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<ClassWeights, E> {
        match value {
            "balanced" => Ok(ClassWeights::Balanced),
            _ => Err(E::invalid_value(de::Unexpected::Str(value), &self)),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<ClassWeights, A::Error> {
        let mut weights = vec![];
        while let Some(weight) = list.next_element()? {
            weights.push(weight);
        }
        Ok(ClassWeights::List(weights))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|class| format!("class {class}")).collect()
    }

    /// `sklearn.utils.class_weight.compute_class_weight("balanced", classes=[0, 1, 2], y=[0, 0, 0, 1, 2, 2])`
    #[test]
    fn balanced_weights_are_those_of_scikit_learn() {
        let weights = ClassWeights::Balanced.of([0, 0, 0, 1, 2, 2].into_iter(), &names(3)).unwrap();
        assert_eq!(weights, [2.0 / 3.0, 2.0, 1.0]);
    }

    #[test]
    fn what_does_not_fit_the_classes_is_refused() {
        let missing = ClassWeights::Balanced.of([0, 2].into_iter(), &names(3)).unwrap_err();
        assert!(missing.key == KEY && missing.problem.contains("of class \"class 1\""), "{}", missing.problem);
        let short = ClassWeights::List(vec![1.0; 2]).of([0].into_iter(), &names(3)).unwrap_err();
        assert!(short.problem.contains("a list of 2") && short.problem.contains("3 classes"), "{}", short.problem);
    }
}
