//! Complete runs on a small data set: what they write, and that threads, interruptions and repetitions change no bit.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{SMALL, small_dataset};
use selvedge_idx::{Part, Split};
use selvedge_model::{Network, Threads};
use selvedge_trainer::data::stratified;
use selvedge_trainer::download::Progress;
use selvedge_trainer::observer::{Observer, Silent};
use selvedge_trainer::recipe::{LoadedRecipe, Override, RecipeSource};
use selvedge_trainer::run_folder::{BEST, Destination, HISTORY, LAST, MODEL, RECIPE, SUMMARY};
use selvedge_trainer::{HistoryLine, Outcome, Run, Summary, TrainError, TrainOptions, train};

/// The small recipe on a data set, with changes.
fn small_recipe(data: &Path, sets: &[&str]) -> LoadedRecipe {
    let mut overrides = vec![Override::new("dataset", data.display().to_string(), "test")];
    overrides.extend(sets.iter().map(|set| Override::parse(set).unwrap()));
    RecipeSource::from_text("small.toml", SMALL).load(&overrides).unwrap()
}

fn new_run(recipe: LoadedRecipe, out: &Path, threads: usize) -> TrainOptions {
    let run = Run::New { recipe: Box::new(recipe), destination: Destination::Folder(out.to_owned()) };
    TrainOptions::new(run, out.join("no-data"), threads)
}

#[track_caller]
fn finished(outcome: Result<Outcome, TrainError>) -> Summary {
    match outcome.unwrap() {
        Outcome::Finished { summary, .. } => *summary,
        Outcome::Stopped { reason, .. } => panic!("stopped by {reason}"),
    }
}

