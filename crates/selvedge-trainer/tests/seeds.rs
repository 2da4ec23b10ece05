//! `train --seeds` as a user runs it: each seed is the run that it would be alone, and what is refused.

mod common;

use std::fs;

use common::{Workplace, assert_fails, stdout};
use serde_json::Value;

impl Workplace {
    fn json(&self, file: &str) -> Value {
        serde_json::from_str(&fs::read_to_string(self.path().join(file)).unwrap()).unwrap()
    }
}

#[test]
fn each_seed_is_the_run_that_it_would_be_alone() {
    let place = Workplace::new();
    let changes = ["--epochs", "2", "--set", "test_time_averaging.mirror=true"];
    let text =
        stdout(&place.training(&[&changes[..], &["--seeds", "4,1", "--out", "many"]].concat()).output().unwrap());
    assert!(!text.contains("epoch 2/2"), "{text}");
    let summary = place.json("many/seeds.json");
    assert_eq!(summary["recipe"], "small");
    assert_eq!(summary["changes"][0], "--set test_time_averaging.mirror=true");
    assert!(summary["changes"].as_array().unwrap().contains(&Value::from("--epochs 2")), "{summary}");
    assert_eq!(summary["seeds"], serde_json::json!([4, 1]));
    for (place_in_order, seed) in ["4", "1"].into_iter().enumerate() {
        let out = format!("alone{seed}");
        stdout(&place.training(&[&changes[..], &["--seed", seed, "--out", &out]].concat()).output().unwrap());
        let (alone, run) = (place.json(&format!("{out}/summary.json")), &summary["runs"][place_in_order]);
        assert_eq!(run["folder"], format!("seed-{seed}"));
        for key in ["seed", "weights_sha256", "test_accuracy", "test_accuracy_tta", "test_loss", "validation_accuracy"]
        {
            assert!(run[key] == alone[key] && !run[key].is_null(), "seed {seed}, {key}: {run} and {alone}");
        }
        let recipe = |folder: &str| fs::read_to_string(place.path().join(folder).join("recipe.toml")).unwrap();
        assert_eq!(recipe(&format!("many/seed-{seed}")), recipe(&out));
        let line = format!("seed {seed}  test accuracy {:.2} %", 100.0 * run["test_accuracy"].as_f64().unwrap());
        assert!(text.contains(&line), "{line}: {text}");
    }
    for key in ["test_accuracy", "test_accuracy_tta", "validation_accuracy", "validation_accuracy_tta"] {
        let [a, b] = [0, 1].map(|run: usize| summary["runs"][run][key].as_f64().unwrap());
        let spread = |what: &str| summary[key][what].as_f64().unwrap();
        assert!((spread("mean") - (a + b) / 2.0).abs() < 1e-12, "{key}: {summary}");
        // Of two values the sample deviation is their distance over √2, and the standard error half of it.
        assert!((spread("deviation") - (a - b).abs() / 2f64.sqrt()).abs() < 1e-12, "{key}: {summary}");
        assert!((spread("standard_error") - (a - b).abs() / 2.0).abs() < 1e-12, "{key}: {summary}");
    }
    assert!(text.contains("standard error") && text.ends_with("results in many\n"), "{text}");
    assert!(stdout(&place.run(&["evaluate", "many/seed-1"])).contains("averaged: mirror"));
}

#[test]
fn a_folder_is_continued_and_extended_from_another_folder() {
    let place = Workplace::new();
    // A number of seeds counts from --seed, and with --resume from the folder's first.
    stdout(&place.training(&["--epochs", "1", "--seed", "11", "--seeds", "1", "--out", "many"]).output().unwrap());
    let weights = || fs::read(place.path().join("many/seed-11/model.safetensors")).unwrap();
    let (before, elsewhere) = (weights(), place.path().join("elsewhere"));
    fs::create_dir(&elsewhere).unwrap();
    // What a killed process may leave of the next run.
    fs::create_dir(place.path().join("many/seed-12")).unwrap();
    for name in [".lock", "history.jsonl"] {
        fs::write(place.path().join("many/seed-12").join(name), "").unwrap();
    }
    let mut command = place.command(&["train", "--resume", "../many", "--seeds", "2"]);
    let text = stdout(&command.current_dir(elsewhere).output().unwrap());
    assert!(text.contains("seed 11") && text.contains("seed 12"), "{text}");
    assert_eq!(place.json("many/seeds.json")["seeds"], serde_json::json!([11, 12]));
    assert_eq!(place.json("many/seed-12/summary.json")["seed"], 12);
    assert_eq!(weights(), before);
    // Nothing is left to do.
    let again = stdout(&place.run(&["train", "--resume", "many"]));
    assert!(again.contains("standard error"), "{again}");
}

#[test]
fn the_default_folder_is_in_runs() {
    let place = Workplace::new();
    stdout(&place.training(&["--epochs", "1", "--seeds", "2"]).output().unwrap());
    let runs: Vec<_> = fs::read_dir(place.path().join("runs")).unwrap().map(|entry| entry.unwrap()).collect();
    assert!(runs.len() == 1 && runs[0].file_name().to_string_lossy().ends_with("-small-seeds"), "{runs:?}");
    assert!(["seed-1", "seed-2"].iter().all(|run| runs[0].path().join(run).join("summary.json").is_file()));
}

#[test]
fn nonsense_is_refused_and_leaves_nothing_behind() {
    let place = Workplace::new();
    let refused = |args: &[&str], code: i32, parts: &[&str]| {
        assert_fails(&place.training(args).output().unwrap(), code, parts);
        assert!(!place.path().join("runs").exists(), "{args:?}");
    };
    refused(&["--seeds", "0"], 2, &["--seeds", "from 1 to 1000"]);
    refused(&["--seeds", "1,4,1"], 2, &["--seeds", "seed 1 is there twice"]);
    refused(&["--seeds", "many"], 2, &["--seeds", "such as 1,4,7"]);
    refused(&["--seeds", "2", "--print-recipe"], 2, &["--print-recipe"]);
    refused(&["--seeds", "1,4", "--seed", "3"], 1, &["leave out --seed 3"]);
    refused(&["--seeds", "2", "--seed", "9223372036854775807"], 1, &["--seeds", "too large"]);
    refused(&["--seeds", "2", "--set", "batch=121"], 1, &["batch", "120 training images"]);
    assert_fails(&place.run(&["train", "--seeds", "2", "--dataset", "nowhere"]), 1, &["nowhere"]);
    assert!(!place.path().join("runs").exists());

    stdout(&place.training(&["--epochs", "1", "--out", "one"]).output().unwrap());
    assert_fails(
        &place.run(&["train", "--resume", "one", "--seeds", "2"]),
        1,
        &["one is not a folder of several seeds"],
    );
    assert!(!place.path().join("one/seeds.json").exists());
    assert_fails(&place.run(&["train", "--resume", "nowhere", "--seeds", "2"]), 1, &["nowhere", "several seeds"]);
    fs::create_dir(place.path().join("broken")).unwrap();
    fs::write(place.path().join("broken/seeds.json"), "{").unwrap();
    assert_fails(&place.run(&["train", "--resume", "broken"]), 1, &["seeds.json cannot be used"]);
}
