//! The images of a run: loading them verified, and holding some of them out to validate on.
//!
//! The training split alone is read before training; the test split is read by evaluation ([`crate::evaluate`]).

use std::path::{Path, PathBuf};

use ndarray::ArrayView4;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use selvedge_idx::{Part, Split};
use thiserror::Error;

use crate::download::{self, DownloadError, FetchOptions, Progress};

/// Why a data set cannot be used.
#[derive(Debug, Error)]
pub enum DataError {
    /// It could not be found, fetched or verified.
    #[error(transparent)]
    Download(#[from] DownloadError),
    /// A file is not what it should be.
    #[error(transparent)]
    Idx(#[from] selvedge_idx::IdxError),
    /// A label without a class.
    #[error(
        "{dir}: label {label} of {part} image {image} (counted from 0) has no class: the data set has {classes} classes, \
         0 to {last}", dir = dir.display(), last = classes - 1
    )]
    Label {
        /// The data set's folder.
        dir: PathBuf,
        /// "training" or "test".
        part: &'static str,
        /// The image.
        image: usize,
        /// Its label.
        label: u8,
        /// The number of classes.
        classes: usize,
    },
    /// Test images of another shape than the network's input.
    #[error(
        "{dir}: the test images are {found:?} (height, width, channels), the network takes {expected:?}",
        dir = dir.display()
    )]
    TestShape {
        /// The data set's folder.
        dir: PathBuf,
        /// Shape of the test images.
        found: [usize; 3],
        /// Shape of the network's input.
        expected: [usize; 3],
    },
    /// Fewer than two classes.
    #[error("{dir}: the data set has {classes} classes, and a classifier needs at least 2", dir = dir.display())]
    Classes {
        /// The data set's folder.
        dir: PathBuf,
        /// The number of classes.
        classes: usize,
    },
}

/// The training split of a data set.
#[derive(Debug)]
pub struct TrainingData {
    /// The folder it came from.
    pub dir: PathBuf,
    /// Images and labels.
    pub split: Split,
    /// The names of the classes.
    pub class_names: Vec<String>,
}

impl TrainingData {
    /// The training split of `dataset`, a registered name below `data_dir` or a folder. It is verified, and a
    /// registered one is fetched where it is missing.
    ///
    /// Verification hashes the files while they are read. If it had to fetch one, what was read is read anew.
    ///
    /// # Errors
    /// [`DataError`]
    pub fn load<P: Progress + Send + ?Sized>(
        dataset: &str,
        data_dir: &Path,
        fetch: &FetchOptions,
        progress: &mut P,
    ) -> Result<Self, DataError> {
        let registered = download::find(dataset);
        let expected_dir = registered.map_or_else(|| PathBuf::from(dataset), |known| data_dir.join(known.name));
        let mut watch = Watch { inner: progress, fetched: false };
        let (verified, early) = std::thread::scope(|scope| {
            let verified = scope.spawn(|| download::ensure(dataset, data_dir, fetch, &mut watch));
            let early = Split::load(&expected_dir, Part::Train);
            (verified.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), early)
        });
        let dir = verified?;
        let split = if watch.fetched { Split::load(&dir, Part::Train)? } else { early? };
        let class_names = selvedge_idx::class_names(&dir)?;
        if class_names.len() < 2 {
            return Err(DataError::Classes { dir, classes: class_names.len() });
        }
        check_labels(&dir, &split, class_names.len(), "training")?;
        let data = Self { dir, split, class_names };
        if registered.is_none() {
            // The files of a registered data set are known by their hashes; of any other folder it must not turn out
            // after hours of training that the test files are broken.
            load_test(&data.dir, data.image_shape(), data.class_names.len())?;
        }
        Ok(data)
    }

    /// Height, width and channels of every image.
    pub fn image_shape(&self) -> [usize; 3] {
        image_shape(&self.split)
    }

    /// The labels.
    pub fn labels(&self) -> &[u8] {
        flat(&self.split).1
    }

    /// The images, `[N, height, width, channels]`.
    pub fn images(&self) -> ArrayView4<'_, u8> {
        self.split.images.view()
    }

    /// One image, `[height, width, channels]`.
    ///
    /// # Panics
    /// If there is no image of this index.
    pub fn image(&self, index: usize) -> &[u8] {
        let len = self.image_shape().iter().product::<usize>();
        &flat(&self.split).0[index * len..][..len]
    }
}

