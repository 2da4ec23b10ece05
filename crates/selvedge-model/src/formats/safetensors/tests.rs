//! Weights through files and arrays and back, and files that are refused.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::params::{init, snapshot};
use crate::spec::layer::LayerSpec;
use crate::test_support::{classes, conv, grey, keras_classifier, norm, small_spec};

/// A file of a small network with every kind of tensor.
fn sample() -> Vec<u8> {
    let residual = LayerSpec::Residual { layers: vec![conv(2, false), norm()], drop: 0.0 };
    let spec = grey(4, 4, vec![conv(2, true), residual, LayerSpec::Flatten, classes()]);
    let shape = NetworkShape::infer(&spec).unwrap();
    bytes_of(&spec, &shape, &init::initial(&shape, 3))
}

fn bytes_of(spec: &ModelSpec, shape: &NetworkShape, snapshot: &Snapshot) -> Vec<u8> {
    encode(spec, snapshot::arrays(shape, snapshot))
}

fn header_of(bytes: &[u8]) -> (Value, &[u8]) {
    let length = u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
    (serde_json::from_slice(&bytes[8..8 + length]).unwrap(), &bytes[8 + length..])
}

/// The sample with its header changed.
fn with_header(change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let bytes = sample();
    let (mut header, data) = header_of(&bytes);
    change(&mut header);
    let header = header.to_string();
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

fn refusal(bytes: &[u8]) -> String {
    decode(bytes).unwrap_err().to_string()
}

#[test]
fn the_file_is_what_the_format_says() {
    let bytes = sample();
    let (header, data) = header_of(&bytes);
    assert_eq!((bytes.len() - data.len()) % 8, 0);
    let metadata = &header["__metadata__"];
    assert_eq!(metadata["selvedge_version"], env!("CARGO_PKG_VERSION"));
    let spec: ModelSpec = serde_json::from_str(metadata["selvedge_spec"].as_str().unwrap()).unwrap();
    assert_eq!(spec.layers.len(), 4);
    assert_eq!(header["0.conv2d.weight"], json!({"dtype": "F32", "shape": [3, 3, 1, 2], "data_offsets": [0, 72]}));
    assert_eq!(header["0.conv2d.bias"]["shape"], json!([2]));
    assert_eq!(header["1.residual.0.conv2d.weight"]["shape"], json!([3, 3, 2, 2]));
    assert_eq!(header["3.dense.weight"]["shape"], json!([32, 10]));
    for name in ["scale", "shift", "running_mean", "running_var"] {
        assert_eq!(header[format!("1.residual.1.batch_norm.{name}")]["shape"], json!([2]));
    }
    assert_eq!(header.as_object().unwrap().len(), 10);
}

proptest! {
    #[test]
    fn what_is_written_is_read(spec in small_spec(), seed in any::<u64>()) {
        let shape = NetworkShape::infer(&spec).unwrap();
        let mut snapshot = init::initial(&shape, seed);
        for (i, value) in snapshot.buffers.iter_mut().enumerate() {
            *value = i as f32;
        }
        let bytes = bytes_of(&spec, &shape, &snapshot);
        prop_assert_eq!(&bytes, &bytes_of(&spec, &shape, &snapshot), "equal networks give equal bytes");
        let (read_spec, read_shape, read_snapshot) = decode(&bytes).unwrap();
        prop_assert_eq!(read_shape, shape);
        prop_assert_eq!(read_snapshot, snapshot);
        // Reading writes defaults out; reading twice changes nothing more.
        let again: ModelSpec = serde_json::from_str(&serde_json::to_string(&read_spec).unwrap()).unwrap();
        prop_assert_eq!(again, read_spec);
    }

    #[test]
    fn changed_bytes_never_panic(changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let mut bytes = sample();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Err(problem) = decode(&bytes) {
            prop_assert!(!problem.to_string().is_empty());
        }
    }

    #[test]
    fn arbitrary_bytes_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(decode(&bytes).is_err());
    }
}

#[test]
fn every_truncation_is_refused() {
    let bytes = sample();
    for length in 0..bytes.len() {
        assert!(decode(&bytes[..length]).is_err(), "{length} of {} bytes", bytes.len());
    }
    assert!(refusal(&bytes[..5]).contains("cut short: 5 bytes, expected at least 8"));
    assert!(refusal(&bytes[..20]).contains("cut short: 20 bytes"));
    assert!(decode(&[&bytes[..], &[0]].concat()).is_err(), "a byte too many");
}

#[test]
fn a_long_header_is_refused_by_its_length() {
    for length in [MAX_HEADER + 1, u64::MAX] {
        let message = refusal(&length.to_le_bytes());
        assert!(message.contains(&length.to_string()) && message.contains("at most 4194304"), "{message}");
    }
}

#[test]
fn a_spec_that_is_absent_or_broken_is_refused() {
    let absent = with_header(|header| drop(header.as_object_mut().unwrap().remove("__metadata__")));
    assert!(refusal(&absent).contains("no entry \"selvedge_spec\""));
    let with_spec = |spec: &str| with_header(|header| header["__metadata__"]["selvedge_spec"] = json!(spec));
    let broken = refusal(&with_spec("{\"classes\": 10"));
    assert!(broken.contains("is not a network") && broken.contains("column"), "{broken}");
    let unknown = r#"{"classes":2,"input":{"height":1,"width":1},"layers":[{"layer":"lstm"}]}"#;
    assert!(refusal(&with_spec(unknown)).contains("lstm"));
    let impossible = r#"{"classes":2,"input":{"height":1,"width":1},"layers":[{"layer":"dense","units":2}]}"#;
    assert!(refusal(&with_spec(impossible)).contains("layer 0.dense"));
    let deep = format!("{}{}", r#"{"layer":"residual","layers":["#.repeat(5000), "]}".repeat(5000));
    let deep = format!(r#"{{"classes":2,"input":{{"height":1,"width":1}},"layers":[{deep}]}}"#);
    assert!(refusal(&with_spec(&deep)).contains("recursion limit"));
}

#[test]
fn tensors_that_are_not_the_networks_are_refused() {
    let renamed = with_header(|header| {
        let header = header.as_object_mut().unwrap();
        let tensor = header.remove("0.conv2d.bias").unwrap();
        header.insert("0.conv2d.beta".to_owned(), tensor);
    });
    assert_eq!(refusal(&renamed), "tensor 0.conv2d.bias of shape [2] is missing");
    let reshaped = with_header(|header| header["3.dense.weight"]["shape"] = json!([10, 32]));
    assert_eq!(refusal(&reshaped), "tensor 3.dense.weight has shape [10, 32], expected [32, 10]");
    let retyped = with_header(|header| header["3.dense.bias"]["dtype"] = json!("I32"));
    assert_eq!(refusal(&retyped), "tensor 3.dense.bias has elements of type I32, expected F32");
    let extra = with_header(|header| {
        header["a"] = json!({"dtype": "F32", "shape": [0], "data_offsets": [0, 0]});
    });
    assert_eq!(refusal(&extra), "tensor a does not belong to the network that the file describes");
}

#[test]
fn numbers_follow_the_header_in_the_order_of_the_snapshot() {
    let spec = keras_classifier();
    let shape = NetworkShape::infer(&spec).unwrap();
    let snapshot = init::initial(&shape, 1);
    let bytes = bytes_of(&spec, &shape, &snapshot);
    let (_, data) = header_of(&bytes);
    assert_eq!(data.len(), 4 * 279_406);
    assert!(data.chunks_exact(4).eq(snapshot.params.iter().map(|value| value.to_le_bytes())));
}
