//! `cargo run --example predict -- model.safetensors image.raw`: the class of an image, given as the bytes of its pixels.
use std::{env, error::Error, fs, path::Path};

use selvedge_model::{Network, Threads};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [model, image] = arguments.as_slice() else { return Err("usage: predict MODEL IMAGE".into()) };
    let (mut network, pixels) = (Network::load(Path::new(model), Threads::new(1)?)?, fs::read(image)?);
    let input = &network.spec().input;
    if pixels.len() != input.height * input.width * input.channels {
        return Err(format!("{image} has {} bytes, the network takes {input:?}", pixels.len()).into());
    }
    let probabilities = network.predict(&pixels);
    let best = probabilities.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
    let (class, probability) = best.ok_or("a network has classes")?;
    println!("class {class}, probability {probability:.3}");
    Ok(())
}
