//! Augments every PNG file of a folder:
//!
//!     cargo run --release -p selvedge-augment --example augment_folder -- IN OUT [COPIES [CHAIN.toml]]
//!
//! writes COPIES (4 by default) augmented copies of each file of IN to OUT, and prints the operations that were carried
//! out on each. CHAIN.toml holds the chain as in a recipe; the default is flips, shifts and erasing.

use std::collections::HashMap;
use std::error::Error;
use std::fs::{self, File};
use std::io::{BufReader, BufWriter};
use std::path::{Path, PathBuf};

use selvedge_augment::{Augmentation, Augmenter, Canvas, EpochKey, ImageShape};

const CHAIN: &str = r#"augment = [
    { op = "horizontal_flip" },
    { op = "translate", max = 3, padding = "edge" },
    { op = "random_erasing", p = 0.5, area = [0.02, 0.2], fill = "mean" },
]"#;

#[derive(serde::Deserialize)]
struct Chain {
    augment: Vec<Augmentation>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [input, output, rest @ ..] = arguments.as_slice() else {
        return Err("usage: augment_folder IN OUT [COPIES [CHAIN.toml]]".into());
    };
    let copies: u64 = rest.first().map_or(Ok(4), |count| count.parse())?;
    let chain: Chain = match rest.get(1) {
        Some(path) => toml::from_str(&fs::read_to_string(path)?)?,
        None => toml::from_str(CHAIN)?,
    };
    fs::create_dir_all(output)?;

    let mut files: Vec<PathBuf> =
        fs::read_dir(input)?.map(|entry| Ok(entry?.path())).collect::<Result<_, std::io::Error>>()?;
    files.retain(|path| path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("png")));
    // The index is part of the key of the draws, so it must not depend on the order of the folder's listing.
    files.sort();

    let mut augmenters = HashMap::new();
    for (index, path) in files.iter().enumerate() {
        let (shape, image) = read(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let (augmenter, canvas) = match augmenters.entry(shape) {
            std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::hash_map::Entry::Vacant(new) => {
                new.insert((Augmenter::new(chain.augment.clone(), shape, 1)?, Canvas::new(shape)))
            }
        };
        let mut augmented = vec![0; image.len()];
        for copy in 0..copies {
            let key = EpochKey { seed: 0, epoch: copy };
            let steps = augmenter.apply_one(&image, index as u32, key, &mut augmented, canvas);
            let stem = path.file_stem().unwrap_or_default().to_string_lossy();
            let name = format!("{stem}-{copy}.png");
            write(&Path::new(output).join(&name), shape, &augmented)?;
            let done: Vec<String> = steps.iter().map(ToString::to_string).collect();
            println!("{name}: {}", done.join(", "));
        }
    }
    println!("{} files, {copies} copies each", files.len());
    Ok(())
}

/// Reads any PNG file with 8 bits per channel; palettes become colours.
fn read(path: &Path) -> Result<(ImageShape, Vec<u8>), Box<dyn Error>> {
    let mut decoder = png::Decoder::new(BufReader::new(File::open(path)?));
    decoder.set_transformations(png::Transformations::normalize_to_color8());
    let mut reader = decoder.read_info()?;
    let mut image = vec![0; reader.output_buffer_size().ok_or("the image does not fit into memory")?];
    let frame = reader.next_frame(&mut image)?;
    image.truncate(frame.buffer_size());
    let (height, width) = (frame.height as usize, frame.width as usize);
    Ok((ImageShape { height, width, channels: frame.color_type.samples() }, image))
}

fn write(path: &Path, shape: ImageShape, image: &[u8]) -> Result<(), Box<dyn Error>> {
    let color = match shape.channels {
        1 => png::ColorType::Grayscale,
        2 => png::ColorType::GrayscaleAlpha,
        3 => png::ColorType::Rgb,
        _ => png::ColorType::Rgba,
    };
    let file = BufWriter::new(File::create(path)?);
    let mut encoder = png::Encoder::new(file, u32::try_from(shape.width)?, u32::try_from(shape.height)?);
    encoder.set_color(color);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.write_header()?.write_image_data(image)?;
    Ok(())
}
