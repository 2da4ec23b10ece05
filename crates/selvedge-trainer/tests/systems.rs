//! The program on systems that lack something: folder syncs, locks, writable data folders, space, threads, memory, a clock.
#![cfg(target_os = "linux")]

mod common;

use std::fs;
use std::process::{Command, Output};

use common::preload::{
    FULL_FOR_A_SECOND_CHECKPOINT, NO_CLOCK, NO_FOLDER_SYNC, NO_LOCKS, NO_THREADS, READ_ONLY_DATA, TWO_THREADS, preload,
};
use common::{Workplace, assert_fails, stdout};

/// The command's output where a library answers some calls with an error; `None` where there is no C compiler.
fn output_with(place: &Workplace, mut command: Command, library: &str, error: &str) -> Option<Output> {
    preload(&mut command, place.path(), library, error).then(|| command.output().unwrap())
}

/// Expects success with this note on standard error, once.
#[track_caller]
fn assert_notes(output: &Output, note: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    assert_eq!(stderr.matches(note).count(), 1, "{note:?} in: {stderr}");
}

#[test]
fn where_folders_are_not_synced_training_says_so() {
    for error in ["EINVAL", "ENOTSUP", "ENOSYS"] {
        let place = Workplace::new();
        let train = place.training(&["--epochs", "1", "--out", "run"]);
        let Some(output) = output_with(&place, train, NO_FOLDER_SYNC, error) else { return };
        assert_notes(&output, "note: run: the file system does not sync folders: after a power cut");
        assert!(place.path().join("run/summary.json").is_file() && place.path().join("data/selvedge.lock").is_file());
    }
}

#[test]
fn a_folder_sync_that_fails_leaves_nothing_in_the_way() {
    let place = Workplace::new();
    let train = || place.training(&["--epochs", "1", "--out", "run"]);
    let Some(output) = output_with(&place, train(), NO_FOLDER_SYNC, "EIO") else { return };
    assert_fails(&output, 1, &["run", "cannot sync the folder", "Input/output error"]);
    assert!(!place.path().join("run").exists());
    let several = place.training(&["--epochs", "1", "--out", "several", "--seeds", "2"]);
    assert_fails(&output_with(&place, several, NO_FOLDER_SYNC, "EIO").unwrap(), 1, &["cannot sync the folder"]);
    assert!(!place.path().join("several").exists());
    stdout(&train().output().unwrap());
}

#[test]
fn where_there_are_no_locks_training_says_so() {
    for error in ["ENOLCK", "ENOTSUP", "ENOSYS"] {
        let place = Workplace::new();
        let train = place.training(&["--epochs", "1", "--out", "run"]);
        let Some(output) = output_with(&place, train, NO_LOCKS, error) else { return };
        assert_notes(&output, "note: run: the file system has no locks");
        assert!(place.path().join("run/summary.json").is_file());
    }
    let place = Workplace::new();
    let train = place.training(&["--epochs", "1", "--out", "run"]);
    assert_fails(&output_with(&place, train, NO_LOCKS, "EIO").unwrap(), 1, &["cannot lock run/.lock"]);
    assert!(!place.path().join("run").exists());
}

#[test]
fn hashes_that_cannot_be_written_are_a_note() {
    for error in ["EROFS", "EACCES", "EPERM", "ENOSPC", "EDQUOT"] {
        let place = Workplace::new();
        let train = place.training(&["--epochs", "1", "--out", "run"]);
        let Some(output) = output_with(&place, train, READ_ONLY_DATA, error) else { return };
        assert_notes(&output, "selvedge.lock cannot be written");
        assert!(place.path().join("run/summary.json").is_file() && !place.path().join("data/selvedge.lock").exists());
    }
}

#[test]
fn a_disk_that_fills_up_leaves_the_last_checkpoint() {
    for (error, words) in [("ENOSPC", "No space left"), ("EDQUOT", "quota exceeded"), ("EIO", "Input/output error")] {
        let place = Workplace::new();
        stdout(&place.training(&["--epochs", "2", "--out", "run"]).output().unwrap());
        // A run without a summary is not finished: resumed, it saves its state once more.
        let saved = fs::read(place.path().join("run/last.ckpt")).unwrap();
        fs::remove_file(place.path().join("run/summary.json")).unwrap();
        let resume = place.command(&["train", "--resume", "run"]);
        let Some(output) = output_with(&place, resume, FULL_FOR_A_SECOND_CHECKPOINT, error) else { return };
        assert_fails(&output, 1, &["cannot write", "last.ckpt", words]);
        assert_eq!(fs::read(place.path().join("run/last.ckpt")).unwrap(), saved);
        stdout(&place.command(&["train", "--resume", "run"]).output().unwrap());
    }
}

