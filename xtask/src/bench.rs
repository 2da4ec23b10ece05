//! `bench`: the criterion benchmarks of every crate, or of one.

use std::ffi::OsString;
use std::process::ExitCode;

use crate::workspace::{USAGE, cargo, complain, hand_over, say};

const HELP: &str = "\
Run the benchmarks of all crates, or of one.

usage: cargo xtask bench [-p CRATE] [FILTER] [CRITERION OPTIONS]

  -p, --package CRATE     only the benchmarks of this crate
  FILTER                  only the benchmarks whose name matches this regular expression
  --save-baseline NAME    save the figures under a name
  --baseline NAME         compare with figures saved under a name
  --quick                 fewer samples

Figures repeat within a few per cent only on an otherwise idle machine.
SELVEDGE_ISA caps the instruction set; `selvedge --help` names them all.
";

pub(crate) fn run(args: &[OsString]) -> ExitCode {
    if args.iter().any(|arg| arg == "--help" || arg == "-h") {
        say(HELP);
        return ExitCode::SUCCESS;
    }
    let (package, rest) = match split_package(args) {
        Ok(parts) => parts,
        Err(problem) => {
            complain(&format!("error: {problem}\n\n{HELP}"));
            return ExitCode::from(USAGE);
        }
    };
    let mut command = cargo("bench");
    match package {
        Some(package) => command.arg("--package").arg(package),
        None => command.arg("--workspace"),
    };
    // Benchmark targets only: the test harness of a library rejects criterion's options.
    command.args(["--bench", "*", "--"]).args(rest);
    hand_over(command)
}

/// The crate that `-p` or `--package` names, wherever it stands, and all other arguments, which are criterion's.
fn split_package(args: &[OsString]) -> Result<(Option<OsString>, Vec<OsString>), String> {
    let (mut package, mut rest) = (None, Vec::new());
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let text = arg.to_string_lossy();
        let named = match text.split_once('=') {
            Some(("-p" | "--package", name)) => OsString::from(name),
            _ if arg == "-p" || arg == "--package" => {
                args.next().cloned().ok_or_else(|| format!("{text} needs the name of a crate"))?
            }
            _ => {
                rest.push(arg.clone());
                continue;
            }
        };
        if package.replace(named).is_some() {
            return Err(format!("{text}: only one crate can be named"));
        }
    }
    Ok((package, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(args: &[&str]) -> Result<(Option<OsString>, Vec<OsString>), String> {
        split_package(&args.iter().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn the_crate_may_be_named_anywhere_and_once() {
        let expected = Ok((Some("a".into()), vec!["conv".into(), "--quick".into()]));
        assert_eq!(split(&["-p", "a", "conv", "--quick"]), expected);
        assert_eq!(split(&["conv", "--package", "a", "--quick"]), expected);
        assert_eq!(split(&["conv", "--quick", "--package=a"]), expected);
        assert_eq!(split(&["a=b"]), Ok((None, vec!["a=b".into()])));
        assert_eq!(split(&["conv", "-p"]), Err("-p needs the name of a crate".to_owned()));
        assert_eq!(split(&["-p", "a", "-p=b"]), Err("-p=b: only one crate can be named".to_owned()));
    }
}
