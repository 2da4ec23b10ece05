//! [`Schedule`]: the learning rate of each step, a closed form of the step's number.

use std::f64::consts::PI;

use crate::recipe::{Recipe, ScheduleSpec, WarmupSpec};

/// The learning rate as a function of the step. It has no state, so a resumed run has nothing to restore.
///
/// ```
/// use selvedge_trainer::recipe::RecipeSource;
/// use selvedge_trainer::schedule::Schedule;
///
/// let recipe = RecipeSource::find("seed")?.load(&[])?.recipe;
/// let schedule = Schedule::new(&recipe, 422);
/// assert_eq!(schedule.rate(0), 1e-3);
/// # Ok::<(), selvedge_trainer::recipe::RecipeError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Schedule {
    peak: f64,
    spec: ScheduleSpec,
    warmup: WarmupSpec,
    warmup_steps: u64,
    total_steps: u64,
    steps_per_epoch: u64,
}

impl Schedule {
    /// The schedule of a recipe whose epochs have `steps_per_epoch` steps.
    pub fn new(recipe: &Recipe, steps_per_epoch: u64) -> Self {
        Self {
            peak: recipe.optimizer.learning_rate(),
            spec: recipe.schedule.clone(),
            warmup: recipe.warmup,
            warmup_steps: (recipe.warmup.epochs * steps_per_epoch as f64).round() as u64,
            total_steps: recipe.epochs * steps_per_epoch,
            steps_per_epoch,
        }
    }

    /// The learning rate of a step, counted from 0.
    pub fn rate(&self, step: u64) -> f64 {
        self.peak * self.factor(step)
    }

    /// Whether the rate of a step is one of the warm-up, or of the rise of a schedule that has one.
    pub fn rises(&self, step: u64) -> bool {
        let is_rise = match self.spec {
            ScheduleSpec::OneCycle { rise, .. } | ScheduleSpec::Linear { rise, .. } => self.done(step) < rise,
            ScheduleSpec::Constant | ScheduleSpec::Step { .. } | ScheduleSpec::Cosine { .. } => false,
        };
        step < self.warmup_steps || is_rise
    }

    /// The share of the steps after warm-up that are done.
    fn done(&self, step: u64) -> f64 {
        step.saturating_sub(self.warmup_steps) as f64 / (self.total_steps - self.warmup_steps).max(1) as f64
    }

    fn factor(&self, step: u64) -> f64 {
        if step < self.warmup_steps {
            return between(self.warmup.start, 1.0, (step + 1) as f64 / self.warmup_steps as f64);
        }
        let done = self.done(step);
        match &self.spec {
            ScheduleSpec::Constant => 1.0,
            ScheduleSpec::Step { milestones, gamma } => {
                let epoch = step as f64 / self.steps_per_epoch as f64;
                let passed = milestones.iter().filter(|&&milestone| milestone <= epoch).count();
                gamma.powi(passed as i32)
            }
            ScheduleSpec::Cosine { end } => between(1.0, *end, half_cosine(done)),
            ScheduleSpec::OneCycle { rise, start, end } => rise_and_fall(done, *rise, *start, *end, half_cosine),
            ScheduleSpec::Linear { rise, start, end } => rise_and_fall(done, *rise, *start, *end, |x| x),
        }
    }
}

fn rise_and_fall(x: f64, rise: f64, start: f64, end: f64, ease: impl Fn(f64) -> f64) -> f64 {
    if x < rise {
        between(start, 1.0, ease(x / rise))
    } else {
        between(1.0, end, ease((x - rise) / (1.0 - rise).max(f64::MIN_POSITIVE)))
    }
}

fn between(from: f64, to: f64, share: f64) -> f64 {
    from + (to - from) * share
}

/// From 0 to 1 along half a period of a cosine.
fn half_cosine(x: f64) -> f64 {
    (1.0 - (PI * x).cos()) / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::{Override, RecipeSource};

    /// 10 epochs of 10 steps with a peak of 1.
    fn schedule(sets: &[&str]) -> Schedule {
        let mut overrides =
            vec![Override::new("epochs", 10, "test"), Override::new("optimizer.learning_rate", 1.0, "test")];
        overrides.extend(sets.iter().map(|set| Override::parse(set).unwrap()));
        Schedule::new(&RecipeSource::find("seed").unwrap().load(&overrides).unwrap().recipe, 10)
    }

    #[track_caller]
    fn assert_rates(schedule: &Schedule, rates: &[(u64, f64)]) {
        for &(step, rate) in rates {
            assert!((schedule.rate(step) - rate).abs() < 1e-12, "step {step}: {} for {rate}", schedule.rate(step));
        }
    }

    #[test]
    fn constant_and_step() {
        assert_rates(&schedule(&[]), &[(0, 1.0), (99, 1.0)]);
        let step = schedule(&["schedule={kind='step', milestones=[3.0, 5.5], gamma=0.5}"]);
        assert_rates(&step, &[(0, 1.0), (29, 1.0), (30, 0.5), (54, 0.5), (55, 0.25), (99, 0.25)]);
    }

    #[test]
    fn cosine_falls_from_one_to_its_end() {
        let cosine = schedule(&["schedule={kind='cosine', end=0.2}"]);
        // .2 + .8 (1 + cos(πx)) / 2
        let at = |x: f64| 0.2 + 0.8 * (1.0 + (PI * x).cos()) / 2.0;
        assert_rates(&cosine, &[(0, 1.0), (25, at(0.25)), (50, 0.6), (99, at(0.99)), (100, 0.2)]);
    }

    #[test]
    fn one_cycle_rises_and_falls() {
        let one = schedule(&["schedule={kind='one_cycle'}"]);
        assert_rates(&one, &[(0, 0.04), (15, 0.52), (30, 1.0), (65, 0.500_002), (100, 4e-6)]);
    }

    #[test]
    fn linear_is_a_triangle() {
        let triangle = schedule(&["schedule={kind='linear', rise=0.2, start=0.2, end=0.07}"]);
        assert_rates(&triangle, &[(0, 0.2), (10, 0.6), (20, 1.0), (60, 0.535), (100, 0.07)]);
        assert_rates(&schedule(&["schedule={kind='linear'}"]), &[(0, 1.0), (50, 0.5), (100, 0.0)]);
        assert_rates(&schedule(&["schedule={kind='linear', rise=1.0}"]), &[(0, 0.0), (50, 0.5), (100, 1.0)]);
    }

    #[test]
    fn rates_rise_in_warm_up_and_up_to_the_peak() {
        let rising = |sets: &[&str]| (0..100).take_while(|&step| schedule(sets).rises(step)).count();
        assert_eq!(rising(&[]), 0);
        assert_eq!(rising(&["warmup.epochs=1.5"]), 15);
        assert_eq!(rising(&["schedule={kind='one_cycle'}"]), 30);
        assert_eq!(rising(&["schedule={kind='linear', rise=0.2}", "warmup.epochs=5"]), 60);
        assert_eq!(rising(&["schedule={kind='cosine'}", "warmup.epochs=5"]), 50);
    }

    #[test]
    fn warm_up_comes_before_the_schedule() {
        let warm = schedule(&["schedule={kind='linear'}", "warmup={epochs=2.0, start=0.5}"]);
        assert_rates(&warm, &[(0, 0.525), (9, 0.75), (19, 1.0), (20, 1.0), (60, 0.5), (100, 0.0)]);
        assert_rates(&schedule(&["warmup.epochs=10"]), &[(0, 0.01), (99, 1.0)]);
    }
}