#[test]
fn threads_that_do_not_start_are_one_line() {
    let place = Workplace::new();
    let train = place.command(&["train", "--recipe", "small.toml", "--dataset", "data", "--threads", "8"]);
    let Some(output) = output_with(&place, train, TWO_THREADS, "EAGAIN") else { return };
    assert_fails(&output, 1, &["the system started 2 of the 8 threads asked for"]);
    assert_eq!(String::from_utf8_lossy(&output.stderr).lines().count(), 1);
    let train = place.training(&["--epochs", "1", "--out", "run"]);
    let output = output_with(&place, train, NO_THREADS, "EAGAIN").unwrap();
    assert_fails(&output, 1, &["the system started 0 of the 2 threads asked for"]);
    assert!(!place.path().join("run").exists());
    // Two workers are all that there may be: the data set is read without a thread of its own.
    let train = place.training(&["--epochs", "1", "--out", "run"]);
    assert!(output_with(&place, train, TWO_THREADS, "EAGAIN").unwrap().status.success());
}

/// The program with its address space limited.
fn within(place: &Workplace, kilobytes: u64, command: &Command) -> Output {
    let script = format!("ulimit -v {kilobytes}; exec \"$0\" \"$@\"");
    let mut limited = Command::new("sh");
    limited.current_dir(place.path()).arg("-c").arg(script).arg(command.get_program()).args(command.get_args());
    limited.output().unwrap()
}

#[test]
fn a_batch_without_room_is_refused_before_anything_is_taken() {
    let place = Workplace::new();
    // Of a network without a batch norm, only what its threads work on is in memory.
    for (norm, filters, parts) in [
        ("{layer='batch_norm'}, ", 16_384, ["--set batch=120: batch: 120 needs ", "a smaller batch needs less"]),
        ("", 131_072, ["model.layers: the network needs ", "smaller layers or fewer threads"]),
    ] {
        let layers = format!(
            "model.layers=[{{layer='conv2d', filters={filters}, kernel=1}}, {norm}{{layer='relu'}}, \
             {{layer='global_avg_pool'}}, {{layer='dense', units='classes'}}]"
        );
        let train = place.training(&["--out", "run", "--set", &layers, "--set", "batch=120"]);
        let output = within(&place, 1_500_000, &train);
        assert_fails(&output, 1, &parts);
        assert_fails(&output, 1, &[" bytes of memory (", "the limit on the address space (ulimit -v)"]);
    }
    assert!(!place.path().join("run").exists());
    // The same limit is no obstacle to what fits.
    stdout(&within(&place, 1_500_000, &place.training(&["--epochs", "1", "--out", "run"])));
}

#[test]
fn a_panic_is_told_in_two_lines_and_has_its_own_exit_code() {
    for (thread, name) in [("main", "on the thread main"), ("worker", "on the thread selvedge-")] {
        let place = Workplace::new();
        fs::write(place.path().join(format!("stop-{thread}")), "").unwrap();
        let train = |backtrace| {
            let mut train = place.training(&["--epochs", "1"]);
            train.env_remove("RUST_LIB_BACKTRACE").env("RUST_BACKTRACE", backtrace);
            train
        };
        let Some(output) = output_with(&place, train("0"), NO_CLOCK, "EINVAL") else { return };
        assert_fails(&output, 70, &["error: a bug in selvedge ", name, "report this line"]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        let told: Vec<&str> = stderr.lines().filter(|line| !line.starts_with("note: ")).collect();
        assert_eq!(told.len(), 2, "{stderr}");
        assert_fails(&output_with(&place, train("1"), NO_CLOCK, "EINVAL").unwrap(), 70, &["panics.rs"]);
    }
}

#[test]
fn without_a_home_folder_the_data_folder_is_here() {
    let place = Workplace::new();
    // Nothing listens there: the message names the folder that the files were to come to.
    let mut command = place.command(&["download", "--dataset", "mnist", "--mirror", "http://127.0.0.1:9"]);
    for name in ["HOME", "XDG_DATA_HOME", "LOCALAPPDATA", "SELVEDGE_DATA"] {
        command.env_remove(name);
    }
    assert_fails(&command.output().unwrap(), 1, &["'data/mnist/train-images-idx3-ubyte.gz'"]);
}
