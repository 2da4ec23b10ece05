//! `search` as a user runs it: grids, random trials, halving, records, resuming, and what it refuses.

mod common;

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use common::{Workplace, assert_fails, stdout, write_part};
use serde_json::Value;

/// A search over four combinations of the small recipe.
const GRID: &str = r#"recipe = "small.toml"
validation = 30
seeds = [1, 2]
set = { dataset = "data", epochs = 2 }
[values]
optimizer.learning_rate = [1e-9, 0.01]
"batch" = [16, 40]
"#;

/// The same with halving: 4 trials, then 2, then 1 with both seeds.
const HALVING: &str = r#"recipe = "small.toml"
validation = 30
seeds = [1, 2]
set = { dataset = "data" }
halving = { rungs = [1, 2, 4], keep = 0.5 }
[values]
optimizer.learning_rate = [1e-9, 0.003, 0.01, 0.03]
"#;

impl Workplace {
    fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    fn searching(&self, text: &str, args: &[&str]) -> Command {
        fs::write(self.file("s.toml"), text).unwrap();
        self.command(&[&["search", "s.toml", "--threads", "2"], args].concat())
    }

    fn search(&self, text: &str, args: &[&str]) -> Output {
        self.searching(text, args).output().unwrap()
    }

    /// The records of a search, by trial, rung and seed, without times and threads.
    fn records(&self, folder: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.file(folder).join("trials.jsonl")).unwrap();
        let mut records: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        for record in &mut records {
            let members = record.as_object_mut().unwrap();
            assert!(members.remove("train_seconds").is_some() && members.remove("threads").is_some());
        }
        records.sort_by_key(|record| ["trial", "rung", "seed"].map(|key| record[key].as_u64()));
        records
    }
}

fn accuracy(record: &Value) -> f64 {
    record["validation_accuracy"].as_f64().unwrap()
}

#[test]
fn a_grid_trains_every_combination_with_every_seed() {
    let place = Workplace::new();
    let text = stdout(&place.search(GRID, &["--out", "found"]));
    let records = place.records("found");
    let runs: HashSet<String> = records.iter().map(|run| format!("{} {}", run["values"], run["seed"])).collect();
    assert_eq!((records.len(), runs.len()), (8, 8));
    assert_eq!(fs::read_to_string(place.file("found/search.toml")).unwrap(), GRID);

    // A run of the search is the run that `train` makes of the same recipe.
    let run = &records[6];
    let sets: Vec<String> =
        run["changes"].as_object().unwrap().iter().map(|(key, value)| format!("{key}={value}")).collect();
    let mut args = vec!["train", "--recipe", "small.toml", "--out", "run"];
    sets.iter().for_each(|set| args.extend(["--set", set]));
    stdout(&place.run(&args));
    let summary: Value = serde_json::from_str(&fs::read_to_string(place.file("run/summary.json")).unwrap()).unwrap();
    assert_eq!(run["validation_accuracy"], summary["validation_accuracy"]);
    assert_eq!((run["epochs"].as_u64(), run["images"].as_u64()), (Some(2), Some(240)));
    let operations = 6.0 * 240.0 * summary["multiply_adds_per_image"].as_f64().unwrap();
    assert_eq!(run["flops"].as_f64(), Some(operations));

    // The table ends the output, the most accurate trial first; its recipe is in best.toml.
    let rows: Vec<Vec<&str>> = text
        .lines()
        .skip_while(|line| !line.contains("FLOPs"))
        .skip(1)
        .take(4)
        .map(|row| row.split_whitespace().collect())
        .collect();
    let column: Vec<f64> = rows.iter().map(|row| row[4].parse().unwrap()).collect();
    assert!(column.is_sorted_by(|one, other| one >= other) && column[0] > column[3], "{text}");
    let best = &rows[0];
    let trial: u64 = best[0].parse().unwrap();
    let mean: f64 = records.iter().filter(|run| run["trial"] == trial).map(accuracy).sum::<f64>() / 2.0;
    assert_eq!(best[4], format!("{:.2}", 100.0 * mean));
    let recipe = stdout(&place.run(&["train", "--recipe", "found/best.toml", "--print-recipe"]));
    for part in [format!("learning_rate = {}", best[10]), format!("batch = {}", best[11]), "seed = 1".to_owned()] {
        assert!(recipe.contains(&part), "{part:?} is missing from: {recipe}");
    }
}

