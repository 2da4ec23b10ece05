//! The example of a crate outside of the workspace: it builds with its own manifest alone, and trains as PyTorch does.
#![forbid(unsafe_code)]

use std::fs;
use std::path::Path;
use std::process::Command;

#[test]
fn a_crate_outside_of_the_workspace_trains_on_the_kernels_as_pytorch_does() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let example = root.join("examples/train-with-compute");
    let copy = Path::new(env!("CARGO_TARGET_TMPDIR")).join("train-with-compute");
    fs::create_dir_all(copy.join("src")).unwrap();
    fs::copy(example.join("src/main.rs"), copy.join("src/main.rs")).unwrap();
    let crates = root.join("crates").display().to_string().replace('\\', "/");
    let manifest = fs::read_to_string(example.join("Cargo.toml")).unwrap();
    assert!(manifest.contains("\"../../crates/"), "the example has no path to the crates:\n{manifest}");
    fs::write(copy.join("Cargo.toml"), manifest.replace("../../crates", &crates)).unwrap();
    // What the workspace was built with is there without a network.
    fs::copy(root.join("Cargo.lock"), copy.join("Cargo.lock")).unwrap();

    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["run", "--offline", "--manifest-path"])
        .arg(copy.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(copy.join("target"))
        .output()
        .unwrap();
    let [printed, told] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    assert!(output.status.success(), "{printed}\n{told}");
    assert_eq!(printed.lines().count(), 8, "a line for each of eight steps:\n{printed}");
}
