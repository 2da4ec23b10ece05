//! `cargo xtask TASK`: every task of this repository.
//!
//! A task of this crate is one file, a line in `help` and an arm in `main`; the commands of `selvedge` are found in the
//! trainer's source. Only the standard library is used, so that the first `cargo xtask` builds in a second or two.
#![forbid(unsafe_code)]

mod arm;
mod bench;
mod ci;
mod selvedge;
mod step;
mod workspace;

use std::env;
use std::ffi::OsString;
use std::process::ExitCode;

fn help() -> String {
    let commands: String =
        selvedge::subcommands().iter().map(|command| format!("  {:<9}  {}\n", command.name, command.summary)).collect();
    format!(
        "\
Selvedge trains convolutional networks on Fashion-MNIST on the CPU.

usage: cargo xtask TASK [OPTIONS]

Commands of the program `selvedge`, which is first built in release mode:
{commands}
Tasks of the repository:
  bench      Run the benchmarks of the crates
  ci         Run what continuous integration runs: format, lints, docs, tests and more
  help       Print this text

`cargo xtask TASK --help` lists the options of a task.
Paths on the command line are relative to the current folder. Data sets are looked up in the repository's folder
`data`, or in the folder that SELVEDGE_DATA names.

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 and 143 interrupted.
"
    )
}

fn main() -> ExitCode {
    let mut args: Vec<OsString> = env::args_os().skip(1).collect();
    let Some(task) = args.first().map(|task| task.to_string_lossy().into_owned()) else {
        workspace::complain(&help());
        return ExitCode::from(workspace::USAGE);
    };
    let rest = args.split_off(1);
    match task.as_str() {
        "bench" => bench::run(&rest),
        "ci" => ci::run(&rest),
        "help" | "--help" | "-h" => {
            workspace::say(&help());
            ExitCode::SUCCESS
        }
        command if selvedge::subcommands().iter().any(|known| known.name == command) => selvedge::run(command, &rest),
        unknown => {
            workspace::complain(&format!("error: there is no task {unknown:?}\n\n{}", help()));
            ExitCode::from(workspace::USAGE)
        }
    }
}
