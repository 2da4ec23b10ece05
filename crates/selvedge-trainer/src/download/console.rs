//! Progress of downloads, for terminals and logs.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::fetch::Progress;

/// Shows a bar on standard error if that is a terminal, else a line when a file begins and one when it is complete.
#[derive(Debug)]
pub struct ConsoleProgress {
    bar: Option<ProgressBar>,
    terminal: bool,
}

impl ConsoleProgress {
    /// Checks whether standard error is a terminal.
    pub fn new() -> Self {
        Self { bar: None, terminal: io::stderr().is_terminal() }
    }

    fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| tell(text)),
            None => tell(text),
        }
    }
}

/// Prints a line on standard error. Unlike `eprintln!` it does not panic if nobody reads it, as in `2>&1 | head -1`.
pub(crate) fn tell(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

impl Default for ConsoleProgress {
    fn default() -> Self {
        Self::new()
    }
}

impl Progress for ConsoleProgress {
    fn begin(&mut self, file: &str, url: &str) {
        if !self.terminal {
            self.line(&format!("downloading {url}"));
            return;
        }
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        let template = "{msg:28} {bar:30} {bytes:>10} of {total_bytes}  {bytes_per_sec}  {eta} left";
        // Should indicatif refuse this constant, its own default will do.
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(file.to_owned());
        bar.enable_steady_tick(Duration::from_millis(200));
        self.bar = Some(bar);
    }

    fn advance(&mut self, got: u64, total: Option<u64>) {
        if let Some(bar) = &self.bar {
            if let Some(total) = total {
                bar.set_length(total);
            }
            bar.set_position(got);
        }
    }

    fn end(&mut self, file: &str) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        self.line(&format!("downloaded and verified {file}"));
    }

    fn note(&mut self, message: &str) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        self.line(&format!("note: {message}"));
    }
}
