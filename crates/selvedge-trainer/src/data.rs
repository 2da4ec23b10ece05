//! The images of a run: loads and verifies the training split, and holds out images to validate on.
//!
//! Training uses the training split only; evaluation ([`crate::evaluate`]) reads the test split.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;

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
    /// A file is malformed.
    #[error(transparent)]
    Idx(#[from] selvedge_idx::IdxError),
    /// A label that is not a class.
    #[error(
        "{dir}: {part} image {image} (counted from 0) has label {label}, but the data set has {classes} classes, 0 to {last}", dir = dir.display(), last = classes - 1
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
    /// The test images do not have the shape of the network's input.
    #[error(
        "{dir}: the test images are {found:?} (height, width, channels), the network expects {expected:?}",
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
    /// The classes of the data set are not those of the run, or in another order.
    #[error(
        "{file} names the classes {found}; the run was trained with {expected}, so its answers would be counted for other \
         classes: put the lines into that order, or add --map-classes to go by the names",
        file = dir.join(selvedge_idx::CLASSES_FILE).display(), found = found.join(", "), expected = expected.join(", ")
    )]
    ClassOrder {
        /// The data set's folder.
        dir: PathBuf,
        /// Its classes.
        found: Vec<String>,
        /// Those of the run.
        expected: Vec<String>,
    },
    /// A class that the run does not have.
    #[error(
        "{file} names the class {name}, which the run does not have: it has {expected}",
        file = dir.join(selvedge_idx::CLASSES_FILE).display(), expected = expected.join(", ")
    )]
    UnknownClass {
        /// The data set's folder.
        dir: PathBuf,
        /// The class.
        name: String,
        /// Those of the run.
        expected: Vec<String>,
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
    /// The training split of `dataset`: a known name, whose folder lies in `data_dir`, or any other folder. The files are
    /// verified; those of a known data set are downloaded if missing.
    ///
    /// One thread verifies the files while another reads them. If a file had to be downloaded, all are read again.
    ///
    /// # Errors
    /// [`DataError`]
    pub fn load<P: Progress + Send + ?Sized>(
        dataset: &str,
        data_dir: &Path,
        fetch: &FetchOptions,
        progress: &mut P,
    ) -> Result<Self, DataError> {
        let data = Self::read(dataset, data_dir, progress, |watch| download::ensure(dataset, data_dir, fetch, watch))?;
        if download::find(dataset).is_none() {
            // Hashes prove that the files of a known data set are sound. For any other folder, broken test files must not
            // come to light after hours of training.
            load_test(&data.dir, data.image_shape(), data.class_names.len())?;
        }
        Ok(data)
    }

    /// Like [`TrainingData::load`], but leaves the test files alone: they are neither read nor downloaded, and may be missing.
    pub(crate) fn load_without_test<P: Progress + Send + ?Sized>(
        dataset: &str,
        data_dir: &Path,
        fetch: &FetchOptions,
        progress: &mut P,
    ) -> Result<Self, DataError> {
        Self::read(dataset, data_dir, progress, |watch| download::ensure_training(dataset, data_dir, fetch, watch))
    }

    /// Reads the training split while `verify` makes sure of its files.
    fn read<P: Progress + Send + ?Sized>(
        dataset: &str,
        data_dir: &Path,
        progress: &mut P,
        verify: impl Fn(&mut Watch<'_, P>) -> Result<PathBuf, DownloadError> + Sync,
    ) -> Result<Self, DataError> {
        let registered = download::find(dataset);
        let expected_dir = registered.map_or_else(|| PathBuf::from(dataset), |known| data_dir.join(known.name));
        let watch = Mutex::new(Watch { inner: progress, fetched: false });
        let locked = || watch.lock().unwrap_or_else(PoisonError::into_inner);
        let verify = || verify(&mut locked());
        let read = || Split::load(&expected_dir, Part::Train);
        let (verified, early) = thread::scope(|scope| match thread::Builder::new().spawn_scoped(scope, verify) {
            Ok(verified) => {
                let early = read();
                (verified.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), early)
            }
            // The system starts no more threads.
            Err(_) => (verify(), read()),
        });
        let dir = verified?;
        let split = if locked().fetched { Split::load(&dir, Part::Train)? } else { early? };
        let class_names = selvedge_idx::class_names(&dir)?;
        if class_names.len() < 2 {
            return Err(DataError::Classes { dir, classes: class_names.len() });
        }
        check_labels(&dir, &split, class_names.len(), "training")?;
        Ok(Self { dir, split, class_names })
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

/// The pixels of all images, contiguous, and their labels.
pub(crate) fn flat(split: &Split) -> (&[u8], &[u8]) {
    // Splits are read from files in standard order, so both arrays are contiguous.
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

/// Forwards progress, and notes whether any file was downloaded, now or by an earlier run that did not rename it.
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

/// What a random stream is for. No two purposes share a stream.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Purpose {
    Order = 1,
    ValidationSplit = 2,
    Search = 3,
}

pub(crate) fn stream(seed: u64, purpose: Purpose, number: u64) -> ChaCha8Rng {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8] = purpose as u8;
    let mut rng = ChaCha8Rng::from_seed(key);
    rng.set_stream(number);
    rng
}

/// The shuffle of Fisher and Yates. Numbers are drawn by multiplication (Lemire, arXiv 1805.10941) with a bias of 2^-32,
/// which no run can show. It is written out here so that no release of another crate can change the order.
fn shuffle(values: &mut [u32], rng: &mut ChaCha8Rng) {
    for last in (1..values.len()).rev() {
        let drawn = (u128::from(rng.next_u64()) * (last as u128 + 1)) >> 64;
        values.swap(last, drawn as usize);
    }
}

/// Writes the order of an epoch into `order`: a permutation of `indices` that depends only on seed and epoch.
pub fn epoch_order(indices: &[u32], seed: u64, epoch: u64, order: &mut Vec<u32>) {
    order.clear();
    order.extend_from_slice(indices);
    shuffle(order, &mut stream(seed, Purpose::Order, epoch));
}

/// The indices of the images to train on and of those held out, both ascending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// The images to train on.
    pub train: Vec<u32>,
    /// The images to validate on.
    pub validation: Vec<u32>,
    /// The classes of which an image stays in training although their share of the validation images would be all they have.
    pub kept: Vec<u8>,
}

