//! Data sets that are not like Fashion-MNIST: odd sizes, few and many classes, last batches of one image, too few images.

use std::fs;
use std::path::Path;
use std::process::Output;

use assert_cmd::cargo::cargo_bin_cmd;
use selvedge_idx::{Compression, write};

const RECIPE: &str = r#"name = "odd"
epochs = 2
batch = 16
augmentation = [{ op = "horizontal_flip" }]
optimizer = { kind = "adam", learning_rate = 0.01 }

[model]
layers = [
    { layer = "conv2d", filters = 5, kernel = 3 },
    { layer = "batch_norm" },
    { layer = "relu" },
    { layer = "max_pool2d" },
    { layer = "conv2d", filters = 7, kernel = [1, 3] },
    { layer = "relu" },
    { layer = "flatten" },
    { layer = "dense", units = "classes" },
]
"#;

/// A data set of `count` training images whose labels cycle through the classes. The brightness shows the class.
fn write_dataset(dir: &Path, count: usize, [height, width]: [usize; 2], classes: usize) {
    fs::create_dir_all(dir).unwrap();
    for (prefix, count) in [("train", count), ("t10k", classes)] {
        let pixel =
            |(i, y, x): (usize, usize, usize)| ((i % classes) * 200 / classes + (i * 7 + y * 5 + x * 3) % 50) as u8;
        let images = ndarray::Array3::from_shape_fn((count, height, width), pixel);
        let labels = ndarray::Array1::from_shape_fn(count, |i| (i % classes) as u8);
        write(dir.join(format!("{prefix}-images-idx3-ubyte")), &images, Compression::None).unwrap();
        write(dir.join(format!("{prefix}-labels-idx1-ubyte.gz")), &labels, Compression::Gzip).unwrap();
    }
}

fn selvedge(dir: &Path, args: &[&str]) -> Output {
    fs::write(dir.join("odd.toml"), RECIPE).unwrap();
    cargo_bin_cmd!("selvedge").current_dir(dir).env_remove("RAYON_NUM_THREADS").args(args).output().unwrap()
}

#[track_caller]
fn summary(dir: &Path, output: &Output) -> serde_json::Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_str(&fs::read_to_string(dir.join("run/summary.json")).unwrap()).unwrap()
}

#[test]
fn any_size_number_of_classes_and_last_batch() {
    for (count, size, classes, batch) in [
        (66, [10, 12], 3, 16),
        // The last batch has one image, in the step and in the evaluation.
        (65, [10, 12], 3, 16),
        (33, [28, 28], 2, 32),
        (400, [6, 5], 200, 50),
        (256, [2, 2], 256, 100),
        // Every batch has one image.
        (9, [13, 3], 3, 1),
        // One batch is all there is.
        (30, [9, 9], 5, 30),
    ] {
        let dir = tempfile::tempdir().unwrap();
        write_dataset(&dir.path().join("data"), count, size, classes);
        let set = format!("batch={batch}");
        let train =
            ["train", "--recipe", "odd.toml", "--dataset", "data", "--threads", "2", "--out", "run", "--set", &set];
        let summary = summary(dir.path(), &selvedge(dir.path(), &train));
        assert_eq!(summary["train_images"], count, "{size:?}");
        assert_eq!(summary["steps"], 2 * count.div_ceil(batch), "{size:?}");
        assert_eq!(summary["class_names"].as_array().unwrap().len(), classes, "{size:?}");
        let evaluated = selvedge(dir.path(), &["evaluate", "run"]);
        assert!(evaluated.status.success(), "{}", String::from_utf8_lossy(&evaluated.stderr));
    }
}

/// Without validation images the training loss decides the best epoch, so every run has a `best.ckpt`.
#[test]
fn a_run_without_validation_has_a_best_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    write_dataset(&dir.path().join("data"), 40, [8, 8], 4);
    let output = selvedge(dir.path(), &["train", "--recipe", "odd.toml", "--dataset", "data", "--out", "run"]);
    assert!(summary(dir.path(), &output)["validation_accuracy"].is_null());
    assert!(dir.path().join("run/best.ckpt").is_file());
}

/// The only image of a class is worth more in training than in validation, and a user hears of it.
#[test]
fn a_class_with_one_image_stays_in_training() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    write_dataset(&data, 100, [8, 8], 3);
    let train = ["train", "--recipe", "odd.toml", "--dataset", "data", "--set", "validation=0.5"];
    let note = "note: too few images to hold out their share: 0; the last image of each stays in training";
    let usual = selvedge(dir.path(), &[&train[..], &["--out", "run"]].concat());
    summary(dir.path(), &usual);
    assert!(!String::from_utf8_lossy(&usual.stderr).contains(note));
    // One image of class 0, and none of class 2.
    let labels = ndarray::Array1::from_shape_fn(100, |i| u8::from(i != 7));
    write(data.join("train-labels-idx1-ubyte.gz"), &labels, Compression::Gzip).unwrap();
    fs::write(data.join("classes.txt"), "0\n1\n2\n").unwrap();
    fs::remove_file(data.join("selvedge.lock")).unwrap();
    let rare = selvedge(dir.path(), &[&train[..], &["--out", "rare"]].concat());
    let stderr = String::from_utf8_lossy(&rare.stderr);
    assert!(rare.status.success() && stderr.contains(note), "{stderr}");
    assert!(stderr.contains("note: no training image is of 2: the network cannot learn it"), "{stderr}");
}

#[test]
fn fewer_images_than_a_batch_and_a_single_class_are_refused() {
    for (count, classes, parts) in [
        (12, 3, ["odd.toml, line 3: batch: 16 is not possible", "from 1 to the 12 training images"]),
        (40, 1, ["the data set has 1 classes", "at least 2"]),
    ] {
        let dir = tempfile::tempdir().unwrap();
        write_dataset(&dir.path().join("data"), count, [8, 8], classes);
        let output = selvedge(dir.path(), &["train", "--recipe", "odd.toml", "--dataset", "data", "--out", "run"]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(parts.iter().all(|part| stderr.contains(part)), "{stderr}");
        assert!(!dir.path().join("run").exists());
    }
}

/// The network is named by its recipe, and the recipe by the place where it was changed, when an image is too small.
#[test]
fn a_network_that_needs_larger_images_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    write_dataset(&dir.path().join("data"), 40, [1, 1], 4);
    let output = selvedge(dir.path(), &["train", "--recipe", "odd.toml", "--dataset", "data", "--out", "run"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("odd.toml, line ") && stderr.contains("3.max_pool2d"), "{stderr}");
}
