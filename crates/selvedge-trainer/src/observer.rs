//! [`Observer`]: receives the events of training; [`Console`] prints them.

use std::io::{self, IsTerminal, Write};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::download::{ConsoleProgress, Progress};
use crate::summary::HistoryLine;

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
}

impl Console {
    /// Checks whether standard error is a terminal.
    pub fn new() -> Self {
        Self { download: ConsoleProgress::new(), bar: None, terminal: io::stderr().is_terminal() }
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
        self.download.note(message);
    }
}

impl Observer for Console {
    fn network(&mut self, table: &str) {
        self.line(table);
    }

    fn epoch_begins(&mut self, epoch: u64, epochs: u64, done: u64, steps: u64) {
        if !self.terminal {
            return;
        }
        let bar = ProgressBar::with_draw_target(Some(steps), ProgressDrawTarget::stderr());
        // Should indicatif refuse this constant, its own default will do.
        if let Ok(style) = ProgressStyle::with_template("{prefix} {bar:30} {pos}/{len} {msg} {eta} left") {
            bar.set_style(style);
        }
        bar.set_prefix(format!("epoch {epoch}/{epochs}"));
        bar.set_position(done);
        self.bar = Some(bar);
    }

    fn step_ends(&mut self, loss: f64, accuracy: f64) {
        if let Some(bar) = &self.bar {
            // Formatting every step would cost more than drawing the few that are shown.
            if bar.position().is_multiple_of(16) {
                bar.set_message(format!("loss {loss:.4} accuracy {accuracy:.4}"));
            }
            bar.inc(1);
        }
    }

    fn epoch_ends(&mut self, line: &HistoryLine, epochs: u64) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
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
