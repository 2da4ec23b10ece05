//! Choices among stated operations.

use serde::{Deserialize, Serialize};

use super::Policy;
use crate::error::Check;
use crate::parameter::Whole;
use crate::{AugmentError, Augmentation, Canvas, DrawnStep, ImageShape, Stream};

/// Applies one of the operations, chosen with a weight of its `p`.
///
/// Source: Albumentations `OneOf(transforms, p=0.5)`: the chosen operation is applied always, its own
/// `p` being its weight in the choice. All operations act on one image, or all mix batches.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OneOf {
    /// The operations, at least one.
    pub ops: Vec<Augmentation>,
    /// The probability that one is applied, from 0 to 1; 0.5 unless stated.
    #[serde(default = "half")]
    pub p: f32,
}

/// Applies `n` of the operations, each with its own probability, in the order in which they stand.
///
/// Source: Albumentations `SomeOf(transforms, n, replace=False, p=1)`: which ones is drawn uniformly.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SomeOf {
    /// The operations, at least one and at most 64.
    pub ops: Vec<Augmentation>,
    /// How many, one number or `[low, high]`, from 0 to the number of operations; 1 unless stated.
    #[serde(default = "one")]
    pub n: Whole,
    /// The probability that any is applied, from 0 to 1; 1 unless stated.
    #[serde(default = "always")]
    pub p: f32,
}

/// Applies all operations, each with its own probability, or none of them; also written `random_apply`.
///
/// Source: Albumentations `Sequential(transforms, p=0.5)`, torchvision `RandomApply(transforms, p=0.5)`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sequential {
    /// The operations, at least one.
    pub ops: Vec<Augmentation>,
    /// The probability that they are applied, from 0 to 1; 0.5 unless stated.
    #[serde(default = "half")]
    pub p: f32,
}

fn half() -> f32 {
    0.5
}

fn always() -> f32 {
    1.0
}

fn one() -> Whole {
    Whole::exactly(1)
}

/// Operations that a choice can be made of: at least one, all valid, none that mixes batches.
fn check_ops(check: Check, ops: &[Augmentation], shape: ImageShape) -> Result<(), AugmentError> {
    if ops.is_empty() {
        return Err(check.refuse("ops", "[]", "at least one operation"));
    }
    if let Some(mixing) = ops.iter().find(|op| op.is_mixing()) {
        let problem = format!(
            "mixes the images of a batch and cannot stand inside `{}` with operations on one image: move it to the end of the chain",
            check.op
        );
        return Err(AugmentError::Placement { op: mixing.name(), problem });
    }
    ops.iter().try_for_each(|op| op.validate(shape))
}

impl OneOf {
    /// Which operation, by weight.
    pub(crate) fn choose(&self, rng: &mut Stream) -> usize {
        let total: f32 = self.ops.iter().map(Augmentation::probability).sum();
        let mut left = rng.unit() * total;
        for (index, op) in self.ops.iter().enumerate() {
            left -= op.probability();
            if left < 0.0 {
                return index;
            }
        }
        // Rounding may leave nothing: the last operation that has a weight is meant.
        self.ops.iter().rposition(|op| op.probability() > 0.0).unwrap_or(0)
    }

    /// Checks what holds for both kinds of operations.
    pub(crate) fn check_weights(&self) -> Result<(), AugmentError> {
        let check = Check { op: Self::NAME };
        check.probability(self.p)?;
        if self.ops.iter().all(|op| op.probability() == 0.0) {
            return Err(check.refuse(
                "ops",
                "all with p = 0",
                "at least one operation whose p, its weight, is above 0",
            ));
        }
        Ok(())
    }
}

impl Policy for OneOf {
    const NAME: &'static str = "one_of";

    fn probability(&self) -> f32 {
        self.p
    }

    fn validate(&self, shape: ImageShape) -> Result<(), AugmentError> {
        check_ops(Check { op: Self::NAME }, &self.ops, shape)?;
        self.check_weights()
    }

    fn run(&self, rng: &mut Stream, canvas: &mut Canvas, record: &mut Option<&mut Vec<DrawnStep>>) {
        let chosen = self.choose(rng);
        self.ops[chosen].run(true, &mut rng.fork(chosen), canvas, record);
    }
}

impl Policy for SomeOf {
    const NAME: &'static str = "some_of";

    fn probability(&self) -> f32 {
        self.p
    }

