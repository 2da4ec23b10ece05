//! Tens of thousands of broken files: each must be refused with an error that names the file, or give exactly the
//! result of a second, naive reader. None may panic.

use flate2::write::GzEncoder;
use ndarray::{ArrayD, ArrayRef, Dimension, IxDyn, arr1, arr2, arr3};
use selvedge_idx::{Compression, IdxArray, IdxElement, IdxError, Problem, read_as, read_from, to_bytes};
use std::io::Write;

const NAME: &str = "broken.idx";

/// Element code, dimensions and data bytes, if `bytes` are one complete plain IDX file.
fn naive(bytes: &[u8]) -> Option<(u8, Vec<usize>, &[u8])> {
    let size = match (bytes.first()?, bytes.get(1)?, bytes.get(2)?) {
        (0, 0, 8 | 9) => 1,
        (0, 0, 0xb) => 2,
        (0, 0, 0xc | 0xd) => 4,
        (0, 0, 0xe) => 8,
        _ => return None,
    };
    let rank = *bytes.get(3)? as usize;
    let dims: Vec<u128> = (0..rank)
        .map(|axis| Some(u128::from(u32::from_be_bytes(bytes.get(4 + 4 * axis..8 + 4 * axis)?.try_into().ok()?))))
        .collect::<Option<_>>()?;
    let data = &bytes[4 + 4 * rank..];
    // Saturating is exact enough: no product that large can equal a length.
    let expected = dims.iter().fold(size, |product: u128, &dim| product.saturating_mul(dim));
    (data.len() as u128 == expected).then(|| (bytes[2], dims.iter().map(|&dim| dim as usize).collect(), data))
}

/// Requires that `bytes` are refused with a useful message, or accepted with the naive reader's result.
fn check(bytes: &[u8]) -> Option<Problem> {
    match (read_from(bytes, NAME), naive(bytes)) {
        (Ok(array), Some((code, dims, data))) => {
            assert_eq!(array.element_type().code(), code);
            assert_eq!(array.shape(), dims);
            assert_eq!(&plain(&array)[4 + 4 * dims.len()..], data);
            None
        }
        (Ok(array), None) => panic!("accepted {bytes:02x?} as {array:?}"),
        // A shape without elements whose other axes are too long to be addressed.
        (Err(error), Some((_, dims, []))) if dims.contains(&0) => useful(&error),
        (Err(error), Some(_)) => panic!("refused {bytes:02x?}: {error}"),
        (Err(error), None) => useful(&error),
    }
}

fn useful(error: &IdxError) -> Option<Problem> {
    let message = error.to_string();
    assert!(message.starts_with("broken.idx: "), "{message}");
    for part in [" at byte ", ": expected ", ", found ", "; "] {
        assert!(message.contains(part), "{message}");
    }
    error.problem()
}

fn plain(array: &IdxArray) -> Vec<u8> {
    match array {
        IdxArray::U8(array) => pack(array, Compression::None),
        IdxArray::I8(array) => pack(array, Compression::None),
        IdxArray::I16(array) => pack(array, Compression::None),
        IdxArray::I32(array) => pack(array, Compression::None),
        IdxArray::F32(array) => pack(array, Compression::None),
        IdxArray::F64(array) => pack(array, Compression::None),
    }
}

fn pack<T: IdxElement, D: Dimension>(array: &ArrayRef<T, D>, compression: Compression) -> Vec<u8> {
    to_bytes(array, compression, NAME).unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// One small file of every element type, ranks 0 to 4.
fn samples() -> Vec<Vec<u8>> {
    let images = arr3(&[[[0_u8, 50, 100], [150, 200, 250]], [[1, 2, 3], [4, 5, 6]]]);
    let deep = ArrayD::from_shape_fn(IxDyn(&[2, 3, 2, 2]), |i| (i[0] * 100 + i[1] * 10 + i[2] + i[3]) as i32);
    vec![
        pack(&images, Compression::None),
        pack(&arr1(&[3_u8, 1, 4, 1, 5, 9, 2, 6]), Compression::None),
        pack(&arr2(&[[-1_i8, 2], [3, -128]]), Compression::None),
        pack(&arr1(&[-300_i16, 300, 7]), Compression::None),
        pack(&deep, Compression::None),
        pack(&arr2(&[[0.5_f32, -2.0, f32::INFINITY]]), Compression::None),
        pack(&ArrayD::from_elem(IxDyn(&[]), 2.5_f64), Compression::None),
    ]
}

/// A small xorshift generator: the cases are the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }
}

