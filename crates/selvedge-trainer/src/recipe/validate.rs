//! Checks of values that have the right type and make no sense: each names the key, what was found and what is allowed.

use std::fmt::Display;

use selvedge_augment::Augmentation;

use super::spec::{OfflineCopies, OptimizerSpec, Recipe, ScheduleSpec, Validation};

/// The most images in a step: the activations of a step are in memory at once.
const MAX_BATCH: usize = 65_536;

/// The most copies of an image: they are in memory at once.
const MAX_COPIES: usize = 100;

/// A key, as a dotted path, and what is wrong with its value.
pub(super) struct Refusal {
    pub(super) key: String,
    pub(super) problem: String,
}

/// The values a number may have, with the words for them.
#[derive(Clone, Copy)]
enum Range {
    /// From 0 to 1.
    Unit,
    /// From 0 to below 1.
    BelowOne,
    /// Above 0.
    Positive,
    /// 0 or above.
    NotNegative,
    /// Any number.
    Finite,
}

impl Range {
    fn holds(self, value: f64) -> bool {
        value.is_finite()
            && match self {
                Self::Unit => (0.0..=1.0).contains(&value),
                Self::BelowOne => (0.0..1.0).contains(&value),
                Self::Positive => value > 0.0,
                Self::NotNegative => value >= 0.0,
                Self::Finite => true,
            }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Unit => "a number from 0 to 1",
            Self::BelowOne => "a number from 0 to below 1",
            Self::Positive => "a number above 0",
            Self::NotNegative => "a number of 0 or above",
            Self::Finite => "a finite number",
        }
    }
}

fn refuse(key: &str, found: impl Display, allowed: impl Display) -> Refusal {
    Refusal { key: key.to_owned(), problem: format!("{found} is not possible: {allowed}") }
}

fn number(key: &str, value: f64, range: Range) -> Result<(), Refusal> {
    if range.holds(value) { Ok(()) } else { Err(refuse(key, value, range.words())) }
}

/// The first value of the recipe that makes no sense.
pub(super) fn validate(recipe: &Recipe) -> Result<(), Refusal> {
    let bare = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if recipe.name.is_empty() || !recipe.name.chars().all(bare) {
        let allowed = "letters a to z, digits, - and _, because the run's folder is called after it";
        return Err(refuse("name", format!("{:?}", recipe.name), allowed));
    }
    if recipe.epochs == 0 || recipe.epochs > 1_000_000 {
        return Err(refuse("epochs", recipe.epochs, "from 1 to 1000000"));
    }
    if recipe.batch == 0 || recipe.batch > MAX_BATCH {
        return Err(refuse("batch", recipe.batch, format_args!("from 1 to {MAX_BATCH} images")));
    }
    number("label_smoothing", recipe.label_smoothing, Range::BelowOne)?;
    if let Validation::Fraction(fraction) = recipe.validation {
        number("validation", fraction, Range::BelowOne)?;
    }
    number("input.mean", recipe.input.mean.into(), Range::Finite)?;
    number("input.std", recipe.input.std.into(), Range::Positive)?;
    if let Some(copies) = &recipe.offline_copies {
        offline_copies(copies)?;
    }
    optimizer(&recipe.optimizer)?;
    schedule(recipe)?;
    callbacks(recipe)
}

fn offline_copies(copies: &OfflineCopies) -> Result<(), Refusal> {
    if !(1..=MAX_COPIES).contains(&copies.count) {
        return Err(refuse("offline_copies.count", copies.count, format_args!("from 1 to {MAX_COPIES}")));
    }
    match copies.augmentation.iter().position(Augmentation::is_mixing) {
        Some(i) => {
            let name = copies.augmentation[i].name();
            let allowed = "a copy has one label; operations that mix images can stand in `augmentation`";
            Err(refuse(&format!("offline_copies.augmentation.{i}"), name, allowed))
        }
        None => Ok(()),
    }
}

fn optimizer(spec: &OptimizerSpec) -> Result<(), Refusal> {
    number("optimizer.learning_rate", spec.learning_rate(), Range::Positive)?;
    match *spec {
        OptimizerSpec::Sgd { momentum, nesterov, weight_decay, .. } => {
            number("optimizer.momentum", momentum, Range::BelowOne)?;
            number("optimizer.weight_decay", weight_decay, Range::NotNegative)?;
            if nesterov && momentum == 0.0 {
                return Err(refuse("optimizer.nesterov", true, "it needs a momentum above 0"));
            }
        }
        OptimizerSpec::Adam { beta1, beta2, epsilon, weight_decay, .. }
        | OptimizerSpec::AdamW { beta1, beta2, epsilon, weight_decay, .. } => {
            number("optimizer.beta1", beta1, Range::BelowOne)?;
            number("optimizer.beta2", beta2, Range::BelowOne)?;
            number("optimizer.epsilon", epsilon, Range::Positive)?;
            number("optimizer.weight_decay", weight_decay, Range::NotNegative)?;
        }
    }
    Ok(())
}

fn schedule(recipe: &Recipe) -> Result<(), Refusal> {
    match &recipe.schedule {
        ScheduleSpec::Constant => {}
        ScheduleSpec::Step { milestones, gamma } => {
            for (i, &milestone) in milestones.iter().enumerate() {
                number(&format!("schedule.milestones.{i}"), milestone, Range::NotNegative)?;
            }
            if let Some(i) = milestones.windows(2).position(|pair| pair[0] >= pair[1]) {
                let key = format!("schedule.milestones.{}", i + 1);
                return Err(refuse(&key, milestones[i + 1], "each must be later than the one before"));
            }
            number("schedule.gamma", *gamma, Range::Unit)?;
        }
        ScheduleSpec::Cosine { end } => number("schedule.end", *end, Range::Unit)?,
        ScheduleSpec::OneCycle { rise, start, end } | ScheduleSpec::Linear { rise, start, end } => {
            number("schedule.rise", *rise, Range::Unit)?;
            number("schedule.start", *start, Range::Unit)?;
            number("schedule.end", *end, Range::Unit)?;
        }
    }
    let epochs = recipe.epochs as f64;
    if !(0.0..=epochs).contains(&recipe.warmup.epochs) {
        return Err(refuse("warmup.epochs", recipe.warmup.epochs, format_args!("from 0 to the run's {epochs} epochs")));
    }
    number("warmup.start", recipe.warmup.start, Range::Unit)
}

fn callbacks(recipe: &Recipe) -> Result<(), Refusal> {
    let held_out = !matches!(recipe.validation, Validation::Count(0) | Validation::Fraction(0.0));
    let monitored = |table: &str, monitor: super::Monitor| {
        if monitor.needs_validation() && !held_out {
            let allowed = "there are no validation images: set `validation`, or watch train_loss or train_accuracy";
            return Err(refuse(&format!("{table}.monitor"), monitor, allowed));
        }
        Ok(())
    };
    if let Some(spec) = &recipe.reduce_lr_on_plateau {
        monitored("reduce_lr_on_plateau", spec.monitor)?;
        number("reduce_lr_on_plateau.factor", spec.factor, Range::BelowOne)?;
        number("reduce_lr_on_plateau.min_delta", spec.min_delta, Range::NotNegative)?;
        number("reduce_lr_on_plateau.min_lr", spec.min_lr, Range::NotNegative)?;
    }
    if let Some(spec) = &recipe.early_stopping {
        monitored("early_stopping", spec.monitor)?;
        number("early_stopping.min_delta", spec.min_delta, Range::NotNegative)?;
        number("early_stopping.baseline", spec.baseline.unwrap_or(0.0), Range::Finite)?;
    }
    Ok(())
}