fn history(run: &Path) -> Vec<HistoryLine> {
    let text = fs::read_to_string(run.join(HISTORY)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The figures that do not depend on the clock.
fn figures(run: &Path) -> Vec<(u64, u64, f64, f64, Option<f64>)> {
    history(run).iter().map(|l| (l.epoch, l.step, l.learning_rate, l.train_loss, l.validation_loss)).collect()
}

/// Equal except for the last digit, which reading decimals may change.
#[track_caller]
fn assert_close(a: Option<f64>, b: Option<f64>) {
    assert!((a.unwrap() - b.unwrap()).abs() < 1e-12, "{a:?} {b:?}");
}

/// Asks training to stop after some steps.
struct StopAfter {
    steps: usize,
    stop: Arc<AtomicUsize>,
}

impl Progress for StopAfter {}

impl Observer for StopAfter {
    fn step_ends(&mut self, _loss: f64, _accuracy: f64) {
        self.steps -= 1;
        if self.steps == 0 {
            self.stop.store(2, Ordering::Relaxed);
        }
    }
}

fn stop_after(options: TrainOptions, steps: usize) -> PathBuf {
    let stop = Arc::new(AtomicUsize::new(0));
    let options = TrainOptions { stop: Arc::clone(&stop), ..options };
    match train(&options, &mut StopAfter { steps, stop }).unwrap() {
        Outcome::Stopped { folder, reason: 2 } => folder,
        other => panic!("{other:?}"),
    }
}

fn resume(run: &Path) -> TrainOptions {
    TrainOptions::new(Run::Resume(run.to_owned()), "no-data", 2)
}

#[test]
fn a_run_learns_and_writes_every_file() {
    let dir = tempfile::tempdir().unwrap();
    let data = small_dataset(dir.path());
    let out = dir.path().join("run");
    let summary = finished(train(&new_run(small_recipe(&data, &["epochs=8"]), &out, 2), &mut Silent));
    for file in [RECIPE, HISTORY, SUMMARY, MODEL, LAST, BEST] {
        assert!(out.join(file).is_file(), "{file}");
    }
    assert!(summary.test_accuracy > 0.8, "{summary:?}");
    assert_eq!((summary.epochs, summary.steps, summary.train_images), (8, 64, 120));
    assert_eq!(Summary::load(&out).unwrap().weights_sha256, summary.weights_sha256);
    let lines = history(&out);
    assert_eq!(lines.iter().map(|line| line.epoch).collect::<Vec<_>>(), (1..=8).collect::<Vec<_>>());
    assert!(lines[7].train_loss < lines[0].train_loss);
    let json: serde_json::Value = serde_json::from_str(&fs::read_to_string(out.join(SUMMARY)).unwrap()).unwrap();
    for key in [
        "recipe",
        "dataset",
        "seed",
        "precision",
        "isa",
        "threads",
        "epochs",
        "steps",
        "train_images",
        "train_seconds",
        "total_seconds",
        "seconds_to_first_step",
        "images_per_second",
        "test_accuracy",
        "test_accuracy_tta",
        "test_loss",
        "test_loss_tta",
        "test_images",
        "validation_accuracy",
        "validation_accuracy_tta",
        "validation_images",
        "test_time_averaging",
        "parameters",
        "multiply_adds_per_image",
        "peak_memory_bytes",
        "weights_sha256",
        "version",
        "cpu",
    ] {
        assert!(json.get(key).is_some(), "{key}");
    }
    // The weights are those of the epoch with the best validation loss, and so is best.ckpt.
    let best = lines.iter().filter_map(|line| line.validation_loss).fold(f64::INFINITY, f64::min);
    let line = lines.iter().find(|line| line.validation_loss == Some(best)).unwrap();
    assert_close(summary.validation_accuracy, line.validation_accuracy);
    let checkpoint = selvedge_trainer::checkpoint::Checkpoint::load(&out.join(BEST)).unwrap();
    assert_eq!(checkpoint.progress.epoch, line.epoch);
}

/// The summary as versions before test-time averaging wrote it.
#[test]
fn an_earlier_summary_loads() {
    let dir = tempfile::tempdir().unwrap();
    let data = small_dataset(dir.path());
    let out = dir.path().join("run");
    let summary = finished(train(&new_run(small_recipe(&data, &["epochs=1"]), &out, 2), &mut Silent));
    let mut json: serde_json::Value = serde_json::from_str(&fs::read_to_string(out.join(SUMMARY)).unwrap()).unwrap();
    let later = ["test_loss_tta", "test_images", "validation_accuracy_tta", "validation_images", "test_time_averaging"];
    later.iter().for_each(|key| assert!(json.as_object_mut().unwrap().remove(*key).is_some(), "{key}"));
    fs::write(out.join(SUMMARY), json.to_string()).unwrap();
    let loaded = Summary::load(&out).unwrap();
    assert_eq!((summary.test_images, summary.validation_images), (Some(40), Some(30)));
    assert_eq!((loaded.test_images, loaded.validation_images), (None, None));
    assert_eq!(loaded.weights_sha256, summary.weights_sha256);
}

#[test]
fn threads_change_no_bit() {
    let dir = tempfile::tempdir().unwrap();
    let data = small_dataset(dir.path());
    let sha = |threads: usize| {
        let out = dir.path().join(format!("run{threads}"));
        finished(train(&new_run(small_recipe(&data, &[]), &out, threads), &mut Silent)).weights_sha256
    };
    let first = sha(1);
    assert_eq!(sha(2), first);
    assert_eq!(sha(3), first);
}

#[test]
fn the_written_recipe_repeats_the_run_and_another_seed_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let data = small_dataset(dir.path());
    let run = |recipe: LoadedRecipe, name: &str| {
        finished(train(&new_run(recipe, &dir.path().join(name), 2), &mut Silent)).weights_sha256
    };
    let first = run(small_recipe(&data, &[]), "first");
    let written = RecipeSource::read(&dir.path().join("first").join(RECIPE)).unwrap().load(&[]).unwrap();
    assert_eq!(run(written, "again"), first);
    assert_ne!(run(small_recipe(&data, &["seed=2"]), "other"), first);
}

#[test]
fn a_resumed_run_ends_with_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    let data = small_dataset(dir.path());
    let copies = "offline_copies={count=1, augmentation=[{op='translate', max=2}]}";
    let steps_of = |set: &str| if set == copies { [5, 17, 45] } else { [3, 8, 21] };
    for set in ["seed=1", copies, "optimizer={kind='sgd', learning_rate=0.05, momentum=0.9, nesterov=true}"] {
        let whole = dir.path().join(format!("whole{}", set.len()));
        let expected = finished(train(&new_run(small_recipe(&data, &[set]), &whole, 2), &mut Silent));
        // In the middle of the first epoch, at the end of it, and in the middle of the last; 8 steps an epoch, 17 of
        // images and copies.
        for steps in steps_of(set) {
            let out = dir.path().join(format!("cut{}-{steps}", set.len()));
            stop_after(new_run(small_recipe(&data, &[set]), &out, 1), steps);
            assert!(!out.join(SUMMARY).exists() && out.join(LAST).exists());
            let summary = finished(train(&resume(&out), &mut Silent));
            assert_eq!(summary.weights_sha256, expected.weights_sha256, "{set}, stopped after {steps} steps");
            assert_eq!(summary.steps, expected.steps);
            assert_eq!(figures(&out), figures(&whole));
        }
    }
}

