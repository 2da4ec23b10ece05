//! A flame graph of a recipe's training steps: sampled by `perf`, which exists on Linux only, folded and drawn by `inferno`.
//!
//! `perf record` samples this process for a few seconds while it takes steps. It samples by a timer (`cpu-clock`), because
//! virtual machines have no hardware counters, and unwinds stacks by the tables that every Rust program has, so that no
//! special build is needed.

use std::fs::File;
use std::io::{self, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use inferno::collapse::Collapse;
use inferno::collapse::perf::Folder;
use inferno::flamegraph::{Options, from_reader};

use super::{ProfileError, TimedRecipe};

/// The seconds to sample, and the samples per second: few, because each writes up to 64 KiB of stack.
const SECONDS: &str = "3";
const SAMPLES_PER_SECOND: &str = "199";

/// Samples the recipe's steps for a few seconds and writes the flame graph to `path`.
///
/// # Errors
/// [`ProfileError::NoPerf`] without `perf`, [`ProfileError::Perf`] if it fails, [`ProfileError::Write`] if the file
/// cannot be written.
pub fn write(recipe: &mut TimedRecipe, path: &Path) -> Result<(), ProfileError> {
    // A file that cannot be written is refused before anything is sampled.
    let output = File::create(path).map_err(refused(path))?;
    let samples = path.with_extension("perf.data");
    let result = record(recipe, &samples).and_then(|()| draw(&samples, output, path));
    match (std::fs::remove_file(&samples), result) {
        (Err(source), Ok(())) => Err(ProfileError::Write { path: samples, source }),
        (_, Err(error)) => {
            // An empty file would look like a result. It may be missing already.
            let _ = std::fs::remove_file(path);
            Err(error)
        }
        (Ok(()), Ok(())) => Ok(()),
    }
}

/// Checks that `perf` can be run.
///
/// # Errors
/// [`ProfileError::NoPerf`] with what to install.
pub fn check() -> Result<(), ProfileError> {
    let mut perf = Command::new("perf");
    perf.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    match perf.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => {
            let source = io::Error::other(format!("`perf --version` ended with {status}"));
            Err(ProfileError::NoPerf { source })
        }
        Err(source) => Err(ProfileError::NoPerf { source }),
    }
}

fn record(recipe: &mut TimedRecipe, samples: &Path) -> Result<(), ProfileError> {
    check()?;
    let mut perf = Command::new("perf");
    // Kernels keep tiles on the stack, so their callers are tens of kilobytes away.
    perf.args(["record", "--event", "cpu-clock", "--freq", SAMPLES_PER_SECOND, "--call-graph", "dwarf,65528"]);
    perf.arg("--output").arg(samples).args(["--pid", &std::process::id().to_string(), "--", "sleep", SECONDS]);
    let mut perf = start(perf, Stdio::null())?;
    recipe.run_until(|| !matches!(perf.try_wait(), Ok(None)));
    finish(perf, "record")
}

fn draw(samples: &Path, output: File, path: &Path) -> Result<(), ProfileError> {
    let mut perf = Command::new("perf");
    // Without it, perf searches for inlined functions in debug information that release builds lack, for minutes.
    perf.args(["script", "--no-inline", "--input"]).arg(samples);
    let mut perf = start(perf, Stdio::piped())?;
    let mut folded = Vec::new();
    let collapsed = match perf.stdout.take() {
        Some(stdout) => Folder::default().collapse(BufReader::new(stdout), &mut folded),
        None => Ok(()),
    };
    finish(perf, "script")?;
    let problem = |error: String| ProfileError::Perf { subcommand: "script", problem: error };
    collapsed.map_err(|error| problem(error.to_string()))?;
    if folded.is_empty() {
        return Err(problem("it printed no stack".to_owned()));
    }
    let mut options = Options::default();
    "Training steps".clone_into(&mut options.title);
    from_reader(&mut options, &folded[..], output).map_err(|error| refused(path)(io::Error::other(error.to_string())))
}

fn start(mut perf: Command, stdout: Stdio) -> Result<Child, ProfileError> {
    perf.stdin(Stdio::null()).stdout(stdout).stderr(Stdio::piped());
    perf.spawn().map_err(|source| ProfileError::NoPerf { source })
}

/// Waits for `perf` to end. It prints too little to fill the pipe meanwhile.
fn finish(perf: Child, subcommand: &'static str) -> Result<(), ProfileError> {
    let failed = |problem: String| ProfileError::Perf { subcommand, problem };
    let output = perf.wait_with_output().map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = words.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    Err(failed(match lines[..] {
        [] => output.status.to_string(),
        _ => lines.join(" "),
    }))
}

fn refused(path: &Path) -> impl Fn(io::Error) -> ProfileError + '_ {
    move |source| ProfileError::Write { path: path.to_owned(), source }
}