    fn validate(&self, shape: ImageShape) -> Result<(), AugmentError> {
        let check = Check { op: Self::NAME };
        check_ops(check, &self.ops, shape)?;
        check.probability(self.p)?;
        check.number("number of ops", self.ops.len(), 1..=64)?;
        check.span("n", self.n.0, 0..=self.ops.len() as u16)
    }

    fn run(&self, rng: &mut Stream, canvas: &mut Canvas, record: &mut Option<&mut Vec<DrawnStep>>) {
        let mut needed = usize::from(self.n.draw(rng));
        // Selection sampling: each operation is taken with the share of what is still needed.
        for (index, op) in self.ops.iter().enumerate() {
            let left = self.ops.len() - index;
            if rng.below(left) < needed {
                needed -= 1;
                op.run(false, &mut rng.fork(index), canvas, record);
            }
        }
    }
}

impl Policy for Sequential {
    const NAME: &'static str = "sequential";

    fn probability(&self) -> f32 {
        self.p
    }

    fn validate(&self, shape: ImageShape) -> Result<(), AugmentError> {
        let check = Check { op: Self::NAME };
        check_ops(check, &self.ops, shape)?;
        check.probability(self.p)
    }

    fn run(&self, rng: &mut Stream, canvas: &mut Canvas, record: &mut Option<&mut Vec<DrawnStep>>) {
        for (index, op) in self.ops.iter().enumerate() {
            op.run(false, &mut rng.fork(index), canvas, record);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: ImageShape = ImageShape { height: 4, width: 4, channels: 1 };

    fn read(text: &str) -> Augmentation {
        toml::from_str(text).unwrap()
    }

    fn steps(policy: &Augmentation, key: u64) -> Vec<&'static str> {
        let mut steps = Vec::new();
        policy.run(false, &mut Stream::from_bits(key), &mut Canvas::new(SHAPE), &mut Some(&mut steps));
        steps.iter().map(|step| step.op).collect()
    }

    #[test]
    fn one_of_chooses_by_weight_and_always_applies() {
        let policy = read("op = 'one_of'\np = 1.0\nops = [{ op = 'invert', p = 0.3 }, { op = 'transpose', p = 0.1 }]");
        policy.validate(SHAPE).unwrap();
        let mut inverted = 0;
        for key in 0..4000 {
            let steps = steps(&policy, key);
            assert_eq!(steps.len(), 1);
            inverted += usize::from(steps[0] == "invert");
        }
        // Three quarters; the standard deviation is 27.
        assert!((2860..3140).contains(&inverted), "{inverted}");
    }

    #[test]
    fn some_of_takes_n_in_their_order() {
        let policy = read(
            "op = 'some_of'\nn = 2\nops = [{ op = 'invert', p = 1 }, { op = 'transpose', p = 1 }, { op = 'vertical_flip', p = 1 }]",
        );
        policy.validate(SHAPE).unwrap();
        let mut counts = std::collections::HashMap::new();
        for key in 0..3000 {
            *counts.entry(steps(&policy, key)).or_insert(0) += 1;
        }
        for pair in [["invert", "transpose"], ["invert", "vertical_flip"], ["transpose", "vertical_flip"]] {
            assert!((870..1130).contains(&counts[pair.as_slice()]), "{counts:?}");
        }
        assert_eq!(counts.len(), 3);
    }

    #[test]
    fn sequential_applies_all_or_none() {
        let policy = read("op = 'random_apply'\nops = [{ op = 'invert', p = 1 }, { op = 'transpose', p = 1 }]");
        let counts = (0..1000).map(|key| steps(&policy, key).len());
        assert!(counts.clone().all(|count| count == 0 || count == 2));
        let applied = counts.filter(|count| *count == 2).count();
        assert!((420..580).contains(&applied), "{applied}");
    }

    #[test]
    fn what_cannot_be_chosen_is_refused() {
        let message = |text: &str| read(text).validate(SHAPE).unwrap_err().to_string();
        assert!(message("op = 'one_of'\nops = []").contains("at least one operation"));
        assert!(message("op = 'one_of'\nops = [{ op = 'invert', p = 0 }]").contains("above 0"));
        assert!(message("op = 'some_of'\nn = 2\nops = [{ op = 'invert' }]").contains("from 0 to 1"));
        let mixing = message("op = 'sequential'\nops = [{ op = 'mixup' }]");
        assert!(mixing.contains("`mixup`") && mixing.contains("end of the chain"), "{mixing}");
        assert!(message("op = 'sequential'\nops = [{ op = 'invert', p = 2 }]").contains("`invert`"));
    }
}
