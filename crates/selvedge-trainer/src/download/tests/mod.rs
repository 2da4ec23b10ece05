//! Downloads from servers on 127.0.0.1, working and hostile ones.

mod fetching;
mod hostile;
mod locking;
mod server;

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::{DownloadError, FetchOptions, FileOutcome, NamedDataset, NoProgress, PinnedFile, Timeouts, fetch};

/// A data set of noise: one file that takes several reads, and three small ones.
struct Sample {
    dataset: NamedDataset,
    gz: [Vec<u8>; 4],
    raw: [Vec<u8>; 4],
}

fn gzip(bytes: &[u8], level: u32) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(level));
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn sample() -> &'static Sample {
    static SAMPLE: OnceLock<Sample> = OnceLock::new();
    SAMPLE.get_or_init(|| {
        let noise = |seed: u32, len: usize| {
            let mut state = seed;
            let next = move || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            };
            std::iter::repeat_with(next).take(len).collect::<Vec<u8>>()
        };
        let raw = [noise(1, 300_000), noise(2, 900), noise(3, 5000), noise(4, 800)];
        let gz = raw.each_ref().map(|bytes| gzip(bytes, 6));
        let names = [
            "train-images-idx3-ubyte.gz",
            "train-labels-idx1-ubyte.gz",
            "t10k-images-idx3-ubyte.gz",
            "t10k-labels-idx1-ubyte.gz",
        ];
        let files = [0, 1, 2, 3].map(|i| PinnedFile {
            name: names[i],
            gz_bytes: gz[i].len() as u64,
            raw_bytes: raw[i].len() as u64,
            gz_sha256: sha256(&gz[i]).leak(),
            raw_sha256: Some(sha256(&raw[i]).leak()),
        });
        let dataset = NamedDataset {
            name: "sample",
            title: "noise",
            licence: "none",
            in_repository: false,
            mirrors: true,
            files,
            // Nothing listens on the discard port: a test that reaches this source fails at once.
            sources: &["https://127.0.0.1:9"],
        };
        Sample { dataset, gz, raw }
    })
}

/// A folder with all files of the sample but the first.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let sample = sample();
        for (pin, gz) in sample.dataset.files.iter().zip(&sample.gz).skip(1) {
            fs::write(dir.path().join(pin.name), gz).unwrap();
        }
        Self(dir)
    }

    fn target(&self) -> PathBuf {
        self.0.path().join(sample().dataset.files[0].name)
    }

    fn part(&self) -> PathBuf {
        self.0.path().join(format!("{}.part", sample().dataset.files[0].name))
    }

    /// Downloads the missing file.
    fn fetch(&self, mirrors: &[String]) -> Result<Vec<FileOutcome>, DownloadError> {
        self.fetch_within(Duration::from_secs(10), mirrors)
    }

    /// The same with this idle time-out, for servers that stall.
    fn fetch_within(&self, idle: Duration, mirrors: &[String]) -> Result<Vec<FileOutcome>, DownloadError> {
        let timeouts = Timeouts { connect: Duration::from_secs(5), idle, least_bytes: 1024 };
        let options = FetchOptions { mirrors: mirrors.to_vec(), timeouts, part: None };
        fetch(self.0.path(), &sample().dataset, &options, &mut NoProgress)
    }
}
