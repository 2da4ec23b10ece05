//! [`Observer`]: receives the events of training; [`Console`] prints them.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::download::{ConsoleProgress, Progress};
use crate::seeds::Turn;
use crate::summary::HistoryLine;
use crate::time_left::in_words;

pub use crate::time_left::Estimate;

/// Receives the events of training. The provided methods do nothing. Notes arrive by [`Progress::note`].
pub trait Observer: Progress + Send {
    /// The network has been built; `table` lists its layers.
    fn network(&mut self, table: &str) {
        let _ = table;
    }
    /// An epoch, counted from 1, begins, or resumes after `done` of its `steps`.
    fn epoch_begins(&mut self, epoch: u64, epochs: u64, done: u64, steps: u64) {
        let _ = (epoch, epochs, done, steps);
    }
    /// Once, after about a second of training: how long it will take.
    fn estimate(&mut self, estimate: &Estimate) {
        let _ = estimate;
    }
    /// The time until the run's last epoch ends, by the pace so far. It comes before each [`Observer::step_ends`] but the
    /// process's first.
    fn time_left(&mut self, left: Duration) {
        let _ = left;
    }
    /// A step has ended: mean loss and accuracy of the epoch so far.
    fn step_ends(&mut self, loss: f64, accuracy: f64) {
        let _ = (loss, accuracy);
    }
    /// An epoch has ended.
    fn epoch_ends(&mut self, line: &HistoryLine, epochs: u64) {
        let _ = (line, epochs);
    }
}

/// Ignores every event.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {}
impl Observer for Silent {}

/// Prints a line per epoch on standard output, and a progress bar on standard error if that is a terminal.
#[derive(Debug)]
pub struct Console {
    download: ConsoleProgress,
    bar: Option<ProgressBar>,
    terminal: bool,
    left: Option<Duration>,
    /// The turn of a seed among several, whose layers and epochs are not printed.
    turn: Option<Turn>,
}

impl Console {
    /// Checks whether standard error is a terminal.
    pub fn new() -> Self {
        Self {
            download: ConsoleProgress::new(),
            bar: None,
            terminal: io::stderr().is_terminal(),
            left: None,
            turn: None,
        }
    }

    /// For a seed among several: only the bar and notes.
    pub(crate) fn for_seed(turn: Turn) -> Self {
        Self { turn: Some(turn), ..Self::new() }
    }

    /// Ignores errors: a closed pipe must not end a training run.
    fn line(&self, text: &str) {
        let print = || drop(writeln!(io::stdout().lock(), "{text}"));
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }
}

impl Default for Console {
    fn default() -> Self {
        Self::new()
    }
}

impl Progress for Console {
    fn begin(&mut self, file: &str, url: &str) {
        self.download.begin(file, url);
    }
    fn advance(&mut self, got: u64, total: Option<u64>) {
        self.download.advance(got, total);
    }
    fn end(&mut self, file: &str) {
        self.download.end(file);
    }
    fn note(&mut self, message: &str) {
        let download = &mut self.download;
        match &self.bar {
            Some(bar) => bar.suspend(|| download.note(message)),
            None => download.note(message),
        }
    }
}

impl Observer for Console {
    fn network(&mut self, table: &str) {
        if self.turn.is_none() {
            self.line(table);
        }
    }

    fn estimate(&mut self, estimate: &Estimate) {
        self.note(&estimate_in_words(estimate, self.turn));
    }

    fn time_left(&mut self, left: Duration) {
        self.left = Some(left);
    }

    fn epoch_begins(&mut self, epoch: u64, epochs: u64, done: u64, steps: u64) {
        if !self.terminal {
            return;
        }
        let bar = ProgressBar::with_draw_target(Some(steps), ProgressDrawTarget::stderr());
        // Should indicatif refuse this constant, its own default will do.
        if let Ok(style) = ProgressStyle::with_template("{prefix} {bar:30} {pos}/{len} {msg}") {
            bar.set_style(style);
        }
        let seed =
            self.turn.map(|Turn { seed, number, of }| format!("seed {seed} ({number}/{of}) ")).unwrap_or_default();
        bar.set_prefix(format!("{seed}epoch {epoch}/{epochs}"));
        bar.set_position(done);
        self.bar = Some(bar);
    }

    fn step_ends(&mut self, loss: f64, accuracy: f64) {
        if let Some(bar) = &self.bar {
            // Formatting every step would cost more than drawing the few that are shown.
            if bar.position().is_multiple_of(16) {
                let left = self.left.map(|left| format!("  {} left", in_words(left))).unwrap_or_default();
                bar.set_message(format!("loss {loss:.4} accuracy {accuracy:.4}{left}"));
            }
            bar.inc(1);
        }
    }

    fn epoch_ends(&mut self, line: &HistoryLine, epochs: u64) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        if self.turn.is_some() {
            return;
        }
        let validation = match (line.validation_loss, line.validation_accuracy) {
            (Some(loss), Some(accuracy)) => format!("  validation loss {loss:.4} accuracy {accuracy:.4}"),
            _ => String::new(),
        };
        self.line(&format!(
            "epoch {:>width$}/{epochs}  loss {:.4} accuracy {:.4}{validation}  rate {:.2e}  {:.0} images/s",
            line.epoch,
            line.train_loss,
            line.train_accuracy,
            line.learning_rate,
            line.images_per_second,
            width = epochs.to_string().len(),
        ));
    }
}

/// `about 3 min 20 s of training left on 2 threads (avx512, f32)`.
fn estimate_in_words(estimate: &Estimate, turn: Option<Turn>) -> String {
    let Estimate { left, threads, isa, precision, may_stop_early } = estimate;
    let threads = if *threads == 1 { "1 thread".to_owned() } else { format!("{threads} threads") };
    let seed = turn.map(|Turn { seed, number, of }| format!(" of seed {seed} ({number} of {of})")).unwrap_or_default();
    let early = if *may_stop_early { "; less if it stops early" } else { "" };
    format!("about {} of training{seed} left on {threads} ({isa}, {precision}){early}", in_words(*left))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn estimates_name_what_they_depend_on() {
        let estimate = |threads, may_stop_early| Estimate {
            left: Duration::from_secs(200),
            threads,
            isa: "avx512".to_owned(),
            precision: "f32".to_owned(),
            may_stop_early,
        };
        let text = estimate_in_words(&estimate(2, false), None);
        assert_eq!(text, "about 3 min 20 s of training left on 2 threads (avx512, f32)");
        let text = estimate_in_words(&estimate(1, true), Some(Turn { seed: 7, number: 2, of: 5 }));
        let expected =
            "about 3 min 20 s of training of seed 7 (2 of 5) left on 1 thread (avx512, f32); less if it stops early";
        assert_eq!(text, expected);
    }
}
