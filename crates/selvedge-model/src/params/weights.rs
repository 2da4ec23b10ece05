//! The file format: safetensors with the network's spec in the metadata.
//!
//! Tensors are the logical arrays in f32, in the order of the layers, so other tools read them without knowing this
//! project: `0.conv2d.weight` is `[kernel height, kernel width, in, out]`, `9.dense.weight` is `[in, out]` with the
//! features of a flattened image in the order rows, columns, channels: both as in Keras. Equal networks give equal
//! bytes, because tensors and metadata are written in a fixed order.

use safetensors::tensor::TensorInfo;
use safetensors::{Dtype, SafeTensors};
use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::error::FileProblem;
use crate::params::array::ArrayShape;
use crate::params::snapshot::Snapshot;
use crate::spec::ModelSpec;
use crate::spec::shape::{MAX_PARAMETERS, NetworkShape};

/// The metadata entry that holds the [`ModelSpec`] as JSON.
const SPEC_KEY: &str = "selvedge_spec";
/// The metadata entry that holds the version that wrote the file.
const VERSION_KEY: &str = "selvedge_version";

/// The length of the header, before the header.
const LENGTH_BYTES: usize = 8;
/// The longest header that is read: thousands of layers.
const MAX_HEADER: u64 = 4 << 20;
/// The largest file that is read. Running statistics are few beside parameters; twice the limit holds both.
pub(crate) const MAX_FILE: u64 = LENGTH_BYTES as u64 + MAX_HEADER + 2 * 4 * MAX_PARAMETERS as u64;

/// The bytes of a file that holds `spec` and `snapshot`.
///
/// # Panics
/// If the snapshot is not of a network of `shape`.
pub(crate) fn encode(spec: &ModelSpec, shape: &NetworkShape, snapshot: &Snapshot) -> Vec<u8> {
    let spec = serde_json::to_string(spec).expect("a spec has no value that JSON cannot hold");
    let mut header = serde_json::to_vec(&Header { spec: &spec, shape }).expect("names and numbers are JSON");
    header.resize(header.len().next_multiple_of(LENGTH_BYTES), b' ');
    let values = value_bytes(shape, snapshot);
    let mut bytes = Vec::with_capacity(LENGTH_BYTES + header.len() + values.len());
    bytes.extend((header.len() as u64).to_le_bytes());
    bytes.extend(header);
    bytes.extend(values);
    bytes
}

/// Every number of a snapshot, little-endian, in the order of the file.
///
/// # Panics
/// If the snapshot is not of a network of `shape`.
pub(crate) fn value_bytes(shape: &NetworkShape, snapshot: &Snapshot) -> Vec<u8> {
    assert_eq!(snapshot.params.len(), shape.param_count(), "the snapshot's parameters and the network's");
    assert_eq!(snapshot.buffers.len(), shape.buffer_count(), "the snapshot's running statistics and the network's");
    snapshot.params.iter().chain(&snapshot.buffers).flat_map(|value| value.to_le_bytes()).collect()
}

struct Header<'a> {
    spec: &'a str,
    shape: &'a NetworkShape,
}

impl Serialize for Header<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("__metadata__", &Metadata { spec: self.spec })?;
        let mut start = 0;
        for array in arrays(self.shape) {
            let end = start + array.len() * size_of::<f32>();
            let info = TensorInfo { dtype: Dtype::F32, shape: array.shape.clone(), data_offsets: (start, end) };
            map.serialize_entry(&array.name, &info)?;
            start = end;
        }
        map.end()
    }
}

struct Metadata<'a> {
    spec: &'a str,
}

impl Serialize for Metadata<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry(SPEC_KEY, self.spec)?;
        map.serialize_entry(VERSION_KEY, env!("CARGO_PKG_VERSION"))?;
        map.end()
    }
}

/// Reads what [`encode`] wrote. Nothing about the bytes is trusted.
pub(crate) fn decode(bytes: &[u8]) -> Result<(ModelSpec, NetworkShape, Snapshot), FileProblem> {
    check_length(bytes)?;
    let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(FileProblem::Format)?;
    let spec = metadata.metadata().as_ref().and_then(|entries| entries.get(SPEC_KEY));
    let spec = spec.ok_or(FileProblem::NoSpec { key: SPEC_KEY })?;
    let spec: ModelSpec =
        serde_json::from_str(spec).map_err(|source| FileProblem::BrokenSpec { key: SPEC_KEY, source })?;
    let shape = NetworkShape::infer(&spec)
        .map_err(|source| FileProblem::ImpossibleSpec { key: SPEC_KEY, source: Box::new(source) })?;

    let tensors = SafeTensors::deserialize(bytes).map_err(FileProblem::Format)?;
    check_tensors(&shape, &tensors)?;
    let mut snapshot = Snapshot::default();
    read_values(shape.param_arrays(), &tensors, &mut snapshot.params)?;
    read_values(&shape.buffers, &tensors, &mut snapshot.buffers)?;
    Ok((spec, shape, snapshot))
}

/// Whether the file is as long as its first bytes say, before anything else of it is read.
fn check_length(bytes: &[u8]) -> Result<(), FileProblem> {
    let found = bytes.len() as u64;
    let Some(length) = bytes.first_chunk::<LENGTH_BYTES>() else {
        return Err(FileProblem::Truncated { found, expected: LENGTH_BYTES as u64 });
    };
    let header = u64::from_le_bytes(*length);
    if header > MAX_HEADER {
        return Err(FileProblem::HeaderTooLarge { found: header, max: MAX_HEADER });
    }
    let expected = LENGTH_BYTES as u64 + header;
    if found < expected {
        return Err(FileProblem::Truncated { found, expected });
    }
    Ok(())
}

/// Whether names, types and shapes are exactly the network's.
fn check_tensors(shape: &NetworkShape, tensors: &SafeTensors<'_>) -> Result<(), FileProblem> {
    let mut extra: std::collections::BTreeSet<&str> = tensors.names().into_iter().collect();
    for array in arrays(shape) {
        let name = || array.name.clone();
        let Ok(tensor) = tensors.tensor(&array.name) else {
            return Err(FileProblem::MissingTensor { name: name(), expected: array.shape.clone() });
        };
        if tensor.dtype() != Dtype::F32 {
            return Err(FileProblem::TensorType { name: name(), found: tensor.dtype() });
        }
        if tensor.shape() != array.shape {
            let (expected, found) = (array.shape.clone(), tensor.shape().to_vec());
            return Err(FileProblem::TensorShape { name: name(), expected, found });
        }
        extra.remove(array.name.as_str());
    }
    match extra.first() {
        Some(&name) => Err(FileProblem::ExtraTensor { name: name.to_owned() }),
        None => Ok(()),
    }
}

fn read_values<'a>(
    arrays: impl IntoIterator<Item = &'a ArrayShape>,
    tensors: &SafeTensors<'_>,
    values: &mut Vec<f32>,
) -> Result<(), FileProblem> {
    for array in arrays {
        let tensor = tensors.tensor(&array.name).map_err(FileProblem::Format)?;
        let (chunks, _) = tensor.data().as_chunks::<4>();
        values.extend(chunks.iter().map(|&bytes| f32::from_le_bytes(bytes)));
    }
    Ok(())
}

/// All tensors in the order of the file: parameters, then running statistics.
fn arrays(shape: &NetworkShape) -> impl Iterator<Item = &ArrayShape> {
    shape.param_arrays().chain(&shape.buffers)
}

#[cfg(test)]
mod tests;