#[test]
fn random_trials_are_those_of_the_seed() {
    let place = Workplace::new();
    let text = |seed: &str| {
        format!(
            "recipe = \"small.toml\"\nvalidation = 0.2\nmethod = \"random\"\ntrials = 3\nseed = {seed}\n\
             set.dataset = \"data\"\nset.epochs = 1\n[values]\nbatch = {{ min = 8, max = 40 }}\n\
             optimizer.learning_rate = {{ min = 1e-4, max = 1e-1, log = true }}\nlabel_smoothing = [0.0, 0.1]\n"
        )
    };
    for (folder, seed) in [("one", "1"), ("again", "1"), ("other", "2")] {
        stdout(&place.search(&text(seed), &["--out", folder]));
    }
    let one = place.records("one");
    assert_eq!(one.len(), 3);
    assert_eq!(one, place.records("again"));
    assert!(one.iter().zip(place.records("other")).all(|(one, other)| one["values"] != other["values"]));
    for run in &one {
        let values = &run["values"];
        assert!((8..=40).contains(&values["batch"].as_i64().unwrap()));
        assert!((1e-4..=1e-1).contains(&values["optimizer.learning_rate"].as_f64().unwrap()));
        assert_eq!(run["validation_images"].as_u64(), Some(30));
    }
}

#[test]
fn halving_keeps_the_best_of_each_rung() {
    let place = Workplace::new();
    stdout(&place.search(HALVING, &["--out", "found"]));
    let records = place.records("found");
    let of_rung = |rung: u64| -> Vec<&Value> { records.iter().filter(|run| run["rung"] == rung).collect() };
    let count = |rung: u64| (of_rung(rung).len(), of_rung(rung)[0]["epochs"].as_u64().unwrap());
    assert_eq!([count(1), count(2), count(3)], [(4, 1), (2, 2), (2, 4)]);
    for (rung, kept) in [(1, 2), (2, 1)] {
        let mut runs = of_rung(rung);
        let loss = |run: &Value| run["validation_loss"].as_f64().unwrap();
        runs.sort_by(|a, b| accuracy(b).total_cmp(&accuracy(a)).then(loss(a).total_cmp(&loss(b))));
        let expected: HashSet<u64> = runs[..kept].iter().map(|run| run["trial"].as_u64().unwrap()).collect();
        let found: HashSet<u64> = of_rung(rung + 1).iter().map(|run| run["trial"].as_u64().unwrap()).collect();
        assert_eq!(found, expected, "after rung {rung}");
    }
    assert_ne!(of_rung(3)[0]["trial"], 1, "a learning rate of 1e-9 learns nothing");
    let recipe = fs::read_to_string(place.file("found/best.toml")).unwrap();
    assert!(recipe.contains("epochs = 4\n") && recipe.contains("validation = 30\n"), "{recipe}");
}

#[test]
fn the_test_set_is_never_read() {
    let place = Workplace::new();
    stdout(&place.search(GRID, &["--out", "whole"]));
    assert!(!place.file("data/selvedge.lock").exists(), "the hashes in it are also those of the test files");
    let test_files = ["t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"].map(|name| place.file("data").join(name));
    // Test labels that are no classes, then test files that are no IDX files, then none at all.
    let spoil: [&dyn Fn(); 3] = [
        &|| write_part(&place.file("data"), "t10k", 40, 200),
        &|| test_files.iter().for_each(|file| fs::write(file, "broken").unwrap()),
        &|| test_files.iter().for_each(|file| fs::remove_file(file).unwrap()),
    ];
    for (number, spoil) in spoil.iter().enumerate() {
        spoil();
        let folder = format!("found{number}");
        stdout(&place.search(GRID, &["--out", &folder]));
        assert_eq!(place.records(&folder), place.records("whole"));
        assert_eq!(place.training(&[]).output().unwrap().status.code(), Some(1), "training needs the test files");
    }
}

#[test]
fn training_files_that_changed_are_refused() {
    let place = Workplace::new();
    stdout(&place.training(&["--epochs", "1"]).output().unwrap());
    stdout(&place.search(GRID, &["--out", "found"]));
    write_part(&place.file("data"), "train", 140, 4);
    assert_fails(&place.search(GRID, &["--out", "second"]), 1, &["train-images", "selvedge.lock"]);
    assert!(!place.file("second").exists());
}

