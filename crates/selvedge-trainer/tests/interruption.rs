//! The program under adverse conditions: signals, kill -9, closed pipes, a full disk, two runs at once.
#![cfg(unix)]

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Workplace, assert_fails, stdout};

impl Workplace {
    fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Trains with files limited to `bytes`, as on a full disk.
    fn train_within(&self, bytes: u64, args: &[&str]) -> Command {
        let train = self.training(args);
        let mut command = Command::new("sh");
        let script = format!("trap '' XFSZ; ulimit -f {}; exec \"$0\" \"$@\"", bytes / 512);
        command.current_dir(self.path()).arg("-c").arg(script).arg(train.get_program()).args(train.get_args());
        command
    }

    fn weights(&self, run: &str) -> String {
        let text = fs::read_to_string(self.file(run).join("summary.json")).unwrap();
        let summary: serde_json::Value = serde_json::from_str(&text).unwrap();
        summary["weights_sha256"].as_str().unwrap().to_owned()
    }
}

/// Waits until the file has `bytes`. The process must not end before.
fn wait_for(child: &mut Child, file: &Path, bytes: u64) {
    let begun = Instant::now();
    while fs::metadata(file).map_or(0, |found| found.len()) < bytes {
        assert!(begun.elapsed() < Duration::from_secs(60), "{} is not there after a minute", file.display());
        assert!(child.try_wait().unwrap().is_none(), "ended too early");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn send(signal: &str, child: &Child) {
    let sent = Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

#[test]
fn ctrl_c_and_sigterm_save_and_say_how_to_continue() {
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let place = Workplace::new();
        let mut child = place.training(&["--epochs", "1000000", "--out", "run"]).spawn().unwrap();
        wait_for(&mut child, &place.file("run/history.jsonl"), 1);
        send(signal, &child);
        // A full pipe would block the process.
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(code));
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(stderr.contains("--resume run"), "{stderr}");
        assert!(place.file("run/last.ckpt").is_file() && !place.file("run/summary.json").exists());
    }
}

#[test]
fn a_killed_run_that_is_resumed_ends_with_the_same_bits() {
    let place = Workplace::new();
    stdout(&place.training(&["--epochs", "60", "--out", "whole"]).output().unwrap());
    for (run, bytes) in [("early", 1), ("later", 5000)] {
        let mut child = place.training(&["--epochs", "60", "--out", run]).spawn().unwrap();
        wait_for(&mut child, &place.file(run).join("history.jsonl"), bytes);
        child.kill().unwrap();
        child.wait().unwrap();
        stdout(&place.command(&["train", "--resume", run, "--threads", "1"]).output().unwrap());
        assert_eq!(place.weights(run), place.weights("whole"), "{run}");
        let lines = |run: &str| fs::read_to_string(place.file(run).join("history.jsonl")).unwrap().lines().count();
        assert_eq!(lines(run), lines("whole"));
    }
}

#[test]
fn interrupted_seeds_continue_where_they_were() {
    let place = Workplace::new();
    let mut child = place.training(&["--epochs", "60", "--seeds", "3", "--out", "many"]).spawn().unwrap();
    wait_for(&mut child, &place.file("many/seed-2/history.jsonl"), 1);
    send("INT", &child);
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(130) && stderr.contains("--resume many"), "{stderr}");
    assert!(place.file("many/seed-1/summary.json").is_file() && !place.file("many/seed-2/summary.json").exists());
    assert!(place.file("many/seed-2/last.ckpt").is_file() && !place.file("many/seed-3").exists());
    let first = fs::metadata(place.file("many/seed-1/summary.json")).unwrap().modified().unwrap();

    let text = stdout(&place.command(&["train", "--resume", "many"]).output().unwrap());
    assert!(["seed 1", "seed 2", "seed 3", "standard error"].iter().all(|part| text.contains(part)), "{text}");
    assert_eq!(fs::metadata(place.file("many/seed-1/summary.json")).unwrap().modified().unwrap(), first);
    stdout(&place.training(&["--epochs", "60", "--seed", "2", "--out", "alone"]).output().unwrap());
    assert_eq!(place.weights("many/seed-2"), place.weights("alone"));
}

