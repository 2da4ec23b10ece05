//! Data sets of generated files: every accepted form, and every fault.

use std::fs;
use std::path::Path;

use ndarray::{Array, Array1, Array3, Array4, ArrayRef, Dimension};
use selvedge_idx::{Compression, Dataset, IdxElement, Part, Problem, Split, class_names, write};
use tempfile::TempDir;

const TRAIN_IMAGES: &str = "train-images-idx3-ubyte";
const TRAIN_LABELS: &str = "train-labels-idx1-ubyte";
const TEST_IMAGES: &str = "t10k-images-idx3-ubyte";
const TEST_LABELS: &str = "t10k-labels-idx1-ubyte";

struct Folder(TempDir);

impl Folder {
    /// Six training and four test images of 3 x 5 pixels in three classes, two of the files gzipped.
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        folder.put(TRAIN_IMAGES, &images(6, 3, 5)).pack(&format!("{TRAIN_LABELS}.gz"), &labels(6));
        folder.pack(&format!("{TEST_IMAGES}.gz"), &images(4, 3, 5)).put(TEST_LABELS, &labels(4));
        folder
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn put<T: IdxElement, D: Dimension>(&self, name: &str, array: &ArrayRef<T, D>) -> &Self {
        write(self.path().join(name), array, Compression::None).unwrap();
        self
    }

    fn pack<T: IdxElement, D: Dimension>(&self, name: &str, array: &ArrayRef<T, D>) -> &Self {
        write(self.path().join(name), array, Compression::Gzip).unwrap();
        self
    }

    fn classes(&self, text: impl AsRef<[u8]>) -> &Self {
        fs::write(self.path().join("classes.txt"), text).unwrap();
        self
    }

    /// Requires that loading fails with a problem and a message that contains all of `parts`.
    fn fails(&self, problem: Problem, parts: &[&str]) {
        let error = Dataset::load(self.path()).unwrap_err();
        assert_eq!(error.problem(), Some(problem), "{error}");
        let message = error.to_string();
        for part in parts {
            assert!(message.contains(part), "{part:?} is not in: {message}");
        }
    }
}

fn images(n: usize, height: usize, width: usize) -> Array3<u8> {
    Array::from_shape_fn((n, height, width), |(n, y, x)| (100 * n + 10 * y + x) as u8)
}

fn labels(n: usize) -> Array1<u8> {
    Array::from_shape_fn(n, |n| (n % 3) as u8)
}

#[test]
fn plain_and_gzipped_files_side_by_side() {
    let folder = Folder::new();
    let dataset = Dataset::load(folder.path()).unwrap();
    assert_eq!(dataset.name, folder.path().file_name().unwrap().to_str().unwrap());
    assert_eq!(dataset.train.images.dim(), (6, 3, 5, 1));
    assert_eq!(dataset.train.images[[2, 1, 4, 0]], 214);
    assert!(dataset.train.images.is_standard_layout());
    assert_eq!(dataset.train.labels, labels(6));
    assert_eq!((dataset.test.len(), dataset.test.image_shape()), (4, [3, 5, 1]));
    assert_eq!(dataset.class_names, ["0", "1", "2"]);
    assert_eq!(dataset.classes(), 3);
    assert_eq!(Split::load(folder.path(), Part::Train).unwrap(), dataset.train);
    assert_eq!(Split::load(folder.path(), Part::Test).unwrap(), dataset.test);
    assert_eq!(class_names(folder.path()).unwrap(), dataset.class_names);
}

#[test]
fn colour_images_have_four_dimensions() {
    let folder = Folder::new();
    let colour = |n| Array4::from_shape_fn((n, 2, 2, 3), |(n, y, x, c)| (n + y + x + c) as u8);
    folder.put(TRAIN_IMAGES, &colour(6)).pack(&format!("{TEST_IMAGES}.gz"), &colour(4));
    let dataset = Dataset::load(folder.path()).unwrap();
    assert_eq!(dataset.train.images, colour(6));
    assert_eq!(dataset.test.image_shape(), [2, 2, 3]);
}

#[test]
fn the_content_and_not_the_name_decides_about_gzip() {
    let folder = Folder::new();
    folder.pack(TRAIN_IMAGES, &images(6, 3, 5)).put(&format!("{TRAIN_LABELS}.gz"), &labels(6));
    assert_eq!(Dataset::load(folder.path()).unwrap().train.labels, labels(6));
}

#[test]
fn the_gzipped_file_is_read_if_both_exist() {
    let folder = Folder::new();
    folder.put(TRAIN_LABELS, &Array1::from_elem(6, 2_u8));
    assert_eq!(Dataset::load(folder.path()).unwrap().train.labels, labels(6));
}

#[test]
fn all_256_classes() {
    let folder = Folder::new();
    folder.put(TRAIN_IMAGES, &images(256, 3, 5));
    folder.pack(&format!("{TRAIN_LABELS}.gz"), &Array1::from_iter(0..=255_u8));
    let dataset = Dataset::load(folder.path()).unwrap();
    assert_eq!(dataset.classes(), 256);
    assert_eq!(dataset.class_names[255], "255");
}

