//! `ci`: format, lints, docs, dependencies, the minimum Rust version and tests, each with its time, and a summary that
//! names what failed and what was skipped.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use crate::arm;
use crate::step::{Outcome, Tool, Work, execute, succeeds};
use crate::workspace::{USAGE, cargo, complain, root, say};

const HELP: &str = "\
Run what continuous integration runs.

usage: cargo xtask ci [--without-tests | --msrv | --arm]

  --without-tests   leave the tests to a caller that runs `cargo test --workspace` itself
  --msrv            only build with the minimum Rust version; fail if that toolchain is missing
  --arm             only build and test for 64-bit ARM, under emulation, with a cross compiler and qemu

  format            cargo fmt --check
  lints             cargo clippy, warnings are errors
  docs              cargo doc, warnings are errors
  dependencies      cargo deny check bans licenses sources (deny.toml); advisories need a network and are left out
  msrv              cargo check of all targets with the `rust-version` of Cargo.toml
  tests             cargo test --workspace

Every step runs, even after one has failed. The summary names what failed, what was skipped and why, and the time of
each step. The exit code is 1 if a step failed. A step whose tool is not installed is skipped, which is no failure;
so are the kernels of instruction sets that the CPU lacks.
";

struct Step {
    name: &'static str,
    command: Command,
    /// What the step needs and not every machine has.
    needs: Option<Tool>,
}

pub(crate) fn run(args: &[OsString]) -> ExitCode {
    let (mut tests, mut only_msrv, mut only_arm) = (true, false, false);
    for arg in args {
        match arg.to_str() {
            Some("--help" | "-h") => {
                say(HELP);
                return ExitCode::SUCCESS;
            }
            Some("--without-tests") => tests = false,
            Some("--msrv") => only_msrv = true,
            Some("--arm") => only_arm = true,
            _ => {
                complain(&format!("error: unknown option {}\n\n{HELP}", arg.display()));
                return ExitCode::from(USAGE);
            }
        }
    }
    if only_arm {
        return run_all(arm::steps(), false);
    }
    let steps = if only_msrv { vec![msrv()] } else { steps(tests) };
    let work = |step: Step| -> (&'static str, Work) {
        let work = move || match execute(step.command, step.needs) {
            Outcome::Skipped(reason) if only_msrv => {
                complain(&format!("error: {reason}\n"));
                Outcome::Failed
            }
            outcome => outcome,
        };
        (step.name, Box::new(work))
    };
    run_all(steps.into_iter().map(work).collect(), !only_msrv)
}