#[test]
fn the_time_left_is_told_after_a_second_of_training() {
    let place = Workplace::new();
    let patient = ["--epochs", "1000000", "--set", "early_stopping.patience=1000000"];
    let mut training = place.training(&[&patient[..], &["--out", "run"]].concat());
    // A pipe that nobody reads would fill up with lines of epochs.
    let mut child = training.stdout(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let told = lines.find_map(|line| line.ok().filter(|line| line.starts_with("note: about ")));
    child.kill().unwrap();
    child.wait().unwrap();
    let told = told.unwrap();
    let ends = told.contains(" of training left on 2 threads (") && told.ends_with(", f32); less if it stops early");
    assert!(ends, "{told}");
}

#[test]
fn a_run_in_progress_is_not_resumed() {
    let place = Workplace::new();
    let mut child = place.training(&["--epochs", "1000000", "--out", "run"]).spawn().unwrap();
    wait_for(&mut child, &place.file("run/history.jsonl"), 1);
    let second = place.command(&["train", "--resume", "run"]).output().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_fails(&second, 1, &["another process is training in run"]);
}

#[test]
fn runs_of_the_same_second_have_different_folders() {
    let place = Workplace::new();
    let begun: Vec<Child> = (0..3).map(|_| place.training(&["--epochs", "1"]).spawn().unwrap()).collect();
    for child in begun {
        stdout(&child.wait_with_output().unwrap());
    }
    let runs: Vec<_> = fs::read_dir(place.file("runs")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(runs.len(), 3, "{runs:?}");
    assert!(runs.iter().all(|run| run.join("summary.json").is_file()));
}

#[test]
fn a_full_disk_is_an_error_and_what_was_saved_stays() {
    let place = Workplace::new();
    // There is room for the recipe and the history, but not for a checkpoint.
    assert_fails(
        &place.train_within(5120, &["--out", "run"]).output().unwrap(),
        1,
        &["cannot write", ".ckpt", "File too large"],
    );
    let mut names: Vec<_> = fs::read_dir(place.file("run")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, [".lock", "history.jsonl", "recipe.toml"], "nothing half-written");
    stdout(&place.command(&["train", "--resume", "run"]).output().unwrap());
    stdout(&place.training(&["--out", "whole"]).output().unwrap());
    assert_eq!(place.weights("run"), place.weights("whole"));
}

/// Runs the program with both pipes closed at the readers' ends.
fn unheard(mut command: Command) -> Option<i32> {
    let mut child = command.spawn().unwrap();
    drop((child.stdout.take(), child.stderr.take()));
    child.wait().unwrap().code()
}

#[test]
fn closed_pipes_end_no_run_and_cause_no_panic() {
    let place = Workplace::new();
    assert_eq!(unheard(place.training(&["--out", "run"])), Some(0));
    assert!(place.file("run/summary.json").is_file());
    assert_eq!(unheard(place.command(&["evaluate", "run"])), Some(0));
    assert_eq!(unheard(place.command(&["download", "--list"])), Some(0));
    assert_eq!(unheard(place.command(&["evaluate", "nowhere"])), Some(1));
    assert_eq!(unheard(place.command(&["--help"])), Some(0));
    // As in `selvedge train | head -1`: reading stops after the first byte.
    let mut child = place.training(&["--out", "second"]).spawn().unwrap();
    child.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(0));
    assert!(place.file("second/summary.json").is_file());
}

/// A search of eight runs, each of which takes a moment.
const SEARCH: &str = r#"recipe = "small.toml"
validation = 30
set = { dataset = "data" }
halving = { rungs = [30, 60], keep = 0.3 }
[values]
optimizer.learning_rate = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3]
"#;

impl Workplace {
    fn searching(&self, args: &[&str]) -> Command {
        fs::write(self.file("s.toml"), SEARCH).unwrap();
        self.command(&[&["search", "s.toml"], args].concat())
    }

    /// The records of a search but for times and threads, in the order of trial and rung.
    fn records(&self, folder: &str) -> Vec<serde_json::Value> {
        let text = fs::read_to_string(self.file(folder).join("trials.jsonl")).unwrap();
        let mut records: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        for record in &mut records {
            record.as_object_mut().unwrap().retain(|key, _| key != "train_seconds" && key != "threads");
        }
        records.sort_by_key(|record| ["rung", "trial"].map(|key| record[key].as_u64()));
        records
    }
}

#[test]
fn a_killed_search_that_is_resumed_has_the_records_of_an_uninterrupted_one() {
    let place = Workplace::new();
    stdout(&place.searching(&["--out", "whole", "--threads", "2"]).output().unwrap());
    assert_eq!(place.records("whole").len(), 8);
    for (folder, jobs) in [("killed", "1"), ("killed-side-by-side", "2")] {
        let args = ["--out", folder, "--threads", "2", "--jobs", jobs];
        // Killed before the first record, after the first, and in the second rung.
        for lines in [0, 1, 6] {
            let mut child = place.searching(&args).spawn().unwrap();
            wait_for(&mut child, &place.file(folder).join("search.toml"), 1);
            let records = || fs::read_to_string(place.file(folder).join("trials.jsonl")).unwrap_or_default();
            let begun = Instant::now();
            while records().matches('\n').count() < lines {
                assert!(
                    begun.elapsed() < Duration::from_secs(60) && child.try_wait().unwrap().is_none(),
                    "no {lines} records"
                );
                std::thread::sleep(Duration::from_millis(1));
            }
            child.kill().unwrap();
            child.wait().unwrap();
            assert!(records().matches('\n').count() < 8, "the search ended before it was killed");
        }
        stdout(&place.searching(&args).output().unwrap());
        assert_eq!(place.records(folder), place.records("whole"), "{folder}");
    }
}

#[test]
fn ctrl_c_ends_a_search_and_says_how_to_continue() {
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let place = Workplace::new();
        let mut child = place.searching(&["--out", "found"]).spawn().unwrap();
        wait_for(&mut child, &place.file("found/trials.jsonl"), 1);
        send(signal, &child);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(code));
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(stderr.contains("search --resume found"), "{stderr}");
        let text = fs::read_to_string(place.file("found/trials.jsonl")).unwrap();
        assert!(text.ends_with('\n') && text.lines().count() < 8, "{text}");
        stdout(&place.command(&["search", "--resume", "found"]).output().unwrap());
        assert_eq!(place.records("found").len(), 8);
    }
}
