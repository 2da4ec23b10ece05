//! [`Observer`]: is told how training goes; [`Console`] shows it to a person.

use std::io::{self, IsTerminal, Write};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::download::{ConsoleProgress, Progress};
use crate::summary::HistoryLine;

/// Is told how training goes. Every method does nothing unless it is written; notes arrive by [`Progress::note`].
pub trait Observer: Progress + Send {
    /// The network is built; `table` shows its layers.
    fn network(&mut self, table: &str) {
        let _ = table;
    }
    /// An epoch, counted from 1, begins or goes on: `done` of its `steps` are behind.
    fn epoch_begins(&mut self, epoch: u64, epochs: u64, done: u64, steps: u64) {
        let _ = (epoch, epochs, done, steps);
    }
    /// A step is done: the mean loss and the accuracy of the epoch so far.
    fn step_ends(&mut self, loss: f64, accuracy: f64) {
        let _ = (loss, accuracy);
    }
    /// An epoch is done.
    fn epoch_ends(&mut self, line: &HistoryLine, epochs: u64) {
        let _ = (line, epochs);
    }
}

/// Sees nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {}
impl Observer for Silent {}

/// A line on standard output for each epoch, and a bar on standard error if that is a terminal.
#[derive(Debug)]
pub struct Console {
    download: ConsoleProgress,
    bar: Option<ProgressBar>,
    terminal: bool,
}

impl Console {
    /// Looks at standard error once.
    pub fn new() -> Self {
        Self { download: ConsoleProgress::new(), bar: None, terminal: io::stderr().is_terminal() }
    }

    /// A closed pipe must not end a training run.
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
        // The template is a constant; should indicatif ever refuse it, its own default serves.
        if let Ok(style) = ProgressStyle::with_template("{prefix} {bar:30} {pos}/{len} {msg} {eta} left") {
            bar.set_style(style);
        }
        bar.set_prefix(format!("epoch {epoch}/{epochs}"));
        bar.set_position(done);
        self.bar = Some(bar);
    }

    fn step_ends(&mut self, loss: f64, accuracy: f64) {
        if let Some(bar) = &self.bar {
            // Formatting is for the few steps that are drawn.
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
