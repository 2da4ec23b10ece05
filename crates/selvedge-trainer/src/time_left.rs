//! How long the rest of a run will take, and durations in words.

use std::time::{Duration, Instant};

/// Steps shorter than this together say too little about the pace of a run.
const SETTLED: Duration = Duration::from_secs(1);

/// How long training will take on this machine, measured over the first second of its steps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Estimate {
    /// Until the last epoch ends.
    pub left: Duration,
    /// Worker threads.
    pub threads: usize,
    /// The name of the instruction set.
    pub isa: String,
    /// The precision.
    pub precision: String,
    /// Whether early stopping may end the run before.
    pub may_stop_early: bool,
}

/// The pace of a run, from the images that this process has trained on.
///
/// It counts from the end of the process's first step, which packs weights and touches memory for the first time. Validation
/// between epochs is part of it.
#[derive(Debug)]
pub(crate) struct Pace {
    /// Images of all steps of the run.
    total: u64,
    /// When the first step ended, and the images of the run until then.
    start: Option<(Instant, u64)>,
    /// Whether the pace was settled before.
    settled: bool,
}

impl Pace {
    pub(crate) fn new(total: u64) -> Self {
        Self { total, start: None, settled: false }
    }

    /// The time left after a step, at which the run has trained on `done` images; `None` after the process's first step.
    pub(crate) fn end_step(&mut self, now: Instant, done: u64) -> Option<Duration> {
        let (start, done_before) = *self.start.get_or_insert((now, done));
        let trained = done.saturating_sub(done_before);
        if trained == 0 {
            return None;
        }
        let share = self.total.saturating_sub(done) as f64 / trained as f64;
        let seconds = now.duration_since(start).as_secs_f64() * share;
        Some(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
    }

    /// True once: when the steps have taken long enough to estimate by.
    pub(crate) fn settles(&mut self, now: Instant) -> bool {
        let settled = self.start.is_some_and(|(start, _)| now.duration_since(start) >= SETTLED);
        settled && !std::mem::replace(&mut self.settled, true)
    }
}

/// A duration in words, to the second below ten minutes, to the minute below a day, else to the hour: `3 min 20 s`.
pub(crate) fn in_words(duration: Duration) -> String {
    let rounded = |to: u64| (duration.as_secs_f64() / to as f64).round() as u64 * to;
    let seconds = match (rounded(1), rounded(60)) {
        (seconds, _) if seconds < 600 => seconds,
        (_, minutes) if minutes < 86_400 => minutes,
        _ => rounded(3600),
    };
    let parts = [(seconds / 86_400, "d"), (seconds / 3600 % 24, "h"), (seconds / 60 % 60, "min"), (seconds % 60, "s")];
    let words: Vec<String> =
        parts.iter().filter(|(count, _)| *count > 0).map(|(count, unit)| format!("{count} {unit}")).collect();
    if words.is_empty() { "0 s".to_owned() } else { words.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_rounded_to_what_matters() {
        for (seconds, expected) in [
            (0.0, "0 s"),
            (0.4, "0 s"),
            (59.4, "59 s"),
            (59.6, "1 min"),
            (200.0, "3 min 20 s"),
            (599.4, "9 min 59 s"),
            (599.6, "10 min"),
            (754.0, "13 min"),
            (3599.0, "1 h"),
            (7500.0, "2 h 5 min"),
            (86_399.0, "1 d"),
            (100_000.0, "1 d 4 h"),
        ] {
            assert_eq!(in_words(Duration::from_secs_f64(seconds)), expected, "{seconds}");
        }
        assert!(in_words(Duration::MAX).contains(" d"));
    }

    #[test]
    fn the_time_left_follows_from_the_images_of_this_process() {
        let start = Instant::now();
        let after = |seconds: f64| start + Duration::from_secs_f64(seconds);
        // A resumed run: 500 of its 1000 images were trained before, which says nothing about this process.
        let mut pace = Pace::new(1000);
        assert_eq!(pace.end_step(after(0.0), 510), None);
        assert!(!pace.settles(after(0.0)));
        assert_eq!(pace.end_step(after(0.5), 520), Some(Duration::from_secs(24)));
        assert!(!pace.settles(after(0.5)));
        // It becomes slower.
        assert_eq!(pace.end_step(after(4.0), 550), Some(Duration::from_secs(45)));
        assert!(pace.settles(after(4.0)) && !pace.settles(after(5.0)));
        assert_eq!(pace.end_step(after(100.0), 1000), Some(Duration::ZERO));
    }
}
