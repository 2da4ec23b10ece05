//! Networks that are saved and loaded, and what a reader is told of a file that is none.

use std::path::Path;

use selvedge_model::{BuildOptions, ModelError, ModelSpec, Network, Precision, Threads};

fn network(seed: u64) -> Network {
    let spec: ModelSpec = toml::from_str(
        r#"
        classes = 10
        input = { height = 8, width = 8, mean = 0.3, std = 0.35 }
        layers = [
            { layer = "conv2d", filters = 6, kernel = 3 },
            { layer = "batch_norm" },
            { layer = "residual", layers = [{ layer = "conv2d", filters = 6, kernel = 3 }, { layer = "relu" }] },
            { layer = "max_pool2d" },
            { layer = "flatten" },
            { layer = "dense", units = "classes" },
        ]
        "#,
    )
    .unwrap();
    let options = BuildOptions { seed, max_batch: 32, precision: Precision::F32, threads: Threads::new(1).unwrap() };
    Network::build(&spec, &options).unwrap()
}

fn load(path: &Path) -> Result<Network, ModelError> {
    Network::load(path, Threads::new(1).unwrap())
}

#[test]
fn a_saved_network_is_loaded_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let saved = network(5);
    saved.save(&path).unwrap();
    let loaded = load(&path).unwrap();
    assert_eq!(loaded.spec(), saved.spec());
    assert_eq!(loaded.weights_bytes(), saved.weights_bytes());
    let again = folder.path().join("again.safetensors");
    loaded.save(&again).unwrap();
    assert_eq!(std::fs::read(&again).unwrap(), std::fs::read(&path).unwrap());
}

#[test]
fn a_loaded_network_predicts_what_the_saved_one_did() {
    let path = tempfile::tempdir().unwrap();
    let path = path.path().join("model.safetensors");
    let mut saved = network(5);
    saved.save(&path).unwrap();
    // More images than a block, and not a whole number of blocks.
    let images: Vec<u8> = (0..70 * 64).map(|i| (i * 37 % 251) as u8).collect();
    let probabilities = saved.predict(&images);
    assert_eq!(probabilities.dim(), (70, 10));
    for row in probabilities.rows() {
        assert!((row.sum() - 1.0).abs() < 1e-5, "{row}");
    }
    assert!(probabilities.row(0) != probabilities.row(69));
    assert_eq!(load(&path).unwrap().predict(&images), probabilities);
}

#[test]
fn snapshots_bring_back_what_was_there() {
    let (mut network, other) = (network(1), network(2));
    let before = network.snapshot();
    network.restore(&other.snapshot());
    assert_eq!(network.weights_bytes(), other.weights_bytes());
    network.restore(&before);
    assert_eq!(network.snapshot(), before);
}

#[test]
fn files_that_are_no_networks_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let message = || load(&path).err().unwrap().to_string();
    assert!(message().contains("model.safetensors: cannot open"), "{}", message());
    std::fs::write(&path, b"PK\x03\x04 something else").unwrap();
    assert!(message().contains("model.safetensors: not a safetensors file"), "{}", message());
    network(1).save(&path).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    assert!(message().contains("model.safetensors: not a valid safetensors file"), "{}", message());
}

#[test]
fn a_folder_that_is_not_there_is_an_error_with_the_path() {
    let error = network(1).save(Path::new("absent/folder/model.safetensors")).unwrap_err();
    assert!(error.to_string().contains("absent/folder/model.safetensors: cannot create the file"), "{error}");
}
