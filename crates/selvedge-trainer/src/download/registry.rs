//! The named data sets: files, hashes, licences and sources.

use std::fmt::Write;

/// The names of the four files that every data set here has, without `.gz`.
pub(crate) const RAW_NAMES: [&str; 4] = selvedge_idx::Part::FILE_NAMES;

/// The names of the two training files, without `.gz`.
pub(super) const TRAINING_NAMES: [&str; 2] = [RAW_NAMES[0], RAW_NAMES[1]];

/// A gzipped IDX file with its hashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PinnedFile {
    /// Its name in the folder and below each source, with `.gz`.
    pub name: &'static str,
    /// Bytes of the published gz.
    pub gz_bytes: u64,
    /// Bytes of the IDX file inside.
    pub raw_bytes: u64,
    /// SHA-256 of the published gz, in lower-case hexadecimal.
    pub gz_sha256: &'static str,
    /// SHA-256 of the IDX bytes inside, if known. It also accepts another gzip of the same bytes.
    pub raw_sha256: Option<&'static str>,
}

impl PinnedFile {
    /// The name without `.gz`.
    pub fn raw_name(&self) -> &'static str {
        self.name.strip_suffix(".gz").unwrap_or(self.name)
    }

    /// The most bytes that a download of this file may have: the size of the published gz if only that is accepted, else that
    /// of any gzip of the raw bytes. Deflate's fixed codes take at most 9 bits per byte, and 4 KiB cover the headers.
    pub fn max_bytes(&self) -> u64 {
        match self.raw_sha256 {
            None => self.gz_bytes,
            Some(_) => self.raw_bytes + self.raw_bytes / 8 + 4096,
        }
    }
}

/// A data set known by name.
#[derive(Debug, Clone, Copy)]
pub struct NamedDataset {
    /// The name that `--dataset` takes, and that of its folder.
    pub name: &'static str,
    /// A description in one line.
    pub title: &'static str,
    /// Its licence and copyright holder.
    pub licence: &'static str,
    /// Whether the repository contains it.
    pub in_repository: bool,
    /// Whether a mirrored image is an image of the same class: not so for writing.
    pub mirrors: bool,
    /// Training images, training labels, test images, test labels.
    pub files: [PinnedFile; 4],
    /// Addresses with the four files directly below them, in the order in which they are tried.
    pub sources: &'static [&'static str],
}

impl NamedDataset {
    /// Training images and training labels.
    pub(super) fn training_files(&self) -> &[PinnedFile] {
        &self.files[..2]
    }
}

const fn pin(
    name: &'static str,
    gz_bytes: u64,
    raw_bytes: u64,
    gz_sha256: &'static str,
    raw_sha256: Option<&'static str>,
) -> PinnedFile {
    PinnedFile { name, gz_bytes, raw_bytes, gz_sha256, raw_sha256 }
}

/// All named data sets.
pub const DATASETS: &[NamedDataset] = &[
    NamedDataset {
        name: "fashion-mnist",
        title: "70,000 pictures of clothes, 28x28 grey, 10 classes (the cleaned release of August 2017)",
        licence: "MIT, (c) 2017 Zalando SE",
        in_repository: true,
        mirrors: true,
        files: [
            pin(
                "train-images-idx3-ubyte.gz",
                26_421_880,
                47_040_016,
                "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
                Some("c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"),
            ),
            pin(
                "train-labels-idx1-ubyte.gz",
                29_515,
                60_008,
                "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
                Some("bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"),
            ),
            pin(
                "t10k-images-idx3-ubyte.gz",
                4_422_102,
                7_840_016,
                "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
                Some("5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"),
            ),
            pin(
                "t10k-labels-idx1-ubyte.gz",
                5_148,
                10_008,
                "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
                Some("0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"),
            ),
        ],
        sources: &[
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion",
            "https://storage.googleapis.com/tensorflow/tf-keras-datasets",
        ],
    },
    NamedDataset {
        name: "mnist",
        title: "70,000 handwritten digits, 28x28 grey, 10 classes",
        licence: "CC BY-SA 3.0, (c) Yann LeCun and Corinna Cortes",
        in_repository: false,
        mirrors: false,
        files: [
            pin(
                "train-images-idx3-ubyte.gz",
                9_912_422,
                47_040_016,
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
                Some("ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"),
            ),
            pin(
                "train-labels-idx1-ubyte.gz",
                28_881,
                60_008,
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
                Some("65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"),
            ),
            pin(
                "t10k-images-idx3-ubyte.gz",
                1_648_877,
                7_840_016,
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
                Some("0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"),
            ),
            pin(
                "t10k-labels-idx1-ubyte.gz",
                4_542,
                10_008,
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
                Some("ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"),
            ),
        ],
        sources: &[
            "https://storage.googleapis.com/cvdf-datasets/mnist",
            "https://ossci-datasets.s3.amazonaws.com/mnist",
        ],
    },
    NamedDataset {
        name: "kmnist",
        title: "Kuzushiji-MNIST: 70,000 handwritten hiragana, 28x28 grey, 10 classes",
        licence: "CC BY-SA 4.0, KMNIST Dataset (created by CODH), adapted from Kuzushiji Dataset (created by NIJL and others)",
        in_repository: false,
        mirrors: false,
        files: [
            pin(
                "train-images-idx3-ubyte.gz",
                18_165_135,
                47_040_016,
                "51467d22d8cc72929e2a028a0428f2086b092bb31cfb79c69cc0a90ce135fde4",
                None,
            ),
            pin(
                "train-labels-idx1-ubyte.gz",
                29_497,
                60_008,
                "e38f9ebcd0f3ebcdec7fc8eabdcdaef93bb0df8ea12bee65224341c8183d8e17",
                None,
            ),
            pin(
                "t10k-images-idx3-ubyte.gz",
                3_041_136,
                7_840_016,
                "edd7a857845ad6bb1d0ba43fe7e794d164fe2dce499a1694695a792adfac43c5",
                None,
            ),
            pin(
                "t10k-labels-idx1-ubyte.gz",
                5_120,
                10_008,
                "20bb9a0ef54c7db3efc55a92eef5582c109615df22683c380526788f98e42a1c",
                None,
            ),
        ],
        sources: &["https://codh.rois.ac.jp/kmnist/dataset/kmnist"],
    },
];

/// The data set of that name.
pub fn find(name: &str) -> Option<&'static NamedDataset> {
    DATASETS.iter().find(|dataset| dataset.name == name)
}

/// The list of data sets with size, licence and sources, which `download --list` prints.
///
/// ```
/// assert!(selvedge_trainer::download::list().contains("kmnist"));
/// ```
pub fn list() -> String {
    let mut text = String::new();
    for dataset in DATASETS {
        let bytes: u64 = dataset.files.iter().map(|file| file.gz_bytes).sum();
        let place = if dataset.in_repository { ", part of the repository" } else { "" };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{}\n  {}", dataset.name, dataset.title);
        let _ = writeln!(text, "  {:.1} MB{place}", bytes as f64 / 1e6);
        let _ = writeln!(text, "  licence  {}", dataset.licence);
        for source in dataset.sources {
            let _ = writeln!(text, "  source   {source}/");
        }
        text.push('\n');
    }
    text.push_str("Any folder with the same four files, gzipped or not, is a data set too: --dataset DIR.\n");
    text
}
