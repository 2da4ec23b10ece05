//! `ci`: format, lints, docs and tests, each with its time, and a summary that hides nothing.

use std::env;
use std::ffi::OsString;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use crate::workspace::{USAGE, cargo, complain, say};

const HELP: &str = "\
Run what continuous integration runs: format, lints, docs and tests of all crates.

usage: cargo xtask ci [--without-tests]

  --without-tests   leave the tests to a caller that runs `cargo test --workspace` itself

Every step runs, also after one has failed; the summary at the end says what failed, what was skipped
and why, and how long each step took. The exit code is 1 if any step failed. Skipping is no failure:
rustfmt and clippy may be missing from a toolchain, and a CPU may lack instruction sets.
";

/// What became of a step.
enum Outcome {
    Passed,
    Failed,
    Skipped(String),
}

struct Step {
    name: &'static str,
    command: Command,
    /// A cargo subcommand that not every toolchain has, and the rustup component that brings it.
    needs: Option<(&'static str, &'static str)>,
}

pub(crate) fn run(args: &[OsString]) -> ExitCode {
    let mut tests = true;
    for arg in args {
        match arg.to_str() {
            Some("--help" | "-h") => {
                say(HELP);
                return ExitCode::SUCCESS;
            }
            Some("--without-tests") => tests = false,
            _ => {
                complain(&format!("error: unknown option {}\n\n{HELP}", arg.display()));
                return ExitCode::from(USAGE);
            }
        }
    }
    let mut results = Vec::new();
    for step in steps(tests) {
        say(&format!("\n== {} ==\n", step.name));
        let began = Instant::now();
        let outcome = execute(step.command, step.needs);
        let elapsed = began.elapsed();
        say(&format!("== {}: {} ({}) ==\n", step.name, outcome.word(), seconds(elapsed)));
        results.push((step.name, outcome, elapsed));
    }
    summarise(&results);
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
    let mut steps = vec![
        Step { name: "format", command: format, needs: Some(("fmt", "rustfmt")) },
        Step { name: "lints", command: lints, needs: Some(("clippy", "clippy")) },
        Step { name: "docs", command: docs, needs: None },
    ];
    if tests {
        let mut tests = cargo("test");
        tests.args(["--workspace", "--locked", "--no-fail-fast"]);
        steps.push(Step { name: "tests", command: tests, needs: None });
    }
    steps
}

fn execute(mut command: Command, needs: Option<(&str, &str)>) -> Outcome {
    if let Some((subcommand, component)) = needs {
        let found = Command::new(command.get_program())
            .args([subcommand, "--version"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        if !found.is_ok_and(|status| status.success()) {
            return Outcome::Skipped(format!("{component} is not installed; `rustup component add {component}`"));
        }
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
    fn word(&self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "FAILED",
            Self::Skipped(_) => "SKIPPED",
        }
    }
}

fn summarise(results: &[(&str, Outcome, Duration)]) {
    say("\n================ summary ================\n");
    for (name, outcome, elapsed) in results {
        say(&format!("{:8} {:8} {:>8}\n", name, outcome.word(), seconds(*elapsed)));
    }
    let mut skipped: Vec<String> = results
        .iter()
        .filter_map(|(name, outcome, _)| match outcome {
            Outcome::Skipped(reason) => Some(format!("{name}: {reason}")),
            Outcome::Passed | Outcome::Failed => None,
        })
        .collect();
    let missing = missing_instruction_sets();
    if !missing.is_empty() {
        skipped.push(format!("kernels for {}: this CPU does not have them", missing.join(", ")));
    }
    if let Ok(cap) = env::var("SELVEDGE_ISA") {
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

/// The instruction sets that have kernels of their own and that no test here can run.
#[cfg(target_arch = "x86_64")]
fn missing_instruction_sets() -> Vec<&'static str> {
    let avx512 = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq");
    // The standard library cannot be asked for AMX in stable Rust; Linux tells.
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let amx = cpuinfo.split_ascii_whitespace().any(|flag| flag == "amx_bf16");
    [
        ("AVX2 with FMA", is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")),
        ("AVX-512", avx512),
        ("AMX", amx),
    ]
    .into_iter()
    .filter_map(|(name, present)| (!present).then_some(name))
    .collect()
}

#[cfg(not(target_arch = "x86_64"))]
fn missing_instruction_sets() -> Vec<&'static str> {
    vec!["AVX2 with FMA", "AVX-512", "AMX"]
}
