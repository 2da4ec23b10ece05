//! `cargo xtask TASK`: everything that is done with this repository, one file a task.
//!
//! Nothing but the standard library, so that the first `cargo xtask` is built in a second or two; the
//! trainer it starts is always a release build.
#![forbid(unsafe_code)]

mod bench;
mod ci;
mod forward;
mod workspace;

use std::env;
use std::ffi::OsString;
use std::process::ExitCode;

const HELP: &str = "\
Selvedge: trains convolutional networks on Fashion-MNIST on the CPU.

usage: cargo xtask TASK [OPTIONS]

  train      train a network; with no options: recipe `seed` on Fashion-MNIST, offline
  evaluate   accuracy, loss and per-class table of a finished run on the test set
  predict    classes and probabilities of PNG files
  preview    draw a sheet of what training sees, or of a data set
  profile    how near each operation, and each layer of a recipe, is to the hardware's limit
  download   verify Fashion-MNIST; get another data set by name
  bench      the benchmarks of the crates
  ci         format, lints, docs and tests: what continuous integration runs
  help       this text

`cargo xtask TASK --help` tells a task's options.
train, evaluate, predict, preview, profile and download are subcommands of the program `selvedge`, which is
built with optimisations first; files named on the command line are looked up from where you stand, and data sets
in the repository's `data` unless SELVEDGE_DATA names another folder.

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 and 143 interrupted.
";

fn main() -> ExitCode {
    let mut args: Vec<OsString> = env::args_os().skip(1).collect();
    let Some(task) = args.first().map(|task| task.to_string_lossy().into_owned()) else {
        workspace::complain(HELP);
        return ExitCode::from(workspace::USAGE);
    };
    let rest = args.split_off(1);
    match task.as_str() {
        "train" | "evaluate" | "predict" | "preview" | "profile" | "download" => forward::run(&task, &rest),
        "bench" => bench::run(&rest),
        "ci" => ci::run(&rest),
        "help" | "--help" | "-h" => {
            workspace::say(HELP);
            ExitCode::SUCCESS
        }
        unknown => {
            workspace::complain(&format!("error: no task is called {unknown:?}\n\n{HELP}"));
            ExitCode::from(workspace::USAGE)
        }
    }
}
