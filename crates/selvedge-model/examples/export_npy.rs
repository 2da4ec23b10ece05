//! `cargo run --example export_npy -- model.safetensors FOLDER`: a network's arrays as NumPy files, and its spec as JSON.
//!
//! A file format needs no more than this: the spec, and the name, shape and values of each array.
use std::{env, error::Error, fs, path::Path};

use selvedge_model::{NamedArray, Network, Threads};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [model, folder] = arguments.as_slice() else { return Err("usage: export_npy MODEL FOLDER".into()) };
    let network = Network::load(Path::new(model), Threads::new(1)?)?;
    fs::create_dir_all(folder)?;
    fs::write(Path::new(folder).join("spec.json"), serde_json::to_vec_pretty(network.spec())?)?;
    let snapshot = network.snapshot();
    for array in network.arrays(&snapshot) {
        fs::write(Path::new(folder).join(format!("{}.npy", array.name)), npy(array))?;
    }
    Ok(())
}

/// NumPy's format 1.0: a magic number, the length of the header, the header padded to 64 bytes, and the values.
fn npy(NamedArray { shape, values, .. }: NamedArray<'_>) -> Vec<u8> {
    const PREFIX: usize = 10;
    let sizes: String = shape.iter().map(|size| format!("{size}, ")).collect();
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({sizes}), }}");
    let padding = (PREFIX + header.len() + 1).next_multiple_of(64) - (PREFIX + header.len() + 1);
    header += &" ".repeat(padding);
    header.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    bytes
}
