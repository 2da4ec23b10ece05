//! [`Checkpoint`]: everything needed to resume a run, bit for bit, in one file whose checksum is verified before decoding.
//!
//! | bytes | content |
//! |---|---|
//! | 8 | magic `SELVEDGE` |
//! | 4 | format version, little-endian, as all numbers here |
//! | 4 | codec of the metadata: 1, bincode 2 with its standard configuration |
//! | 8 | length of the metadata in bytes, at most 1 MiB |
//! | 8 | length of the tensors in bytes, at most 16 GiB |
//! | | the metadata: a [`Progress`] and the number of elements of each tensor |
//! | | the tensors, f32, one after the other |
//! | 32 | SHA-256 of all bytes before |

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use bincode::{Decode, Encode};
use selvedge_model::Snapshot;
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::callbacks::{Best, EarlyStoppingState, ReduceLrOnPlateauState};

const MAGIC: &[u8; 8] = b"SELVEDGE";
/// The format version that is written. Version 1, without an average of the weights, is read, too.
pub const VERSION: u32 = 2;
const CODEC: u32 = 1;
const HEADER: usize = 32;
const HASH: usize = 32;
const MAX_METADATA: usize = 1 << 20;
const MAX_TENSORS: u64 = 16 << 30;

/// How far a run has come, and the state of its callbacks. bincode writes the fields in this order without their names: a
/// field can be renamed, but not moved, added or removed without a new format version.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct Progress {
    /// SHA-256 of the run's recipe.toml: a checkpoint of another recipe is refused.
    pub recipe_sha256: [u8; 32],
    /// The instruction set that computed it. Another one rounds differently.
    pub isa: String,
    /// Completed epochs.
    pub epoch: u64,
    /// Completed steps of the current epoch.
    pub batch: u64,
    /// Completed steps of the run.
    pub step: u64,
    /// Sum of the losses of the current epoch.
    pub loss_sum: f64,
    /// Correctly classified images of the current epoch.
    pub correct: u64,
    /// Images of the current epoch.
    pub count: u64,
    /// Steps of the optimizer.
    pub optimizer_steps: u64,
    /// State of the callback that cuts the learning rate, if the recipe has it.
    pub reduce_lr_on_plateau: Option<ReduceLrOnPlateauState>,
    /// State of early stopping, if the recipe has it.
    pub early_stopping: Option<EarlyStoppingState>,
    /// The best epoch.
    pub best: Best,
    /// Times, summed over the processes of the run.
    pub clock: Clock,
}

/// Times of a run. No decision depends on them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Encode, Decode)]
pub struct Clock {
    /// Seconds of training steps, without evaluation.
    pub train_seconds: f64,
    /// Seconds of training steps of the current epoch.
    pub epoch_seconds: f64,
    /// Seconds of the processes before this one.
    pub earlier_seconds: f64,
    /// Seconds from the start of the first process to the end of its first step.
    pub seconds_to_first_step: f64,
    /// Images in all training steps.
    pub images: u64,
}

/// Everything needed to resume a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// How far the run has come.
    pub progress: Progress,
    /// The network.
    pub network: Snapshot,
    /// The optimizer's first moments.
    pub first_moments: Vec<f32>,
    /// The optimizer's second moments, empty if it has none.
    pub second_moments: Vec<f32>,
    /// The average of the weights, if the recipe has one.
    pub average: Option<Average>,
    /// The network of the best epoch, if the run may restore it.
    pub best_network: Option<Snapshot>,
}

/// The average of a network's weights, in the layout of the kernels.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Average {
    /// Averages so far; before the first, the average is not used.
    pub updates: u64,
    /// The average of the weights.
    pub weights: Vec<f32>,
    /// The average of the running statistics.
    pub statistics: Vec<f32>,
}

#[derive(Encode, Decode)]
struct Metadata {
    progress: Progress,
    has_best_network: bool,
    /// Averages so far, if there is an average of the weights.
    averages: Option<u64>,
    /// Numbers of elements: parameters and buffers of the network, first and second moments, weights and statistics of the
    /// average, parameters and buffers of the best network.
    lengths: [u64; 8],
}

/// The metadata of format version 1.
#[derive(Decode)]
#[cfg_attr(test, derive(Encode))]
struct MetadataV1 {
    progress: Progress,
    has_best_network: bool,
    /// Those of [`Metadata`] without the average's.
    lengths: [u64; 6],
}

