//! Safetensors with the network's spec in the metadata: the format of [`Network::save`] and [`Network::load`].
//!
//! Tensors are the logical arrays in f32, in the order of the layers, so other tools can read them: `0.conv2d.weight` is `[kernel height, kernel width, in, out]`, `9.dense.weight` is `[in, out]` with the
//! features of a flattened image in the order rows, columns, channels; both as in Keras. Equal networks give equal
//! bytes, because tensors and metadata are written in a fixed order.

use std::path::Path;

use ::safetensors::tensor::TensorInfo;
use ::safetensors::{Dtype, SafeTensors};
use selvedge_compute::{BLOCK, Cpu, Precision, Threads};
use serde::ser::{Serialize, SerializeMap, Serializer};

use super::file;
use crate::network::{BuildOptions, Network};
use crate::params::snapshot::{NamedArray, Snapshot};
use crate::spec::ModelSpec;
use crate::spec::array::ArrayShape;
use crate::spec::error::{FileProblem, ModelError};
use crate::spec::inference::NetworkShape;
use crate::spec::limits::MAX_PARAMETERS;

/// The metadata entry that holds the [`ModelSpec`] as JSON.
const SPEC_KEY: &str = "selvedge_spec";
/// The metadata entry that holds the version that wrote the file.
const VERSION_KEY: &str = "selvedge_version";

/// Bytes that hold the header's length, at the beginning of the file.
const LENGTH_BYTES: usize = 8;
/// The longest header that is read: thousands of layers.
const MAX_HEADER: u64 = 4 << 20;
/// The largest file that is read. Running statistics are few beside parameters; twice the limit holds both.
const MAX_FILE: u64 = LENGTH_BYTES as u64 + MAX_HEADER + 2 * 4 * MAX_PARAMETERS as u64;

impl Network {
    /// Writes spec and weights to a safetensors file. The file is whole or not there, whatever interrupts.
    ///
    /// # Errors
    /// [`ModelError::File`] if the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), ModelError> {
        let snapshot = self.snapshot();
        file::write(path, &encode(self.spec(), self.arrays(&snapshot)))
    }

    /// Reads a network from a file that [`Network::save`] wrote.
    ///
    /// # Errors
    /// [`ModelError::File`] if the file cannot be read or is not such a file.
    pub fn load(path: &Path, threads: Threads) -> Result<Network, ModelError> {
        let bytes = file::read(path, MAX_FILE)?;
        let (spec, shape, snapshot) = decode(&bytes).map_err(|problem| file::failure(path, problem))?;
        // Two blocks for each thread keep all of them busy; more would only take memory.
        let max_batch = 2 * BLOCK * threads.count();
        let options = BuildOptions { seed: 0, max_batch, precision: Precision::F32, threads };
        Ok(Network::assemble(Cpu::detect()?, spec, shape, &snapshot, &options))
    }
}

/// The bytes of a file that holds a network.
fn encode<'a>(spec: &ModelSpec, arrays: impl Iterator<Item = NamedArray<'a>> + Clone) -> Vec<u8> {
    let spec = serde_json::to_string(spec).expect("a spec has no value that JSON cannot hold");
    let header = Header { spec: &spec, arrays: arrays.clone() };
    let mut header = serde_json::to_vec(&header).expect("names and numbers are JSON");
    header.resize(header.len().next_multiple_of(LENGTH_BYTES), b' ');
    let numbers: usize = arrays.clone().map(|array| array.values.len()).sum();
    let mut bytes = Vec::with_capacity(LENGTH_BYTES + header.len() + numbers * size_of::<f32>());
    bytes.extend((header.len() as u64).to_le_bytes());
    bytes.extend(header);
    bytes.extend(arrays.flat_map(|array| array.values).flat_map(|value| value.to_le_bytes()));
    bytes
}

struct Header<'a, I> {
    spec: &'a str,
    arrays: I,
}

impl<'a, I: Iterator<Item = NamedArray<'a>> + Clone> Serialize for Header<'_, I> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("__metadata__", &Metadata { spec: self.spec })?;
        let mut start = 0;
        for NamedArray { name, shape, values } in self.arrays.clone() {
            let end = start + size_of_val(values);
            let info = TensorInfo { dtype: Dtype::F32, shape: shape.to_vec(), data_offsets: (start, end) };
            map.serialize_entry(name, &info)?;
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
fn decode(bytes: &[u8]) -> Result<(ModelSpec, NetworkShape, Snapshot), FileProblem> {
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