#[test]
fn class_names_from_a_file() {
    let folder = Folder::new();
    folder.classes("\u{feff}chat noir\r\n  dog \r\nβ\r\nunused\r\n\r\n");
    let names = ["chat noir", "dog", "β", "unused"];
    assert_eq!(class_names(folder.path()).unwrap(), names);
    assert_eq!(Dataset::load(folder.path()).unwrap().class_names, names);
}

#[test]
fn invalid_class_names() {
    let folder = Folder::new();
    let many: String = (0..257).map(|n| format!("class {n}\n")).collect();
    for (text, expected) in [
        (&b""[..], "a name for label 0"),
        (b" \n\n", "a name for label 0"),
        (b"cat\n\ndog\n", "at byte 4: expected a name for label 1, found none"),
        (b"cat\ndog\ncat\n", "at byte 8: expected each name once, found \"cat\" again"),
        (b"cat\n\xff\xfe\n", "at byte 4: expected UTF-8 text"),
        (b"cat\n\x1b[31mdog\n", "without control characters, found \"\\u{1b}[31mdog\""),
        (many.as_bytes(), "256 names at most"),
        (&vec![b'a'; (1 << 20) + 1], "1048576 bytes at most"),
    ] {
        folder.classes(text).fails(Problem::ClassNames, &["classes.txt", expected, "one name per line"]);
    }
}

#[test]
fn labels_without_a_class() {
    let folder = Folder::new();
    folder.classes("cat\ndog\n");
    folder.fails(Problem::Label, &["train-labels", "byte 10", "below 2", "classes.txt", "found 2 for image 2"]);

    let folder = Folder::new();
    folder.put(TEST_LABELS, &Array1::from(vec![0_u8, 1, 2, 9]));
    folder.fails(Problem::Label, &[TEST_LABELS, "below 3", "highest training label", "found 9 for image 3"]);
}

#[test]
fn missing_files() {
    for (name, other) in [
        (TRAIN_IMAGES.to_owned(), TRAIN_IMAGES),
        (format!("{TRAIN_LABELS}.gz"), TRAIN_LABELS),
        (format!("{TEST_IMAGES}.gz"), TEST_IMAGES),
        (TEST_LABELS.to_owned(), TEST_LABELS),
    ] {
        let folder = Folder::new();
        fs::remove_file(folder.path().join(name)).unwrap();
        folder.fails(Problem::MissingFile, &[other, &format!("or {other}.gz beside it"), "found neither"]);
    }
    let folder = Folder::new();
    let error = Dataset::load(folder.path().join("absent")).unwrap_err();
    assert!(error.to_string().contains("no such folder"), "{error}");
}

#[test]
fn counts_that_differ() {
    let folder = Folder::new();
    folder.put(TEST_LABELS, &labels(5));
    folder.fails(Problem::CountMismatch, &[TEST_LABELS, "at byte 4", "expected 4 labels", TEST_IMAGES, "found 5"]);
}

#[test]
fn swapped_files() {
    let folder = Folder::new();
    folder.put(TRAIN_IMAGES, &labels(6));
    folder.fails(Problem::WrongRank, &[TRAIN_IMAGES, "byte 3", "found 1", "swapped"]);
    let folder = Folder::new();
    folder.put(TEST_LABELS, &images(4, 3, 5));
    folder.fails(Problem::WrongRank, &[TEST_LABELS, "byte 3", "found 3", "swapped"]);
}

#[test]
fn other_element_types() {
    let folder = Folder::new();
    folder.put(TRAIN_IMAGES, &images(6, 3, 5).mapv(f32::from));
    folder.fails(Problem::WrongElementType, &[TRAIN_IMAGES, "byte 2", "u8 (code 0x08)", "f32 (code 0x0D)"]);
    let folder = Folder::new();
    folder.put(TEST_LABELS, &labels(4).mapv(i32::from));
    folder.fails(Problem::WrongElementType, &[TEST_LABELS, "i32 (code 0x0C)"]);
}

#[test]
fn empty_sets() {
    let folder = Folder::new();
    folder.put(TRAIN_IMAGES, &images(0, 3, 5)).put(TRAIN_LABELS, &labels(0));
    folder.fails(Problem::Empty, &[TRAIN_IMAGES, "at least one image", "found 0 of 3×5×1"]);
    let folder = Folder::new();
    folder.put(TEST_LABELS, &labels(0));
    folder.fails(Problem::Empty, &[TEST_LABELS, "at least one label"]);
    let folder = Folder::new();
    folder.put(TRAIN_IMAGES, &images(6, 0, 5));
    folder.fails(Problem::Empty, &["found 6 of 0×5×1"]);
}