impl From<MetadataV1> for Metadata {
    fn from(MetadataV1 { progress, has_best_network, lengths: [a, b, c, d, e, f] }: MetadataV1) -> Self {
        Self { progress, has_best_network, averages: None, lengths: [a, b, c, d, 0, 0, e, f] }
    }
}

/// Why a checkpoint cannot be used.
#[derive(Debug, Error)]
pub enum CheckpointError {
    /// The file cannot be read.
    #[error("checkpoint {path} cannot be read: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// It is damaged, or not a checkpoint.
    #[error(
        "{path} is not a usable checkpoint: {problem}. Replace it by a copy of best.ckpt to resume from there, or \
         delete it to start the run over", path = path.display()
    )]
    Broken {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// It belongs to another run.
    #[error("{path} does not fit the run: {problem}", path = path.display())]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        problem: String,
    },
}

impl Checkpoint {
    /// The bytes of the file.
    pub fn encode(&self) -> Vec<u8> {
        let empty = Snapshot::default();
        let best = self.best_network.as_ref().unwrap_or(&empty);
        let no_average = Average::default();
        let average = self.average.as_ref().unwrap_or(&no_average);
        let tensors = [
            &self.network.params,
            &self.network.buffers,
            &self.first_moments,
            &self.second_moments,
            &average.weights,
            &average.statistics,
            &best.params,
            &best.buffers,
        ];
        let metadata = Metadata {
            progress: self.progress.clone(),
            has_best_network: self.best_network.is_some(),
            averages: self.average.as_ref().map(|average| average.updates),
            lengths: tensors.map(|tensor| tensor.len() as u64),
        };
        // Numbers and a short string: encoding them cannot fail.
        let metadata = bincode::encode_to_vec(&metadata, bincode::config::standard())
            .unwrap_or_else(|error| unreachable!("the metadata is plain data: {error}"));
        let tensor_bytes = 4 * tensors.iter().map(|tensor| tensor.len()).sum::<usize>();
        let mut bytes = Vec::with_capacity(HEADER + metadata.len() + tensor_bytes + HASH);
        bytes.extend(MAGIC);
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(CODEC.to_le_bytes());
        bytes.extend((metadata.len() as u64).to_le_bytes());
        bytes.extend((tensor_bytes as u64).to_le_bytes());
        bytes.extend(metadata);
        for tensor in tensors {
            bytes.extend(tensor.iter().flat_map(|value| value.to_le_bytes()));
        }
        let hash = Sha256::digest(&bytes);
        bytes.extend(hash);
        bytes
    }

    /// Reads and verifies a file.
    ///
    /// # Errors
    /// [`CheckpointError::Read`] and [`CheckpointError::Broken`].
    pub fn load(path: &Path) -> Result<Self, CheckpointError> {
        let read = |source| CheckpointError::Read { path: path.to_owned(), source };
        let broken = |problem| CheckpointError::Broken { path: path.to_owned(), problem };
        let mut file = File::open(path).map_err(read)?;
        let mut header = [0; HEADER];
        let len = file.metadata().map_err(read)?.len();
        if len < (HEADER + HASH) as u64 {
            return Err(broken(format!("it has {len} bytes, fewer than a header and a checksum")));
        }
        file.read_exact(&mut header).map_err(read)?;
        let lengths = Lengths::parse(&header, len).map_err(broken)?;
        let mut bytes = header.to_vec();
        bytes.reserve_exact(lengths.file - HEADER);
        file.take((lengths.file - HEADER) as u64).read_to_end(&mut bytes).map_err(read)?;
        Self::decode(&bytes).map_err(broken)
    }

