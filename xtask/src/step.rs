//! A step of `ci`: a command that may need a tool, and what became of it.

use std::process::{Command, Stdio};

use crate::workspace::complain;

/// What became of a step.
pub(crate) enum Outcome {
    Passed,
    Failed,
    Skipped(String),
}

/// What a step does.
pub(crate) type Work = Box<dyn FnOnce() -> Outcome>;

/// A program that may be missing.
pub(crate) struct Tool {
    /// Succeeds where the tool is installed.
    pub(crate) probe: Command,
    /// What is missing, and how to install it.
    pub(crate) missing: String,
}

/// Whether a command that prints nothing succeeds.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// Runs a command, unless the tool that it needs is missing.
pub(crate) fn execute(mut command: Command, needs: Option<Tool>) -> Outcome {
    if let Some(mut tool) = needs
        && !succeeds(&mut tool.probe)
    {
        return Outcome::Skipped(tool.missing);
    }
    match command.status() {
        Ok(status) if status.success() => Outcome::Passed,
        Ok(_) => Outcome::Failed,
        Err(error) => {
            complain(&format!("error: cannot start {}: {error}\n", command.get_program().display()));
            Outcome::Failed
        }
    }
}

impl Outcome {
    /// The word of the summary.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "FAILED",
            Self::Skipped(_) => "SKIPPED",
        }
    }
}
