//! Checks of values that have the right type but make no sense: each names the key, the value and what is allowed.

use selvedge_augment::Augmentation;
use selvedge_model::TestTimeAveraging;

use super::spec::{OfflineCopies, Recipe, ScheduleSpec, TunedOn, Validation};
use crate::checks::{Range, Refusal, number};
use crate::optimizer::groups;

/// The most images per step: the activations of a step are in memory together.
const MAX_BATCH: usize = 65_536;

/// The most copies of an image: all are in memory together.
const MAX_COPIES: usize = 100;

/// The first value of the recipe that makes no sense.
pub(super) fn validate(recipe: &Recipe) -> Result<(), Refusal> {
    let bare = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if recipe.name.is_empty() || !recipe.name.chars().all(bare) {
        let allowed = "letters a to z, digits, - and _, because the name of the run's folder ends with it";
        return Err(Refusal::new("name", format!("{:?}", recipe.name), allowed));
    }
    if recipe.epochs == 0 || recipe.epochs > 1_000_000 {
        return Err(Refusal::new("epochs", recipe.epochs, "from 1 to 1000000"));
    }
    if recipe.batch == 0 || recipe.batch > MAX_BATCH {
        return Err(Refusal::new("batch", recipe.batch, format_args!("from 1 to {MAX_BATCH} images")));
    }
    if recipe.accumulation == 0 {
        return Err(Refusal::new("accumulation", 0, "at least 1 batch per step"));
    }
    recipe.class_weights.as_ref().map_or(Ok(()), |weights| weights.check())?;
    if let Some(clipping) = recipe.gradient_clipping {
        number("gradient_clipping.max_norm", clipping.max_norm, Range::Positive)?;
    }
    number("label_smoothing", recipe.label_smoothing, Range::BelowOne)?;
    if let Validation::Fraction(fraction) = recipe.validation {
        number("validation", fraction, Range::BelowOne)?;
    }
    if let Some(TunedOn { side, images }) = recipe.tuned_on {
        for (key, value) in [("tuned_on.side", side), ("tuned_on.images", images)] {
            if value == 0 {
                return Err(Refusal::new(key, value, "a whole number above 0"));
            }
        }
    }
    number("input.mean", recipe.input.mean.into(), Range::Finite)?;
    number("input.std", recipe.input.std.into(), Range::Positive)?;
    if let Some(copies) = &recipe.offline_copies {
        offline_copies(copies)?;
    }
    if let Some(TestTimeAveraging { mirror: false, shift: 0 }) = recipe.test_time_averaging {
        let allowed = "without mirror images and shifted copies there is nothing to average; leave the table out";
        return Err(Refusal::new("test_time_averaging", "mirror = false, shift = 0", allowed));
    }
    recipe.optimizer.check()?;
    groups::check(&recipe.groups)?;
    recipe.averaging.map_or(Ok(()), |spec| spec.check())?;
    schedule(recipe)?;
    callbacks(recipe)
}

fn offline_copies(copies: &OfflineCopies) -> Result<(), Refusal> {
    if !(1..=MAX_COPIES).contains(&copies.count) {
        return Err(Refusal::new("offline_copies.count", copies.count, format_args!("from 1 to {MAX_COPIES}")));
    }
    match copies.augmentation.iter().position(Augmentation::is_mixing) {
        Some(i) => {
            let name = copies.augmentation[i].name();
            let allowed = "a copy has one label; put operations that mix images into `augmentation`";
            Err(Refusal::new(&format!("offline_copies.augmentation.{i}"), name, allowed))
        }
        None => Ok(()),
    }
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
                return Err(Refusal::new(&key, milestones[i + 1], "each must be later than the one before"));
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
        return Err(Refusal::new(
            "warmup.epochs",
            recipe.warmup.epochs,
            format_args!("from 0 to the run's {epochs} epochs"),
        ));
    }
    number("warmup.start", recipe.warmup.start, Range::Unit)
}

fn callbacks(recipe: &Recipe) -> Result<(), Refusal> {
    let held_out = !matches!(recipe.validation, Validation::Count(0) | Validation::Fraction(0.0));
    let monitored = |table: &str, monitor: super::Monitor| {
        if monitor.needs_validation() && !held_out {
            let allowed = "there are no validation images: set `validation`, or monitor train_loss or train_accuracy";
            return Err(Refusal::new(&format!("{table}.monitor"), monitor, allowed));
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