    /// Verifies and decodes the bytes of a file.
    ///
    /// # Errors
    /// A sentence that says what is wrong with them.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let header = bytes.first_chunk::<HEADER>().ok_or_else(|| format!("it has only {} bytes", bytes.len()))?;
        let lengths = Lengths::parse(header, bytes.len() as u64)?;
        let (content, hash) = bytes.split_at(bytes.len() - HASH);
        if Sha256::digest(content)[..] != *hash {
            return Err("its SHA-256 does not match its content: the file is damaged".to_owned());
        }
        let (metadata, mut tensors) = content[HEADER..].split_at(lengths.metadata);
        let config = bincode::config::standard().with_limit::<MAX_METADATA>();
        let (metadata, used): (Metadata, usize) = match lengths.version {
            1 => bincode::decode_from_slice::<MetadataV1, _>(metadata, config).map(|(old, used)| (old.into(), used)),
            _ => bincode::decode_from_slice(metadata, config),
        }
        .map_err(|error| format!("its metadata cannot be decoded: {error}"))?;
        if used != lengths.metadata {
            return Err(format!("its metadata is {} bytes too long", lengths.metadata - used));
        }
        let elements = metadata.lengths.iter().try_fold(0u64, |sum, &len| sum.checked_add(len));
        if elements.and_then(|elements| elements.checked_mul(4)) != Some(tensors.len() as u64) {
            return Err(format!("its tensors have {} bytes, its metadata says {elements:?} elements", tensors.len()));
        }
        let mut next = |index: usize| {
            // The check above proved that the lengths add up to the slice.
            let (tensor, rest) = tensors.split_at(4 * metadata.lengths[index] as usize);
            tensors = rest;
            tensor.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect::<Vec<f32>>()
        };
        let network = Snapshot { params: next(0), buffers: next(1) };
        let (first_moments, second_moments) = (next(2), next(3));
        let (weights, statistics) = (next(4), next(5));
        let average = metadata.averages.map(|updates| Average { updates, weights, statistics });
        let best_network = Snapshot { params: next(6), buffers: next(7) };
        let best_network = metadata.has_best_network.then_some(best_network);
        Ok(Self { progress: metadata.progress, network, first_moments, second_moments, average, best_network })
    }
}

struct Lengths {
    /// The format version, one that can be read.
    version: u64,
    metadata: usize,
    /// Of the whole file.
    file: usize,
}