/// The test split in `dir`, checked against the network's input and classes.
///
/// # Errors
/// [`DataError`]
pub fn load_test(dir: &Path, expected: [usize; 3], classes: usize) -> Result<Split, DataError> {
    let split = Split::load(dir, Part::Test)?;
    let found = image_shape(&split);
    if found != expected {
        return Err(DataError::TestShape { dir: dir.to_owned(), found, expected });
    }
    check_labels(dir, &split, classes, "test")?;
    Ok(split)
}

/// The images, one after the other, and their labels.
pub(crate) fn flat(split: &Split) -> (&[u8], &[u8]) {
    // Splits are read from files into arrays of standard order, so both are slices.
    (split.images.as_slice().unwrap_or_default(), split.labels.as_slice().unwrap_or_default())
}

fn image_shape(split: &Split) -> [usize; 3] {
    let (_, height, width, channels) = split.images.dim();
    [height, width, channels]
}

fn check_labels(dir: &Path, split: &Split, classes: usize, part: &'static str) -> Result<(), DataError> {
    match split.labels.iter().position(|&label| usize::from(label) >= classes) {
        None => Ok(()),
        Some(image) => Err(DataError::Label { dir: dir.to_owned(), part, image, label: split.labels[image], classes }),
    }
}

/// Passes progress on, and notes whether any file was fetched, or put in place of what an earlier run had fetched.
struct Watch<'a, P: ?Sized> {
    inner: &'a mut P,
    fetched: bool,
}

impl<P: Progress + ?Sized> Progress for Watch<'_, P> {
    fn begin(&mut self, file: &str, url: &str) {
        self.fetched = true;
        self.inner.begin(file, url);
    }
    fn advance(&mut self, got: u64, total: Option<u64>) {
        self.inner.advance(got, total);
    }
    fn end(&mut self, file: &str) {
        self.fetched = true;
        self.inner.end(file);
    }
    fn note(&mut self, message: &str) {
        self.inner.note(message);
    }
}

/// What a random stream is for: two purposes never share one.
#[derive(Clone, Copy, Debug)]
enum Purpose {
    Order = 1,
    ValidationSplit = 2,
}

fn stream(seed: u64, purpose: Purpose, number: u64) -> ChaCha8Rng {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8] = purpose as u8;
    let mut rng = ChaCha8Rng::from_seed(key);
    rng.set_stream(number);
    rng
}

/// Fisher and Yates, with numbers by multiplication (Lemire, arXiv 1805.10941): the bias of 2^-32 is far below what
/// any run could show, and no release of another crate can change the order.
fn shuffle(values: &mut [u32], rng: &mut ChaCha8Rng) {
    for last in (1..values.len()).rev() {
        let drawn = (u128::from(rng.next_u64()) * (last as u128 + 1)) >> 64;
        values.swap(last, drawn as usize);
    }
}

/// Writes the order of an epoch into `order`: a permutation of `indices` that depends on seed and epoch alone.
pub fn epoch_order(indices: &[u32], seed: u64, epoch: u64, order: &mut Vec<u32>) {
    order.clear();
    order.extend_from_slice(indices);
    shuffle(order, &mut stream(seed, Purpose::Order, epoch));
}

/// Which images are trained on and which are held out, both ascending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Trained on.
    pub train: Vec<u32>,
    /// Held out.
    pub validation: Vec<u32>,
}