/// Muon with a group, every average, and what changes the gradients; each decides something about the last weights.
const KINDS_OF_UPDATES: [&[&str]; 5] = [
    &[
        "optimizer={kind='muon', learning_rate=0.05, rest={learning_rate=0.02}}",
        "groups=[{kind='bias', rate=8, weight_decay=0.01}]",
    ],
    &["averaging={kind='lookahead'}"],
    &["averaging={kind='ema', decay=0.9, start=0.1}"],
    &["averaging={kind='swa', start=0.5, every=3, statistics_batches=2}"],
    // Three batches of five images are a step, so that an epoch still has 8.
    &[
        "batch=5",
        "accumulation=3",
        "gradient_clipping={max_norm=0.5}",
        "gradient_centralisation=true",
        "class_weights=[1, 2, 1, 0.5]",
    ],
];

#[test]
fn every_kind_of_update_resumes_and_runs_on_any_threads_with_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    let data = small_dataset(dir.path());
    let plain = "early_stopping.restore_best=false";
    let usual = finished(train(&new_run(small_recipe(&data, &[plain]), &dir.path().join("usual"), 2), &mut Silent));
    for (number, sets) in KINDS_OF_UPDATES.iter().enumerate() {
        let recipe = || small_recipe(&data, &[*sets, &[plain]].concat());
        let whole = dir.path().join(format!("whole{number}"));
        let expected = finished(train(&new_run(recipe(), &whole, 2), &mut Silent));
        assert_ne!(expected.weights_sha256, usual.weights_sha256, "{sets:?}");
        // What the last epoch validated is what is tested and saved.
        assert_close(expected.validation_accuracy, history(&whole)[2].validation_accuracy);
        // In the first epoch, between averages, before the last step.
        for (steps, threads) in [(3, 1), (17, 3), (23, 1)] {
            let out = dir.path().join(format!("cut{number}-{steps}"));
            stop_after(new_run(recipe(), &out, threads), steps);
            let summary = finished(train(&resume(&out), &mut Silent));
            assert_eq!(summary.weights_sha256, expected.weights_sha256, "{sets:?}, stopped after {steps} steps");
            assert_eq!(figures(&out), figures(&whole));
        }
    }
}