/// Runs the steps one after the other and prints a summary. `tests`: also which kernels no test on this machine can run.
fn run_all(steps: Vec<(&'static str, Work)>, tests: bool) -> ExitCode {
    let mut results = Vec::new();
    for (name, work) in steps {
        say(&format!("\n== {name} ==\n"));
        let began = Instant::now();
        let outcome = work();
        let elapsed = began.elapsed();
        say(&format!("== {name}: {} ({}) ==\n", outcome.word(), seconds(elapsed)));
        results.push((name, outcome, elapsed));
    }
    summarise(&results, tests);
    match results.iter().any(|(_, outcome, _)| matches!(outcome, Outcome::Failed)) {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    }
}

fn steps(tests: bool) -> Vec<Step> {
    let mut format = cargo("fmt");
    format.args(["--all", "--check"]);
    let mut lints = cargo("clippy");
    lints.args(["--workspace", "--all-targets", "--locked", "--", "-D", "warnings"]);
    let mut docs = cargo("doc");
    docs.args(["--workspace", "--no-deps", "--locked"]);
    docs.env("RUSTDOCFLAGS", "-D warnings");
    let mut dependencies = cargo("deny");
    dependencies.args(["--locked", "check", "bans", "licenses", "sources"]);
    let mut steps = vec![
        Step { name: "format", command: format, needs: Some(component("fmt", "rustfmt")) },
        Step { name: "lints", command: lints, needs: Some(component("clippy", "clippy")) },
        Step { name: "docs", command: docs, needs: None },
        Step {
            name: "dependencies",
            command: dependencies,
            needs: Some(subcommand(
                "deny",
                "cargo-deny is not installed; `cargo install --locked cargo-deny`".to_owned(),
            )),
        },
        msrv(),
    ];
    if tests {
        let mut tests = cargo("test");
        tests.args(["--workspace", "--locked", "--no-fail-fast"]);
        steps.push(Step { name: "tests", command: tests, needs: None });
    }
    steps
}

/// A build of every target with the oldest Rust that the workspace supports, by the toolchain that rustup has of it.
fn msrv() -> Step {
    let version = rust_version();
    // rustup keeps the toolchain under the name that it was installed by.
    let names = [version.clone(), format!("{version}.0")];
    let toolchain = names.iter().find(|name| succeeds(&mut rustup_run(name, &["rustc", "--version"])));
    let toolchain = toolchain.unwrap_or(&version);
    let mut command = rustup_run(toolchain, &["cargo", "check", "--workspace", "--all-targets", "--locked"]);
    command.arg("--manifest-path").arg(root().join("Cargo.toml"));
    let missing = format!("Rust {version} is not installed; `rustup toolchain install {version} --profile minimal`");
    let needs = Tool { probe: rustup_run(toolchain, &["rustc", "--version"]), missing };
    Step { name: "msrv", command, needs: Some(needs) }
}

fn rustup_run(toolchain: &str, command: &[&str]) -> Command {
    let mut rustup = Command::new("rustup");
    // A check must not download a toolchain.
    rustup.env("RUSTUP_AUTO_INSTALL", "0").args(["run", toolchain]).args(command);
    rustup
}

/// The `rust-version` of the workspace.
fn rust_version() -> String {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap_or_default();
    let value = manifest.lines().find_map(|line| line.strip_prefix("rust-version = "));
    value.unwrap_or_default().trim_matches('"').to_owned()
}

/// A cargo subcommand that rustup brings as a component.
fn component(name: &str, component: &str) -> Tool {
    subcommand(name, format!("{component} is not installed; `rustup component add {component}`"))
}

fn subcommand(name: &str, missing: String) -> Tool {
    let mut probe = Command::new(cargo(name).get_program());
    probe.args([name, "--version"]);
    Tool { probe, missing }
}

/// Prints what became of each step. `tests`: also which kernels no test on this machine can run.
fn summarise(results: &[(&str, Outcome, Duration)], tests: bool) {
    say("\n================ summary ================\n");
    for (name, outcome, elapsed) in results {
        say(&format!("{:12} {:8} {:>8}\n", name, outcome.word(), seconds(*elapsed)));
    }
    let mut skipped: Vec<String> = results
        .iter()
        .filter_map(|(name, outcome, _)| match outcome {
            Outcome::Skipped(reason) => Some(format!("{name}: {reason}")),
            Outcome::Passed | Outcome::Failed => None,
        })
        .collect();
    if tests {
        skipped.extend(untested_kernels());
    }
    if let Ok(cap) = env::var("SELVEDGE_ISA")
        && tests
    {
        skipped.push(format!("kernels above {cap}: SELVEDGE_ISA caps the instruction set"));
    }
    for reason in &skipped {
        say(&format!("SKIPPED  {reason}\n"));
    }
    if skipped.is_empty() {
        say("nothing was skipped\n");
    }
}

fn seconds(elapsed: Duration) -> String {
    format!("{:.1} s", elapsed.as_secs_f64())
}

/// The instruction sets whose kernels no test here can run; the compute crate detects them.
fn untested_kernels() -> Option<String> {
    let mut command = cargo("run");
    command.args(["--quiet", "--locked", "--package", "selvedge-compute", "--example", "instruction_sets"]);
    let output = command.stderr(Stdio::null()).output().ok().filter(|output| output.status.success());
    let Some(output) = output else {
        return Some("kernels: the example `instruction_sets`, which lists those this CPU can run, failed".to_owned());
    };
    let text = String::from_utf8_lossy(&output.stdout);
    let missing: Vec<&str> = text.lines().filter_map(|line| line.strip_suffix(" no")).map(str::trim).collect();
    (!missing.is_empty()).then(|| format!("kernels for {}: this CPU lacks these instruction sets", missing.join(", ")))
}