#[test]
fn records_depend_neither_on_jobs_nor_on_threads() {
    let place = Workplace::new();
    stdout(&place.search(HALVING, &["--out", "one"]));
    stdout(&place.search(HALVING, &["--out", "two", "--jobs", "2"]));
    stdout(&place.run(&["search", "s.toml", "--out", "three", "--jobs", "auto", "--threads", "3"]));
    assert_eq!(place.records("one"), place.records("two"));
    assert_eq!(place.records("one"), place.records("three"));
}

#[test]
fn a_torn_last_line_is_dropped_and_its_run_repeated() {
    let place = Workplace::new();
    stdout(&place.search(HALVING, &["--out", "whole"]));
    stdout(&place.search(HALVING, &["--out", "torn"]));
    let path = place.file("torn/trials.jsonl");
    let text = fs::read_to_string(&path).unwrap();
    let third = text.match_indices('\n').nth(2).unwrap().0;
    fs::write(&path, &text[..third - 10]).unwrap();
    let output = place.run(&["search", "--resume", "torn"]);
    let told = stdout(&output);
    assert!(String::from_utf8_lossy(&output.stderr).contains("torn/trials.jsonl: the last line was cut off"));
    assert_eq!(told.lines().filter(|line| line.contains("  trial ")).count(), 6, "{told}");
    assert_eq!(place.records("torn"), place.records("whole"));
    if place.records("torn")[0]["isa"] != "portable" {
        let moved = place.command(&["search", "--resume", "torn"]).env("SELVEDGE_ISA", "portable").output().unwrap();
        let notes = String::from_utf8_lossy(&moved.stderr).into_owned();
        assert!(notes.contains("continues on portable: its figures differ in the last bits"), "{notes}");
    }
    // A finished search has nothing left to do.
    let again = stdout(&place.search(HALVING, &["--out", "torn"]));
    assert!(!again.contains("  trial "), "{again}");
    assert_eq!(again.lines().skip_while(|line| !line.contains("FLOPs")).count(), 8, "{again}");
}

#[test]
fn a_loss_that_is_not_finite_is_recorded_and_loses() {
    let place = Workplace::new();
    let text = HALVING.replace("[1e-9, 0.003, 0.01, 0.03]", "[1e35, 0.01]")
        + "[set.optimizer]\nkind = \"sgd\"\nlearning_rate = 1\n";
    let text = text.replace("set = { dataset = \"data\" }\n", "set.dataset = \"data\"\n");
    let output = place.search(&text, &["--out", "found"]);
    assert_fails(&output, 1, &["optimizer.learning_rate", "changes the same value", "line 8"]);
    let text = text.replace("[set.optimizer]\nkind = \"sgd\"\nlearning_rate = 1\n", "");
    let told = stdout(&place.search(&text, &["--out", "found"]));
    let records = place.records("found");
    assert!(records[0]["validation_accuracy"].is_null(), "{:?}", records[0]);
    assert!(records[0]["problem"].as_str().unwrap().contains("loss is NaN"), "{:?}", records[0]);
    assert!(records[1..].iter().all(|run| run["trial"] == 2), "{records:?}");
    assert!(told.lines().any(|line| line.contains("failed") && line.contains("1e35")), "{told}");
    let text = text.replace("[1e35, 0.01]", "[1e35, 1e36]");
    assert_fails(&place.search(&text, &["--out", "none"]), 1, &["every trial of rung 1", "warm-up"]);
}