/// Without batch norm, dropout and augmentation, the batches of a step are as good as one batch of all their images.
#[test]
fn accumulated_batches_are_one_large_batch() {
    let dir = tempfile::tempdir().unwrap();
    let data = small_dataset(dir.path());
    let run = |name: &str, sets: &[&str]| {
        let layers = "model.layers=[{layer='flatten'}, {layer='dense', units='classes'}]";
        let usual = ["augmentation=[]", layers, "optimizer={kind='sgd', learning_rate=0.1}", "label_smoothing=0.0"];
        let out = dir.path().join(name);
        let summary = finished(train(&new_run(small_recipe(&data, &[&usual, sets].concat()), &out, 2), &mut Silent));
        (summary.steps, figures(&out))
    };
    // 120 images: the last step of an epoch has 8 of 14, in batches of 7 and 1.
    let (steps, expected) = run("whole", &["batch=14"]);
    let (accumulated_steps, found) = run("parts", &["batch=7", "accumulation=2"]);
    assert_eq!((steps, accumulated_steps), (27, 27));
    for ((.., expected, expected_validation), (.., found, validation)) in expected.iter().zip(&found) {
        assert!((found - expected).abs() < 1e-5 * expected, "{found} {expected}");
        assert!(
            (validation.unwrap() - expected_validation.unwrap()).abs() < 1e-5,
            "{validation:?} {expected_validation:?}"
        );
    }
    assert_eq!(run("dropped", &["batch=7", "accumulation=2", "drop_last=true"]).0, 24);
}

#[test]
fn balanced_weights_are_found_in_the_training_images() {
    let dir = tempfile::tempdir().unwrap();
    let data = small_dataset(dir.path());
    let sha = |name: &str, set: &str| {
        finished(train(&new_run(small_recipe(&data, &[set]), &dir.path().join(name), 2), &mut Silent)).weights_sha256
    };
    // Of the 120 images, 48 are of the first class, 24 of each other: 120 / (4 · 48) and 120 / (4 · 24).
    assert_eq!(sha("balanced", "class_weights='balanced'"), sha("list", "class_weights=[0.625, 1.25, 1.25, 1.25]"));
}

#[test]
fn the_best_epoch_of_an_average_is_the_averages() {
    let dir = tempfile::tempdir().unwrap();
    let data = small_dataset(dir.path());
    let out = dir.path().join("run");
    let sets = ["epochs=6", "averaging={kind='ema', decay=0.9, statistics_batches=3}"];
    let summary = finished(train(&new_run(small_recipe(&data, &sets), &out, 2), &mut Silent));
    let lines = history(&out);
    let best = lines.iter().filter_map(|line| line.validation_loss).fold(f64::INFINITY, f64::min);
    let line = lines.iter().find(|line| line.validation_loss == Some(best)).unwrap();
    assert_close(summary.validation_accuracy, line.validation_accuracy);
}

#[test]
fn a_run_killed_between_checkpoints_resumes_from_the_older_one() {
    let dir = tempfile::tempdir().unwrap();
    let data = small_dataset(dir.path());
    let out = dir.path().join("run");
    stop_after(new_run(small_recipe(&data, &[]), &out, 2), 10);
    let old = fs::read(out.join(LAST)).unwrap();
    let expected = finished(train(&resume(&out), &mut Silent)).weights_sha256;
    let lines = figures(&out);
    for checkpoint in [Some(&old), None] {
        fs::remove_file(out.join(SUMMARY)).unwrap();
        match checkpoint {
            Some(bytes) => fs::write(out.join(LAST), bytes).unwrap(),
            None => fs::remove_file(out.join(LAST)).unwrap(),
        }
        fs::write(out.join(".last.ckpt.part"), b"half a checkpoint").unwrap();
        assert_eq!(finished(train(&resume(&out), &mut Silent)).weights_sha256, expected);
        assert_eq!(figures(&out), lines);
    }
}

#[test]
fn a_finished_run_is_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let data = small_dataset(dir.path());
    let out = dir.path().join("run");
    let summary = finished(train(&new_run(small_recipe(&data, &["epochs=1"]), &out, 2), &mut Silent));
    let before = fs::read(out.join(LAST)).unwrap();
    assert_eq!(finished(train(&resume(&out), &mut Silent)).weights_sha256, summary.weights_sha256);
    assert_eq!(fs::read(out.join(LAST)).unwrap(), before);
}