#[test]
fn ten_thousand_broken_files() {
    let mut cases = 0;
    let mut refused = 0;
    let mut run = |bytes: &[u8]| {
        cases += 1;
        refused += usize::from(check(bytes).is_some());
    };
    for sample in samples() {
        assert_eq!(check(&sample), None);
        for end in 0..sample.len() {
            run(&sample[..end]);
        }
        for bit in 0..8 * sample.len() {
            let mut bytes = sample.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            run(&bytes);
        }
        // Every value of every byte of the header.
        for position in 0..sample.len().min(20) {
            for value in 0..=255 {
                let mut bytes = sample.clone();
                bytes[position] = value;
                run(&bytes);
            }
        }
        for extra in 1..=32 {
            let mut bytes = sample.clone();
            bytes.resize(sample.len() + extra, extra as u8);
            run(&bytes);
        }
    }
    let mut random = Random(0x5eed);
    let samples = samples();
    for _ in 0..5_000 {
        let mut bytes = samples[random.below(samples.len())].clone();
        for _ in 0..=random.below(4) {
            let position = random.below(bytes.len());
            bytes[position] = random.below(256) as u8;
        }
        run(&bytes);
    }
    assert!(cases >= 30_000, "{cases}");
    assert!(refused >= 20_000, "{refused} of {cases}");
}

/// A damaged gzip file is refused or still contains the same array, thanks to its checksum.
#[test]
fn broken_gzip_is_refused_or_gives_the_same_array() {
    let (mut cases, mut accepted) = (0, 0);
    for sample in samples() {
        let original = read_from(&sample, NAME).unwrap();
        let packed = gzip(&sample);
        assert_eq!(read_from(&packed, NAME).unwrap(), original);
        for end in 0..packed.len() {
            cases += 1;
            useful(&read_from(&packed[..end], NAME).unwrap_err());
        }
        for position in 0..packed.len() {
            for bit in 0..8 {
                cases += 1;
                let mut bytes = packed.clone();
                bytes[position] ^= 1 << bit;
                match read_from(&bytes, NAME) {
                    // The time and system fields of gzip do not affect the data, nor do the bits that pad the last byte
                    // of a deflate stream.
                    Ok(array) => {
                        accepted += 1;
                        assert_eq!(array, original, "byte {position} bit {bit}");
                    }
                    Err(error) => drop(useful(&error)),
                }
            }
        }
        for extra in 0..=255_u8 {
            cases += 1;
            let bytes = [&packed[..], &[extra]].concat();
            let problem = useful(&read_from(&bytes, NAME).unwrap_err());
            assert!(matches!(problem, Some(Problem::TrailingBytes | Problem::Truncated)), "{problem:?}");
        }
    }
    assert!(cases >= 4_000, "{cases}");
    assert!(accepted <= 80 * samples().len(), "{accepted}");
}

/// The content is broken, but its checksum is valid.
#[test]
fn broken_files_inside_sound_gzip() {
    for sample in samples() {
        for end in 0..sample.len() {
            let problem = useful(&read_from(&gzip(&sample[..end]), NAME).unwrap_err());
            assert_eq!(problem, Some(Problem::Truncated));
        }
        for bit in 0..8 * sample.len().min(20) {
            let mut bytes = sample.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(read_from(&gzip(&bytes), NAME).ok(), read_from(&bytes, NAME).ok());
        }
        let longer = [&sample[..], &[0]].concat();
        let problem = read_from(&gzip(&longer), NAME).unwrap_err().problem();
        assert_eq!(problem, Some(Problem::TrailingBytes));
        let problem = read_from(&gzip(&gzip(&sample)), NAME).unwrap_err().problem();
        assert_eq!(problem, Some(Problem::GzippedTwice));
    }
}

