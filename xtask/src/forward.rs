//! `train`, `evaluate`, `predict`, `preview`, `profile`, `download`: subcommands of the trainer's program, as a release
//! build.

use std::env;
use std::ffi::OsString;
use std::process::ExitCode;

use crate::workspace::{cargo, hand_over, root};

/// Builds `selvedge` with optimisations and becomes it.
///
/// The working folder stays the caller's, so paths mean what they say; the repository's data is passed
/// by SELVEDGE_DATA, which a user may have set to another folder.
pub(crate) fn run(subcommand: &str, args: &[OsString]) -> ExitCode {
    let mut command = cargo("run");
    command.args(["--release", "--package", "selvedge-trainer", "--bin", "selvedge", "--", subcommand]);
    command.args(args);
    if env::var_os("SELVEDGE_DATA").is_none_or(|folder| folder.is_empty()) {
        command.env("SELVEDGE_DATA", root().join("data"));
    }
    hand_over(command)
}
