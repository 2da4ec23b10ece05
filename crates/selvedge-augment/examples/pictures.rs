//! Draws the pictures of docs/operations.md: three images of Fashion-MNIST after each operation with its defaults.
//!
//!     cargo run --release -p selvedge-augment --example pictures
//!
//! Each picture shows an image and three draws of it, then the next image; for operations that mix batches, the three
//! images and then three draws of the batch. `overview.png` shows one draw of every operation.

use std::error::Error;
use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use ndarray::ArrayView4;
use selvedge_augment::{Augmentation, Augmenter, Batch, EpochKey, ImageShape, Named, OneOf, Sequential, SomeOf};

const SHAPE: ImageShape = ImageShape { height: 28, width: 28, channels: 1 };
const IMAGES: usize = 3;
const DRAWS: usize = 3;

/// How many times each pixel is drawn along each axis, and the space between images.
const SCALE: usize = 2;
const GAP: usize = 4;

/// Operations that hold other operations, of which there is no picture.
const CHOICES: [&str; 3] = [OneOf::NAME, SomeOf::NAME, Sequential::NAME];

fn main() -> Result<(), Box<dyn Error>> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let grey = std::fs::read(folder.join("tests/fixtures/grey.bin"))?;
    let images = ArrayView4::from_shape((IMAGES, SHAPE.height, SHAPE.width, SHAPE.channels), &grey)?;
    let pictures = folder.join("docs/pictures");
    let mut overview: Vec<Vec<u8>> = Vec::new();
    let mut batch = Batch::new();
    for &name in Augmentation::NAMES.iter().filter(|name| !CHOICES.contains(name)) {
        let parameters = match name {
            "alternating_flip" => "",
            // Its defaults change nothing.
            "affine" => "p = 1\nscale = [0.8, 1.2]\ntranslate = 0.1\nrotate = 20\nshear = 10",
            _ => "p = 1",
        };
        let op: Augmentation = toml::from_str(&format!("op = '{name}'\n{parameters}"))?;
        let mixes = op.is_mixing();
        let augmenter = Augmenter::new(vec![op], SHAPE, IMAGES)?;
        let mut draws = Vec::new();
        for epoch in 0..DRAWS as u64 {
            augmenter.fill_batch(images, &[0, 1, 2], &[0, 1, 2], EpochKey { seed: 3, epoch }, &mut batch);
            draws.push(batch.images.clone());
        }
        let of = |images: &[u8], index: usize| images[index * SHAPE.len()..][..SHAPE.len()].to_vec();
        let mut row: Vec<Vec<u8>> = Vec::new();
        if mixes {
            row.extend((0..IMAGES).map(|index| of(&grey, index)));
            row.extend(draws.iter().flat_map(|draw| (0..IMAGES).map(move |index| of(draw, index))));
        } else {
            for index in 0..IMAGES {
                row.push(of(&grey, index));
                row.extend(draws.iter().map(|draw| of(draw, index)));
            }
        }
        overview.push(of(&draws[1], overview.len() % IMAGES));
        write(&pictures.join(format!("{name}.png")), &row, row.len())?;
    }
    write(&pictures.join("overview.png"), &overview, 12)
}

/// Writes images side by side, `columns` of them in a row.
fn write(path: &Path, images: &[Vec<u8>], columns: usize) -> Result<(), Box<dyn Error>> {
    let (step_x, step_y) = (SHAPE.width * SCALE + GAP, SHAPE.height * SCALE + GAP);
    let (width, height) = (columns * step_x - GAP, images.len().div_ceil(columns) * step_y - GAP);
    let mut sheet = vec![255; width * height];
    for (index, image) in images.iter().enumerate() {
        let (left, top) = (index % columns * step_x, index / columns * step_y);
        for y in 0..SHAPE.height * SCALE {
            for x in 0..SHAPE.width * SCALE {
                sheet[(top + y) * width + left + x] = image[y / SCALE * SHAPE.width + x / SCALE];
            }
        }
    }
    let file = BufWriter::new(File::create(path)?);
    let mut encoder = png::Encoder::new(file, u32::try_from(width)?, u32::try_from(height)?);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::High);
    encoder.write_header()?.write_image_data(&sheet)?;
    Ok(())
}
