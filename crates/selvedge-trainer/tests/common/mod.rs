//! A small data set and a small recipe: what every test here trains in a fraction of a second.

use std::fs;
use std::path::{Path, PathBuf};

use selvedge_idx::{Compression, write};

/// 10 x 10 images of four classes, each a bright band of rows, with noise that depends on the image's number.
pub(crate) fn small_dataset(dir: &Path) -> PathBuf {
    let data = dir.join("data");
    fs::create_dir_all(&data).unwrap();
    write_part(&data, "train", 150, 4);
    write_part(&data, "t10k", 40, 4);
    data
}

/// One part of the data set with labels from 0 to `classes - 1`.
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

/// A recipe with everything that has state: momentum, dropout, batch norm, augmentation, plateau, early stopping.
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
