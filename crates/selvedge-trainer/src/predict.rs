//! Reads PNG files as images for a network, with limits against hostile files.

use std::fs::{self, File};
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

use png::{BitDepth, ColorType, Decoder, Limits, Transformations};
use thiserror::Error;

/// The most memory for decoding a file: more than any image for a network here takes.
const MAX_BYTES: usize = 16 << 20;

/// Why a picture cannot be classified.
#[derive(Debug, Error)]
pub enum PictureError {
    /// The file or folder cannot be read.
    #[error("{path} cannot be read: {source}", path = path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// It is not a PNG file, or a damaged one.
    #[error("{path} is not a PNG image: {problem}", path = path.display())]
    NotPng {
        /// The file.
        path: PathBuf,
        /// The decoder's message.
        problem: String,
    },
    /// It does not have the size of the network's input.
    #[error(
        "{path} has {} x {} pixels (width x height), the network expects {} x {}: scale it to that size first",
        found[1], found[0], expected[1], expected[0], path = path.display()
    )]
    Size {
        /// The file.
        path: PathBuf,
        /// Its height and width.
        found: [usize; 2],
        /// The network's.
        expected: [usize; 2],
    },
    /// It has transparent pixels.
    #[error("{path} has transparent pixels: put it on a background first (in Fashion-MNIST it is black)", path = path.display())]
    Transparent {
        /// The file.
        path: PathBuf,
    },
    /// The network expects neither grey nor colour images.
    #[error("the network expects images of {channels} channels: PNG files give 1 (grey) or 3 (red, green, blue)")]
    Channels {
        /// Channels of its input.
        channels: usize,
    },
    /// A folder without PNG files.
    #[error("the folder {path} has no file that ends in .png", path = path.display())]
    Empty {
        /// The folder.
        path: PathBuf,
    },
}

/// The given files, and the PNG files of the given folders in the order of their names.
///
/// # Errors
/// [`PictureError::Read`], [`PictureError::Empty`]
pub fn list_pictures(paths: &[PathBuf]) -> Result<Vec<PathBuf>, PictureError> {
    let mut pictures = Vec::new();
    for path in paths {
        if !path.is_dir() {
            pictures.push(path.clone());
            continue;
        }
        let read = |source| PictureError::Read { path: path.clone(), source };
        let entries: Vec<PathBuf> = fs::read_dir(path)
            .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect())
            .map_err(read)?;
        let is_png = |path: &PathBuf| path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("png"));
        let mut found: Vec<PathBuf> = entries.into_iter().filter(is_png).collect();
        if found.is_empty() {
            return Err(PictureError::Empty { path: path.clone() });
        }
        found.sort();
        pictures.extend(found);
    }
    Ok(pictures)
}