#[test]
fn image_sizes_that_differ() {
    let folder = Folder::new();
    folder.pack(&format!("{TEST_IMAGES}.gz"), &images(4, 5, 3));
    folder.fails(Problem::ImageSize, &[TEST_IMAGES, "expected images of 3×5×1", "found 5×3×1"]);
}

#[test]
fn a_truncated_file() {
    let folder = Folder::new();
    let path = folder.path().join(TRAIN_IMAGES);
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    folder.fails(Problem::Truncated, &[TRAIN_IMAGES, "at byte 105", "106 bytes for 6×3×5 elements", "fetch it again"]);
}

/// What unpackers and archives make of the four files.
#[test]
fn the_names_that_unpackers_make_are_accepted() {
    let expected = Dataset::load(Folder::new().path()).unwrap();
    let layouts: [fn(&str) -> String; 5] = [
        |name| name.replace("-idx", ".idx"),
        |name| format!("{}.gz", name.replace("-idx", ".idx")),
        |name| format!("{name}/{name}"),
        |name| format!("{name}/{}", name.replace("-idx", ".idx")),
        |name| format!("fashion-mnist/{name}.gz"),
    ];
    for layout in layouts {
        let folder = Folder(tempfile::tempdir().unwrap());
        for name in Part::FILE_NAMES {
            let path = folder.path().join(layout(name));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let gzip =
                if path.extension().is_some_and(|found| found == "gz") { Compression::Gzip } else { Compression::None };
            let count = if name.starts_with("train") { 6 } else { 4 };
            match name.contains("images") {
                true => write(path, &images(count, 3, 5), gzip).unwrap(),
                false => write(path, &labels(count), gzip).unwrap(),
            }
        }
        // What macOS adds to archives is no folder of data.
        fs::create_dir(folder.path().join("__MACOSX")).unwrap();
        let found = Dataset::load(folder.path()).unwrap();
        assert_eq!(
            (found.train, found.test),
            (expected.train.clone(), expected.test.clone()),
            "{}",
            layout("NAME-idx")
        );
        assert_eq!(class_names(folder.path()).unwrap(), ["0", "1", "2"]);
        folder.classes("a\nb\nc\n");
        assert_eq!(class_names(folder.path()).unwrap(), ["a", "b", "c"]);
    }
}

#[test]
fn class_names_may_lie_beside_the_files_in_the_only_folder() {
    let folder = Folder(tempfile::tempdir().unwrap());
    let inner = folder.path().join("mine");
    fs::rename(Folder::new().0.keep(), &inner).unwrap();
    fs::write(inner.join("classes.txt"), "a\nb\nc\n").unwrap();
    assert_eq!(Dataset::load(folder.path()).unwrap().class_names, ["a", "b", "c"]);
    // Of two folders, neither is taken.
    fs::create_dir(folder.path().join("other")).unwrap();
    folder.fails(Problem::MissingFile, &["neither"]);
}

#[test]
fn a_broken_gz_beside_a_sound_plain_file_is_passed_over() {
    for broken in [&b""[..], b"<html>404</html>", b"\x1f\x8b\x08\x00cut"] {
        let folder = Folder::new();
        fs::write(folder.path().join(format!("{TRAIN_IMAGES}.gz")), broken).unwrap();
        assert_eq!(Split::load(folder.path(), Part::Train).unwrap().images.dim(), (6, 3, 5, 1));
        let gz = folder.path().join(format!("{TRAIN_IMAGES}.gz"));
        assert_eq!(selvedge_idx::broken_gz(folder.path(), TRAIN_IMAGES).unwrap(), Some(gz));
        // If both are broken, the gzipped file is the one to report.
        fs::write(folder.path().join(TRAIN_IMAGES), b"too").unwrap();
        let error = Dataset::load(folder.path()).unwrap_err();
        assert!(error.file().ends_with(format!("{TRAIN_IMAGES}.gz")), "{error}");
        assert_eq!(selvedge_idx::broken_gz(folder.path(), TRAIN_IMAGES).unwrap(), None);
    }
}

#[test]
fn near_misses_are_named() {
    let folder = Folder::new();
    for name in ["Train-Images-idx3-ubyte.zip", "test_images.idx3"] {
        fs::remove_file(folder.path().join(TRAIN_IMAGES)).ok();
        fs::write(folder.path().join(name), "").unwrap();
    }
    folder.fails(Problem::MissingFile, &["neither, but Train-Images-idx3-ubyte.zip;", "unpack or rename"]);
    fs::create_dir(folder.path().join(TRAIN_IMAGES)).unwrap();
    folder.fails(Problem::MissingFile, &["Train-Images-idx3-ubyte.zip, train-images-idx3-ubyte/"]);
    folder.put("train-images.idx3-ubyte", &images(6, 3, 5));
    fs::remove_file(folder.path().join(format!("{TEST_IMAGES}.gz"))).unwrap();
    folder.fails(Problem::MissingFile, &["neither, but test_images.idx3;"]);
}
