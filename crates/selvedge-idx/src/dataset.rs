//! Labelled images for classification: MNIST, Fashion-MNIST and every data set in the same four files.

use std::io;
use std::path::{Path, PathBuf};
use std::thread;

use ndarray::{Array1, Array4, ArrayD, Ix1, Ix4};

use crate::classes::{self, listed_class_names};
use crate::error::{IdxError, Offset, Problem};
use crate::header::Header;
use crate::locate::{locate, missing};
use crate::read;

/// One of the two parts of a published data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// The training set.
    Train,
    /// The test set. Its files are called `t10k`, whatever their number of samples.
    Test,
}

impl Part {
    /// The file names of both parts: training images and labels, test images and labels.
    pub const FILE_NAMES: [&str; 4] = [
        Self::Train.image_file_name(),
        Self::Train.label_file_name(),
        Self::Test.image_file_name(),
        Self::Test.label_file_name(),
    ];

    /// The file name of the images. [`locate`] says which other names are accepted.
    #[must_use]
    pub const fn image_file_name(self) -> &'static str {
        match self {
            Self::Train => "train-images-idx3-ubyte",
            Self::Test => "t10k-images-idx3-ubyte",
        }
    }

    /// The file name of the labels. [`locate`] says which other names are accepted.
    #[must_use]
    pub const fn label_file_name(self) -> &'static str {
        match self {
            Self::Train => "train-labels-idx1-ubyte",
            Self::Test => "t10k-labels-idx1-ubyte",
        }
    }

    /// The file that the images of this part are read from.
    ///
    /// # Errors
    /// [`Problem::MissingFile`] if `dir` has none that is accepted; those of [`locate`].
    pub fn image_file(self, dir: impl AsRef<Path>) -> Result<PathBuf, IdxError> {
        find(dir.as_ref(), self.image_file_name())
    }

    /// The file that the labels of this part are read from.
    ///
    /// # Errors
    /// [`Problem::MissingFile`] if `dir` has none that is accepted; those of [`locate`].
    pub fn label_file(self, dir: impl AsRef<Path>) -> Result<PathBuf, IdxError> {
        find(dir.as_ref(), self.label_file_name())
    }
}

/// Images and their labels, in the order of the files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// `[N, H, W, C]`, 0 to 255, in row-major layout. A file of rank 3 gives `C = 1`.
    pub images: Array4<u8>,
    /// `[N]`, the class of each image.
    pub labels: Array1<u8>,
}

impl Split {
    /// Loads one part of the data set in `dir`, labels and images in parallel.
    ///
    /// The image file has rank 3 (`[N, H, W]`) or 4 (`[N, H, W, C]`), the label file rank 1, both of unsigned bytes.
    /// [`locate`] finds the files.
    ///
    /// # Errors
    /// Those of [`read_as`](crate::read_as), and [`Problem::MissingFile`],
    /// [`Problem::WrongRank`], [`Problem::CountMismatch`] or [`Problem::Empty`].
    ///
    /// ```
    /// use selvedge_idx::{Part, Split};
    ///
    /// let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../../data/fashion-mnist");
    /// let test = Split::load(dir, Part::Test)?;
    /// assert_eq!(test.images.dim(), (10_000, 28, 28, 1));
    /// assert_eq!(test.labels[0], 9);
    /// # Ok::<(), selvedge_idx::IdxError>(())
    /// ```
    pub fn load(dir: impl AsRef<Path>, part: Part) -> Result<Self, IdxError> {
        let dir = dir.as_ref();
        let image_file = part.image_file(dir)?;
        let label_file = part.label_file(dir)?;
        let (images, labels) = in_parallel(|| read_images(&image_file), || read_labels(&label_file));
        let (images, labels) = (images?, labels?);
        if images.dim().0 != labels.len() {
            return Err(IdxError::invalid(
                &label_file,
                Problem::CountMismatch,
                Offset::Data(Header::MAGIC_LEN as u64),
                format!("{} labels, one for each of {}", images.dim().0, image_file.display()),
                labels.len().to_string(),
                "take both files from the same data set",
            ));
        }
        Ok(Self { images, labels })
    }