/// The filters follow from the training images, not from those held out, also in a run that is stopped and resumed, with or without
/// a checkpoint; training does not change them.
#[test]
fn whitening_filters_are_those_of_the_training_images_until_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let data = small_dataset(dir.path());
    let layer = "model.layers.0={layer='conv2d', filters=8, kernel=3, init='whitening', frozen=true}";
    let gelu = "model.layers.2={layer='gelu'}";
    let sets = [layer, gelu, "model.layers.1={layer='dropout', rate=0.0}"];
    let out = dir.path().join("whole");
    let summary = finished(train(&new_run(small_recipe(&data, &sets), &out, 2), &mut Silent));
    let mut trained = Network::load(&out.join(MODEL), Threads::new(1).unwrap()).unwrap();

    let split = Split::load(&data, Part::Train).unwrap();
    let partition = stratified(split.labels.as_slice().unwrap(), 30, 1);
    let image = |&index: &u32| split.images.as_slice().unwrap()[index as usize * 100..][..100].to_vec();
    let images: Vec<u8> = partition.train.iter().flat_map(image).collect();
    let weights = trained.snapshot().params;
    trained.whiten(&images).unwrap();
    assert_eq!(trained.snapshot().params, weights);
    trained.whiten(&images[..100]).unwrap();
    assert_ne!(trained.snapshot().params[..72], weights[..72]);
    assert!(weights[72..80].iter().all(|&bias| bias != 0.0), "the bias trains");

    let again = dir.path().join("again");
    stop_after(new_run(small_recipe(&data, &sets), &again, 1), 5);
    assert_eq!(finished(train(&resume(&again), &mut Silent)).weights_sha256, summary.weights_sha256);
    for file in [SUMMARY, LAST] {
        fs::remove_file(again.join(file)).unwrap();
    }
    assert_eq!(finished(train(&resume(&again), &mut Silent)).weights_sha256, summary.weights_sha256);
}

#[test]
fn offline_copies_are_trained_on_and_split_with_their_images() {
    let dir = tempfile::tempdir().unwrap();
    let data = small_dataset(dir.path());
    let copies = "offline_copies={count=2, augmentation=[{op='translate', max=1}]}";
    let out = dir.path().join("run");
    let recipe = small_recipe(&data, &["epochs=2", "validation=0.2", "augmentation=[]", copies]);
    let summary = finished(train(&new_run(recipe, &out, 2), &mut Silent));
    // 150 images and 300 copies; a fifth of all of them is held out.
    assert_eq!((summary.train_images, summary.steps), (360, 2 * 23));
    let written = RecipeSource::read(&out.join(RECIPE)).unwrap().load(&[]).unwrap();
    assert_eq!(written.recipe.offline_copies.unwrap().count, 2);
}

#[test]
fn a_network_learns_from_mixed_labels() {
    let dir = tempfile::tempdir().unwrap();
    let data = small_dataset(dir.path());
    for op in ["mixup", "cutmix", "fmix"] {
        let out = dir.path().join(op);
        let chain = format!("augmentation=[{{op='{op}', alpha=0.4}}]");
        let sets = ["epochs=25", "label_smoothing=0.0", "early_stopping.restore_best=false", &chain];
        let summary = finished(train(&new_run(small_recipe(&data, &sets), &out, 2), &mut Silent));
        let lines = history(&out);
        assert!(lines[24].train_loss < 0.75 * lines[0].train_loss, "{op}: {lines:?}");
        assert!(summary.test_accuracy > 0.9, "{op}: {summary:?}");
        // The loss on mixed labels is at least their entropy, which is not small.
        assert!(lines[24].train_loss > 0.15, "{op}: {lines:?}");
        assert!(lines[24].validation_loss.unwrap() < lines[24].train_loss, "{op}: {lines:?}");
    }
}