#[test]
fn what_cannot_be_trained_is_refused_before_anything_is_trained() {
    let place = Workplace::new();
    let line = |from: &str, to: &str| GRID.replacen(from, to, 1);
    // Callbacks that monitor validation images are refused earlier if there are none.
    let monitors = "epochs = 2, reduce_lr_on_plateau.monitor = 'train_loss', early_stopping.monitor = 'train_loss'";
    let no_such_dataset = line("\"data\"", "\"nowhere\"");
    for (text, parts) in [
        (
            line("\"batch\" = [16, 40]", "\"batches\" = [16, 40]"),
            vec!["s.toml, line 7", "batches", "unknown key", "`batch`"],
        ),
        (
            line("[1e-9, 0.01]", "[\n0.01,\n-1,\n]"),
            vec!["s.toml, line 8", "optimizer.learning_rate: -1 is not", "above 0"],
        ),
        (line("[16, 40]", "[16, 1000]"), vec!["s.toml, line 7", "batch: 1000", "from 1 to the 120"]),
        (line("[16, 40]", "[16, \"many\"]"), vec!["s.toml, line 7", "batch", "many"]),
        (line("= 30", "= 150"), vec!["s.toml, line 2", "validation: 150 of the 150", "to 149"]),
        (
            line("= 30", "= 0.001").replace("epochs = 2", monitors),
            vec!["s.toml, line 2", "validation: this share of the 150", "less than one"],
        ),
        (line("= 30", "= 0"), vec!["s.toml, line 2", "validation: 0", "1 or more"]),
        (line("\"batch\" = [16, 40]", "model.layers.9.rate = [0.1]"), vec!["s.toml, line 7", "`9`", "there are 7"]),
        (
            line("\"batch\" = [16, 40]", "model.layers.0.filters = [4, 0]"),
            vec!["small.toml, line", "s.toml, line 7: model.layers", "filters = 0"],
        ),
        (
            line("epochs = 2", "warmup.epochs = 2.5") + "[halving]\nrungs = [2, 3]",
            vec!["s.toml, line 4: warmup.epochs: 2.5", "2 epochs"],
        ),
        (line("epochs = 2", "epochs = 0"), vec!["s.toml, line 4", "epochs: 0 is not"]),
        (line("small.toml", "smal.toml"), vec!["s.toml, line 1", "recipe", "smal.toml"]),
        (line("seeds = [1, 2]", "method = \"random\""), vec!["s.toml, line 3", "trials = 40"]),
        (
            line("seeds = [1, 2]", "method = \"random\"\ntrials = 5"),
            vec!["s.toml, line 4", "trials: 5", "only 4 combinations"],
        ),
        (no_such_dataset, vec!["nowhere", "fashion-mnist"]),
    ] {
        let output = place.search(&text, &[]);
        assert_fails(&output, 1, &parts);
        assert!(!place.file("runs").exists() && output.stdout.is_empty(), "something was trained for {text}");
    }
    assert_fails(&place.run(&["search"]), 2, &["FILE"]);
    assert_fails(&place.run(&["search", "nothing.toml"]), 1, &["nothing.toml cannot be read"]);
    assert_fails(&place.search(GRID, &["--jobs", "3"]), 1, &["--jobs 3", "2 threads"]);
    assert_fails(&place.search(GRID, &["--jobs", "some"]), 2, &["expected auto"]);
    assert_fails(&place.search(GRID, &["--out", "data"]), 1, &["data exists and is not empty"]);
    assert_fails(&place.run(&["search", "--resume", "data"]), 1, &["not the folder of a search", "search.toml"]);
}

#[test]
fn a_search_goes_on_only_as_it_began() {
    let place = Workplace::new();
    stdout(&place.search(GRID, &["--out", "found"]));
    let other = GRID.replace("[16, 40]", "[16, 48]");
    for option in ["--out", "--resume"] {
        assert_fails(&place.search(&other, &[option, "found"]), 1, &["s.toml has changed", "found", "search.toml"]);
    }
    let recipe = fs::read_to_string(place.file("small.toml")).unwrap();
    fs::write(place.file("small.toml"), recipe.replace("rate = 0.2", "rate = 0.3")).unwrap();
    assert_fails(&place.search(GRID, &["--out", "found"]), 1, &["the recipe has changed", "recipe.toml"]);
    // The copies in the folder are what it began with.
    stdout(&place.run(&["search", "--resume", "found"]));

    let path = place.file("found/trials.jsonl");
    let text = fs::read_to_string(&path).unwrap();
    for (spoiled, parts) in [
        (text.replacen("\"trial\":1,", "\"trial\":9,", 1), ["trials.jsonl, line 1", "no such run"]),
        (text.replacen("0.01", "0.02", 1), ["trials.jsonl, line", "no such run"]),
        (text.clone() + text.lines().next().unwrap() + "\n", ["trials.jsonl, line 9", "earlier line"]),
        (format!("nonsense\n{text}"), ["trials.jsonl, line 1", "not the record"]),
    ] {
        fs::write(&path, spoiled).unwrap();
        assert_fails(&place.run(&["search", "--resume", "found"]), 1, &parts);
    }
}