/// Holds `count` images out, of each class its share, chosen by the seed.
///
/// Every class gives the whole part of its share `count · n / N`; what is missing then comes, one image each, from
/// the classes with the largest remainders, the first of equals.
///
/// # Panics
/// If `count` is more than there are labels.
pub fn stratified(labels: &[u8], count: usize, seed: u64) -> Partition {
    assert!(count <= labels.len(), "{count} validation images of {}", labels.len());
    let mut by_class: Vec<Vec<u32>> = vec![Vec::new(); 256];
    for (index, &label) in (0u32..).zip(labels) {
        by_class[usize::from(label)].push(index);
    }
    let share = |images: &Vec<u32>| (images.len() as u128 * count as u128, labels.len().max(1) as u128);
    let mut quotas: Vec<usize> = by_class.iter().map(share).map(|(above, below)| (above / below) as usize).collect();
    let mut by_remainder: Vec<usize> = (0..256).collect();
    by_remainder.sort_by_key(|&class| {
        let (above, below) = share(&by_class[class]);
        std::cmp::Reverse(above % below)
    });
    let missing = count - quotas.iter().sum::<usize>();
    by_remainder[..missing].iter().for_each(|&class| quotas[class] += 1);

    let mut partition = Partition { train: Vec::new(), validation: Vec::new() };
    for (class, (mut images, quota)) in (0u64..).zip(by_class.into_iter().zip(quotas)) {
        shuffle(&mut images, &mut stream(seed, Purpose::ValidationSplit, class));
        partition.validation.extend(&images[..quota]);
        partition.train.extend(&images[quota..]);
    }
    partition.train.sort_unstable();
    partition.validation.sort_unstable();
    partition
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels() -> Vec<u8> {
        // 60 of class 0, 30 of class 3, 10 of class 9.
        (0..100)
            .map(|i| {
                if i % 10 < 6 {
                    0
                } else if i % 10 < 9 {
                    3
                } else {
                    9
                }
            })
            .collect()
    }

    #[test]
    fn the_split_is_stratified_and_complete() {
        let labels = labels();
        for (count, expected) in [(0, [0, 0, 0]), (10, [6, 3, 1]), (15, [9, 5, 1]), (100, [60, 30, 10])] {
            let Partition { train, validation } = stratified(&labels, count, 3);
            let of = |class: u8| validation.iter().filter(|&&i| labels[i as usize] == class).count();
            assert_eq!([of(0), of(3), of(9)], expected);
            let mut all: Vec<u32> = train.iter().chain(&validation).copied().collect();
            all.sort_unstable();
            assert_eq!(all, (0..100).collect::<Vec<_>>());
            assert!(train.is_sorted() && validation.is_sorted());
        }
    }

    #[test]
    fn the_split_depends_on_the_seed_alone() {
        let labels = labels();
        assert_eq!(stratified(&labels, 20, 1), stratified(&labels, 20, 1));
        assert_ne!(stratified(&labels, 20, 1), stratified(&labels, 20, 2));
    }

    #[test]
    fn orders_are_permutations_that_depend_on_seed_and_epoch() {
        let indices: Vec<u32> = (0..500).map(|i| i * 3).collect();
        let order = |seed, epoch| {
            let mut order = vec![7; 9];
            epoch_order(&indices, seed, epoch, &mut order);
            order
        };
        let first = order(1, 0);
        let mut sorted = first.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, indices);
        assert_eq!(first, order(1, 0));
        assert_ne!(first, order(1, 1));
        assert_ne!(first, order(2, 0));
    }

    #[test]
    fn the_order_does_not_change_between_releases() {
        let mut order = Vec::new();
        epoch_order(&[0, 1, 2, 3, 4, 5, 6, 7], 1, 0, &mut order);
        // Recipes name seeds whose results are published.
        assert_eq!(order, [4, 6, 0, 3, 7, 2, 5, 1]);
    }

    #[test]
    fn every_place_is_equally_likely() {
        let indices: Vec<u32> = (0..8).collect();
        let mut counts = [[0u32; 8]; 8];
        let mut order = Vec::new();
        for epoch in 0..8000 {
            epoch_order(&indices, 5, epoch, &mut order);
            order.iter().enumerate().for_each(|(place, &value)| counts[place][value as usize] += 1);
        }
        // 1000 expected in each, standard deviation 30.
        assert!(counts.iter().flatten().all(|count| (850..1150).contains(count)), "{counts:?}");
    }
}
