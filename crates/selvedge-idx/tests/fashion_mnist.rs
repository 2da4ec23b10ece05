//! The data set in this repository, against values computed from the decompressed files with Python's gzip module
//! alone:
//!
//! ```python
//! b = gzip.open("train-images-idx3-ubyte.gz").read(); sum(b[16:]), list(b[16 + 14 * 28:16 + 15 * 28])
//! ```

use selvedge_idx::{Dataset, Part, Split};

const DIR: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../data/fashion-mnist");

const TRAIN_LABELS: [u8; 10] = [9, 0, 0, 3, 0, 2, 7, 2, 5, 5];
const TEST_LABELS: [u8; 10] = [9, 2, 1, 1, 6, 1, 4, 6, 5, 7];
const TRAIN_SUM: u64 = 3_431_114_169;
const TEST_SUM: u64 = 573_469_082;
/// The middle row of the first training image.
const ROW: [u8; 28] =
    [0, 0, 1, 4, 6, 7, 2, 0, 0, 0, 0, 0, 237, 226, 217, 223, 222, 219, 222, 221, 216, 223, 229, 215, 218, 255, 77, 0];

fn sum(split: &Split) -> u64 {
    split.images.iter().copied().map(u64::from).sum()
}

fn counts(split: &Split) -> [usize; 10] {
    let mut counts = [0; 10];
    for &label in &split.labels {
        counts[usize::from(label)] += 1;
    }
    counts
}

#[test]
fn shapes_labels_and_pixels() {
    let Dataset { name, train, test, class_names } = Dataset::load(DIR).unwrap();
    assert_eq!(name, "fashion-mnist");
    assert_eq!(train.images.dim(), (60_000, 28, 28, 1));
    assert_eq!(test.images.dim(), (10_000, 28, 28, 1));
    assert_eq!(train.labels.as_slice().unwrap()[..10], TRAIN_LABELS);
    assert_eq!(test.labels.as_slice().unwrap()[..10], TEST_LABELS);
    assert_eq!(counts(&train), [6_000; 10]);
    assert_eq!(counts(&test), [1_000; 10]);
    assert_eq!(sum(&train), TRAIN_SUM);
    assert_eq!(sum(&test), TEST_SUM);
    let mean = sum(&train) as f64 / train.images.len() as f64;
    assert!((mean - 72.94).abs() < 0.005, "{mean}");
    let row: Vec<u8> = train.images.slice(ndarray::s![0, 14, .., 0]).to_vec();
    assert_eq!(row, ROW);
    assert_eq!(
        class_names,
        ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
    );
}

#[test]
fn each_part_alone_is_the_same() {
    let dataset = Dataset::load(DIR).unwrap();
    assert!(Split::load(DIR, Part::Train).unwrap() == dataset.train);
    assert!(Split::load(DIR, Part::Test).unwrap() == dataset.test);
}