#[test]
fn the_members_of_a_gzip_file_are_one_stream() {
    for sample in samples() {
        for split in 0..=sample.len() {
            let bytes = [gzip(&sample[..split]), gzip(b""), gzip(&sample[split..])].concat();
            assert_eq!(read_from(&bytes, NAME).unwrap(), read_from(&sample, NAME).unwrap());
        }
    }
}

#[test]
fn dimensions_that_overflow() {
    for code in [8, 9, 0xb, 0xc, 0xd, 0xe] {
        for rank in 2..=255_u8 {
            let mut bytes = vec![0, 0, code, rank];
            bytes.resize(4 + 4 * usize::from(rank), 0xff);
            for bytes in [gzip(&bytes), bytes] {
                let problem = useful(&read_from(&bytes, NAME).unwrap_err());
                assert!(matches!(problem, Some(Problem::Dimensions | Problem::Truncated)), "{problem:?}");
            }
        }
    }
    // (2^32 + 1)(2^32 - 1) = 2^64 - 1, and 3 of that wrap around to 2^64 - 3; 5 * 2^62 to 2^62.
    for dims in [[641_u32, 6_700_417, u32::MAX, 3], [1 << 31, 1 << 31, 5, 1], [1 << 31, 1 << 31, 4, 1]] {
        let mut bytes = vec![0, 0, 8, 4];
        bytes.extend(dims.iter().flat_map(|dim| dim.to_be_bytes()));
        assert_eq!(check(&bytes), Some(Problem::Dimensions));
    }
    // A zero makes the product small, but the shape remains impossible.
    let mut hidden = vec![0, 0, 8, 4, 0, 0, 0, 0];
    hidden.resize(4 + 4 * 4, 0xff);
    assert_eq!(check(&hidden), Some(Problem::Dimensions));
}

#[test]
fn a_header_that_announces_more_than_gzip_can_hold_is_refused() {
    let mut bytes = vec![0, 0, 8, 1];
    bytes.extend(1_000_000_u32.to_be_bytes());
    let error = read_from(&gzip(&bytes), NAME).unwrap_err();
    assert_eq!(error.problem(), Some(Problem::Truncated));
    assert!(error.to_string().contains("1000008 bytes for 1000000 elements"), "{error}");
}

#[test]
fn the_wrong_type_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pair.idx");
    std::fs::write(&path, pack(&arr1(&[1_i16, 2]), Compression::Gzip)).unwrap();
    let message = read_as::<f32>(&path).unwrap_err().to_string();
    let wanted = "wrong element type at byte 2 of the IDX data: expected elements of type f32 (code 0x0D), \
                  found i16 (code 0x0B)";
    assert!(message.contains(wanted), "{message}");
    assert!(message.contains("pair.idx"), "{message}");
}

#[test]
fn other_files_are_not_idx() {
    for bytes in [&b"\x89PNG\r\n\x1a\n"[..], b"<!DOCTYPE html>", b"PK\x03\x04", b"\0\x01\x08\x01"] {
        assert_eq!(read_from(bytes, NAME).unwrap_err().problem(), Some(Problem::NotIdx));
    }
}

#[test]
fn folders_devices_and_missing_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let message = read_as::<u8>(folder.path()).unwrap_err().to_string();
    assert!(message.contains("give the path of a file"), "{message}");
    let message = read_as::<u8>(folder.path().join("absent")).unwrap_err().to_string();
    assert!(message.contains("absent: cannot open the file"), "{message}");
    #[cfg(unix)]
    {
        let message = read_as::<u8>("/dev/zero").unwrap_err().to_string();
        assert!(message.contains("not a regular file"), "{message}");
    }
}
