//! `bench`: the criterion benchmarks of every crate, or of one.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use crate::workspace::{USAGE, cargo, complain, hand_over, root, say};

const HELP: &str = "\
Run the benchmarks.

usage: cargo xtask bench [--package CRATE] [FILTER] [CRITERION OPTIONS]

  --package, -p CRATE     only the benchmarks of this crate
  FILTER                  only the benchmarks whose name contains this
  --save-baseline NAME    keep the figures under a name
  --baseline NAME         compare with figures kept under a name
  --quick                 fewer samples

Two cores that do nothing else give figures that repeat within a few per cent.
SELVEDGE_ISA caps the instruction set: portable, avx2, avx512 or amx.
";

pub(crate) fn run(args: &[OsString]) -> ExitCode {
    if args.iter().any(|arg| arg == "--help" || arg == "-h") {
        say(HELP);
        return ExitCode::SUCCESS;
    }
    let (package, rest) = match args {
        [option, package, rest @ ..] if option == "--package" || option == "-p" => (Some(package), rest),
        [option] if option == "--package" || option == "-p" => {
            complain(&format!("error: {} needs the name of a crate\n\n{HELP}", option.display()));
            return ExitCode::from(USAGE);
        }
        rest => (None, rest),
    };
    if package.is_none() && !any_benches(&root().join("crates")) {
        say("no crate has benchmarks\n");
        return ExitCode::SUCCESS;
    }
    let mut command = cargo("bench");
    match package {
        Some(package) => command.arg("--package").arg(package),
        None => command.arg("--workspace"),
    };
    // Only benchmark targets: the test harness of a library would not know criterion's options.
    command.args(["--bench", "*", "--"]).args(rest);
    hand_over(command)
}

fn any_benches(crates: &Path) -> bool {
    let members = fs::read_dir(crates).into_iter().flatten().flatten();
    members.into_iter().any(|member| member.path().join("benches").is_dir())
}