impl Lengths {
    /// Checks the header of a file of `len` bytes, so that no length in it allocates more than the file has.
    fn parse(header: &[u8; HEADER], len: u64) -> Result<Self, String> {
        let (magic, rest) = header.split_at(8);
        if magic != MAGIC {
            return Err("it does not begin with the magic bytes of a Selvedge checkpoint".to_owned());
        }
        let number = |at: usize, len: usize| rest[at..at + len].iter().rev().fold(0u64, |n, &b| n << 8 | u64::from(b));
        let (version, codec, metadata, tensors) = (number(0, 4), number(4, 4), number(8, 8), number(16, 8));
        if !(1..=u64::from(VERSION)).contains(&version) {
            return Err(format!("its format version is {version}, this program reads versions 1 to {VERSION}"));
        }
        if codec != u64::from(CODEC) {
            return Err(format!("its codec is {codec}, this program reads codec {CODEC}"));
        }
        if metadata > MAX_METADATA as u64 || tensors > MAX_TENSORS {
            return Err(format!(
                "its header says {metadata} bytes of metadata and {tensors} bytes of tensors: too much"
            ));
        }
        let expected = (HEADER + HASH) as u64 + metadata + tensors;
        if len != expected {
            return Err(format!(
                "it has {len} bytes, its header says {expected}: the file is truncated, or something was appended"
            ));
        }
        let file = usize::try_from(expected).map_err(|_| format!("{expected} bytes do not fit into memory"))?;
        Ok(Self { version, metadata: metadata as usize, file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoint() -> Checkpoint {
        let progress = Progress {
            recipe_sha256: [7; 32],
            isa: "portable".to_owned(),
            epoch: 3,
            batch: 2,
            step: 14,
            loss_sum: 1.25,
            correct: 30,
            count: 32,
            optimizer_steps: 14,
            reduce_lr_on_plateau: None,
            early_stopping: Some(EarlyStoppingState::default()),
            best: Best { at: Some((0.5, 2)) },
            clock: Clock { train_seconds: 1.5, images: 99, ..Clock::default() },
        };
        let snapshot = |start: f32| Snapshot { params: vec![start, -0.0, f32::MIN_POSITIVE], buffers: vec![2.0] };
        Checkpoint {
            progress,
            network: snapshot(1.0),
            first_moments: vec![0.5; 4],
            second_moments: Vec::new(),
            average: Some(Average { updates: 5, weights: vec![0.25; 3], statistics: vec![4.0] }),
            best_network: Some(snapshot(3.0)),
        }
    }

    /// The bytes with a valid checksum, as an attacker could make them.
    fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
        let content = bytes.len() - HASH;
        let hash = Sha256::digest(&bytes[..content]);
        bytes[content..].copy_from_slice(&hash);
        bytes
    }

    #[test]
    fn reads_back_what_it_wrote() {
        let mut expected = checkpoint();
        assert_eq!(Checkpoint::decode(&expected.encode()).unwrap(), expected);
        (expected.best_network, expected.average) = (None, None);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("last.ckpt");
        std::fs::write(&path, expected.encode()).unwrap();
        assert_eq!(Checkpoint::load(&path).unwrap(), expected);
    }

    /// The bytes of a checkpoint without an average, as version 1 wrote them.
    fn version_1(checkpoint: &Checkpoint) -> Vec<u8> {
        let bytes = checkpoint.encode();
        let best = checkpoint.best_network.as_ref().unwrap();
        let Checkpoint { progress, network, first_moments, second_moments, .. } = checkpoint.clone();
        let tensors = [&network.params, &network.buffers, &first_moments, &second_moments, &best.params, &best.buffers];
        let lengths = tensors.map(|tensor| tensor.len() as u64);
        let metadata = MetadataV1 { progress, has_best_network: true, lengths };
        let metadata = bincode::encode_to_vec(metadata, bincode::config::standard()).unwrap();
        let mut old = bytes[..HEADER].to_vec();
        old[8] = 1;
        old[16..24].copy_from_slice(&(metadata.len() as u64).to_le_bytes());
        old.extend(metadata);
        old.extend(tensors.into_iter().flatten().flat_map(|value| value.to_le_bytes()));
        old.extend([0; HASH]);
        sealed(old)
    }

    fn hash(bytes: &[u8]) -> String {
        bytes[bytes.len() - HASH..].iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// A file's last bytes are the SHA-256 of all others, so this one number fixes the format: fields in another order, or of
    /// other types, would make files that earlier versions have written unreadable.
    #[test]
    fn the_format_does_not_change() {
        assert_eq!(hash(&checkpoint().encode()), "b943cf543be88d06dc25ffbdbf0ccee907593a0ddd7c2d821aaa1f90f9457e7c");
    }

    #[test]
    fn a_file_of_version_1_is_read() {
        let expected = Checkpoint { average: None, ..checkpoint() };
        let old = version_1(&expected);
        // What the program that wrote version 1 made of it.
        assert_eq!(hash(&old), "47ea40c8a2550fe597ccb75da8537404328312865909d9c94e36cdeec9b5e130");
        assert_eq!(Checkpoint::decode(&old).unwrap(), expected);
    }

    #[test]
    fn every_flipped_bit_and_every_truncation_is_refused() {
        let bytes = checkpoint().encode();
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                assert!(Checkpoint::decode(&flipped).is_err(), "bit {bit} of byte {at}");
            }
            assert!(Checkpoint::decode(&bytes[..at]).is_err(), "truncated to {at} bytes");
        }
        assert!(Checkpoint::decode(&[&bytes[..], &[0]].concat()).is_err());
    }

    #[test]
    fn a_valid_checksum_does_not_make_nonsense_acceptable() {
        let bytes = checkpoint().encode();
        for at in 0..bytes.len() - HASH {
            let mut changed = bytes.clone();
            changed[at] ^= 0xff;
            // A changed number still makes a checkpoint. Nothing may panic.
            let _ = Checkpoint::decode(&sealed(changed));
        }
        let message = |at: usize, byte: u8| {
            let mut changed = bytes.clone();
            changed[at] = byte;
            Checkpoint::decode(&sealed(changed)).unwrap_err()
        };
        assert!(message(8, 3).contains("version is 3") && message(8, 3).contains("versions 1 to 2"));
        assert!(message(8, 0).contains("version is 0"));
        assert!(message(12, 9).contains("codec is 9"));
        assert!(message(22, 1).contains("too much"), "{}", message(22, 1));
    }

    #[test]
    fn errors_name_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.ckpt");
        assert!(Checkpoint::load(&path).unwrap_err().to_string().contains("x.ckpt cannot be read"));
        std::fs::write(&path, b"SELVEDGE").unwrap();
        assert!(Checkpoint::load(&path).unwrap_err().to_string().contains("has 8 bytes"));
    }
}