/// Holds out `count` images, stratified by class and chosen by the seed.
///
/// A class of `n` of the `N` images gives the integer part of `count · n / N`. The images still missing come, one each, from
/// the classes with the largest remainders; of equal ones, from the first. No class gives its last image while another has more
/// than one left: then that one gives an image in its place.
///
/// # Panics
/// If `count` is more than there are labels.
pub fn stratified(labels: &[u8], count: usize, seed: u64) -> Partition {
    assert!(count <= labels.len(), "{count} validation images of {}", labels.len());
    let mut by_class: Vec<Vec<u32>> = vec![Vec::new(); 256];
    for (index, &label) in (0u32..).zip(labels) {
        by_class[usize::from(label)].push(index);
    }
    let mut partition = Partition { train: Vec::new(), validation: Vec::new(), kept: Vec::new() };
    let (quotas, kept) = quotas(&by_class, labels.len(), count);
    partition.kept = kept;
    for (class, (mut images, quota)) in (0u64..).zip(by_class.into_iter().zip(quotas)) {
        shuffle(&mut images, &mut stream(seed, Purpose::ValidationSplit, class));
        partition.validation.extend(&images[..quota]);
        partition.train.extend(&images[quota..]);
    }
    partition.train.sort_unstable();
    partition.validation.sort_unstable();
    partition
}

/// How many of `count` validation images each class gives, and the classes that keep their last image although their share
/// would be all they have.
fn quotas(by_class: &[Vec<u32>], images: usize, count: usize) -> (Vec<usize>, Vec<u8>) {
    let share = |images_of: &Vec<u32>| (images_of.len() as u128 * count as u128, images.max(1) as u128);
    let mut quotas: Vec<usize> = by_class.iter().map(share).map(|(above, below)| (above / below) as usize).collect();
    let mut by_remainder: Vec<usize> = (0..by_class.len()).collect();
    by_remainder.sort_by_key(|&class| {
        let (above, below) = share(&by_class[class]);
        std::cmp::Reverse(above % below)
    });
    let missing = count - quotas.iter().sum::<usize>();
    by_remainder[..missing].iter().for_each(|&class| quotas[class] += 1);

    let mut kept = Vec::new();
    for class in 0..by_class.len() {
        if quotas[class] == 0 || quotas[class] < by_class[class].len() {
            continue;
        }
        // The class with the most images left gives one more; of equal ones, the first.
        let left = |other: &usize| by_class[*other].len() - quotas[*other];
        let giver = (0..by_class.len()).rev().max_by_key(left).filter(|giver| left(giver) > 1);
        if let Some(giver) = giver {
            quotas[class] -= 1;
            quotas[giver] += 1;
            kept.push(class as u8);
        }
    }
    (quotas, kept)
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
            let Partition { train, validation, kept } = stratified(&labels, count, 3);
            let of = |class: u8| validation.iter().filter(|&&i| labels[i as usize] == class).count();
            assert_eq!([of(0), of(3), of(9)], expected);
            assert!(kept.is_empty());
            let mut all: Vec<u32> = train.iter().chain(&validation).copied().collect();
            all.sort_unstable();
            assert_eq!(all, (0..100).collect::<Vec<_>>());
            assert!(train.is_sorted() && validation.is_sorted());
        }
    }

    #[test]
    fn the_last_image_of_a_class_stays_in_training() {
        // One image of class 2, two of class 5, 97 of class 7.
        let labels: Vec<u8> = (0..100)
            .map(|i| {
                if i == 40 {
                    2
                } else if i % 50 == 3 {
                    5
                } else {
                    7
                }
            })
            .collect();
        let held = |count: usize| {
            let Partition { train, validation, kept } = stratified(&labels, count, 3);
            assert_eq!((train.len(), validation.len()), (100 - count, count));
            let of = |class: u8| validation.iter().filter(|&&i| labels[i as usize] == class).count();
            ([of(2), of(5), of(7)], kept)
        };
        assert_eq!(held(50), ([0, 1, 49], vec![2]));
        assert_eq!(held(90), ([0, 1, 89], vec![2, 5]));
        assert_eq!(held(97), ([0, 1, 96], vec![2, 5]));
        // There is nothing left to give in place of class 5.
        assert_eq!(held(98).0.iter().sum::<usize>(), 98);
    }

    #[test]
    fn the_split_depends_on_the_seed_only() {
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
        // Published results name their seeds.
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
        // The expected count is 1000, its standard deviation 30.
        assert!(counts.iter().flatten().all(|count| (850..1150).contains(count)), "{counts:?}");
    }
}