/// Reads a PNG file as `[height, width, channels]` bytes. For one channel, colours become grey by the weights of ITU-R BT.601
/// (.299 red, .587 green, .114 blue); for three, grey becomes three equal channels. Samples of 16 bits are reduced to 8,
/// samples of fewer bits are scaled up.
///
/// # Errors
/// [`PictureError`]
pub fn read_picture(path: &Path, [height, width, channels]: [usize; 3]) -> Result<Vec<u8>, PictureError> {
    if channels != 1 && channels != 3 {
        return Err(PictureError::Channels { channels });
    }
    let not_png = |error: png::DecodingError| match error {
        png::DecodingError::IoError(source) if source.kind() != io::ErrorKind::UnexpectedEof => {
            PictureError::Read { path: path.to_owned(), source }
        }
        error => PictureError::NotPng { path: path.to_owned(), problem: error.to_string() },
    };
    let file = File::open(path).map_err(|source| PictureError::Read { path: path.to_owned(), source })?;
    let mut decoder = Decoder::new_with_limits(BufReader::new(file), Limits { bytes: MAX_BYTES });
    decoder.set_transformations(Transformations::normalize_to_color8());
    let mut reader = decoder.read_info().map_err(not_png)?;
    let found = [reader.info().height as usize, reader.info().width as usize];
    if found != [height, width] {
        return Err(PictureError::Size { path: path.to_owned(), found, expected: [height, width] });
    }
    let mut pixels = vec![0; 4 * height * width];
    let frame = reader.next_frame(&mut pixels).map_err(not_png)?;
    let samples = match (frame.color_type, frame.bit_depth) {
        (ColorType::Grayscale, BitDepth::Eight) => 1,
        (ColorType::GrayscaleAlpha, BitDepth::Eight) => 2,
        (ColorType::Rgb, BitDepth::Eight) => 3,
        (ColorType::Rgba, BitDepth::Eight) => 4,
        other => {
            let problem = format!("its pixels have the unsupported format {other:?}");
            return Err(PictureError::NotPng { path: path.to_owned(), problem });
        }
    };
    let pixels = pixels[..frame.buffer_size()].chunks_exact(samples);
    if samples % 2 == 0 && pixels.clone().any(|pixel| pixel[samples - 1] != u8::MAX) {
        return Err(PictureError::Transparent { path: path.to_owned() });
    }
    let colour = samples >= 3;
    let luma = |p: &[u8]| (299 * u32::from(p[0]) + 587 * u32::from(p[1]) + 114 * u32::from(p[2]) + 500) / 1000;
    Ok(match (channels, colour) {
        (1, false) => pixels.map(|pixel| pixel[0]).collect(),
        (1, true) => pixels.map(|pixel| luma(pixel) as u8).collect(),
        (_, false) => pixels.flat_map(|pixel| [pixel[0]; 3]).collect(),
        (_, true) => pixels.flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, color: ColorType, [height, width]: [u32; 2], pixels: &[u8]) {
        let mut encoder = png::Encoder::new(File::create(path).unwrap(), width, height);
        encoder.set_color(color);
        encoder.set_depth(BitDepth::Eight);
        encoder.write_header().unwrap().write_image_data(pixels).unwrap();
    }

    #[test]
    fn grey_and_colour_become_what_the_network_expects() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.png");
        write(&path, ColorType::Grayscale, [1, 3], &[0, 100, 255]);
        assert_eq!(read_picture(&path, [1, 3, 1]).unwrap(), [0, 100, 255]);
        assert_eq!(read_picture(&path, [1, 3, 3]).unwrap(), [0, 0, 0, 100, 100, 100, 255, 255, 255]);
        write(&path, ColorType::Rgb, [1, 2], &[255, 0, 0, 10, 20, 30]);
        assert_eq!(read_picture(&path, [1, 2, 1]).unwrap(), [76, 18]);
        assert_eq!(read_picture(&path, [1, 2, 3]).unwrap(), [255, 0, 0, 10, 20, 30]);
        write(&path, ColorType::Rgba, [1, 1], &[9, 9, 9, 255]);
        assert_eq!(read_picture(&path, [1, 1, 1]).unwrap(), [9]);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.png");
        let message = |shape| read_picture(&path, shape).unwrap_err().to_string();
        write(&path, ColorType::Grayscale, [2, 3], &[0; 6]);
        assert!(message([28, 28, 1]).contains("has 3 x 2 pixels") && message([28, 28, 1]).contains("28 x 28"));
        assert!(message([2, 3, 2]).contains("2 channels"));
        write(&path, ColorType::GrayscaleAlpha, [1, 1], &[9, 0]);
        assert!(message([1, 1, 1]).contains("transparent"));
        fs::write(&path, "<html>no picture</html>").unwrap();
        assert!(message([1, 1, 1]).contains("a.png is not a PNG image"));
        write(&path, ColorType::Grayscale, [20, 20], &[7; 400]);
        let whole = fs::read(&path).unwrap();
        for len in 0..whole.len() - 12 {
            // The last 12 bytes are the end marker, which no pixel needs.
            fs::write(&path, &whole[..len]).unwrap();
            assert!(message([20, 20, 1]).contains("not a PNG image"), "cut after {len}");
        }
    }

    #[test]
    fn folders_are_listed_by_name() {
        let dir = tempfile::tempdir().unwrap();
        assert!(list_pictures(&[dir.path().to_owned()]).unwrap_err().to_string().contains("no file"));
        for name in ["b.png", "a.PNG", "c.txt"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        let names = list_pictures(&[dir.path().to_owned()]).unwrap();
        assert_eq!(names, [dir.path().join("a.PNG"), dir.path().join("b.png")]);
    }
}
