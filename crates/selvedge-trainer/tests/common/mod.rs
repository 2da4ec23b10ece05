//! A small data set and a small recipe that train in a fraction of a second, and the program run on them.

// Every test program has this module, and none needs all of it.
#![allow(dead_code)]

#[cfg(target_os = "linux")]
pub(crate) mod preload;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use selvedge_idx::{Compression, write};

/// Images of 10 x 10 pixels in four classes, each a bright band of rows, with noise that depends on the image's number.
pub(crate) fn small_dataset(dir: &Path) -> PathBuf {
    let data = dir.join("data");
    fs::create_dir_all(&data).unwrap();
    write_part(&data, "train", 150, 4);
    write_part(&data, "t10k", 40, 4);
    data
}

/// One split of the data set, with labels from 0 to `classes - 1`.
pub(crate) fn write_part(data: &Path, prefix: &str, count: usize, classes: usize) {
    let label = |i: usize| (i * 7 + i / 5) % classes;
    let pixel = |i: usize, y: usize, x: usize| {
        let noise = (i * 31 + y * 17 + x * 13 + i * y * x) % 90;
        let inside = y * 4 / 10 == label(i) % 4;
        (noise + if inside { 120 } else { 0 }) as u8
    };
    let images = ndarray::Array3::from_shape_fn((count, 10, 10), |(i, y, x)| pixel(i, y, x)).into_dyn();
    let labels = ndarray::Array1::from_shape_fn(count, |i| label(i) as u8).into_dyn();
    write(data.join(format!("{prefix}-images-idx3-ubyte")), &images, Compression::None).unwrap();
    write(data.join(format!("{prefix}-labels-idx1-ubyte")), &labels, Compression::None).unwrap();
}

/// A recipe with everything that has state: moments, dropout, batch norm, augmentation, callbacks.
pub(crate) const SMALL: &str = r#"name = "small"
epochs = 3
batch = 16
validation = 30
label_smoothing = 0.1
precision = "f32"
augmentation = [{ op = "horizontal_flip" }, { op = "translate", max = 1 }]

[optimizer]
kind = "adam"
learning_rate = 0.01

[reduce_lr_on_plateau]
factor = 0.5
patience = 1

[early_stopping]
patience = 50
restore_best = true

[model]
layers = [
    { layer = "conv2d", filters = 4, kernel = 3 },
    { layer = "batch_norm" },
    { layer = "relu" },
    { layer = "max_pool2d" },
    { layer = "flatten" },
    { layer = "dropout", rate = 0.2 },
    { layer = "dense", units = "classes" },
]
"#;

/// A folder with the small data set in `data` and the small recipe in `small.toml`, in which the program runs.
pub(crate) struct Workplace {
    dir: tempfile::TempDir,
}

impl Workplace {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        small_dataset(dir.path());
        fs::write(dir.path().join("small.toml"), SMALL).unwrap();
        Self { dir }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The program with these arguments, in the folder, its output captured.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("selvedge"));
        command.current_dir(self.path()).env_remove("RAYON_NUM_THREADS").args(args);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Training of the small recipe.
    pub(crate) fn training(&self, args: &[&str]) -> Command {
        self.command(&[&["train", "--recipe", "small.toml", "--dataset", "data", "--threads", "2"], args].concat())
    }
}

/// The standard output of a successful run.
#[track_caller]
pub(crate) fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Expects failure with `code` and these parts in the message.
#[track_caller]
pub(crate) fn assert_fails(output: &Output, code: i32, parts: &[&str]) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    for part in parts {
        assert!(stderr.contains(part), "{part:?} is missing from: {stderr}");
    }
}