    /// Number of samples.
    #[must_use]
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are no samples. [`Split::load`] never returns an empty part.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Height, width and channels of every image.
    #[must_use]
    pub fn image_shape(&self) -> [usize; 3] {
        let (_, height, width, channels) = self.images.dim();
        [height, width, channels]
    }
}

/// A training set, a matching test set, and the names of their classes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dataset {
    /// The name of the folder that it was loaded from.
    pub name: String,
    /// The training set.
    pub train: Split,
    /// The test set; its images have the size of those in `train`.
    pub test: Split,
    /// One name for each class, at most 256, so that every label is an index: the lines of `classes.txt`, or without
    /// that file the numbers from 0 to the highest training label.
    pub class_names: Vec<String>,
}

impl Dataset {
    /// Loads the four files in `dir` (each plain or gzipped) in parallel, and its `classes.txt` if there is one.
    ///
    /// # Errors
    /// Those of [`Split::load`] and [`class_names`], [`Problem::ImageSize`] if training and test images differ in size,
    /// [`Problem::Label`] if a label has no class.
    ///
    /// ```
    /// use selvedge_idx::Dataset;
    ///
    /// let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../../data/fashion-mnist");
    /// let dataset = Dataset::load(dir)?;
    /// assert_eq!(dataset.name, "fashion-mnist");
    /// assert_eq!(dataset.train.len(), 60_000);
    /// assert_eq!(dataset.train.image_shape(), [28, 28, 1]);
    /// assert_eq!(dataset.class_names[usize::from(dataset.test.labels[0])], "Ankle boot");
    /// # Ok::<(), selvedge_idx::IdxError>(())
    /// ```
    pub fn load(dir: impl AsRef<Path>) -> Result<Self, IdxError> {
        let dir = dir.as_ref();
        let names = listed_class_names(dir)?;
        let (train, test) = in_parallel(|| Split::load(dir, Part::Train), || Split::load(dir, Part::Test));
        let (train, test) = (train?, test?);
        check_image_sizes(&train, &test, dir)?;

        let named = names.is_some();
        let class_names = names.unwrap_or_else(|| numbers(&train.labels));
        check_labels(&train, Part::Train, dir, class_names.len(), named)?;
        check_labels(&test, Part::Test, dir, class_names.len(), named)?;
        Ok(Self { name: folder_name(dir), train, test, class_names })
    }

    /// Number of classes.
    #[must_use]
    pub fn classes(&self) -> usize {
        self.class_names.len()
    }
}

/// The names of the classes of the data set in `dir`, the first for label 0: the lines of `classes.txt`, or without
/// that file the numbers from 0 to the highest training label, for which only the training labels are read.
///
/// White space around a name, a byte-order mark and empty lines at the end are ignored.
///
/// # Errors
/// [`Problem::ClassNames`] if the file is not UTF-8 or contains no name, more than [`MAX_CLASSES`](crate::MAX_CLASSES)
/// names, an empty line between names, the same name twice or a control character; [`IdxError::Io`] if it cannot be
/// read; without the file, any error of reading the training labels.
///
/// ```
/// use ndarray::arr1;
/// use selvedge_idx::{Compression, Part, class_names, write};
///
/// let folder = tempfile::tempdir()?;
/// let labels = folder.path().join(Part::Train.label_file_name());
/// write(labels, &arr1(&[1_u8, 0, 1]), Compression::None)?;
/// assert_eq!(class_names(folder.path())?, ["0", "1"]);
///
/// std::fs::write(folder.path().join("classes.txt"), "cat\ndog\n")?;
/// assert_eq!(class_names(folder.path())?, ["cat", "dog"]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn class_names(dir: impl AsRef<Path>) -> Result<Vec<String>, IdxError> {
    let dir = dir.as_ref();
    match listed_class_names(dir)? {
        Some(names) => Ok(names),
        None => Ok(numbers(&read_labels(&Part::Train.label_file(dir)?)?)),
    }
}

fn numbers(labels: &Array1<u8>) -> Vec<String> {
    let highest = labels.iter().copied().max().unwrap_or(0);
    (0..=highest).map(|label| label.to_string()).collect()
}

