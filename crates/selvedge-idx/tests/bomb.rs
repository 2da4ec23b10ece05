//! Gzip bombs of 10 GB, complete and with a valid checksum, are refused in less than 64 MiB. This test has its own
//! program, since it measures the peak memory of the whole process.

use std::fs;
use std::io::Write;
use std::path::Path;

use flate2::{Compress, Crc, FlushCompress, write::GzEncoder};
use selvedge_idx::{Dataset, Problem, read, read_as, read_from};

const CHUNK: usize = 1 << 20;
const CHUNKS: usize = 10_000;

/// A gzip file of `start` followed by ten thousand times 1 MiB of zeros. The chunk of zeros is compressed once and
/// repeated: after a full flush, deflate data refers to nothing before it.
fn bomb(start: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    bytes.extend(flushed(start));
    let zeros = vec![0; CHUNK];
    bytes.extend(flushed(&zeros).repeat(CHUNKS));
    bytes.extend([1, 0, 0, 0xff, 0xff]);

    let mut crc = Crc::new();
    crc.update(start);
    let mut zero_crc = Crc::new();
    zero_crc.update(&zeros);
    for _ in 0..CHUNKS {
        crc.combine(&zero_crc);
    }
    bytes.extend(crc.sum().to_le_bytes());
    bytes.extend(((start.len() + CHUNK * CHUNKS) as u32).to_le_bytes());
    bytes
}

fn flushed(data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(data.len() / 500 + 100);
    Compress::new(flate2::Compression::best(), false).compress_vec(data, &mut bytes, FlushCompress::Full).unwrap();
    bytes
}

fn header(dims: &[u32]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 8, dims.len() as u8];
    bytes.extend(dims.iter().flat_map(|dim| dim.to_be_bytes()));
    bytes
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

/// Peak memory of this process in KiB.
#[cfg(target_os = "linux")]
fn peak_memory() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn problem(path: &Path) -> Option<Problem> {
    read_as::<u8>(path).unwrap_err().problem()
}

#[test]
fn bombs_are_refused_in_little_memory() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("train-images-idx3-ubyte.gz");

    // A small file made in the same way is valid.
    let small = header(&[4, CHUNK as u32]);
    let mut sound = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    sound.extend(flushed(&small));
    sound.extend(flushed(&vec![0; CHUNK]).repeat(4));
    sound.extend([1, 0, 0, 0xff, 0xff]);
    let mut crc = Crc::new();
    crc.update(&small);
    crc.update(&vec![0; 4 * CHUNK]);
    sound.extend(crc.sum().to_le_bytes());
    sound.extend(((small.len() + 4 * CHUNK) as u32).to_le_bytes());
    assert_eq!(read_from(&sound, "sound").unwrap().shape(), [4, CHUNK]);

    // A header with the true size: 10,000 images of 1024 x 1024.
    fs::write(&path, bomb(&header(&[CHUNKS as u32, 1024, 1024]))).unwrap();
    assert!(fs::metadata(&path).unwrap().len() < 11 << 20);
    assert_eq!(problem(&path), Some(Problem::Bomb));
    assert_eq!(read(&path).unwrap_err().problem(), Some(Problem::Bomb));

    // As one of the four files of a data set.
    for (name, dims) in [
        ("t10k-images-idx3-ubyte.gz", &[1, 1, 1][..]),
        ("t10k-labels-idx1-ubyte.gz", &[1]),
        ("train-labels-idx1-ubyte.gz", &[1]),
    ] {
        fs::write(folder.path().join(name), gzip(&[header(dims), vec![0]].concat())).unwrap();
    }
    assert_eq!(Dataset::load(folder.path()).unwrap_err().problem(), Some(Problem::Bomb));

    // A header that announces one small image, followed by 10 GB.
    fs::write(&path, bomb(&header(&[1, 28, 28]))).unwrap();
    assert_eq!(problem(&path), Some(Problem::TrailingBytes));

    // A header that announces more than any file could hold, and one just beyond this file.
    fs::write(&path, bomb(&header(&[u32::MAX, u32::MAX, u32::MAX]))).unwrap();
    assert_eq!(problem(&path), Some(Problem::Dimensions));
    fs::write(&path, bomb(&header(&[u32::MAX, 28, 28]))).unwrap();
    assert_eq!(problem(&path), Some(Problem::Truncated));

    // No header at all.
    fs::write(&path, bomb(&[])).unwrap();
    assert_eq!(problem(&path), Some(Problem::UnknownElementType));

    // Plain files whose header announces 10 GB.
    let plain = header(&[CHUNKS as u32, 1024, 1024]);
    assert_eq!(read_from(&plain, "plain").unwrap_err().problem(), Some(Problem::Truncated));

    #[cfg(target_os = "linux")]
    assert!(peak_memory() < 64 << 10, "{} KiB", peak_memory());
}