#[test]
fn a_broken_or_foreign_checkpoint_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let data = small_dataset(dir.path());
    let (out, other) = (dir.path().join("run"), dir.path().join("other"));
    stop_after(new_run(small_recipe(&data, &[]), &out, 2), 3);
    stop_after(new_run(small_recipe(&data, &["seed=2"]), &other, 2), 3);
    let good = fs::read(out.join(LAST)).unwrap();
    fs::copy(other.join(LAST), out.join(LAST)).unwrap();
    let message = train(&resume(&out), &mut Silent).unwrap_err().to_string();
    assert!(message.contains("last.ckpt does not fit the run"), "{message}");
    fs::write(out.join(LAST), &good[..good.len() - 1]).unwrap();
    let message = train(&resume(&out), &mut Silent).unwrap_err().to_string();
    assert!(message.contains("last.ckpt is not a usable checkpoint"), "{message}");
}

#[test]
fn a_loss_that_is_not_finite_ends_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let data = small_dataset(dir.path());
    let out = dir.path().join("run");
    let set = "optimizer={kind='sgd', learning_rate=1e38}";
    let message = train(&new_run(small_recipe(&data, &[set]), &out, 2), &mut Silent).unwrap_err().to_string();
    assert!(
        message.contains("epoch 1, after 1 steps: the loss is") && message.contains(".weight is not finite"),
        "{message}"
    );
    assert!(!out.join(LAST).exists() && !out.join(MODEL).exists() && !out.join(SUMMARY).exists());
}

#[test]
fn early_stopping_ends_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let data = small_dataset(dir.path());
    let out = dir.path().join("run");
    // No epoch improves by 10, so the second is the last.
    let sets = ["epochs=20", "early_stopping.patience=1", "early_stopping.min_delta=10.0"];
    let summary = finished(train(&new_run(small_recipe(&data, &sets), &out, 2), &mut Silent));
    assert_eq!(summary.epochs, 2);
    assert_close(summary.validation_accuracy, history(&out)[0].validation_accuracy);
}

#[test]
fn a_recipe_that_does_not_fit_the_data_is_refused_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let data = small_dataset(dir.path());
    let out = dir.path().join("run");
    let message =
        |sets: &[&str]| train(&new_run(small_recipe(&data, sets), &out, 2), &mut Silent).unwrap_err().to_string();
    for (set, parts) in [
        ("batch=121", ["--set batch=121: batch:", "from 1 to the 120 training images"]),
        ("validation=150", ["--set validation=150: validation:", "of the 150 training images"]),
        ("validation=0.001", ["--set validation=0.001", "0 of the 150"]),
        ("model.layers.0={layer='conv2d', filters=4, kernel=11, padding='valid'}", ["model.layers", "11"]),
        (
            "groups=[{match='0.conv2d.*'}, {match='0.dense.*'}]",
            ["groups.1.match: \"0.dense.*\"", "the network has 0.conv2d.weight"],
        ),
        ("averaging={kind='swa', start=0.99, every=7}", ["averaging.start: 0.99", "at most 0.875"]),
        ("averaging={kind='lookahead', every=25}", ["averaging.every: 25", "from 1 to the 24 steps"]),
        ("test_time_averaging.shift=10", ["--set test_time_averaging.shift=10", "below the image's 10 pixels"]),
        (
            "model.layers.0={layer='conv2d', filters=20, kernel=3, init='whitening'}",
            ["layer 0.conv2d", "filters = 20 is not allowed with init = \"whitening\": an even number, at most 18"],
        ),
        ("accumulation=8", ["--set accumulation=8: accumulation", "from 1 to the 7 full batches"]),
        ("class_weights=[1, 2]", ["class_weights: a list of 2", "each of the 4 classes"]),
        ("augmentation.1.max=10", ["small.toml, line 7", "translate"]),
    ] {
        let message = message(&[set]);
        assert!(parts.iter().all(|part| message.contains(part)), "{set}: {message}");
    }
    assert!(!out.exists());
}