fn find(dir: &Path, name: &str) -> Result<PathBuf, IdxError> {
    locate(dir, name)?.ok_or_else(|| missing(dir, name))
}

fn read_images(path: &Path) -> Result<Array4<u8>, IdxError> {
    let idx = read::open(path)?;
    let shape = match *idx.dims() {
        [n, height, width] => [n, height, width, 1],
        [n, height, width, channels] => [n, height, width, channels],
        _ => {
            return Err(idx.invalid(
                Problem::WrongRank,
                3,
                "3 dimensions (images, height, width) or 4 (and channels)",
                idx.dims().len().to_string(),
                "check that image and label files are not swapped",
            ));
        }
    };
    if shape.contains(&0) {
        let [n, height, width, channels] = shape;
        return Err(idx.invalid(
            Problem::Empty,
            Header::MAGIC_LEN as u64,
            "at least one image of at least one pixel",
            format!("{n} of {height}×{width}×{channels}"),
            "fetch or write the file again",
        ));
    }
    let images: ArrayD<u8> = idx.into_array()?;
    images.into_shape_with_order(Ix4(shape[0], shape[1], shape[2], shape[3])).map_err(|error| {
        // The shapes differ at most in an added axis of length 1.
        IdxError::io(path, "view the data as images", io::Error::other(error))
    })
}

fn read_labels(path: &Path) -> Result<Array1<u8>, IdxError> {
    let idx = read::open(path)?;
    match *idx.dims() {
        [0] => Err(idx.invalid(
            Problem::Empty,
            Header::MAGIC_LEN as u64,
            "at least one label",
            "none",
            "fetch or write the file again",
        )),
        [n] => idx
            .into_array()?
            .into_shape_with_order(Ix1(n))
            .map_err(|error| IdxError::io(path, "view the data as labels", io::Error::other(error))),
        _ => Err(idx.invalid(
            Problem::WrongRank,
            3,
            "1 dimension (labels)",
            idx.dims().len().to_string(),
            "check that image and label files are not swapped",
        )),
    }
}

fn check_image_sizes(train: &Split, test: &Split, dir: &Path) -> Result<(), IdxError> {
    if train.image_shape() == test.image_shape() {
        return Ok(());
    }
    let show = |[height, width, channels]: [usize; 3]| format!("{height}×{width}×{channels}");
    Err(IdxError::invalid(
        &Part::Test.image_file(dir)?,
        Problem::ImageSize,
        Offset::Data(Header::MAGIC_LEN as u64 + 4),
        format!("images of {} as in the training part", show(train.image_shape())),
        show(test.image_shape()),
        "take all four files from the same data set",
    ))
}

fn check_labels(split: &Split, part: Part, dir: &Path, classes: usize, named: bool) -> Result<(), IdxError> {
    let Some(index) = split.labels.iter().position(|&label| usize::from(label) >= classes) else {
        return Ok(());
    };
    let (reason, advice) = if named {
        ("the number of names in", "correct the label, or name every class")
    } else {
        (
            "one more than the highest training label, as there is no",
            "correct the label, or name every class in that file",
        )
    };
    Err(IdxError::invalid(
        &part.label_file(dir)?,
        Problem::Label,
        Offset::Data((Header::MAGIC_LEN + 4 + index) as u64),
        format!("a label below {classes} ({reason} {})", classes::CLASSES_FILE),
        format!("{} for image {index}", split.labels[index]),
        advice,
    ))
}

fn folder_name(dir: &Path) -> String {
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    // A path such as `.` has no file name until it is made absolute.
    name(dir).or_else(|| dir.canonicalize().ok().as_deref().and_then(name)).unwrap_or_else(|| dir.display().to_string())
}

/// Runs `second` on a thread of its own while `first` runs here; after it, where the system starts no thread.
fn in_parallel<A, B: Send>(first: impl FnOnce() -> A, second: impl Fn() -> B + Sync) -> (A, B) {
    thread::scope(|scope| match thread::Builder::new().spawn_scoped(scope, &second) {
        Ok(handle) => {
            let first = first();
            let second = handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            (first, second)
        }
        Err(_) => (first(), second()),
    })
}
