//! [`Sheet`]: a picture with enlarged images and lines of text, saved as a PNG file.

use std::fs::File;
use std::io::{self, BufReader};
use std::path::Path;

use noto_sans_mono_bitmap::{FontWeight, RasterHeight, get_raster, get_raster_width};
use png::{BitDepth, ColorType, Decoder, Encoder, Limits};

use super::PreviewError;

/// Height of a line of text in pixels.
pub(super) const LINE: usize = 16;
/// Width of a character in pixels.
pub(super) const CHARACTER: usize = get_raster_width(FontWeight::Regular, RasterHeight::Size16);

/// Red, green and blue.
pub(super) type Colour = [u8; 3];
pub(super) const PAPER: Colour = [255, 255, 255];
pub(super) const INK: Colour = [32, 33, 36];
pub(super) const SOFT_INK: Colour = [95, 99, 104];
pub(super) const PALE_INK: Colour = [170, 174, 179];
pub(super) const ACCENT: Colour = [26, 95, 180];
pub(super) const RULE: Colour = [218, 220, 224];

/// The most pixels of a sheet: few viewers show more, and all are in memory.
const MAX_PIXELS: usize = 100_000_000;
/// Written into every sheet's file: only a file with this mark may be replaced.
const MARK: (&str, &str) = ("Software", "selvedge preview");

/// A line of text with its colour and weight.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Line {
    pub(super) text: String,
    pub(super) colour: Colour,
    pub(super) bold: bool,
}

impl Line {
    pub(super) fn new(text: impl Into<String>, colour: Colour) -> Self {
        Self { text: text.into(), colour, bold: false }
    }

    pub(super) fn bold(text: impl Into<String>, colour: Colour) -> Self {
        Self { text: text.into(), colour, bold: true }
    }

    /// Wraps the line to at most `most` characters: between words, and within words that are longer.
    pub(super) fn wrapped(self, most: usize) -> Vec<Line> {
        let most = most.max(1);
        let mut lines: Vec<String> = vec![String::new()];
        let mut used = 0;
        for word in self.text.split_whitespace() {
            let mut rest: Vec<char> = word.chars().collect();
            let space = usize::from(used > 0);
            if used > 0 && used + space + rest.len() > most {
                lines.push(String::new());
                used = 0;
            }
            while rest.len() > most {
                let tail = rest.split_off(most);
                lines.extend([rest.into_iter().collect(), String::new()]);
                rest = tail;
            }
            if let Some(line) = lines.last_mut() {
                if used > 0 {
                    line.push(' ');
                }
                used += space + rest.len();
                line.extend(rest);
            }
        }
        lines.retain(|line| !line.is_empty());
        lines.into_iter().map(|text| Line { text, ..self }).collect()
    }
}

/// An image of bytes, `[height, width, channels]`, with one channel or three.
#[derive(Clone, Copy)]
pub(super) struct Image<'a> {
    pub(super) pixels: &'a [u8],
    pub(super) width: usize,
    pub(super) channels: usize,
}

/// A picture in memory.
#[derive(Debug)]
pub(crate) struct Sheet {
    width: usize,
    height: usize,
    pixels: Vec<u8>,
}

impl Sheet {
    /// An empty sheet.
    pub(super) fn new(width: usize, height: usize) -> Result<Self, PreviewError> {
        if width.saturating_mul(height) > MAX_PIXELS {
            return Err(PreviewError::TooLarge { width, height, most: MAX_PIXELS });
        }
        Ok(Self { width, height, pixels: PAPER.repeat(width * height) })
    }

    /// Width and height in pixels.
    pub(crate) fn size(&self) -> [usize; 2] {
        [self.width, self.height]
    }

    fn set(&mut self, x: usize, y: usize, colour: Colour) {
        if x < self.width && y < self.height {
            self.pixels[(y * self.width + x) * 3..][..3].copy_from_slice(&colour);
        }
    }

    /// Draws a horizontal line over the whole width.
    pub(super) fn rule(&mut self, y: usize) {
        (0..self.width).for_each(|x| self.set(x, y, RULE));
    }

    /// Draws an image, each pixel as a square of `scale` pixels.
    pub(super) fn image(&mut self, left: usize, top: usize, scale: usize, image: Image<'_>) {
        for (index, pixel) in image.pixels.chunks_exact(image.channels).enumerate() {
            let (x, y) = (left + index % image.width * scale, top + index / image.width * scale);
            let colour = if let [red, green, blue] = *pixel { [red, green, blue] } else { [pixel[0]; 3] };
            for dy in 0..scale {
                (0..scale).for_each(|dx| self.set(x + dx, y + dy, colour));
            }
        }
    }

    /// Draws lines of text.
    pub(super) fn text(&mut self, left: usize, top: usize, lines: &[Line]) {
        for (number, line) in lines.iter().enumerate() {
            let weight = if line.bold { FontWeight::Bold } else { FontWeight::Regular };
            for (column, character) in line.text.chars().enumerate() {
                // A character that the font lacks becomes a question mark.
                let glyph = get_raster(character, weight, RasterHeight::Size16)
                    .or_else(|| get_raster('?', weight, RasterHeight::Size16));
                for (y, row) in glyph.iter().flat_map(|glyph| glyph.rows()).enumerate() {
                    for (x, &coverage) in row.iter().enumerate().filter(|(_, coverage)| **coverage > 0) {
                        let blend = |i: usize| {
                            let (paper, ink, covered) =
                                (u32::from(PAPER[i]), u32::from(line.colour[i]), u32::from(coverage));
                            ((paper * (255 - covered) + ink * covered + 127) / 255) as u8
                        };
                        let colour = std::array::from_fn(blend);
                        self.set(left + column * CHARACTER + x, top + number * LINE + y, colour);
                    }
                }
            }
        }
    }

    /// Writes the sheet atomically as a PNG file. It replaces an older sheet, and nothing else.
    pub(crate) fn save(&self, path: &Path) -> Result<(), PreviewError> {
        check_target(path)?;
        let bytes = self.png().map_err(|source| PreviewError::Write { path: path.to_owned(), source })?;
        selvedge_atomic_file::write(path, &bytes)
            .map_err(|error| PreviewError::Write { path: error.path, source: error.source })
    }

    fn png(&self) -> io::Result<Vec<u8>> {
        let (width, height) = (self.width as u32, self.height as u32);
        let mut bytes = Vec::new();
        let mut encoder = Encoder::new(&mut bytes, width, height);
        encoder.set_color(ColorType::Rgb);
        encoder.set_depth(BitDepth::Eight);
        encoder.add_text_chunk(MARK.0.to_owned(), MARK.1.to_owned()).map_err(io::Error::other)?;
        let mut writer = encoder.write_header().map_err(io::Error::other)?;
        writer.write_image_data(&self.pixels).map_err(io::Error::other)?;
        writer.finish().map_err(io::Error::other)?;
        Ok(bytes)
    }
}

/// Refuses a file that no sheet can or should replace, before any work is done.
pub(crate) fn check_target(path: &Path) -> Result<(), PreviewError> {
    if path.extension().is_none_or(|extension| !extension.eq_ignore_ascii_case("png")) {
        return Err(PreviewError::Extension { path: path.to_owned() });
    }
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(PreviewError::Write { path: path.to_owned(), source }),
    };
    let own = Decoder::new_with_limits(BufReader::new(file), Limits { bytes: 1 << 20 }).read_info().is_ok_and(|png| {
        png.info().uncompressed_latin1_text.iter().any(|text| (text.keyword.as_str(), text.text.as_str()) == MARK)
    });
    if own { Ok(()) } else { Err(PreviewError::Exists { path: path.to_owned() }) }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn wrap(text: &str, most: usize) -> Vec<String> {
        Line::new(text, INK).wrapped(most).into_iter().map(|line| line.text).collect()
    }

    #[test]
    fn lines_are_wrapped_between_words_and_within_long_words() {
        assert_eq!(wrap("columns 0.95 1.02, rows 1.00", 13), ["columns 0.95", "1.02, rows", "1.00"]);
        assert_eq!(wrap("field 0123456789abcdef", 10), ["field", "0123456789", "abcdef"]);
        assert_eq!(wrap("0123456789", 10), ["0123456789"]);
        assert_eq!(wrap("ab 0123456789 c", 5), ["ab", "01234", "56789", "c"]);
        assert_eq!(wrap("", 5), Vec::<String>::new());
        assert_eq!(wrap("über × °", 4), ["über", "× °"]);
    }

    #[test]
    fn text_stays_in_its_line_and_images_are_enlarged() {
        let mut sheet = Sheet::new(60, 40).unwrap();
        sheet.text(7, 8, &[Line::bold("Ägq×", INK), Line::new("\u{4e00}", ACCENT)]);
        let inked = |y: usize| (0..60).filter(|x| sheet.pixels[(y * 60 + x) * 3..][..3] != PAPER).collect::<Vec<_>>();
        let rows: Vec<usize> = (0..40).filter(|&y| !inked(y).is_empty()).collect();
        assert!(rows[0] >= 8 && *rows.last().unwrap() < 40 && rows.len() > 12, "{rows:?}");
        let columns: Vec<usize> = (0..40).flat_map(inked).collect();
        assert!(columns.iter().all(|x| (7..7 + 4 * CHARACTER).contains(x)), "{columns:?}");

        let mut sheet = Sheet::new(6, 4).unwrap();
        sheet.image(1, 0, 2, Image { pixels: &[1, 2, 3, 4], width: 2, channels: 1 });
        let row = |y: usize| sheet.pixels[y * 18..][..18].iter().step_by(3).copied().collect::<Vec<u8>>();
        assert_eq!([row(0), row(1), row(2)], [[255, 1, 1, 2, 2, 255], [255, 1, 1, 2, 2, 255], [255, 3, 3, 4, 4, 255]]);
        sheet.image(0, 0, 1, Image { pixels: &[10, 20, 30], width: 1, channels: 3 });
        assert_eq!(sheet.pixels[..3], [10, 20, 30]);
    }

    #[test]
    fn only_an_older_sheet_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.png");
        Sheet::new(3, 2).unwrap().save(&path).unwrap();
        let first = fs::read(&path).unwrap();
        Sheet::new(4, 2).unwrap().save(&path).unwrap();
        assert_ne!(fs::read(&path).unwrap(), first);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);

        // Another picture, and a file that is not a picture.
        let mut encoder = Encoder::new(File::create(&path).unwrap(), 1, 1);
        encoder.set_color(ColorType::Grayscale);
        encoder.write_header().unwrap().write_image_data(&[7]).unwrap();
        let text = dir.path().join("b.png");
        fs::write(&text, "notes").unwrap();
        for mine in [&path, &text] {
            let before = fs::read(mine).unwrap();
            let message = Sheet::new(3, 2).unwrap().save(mine).unwrap_err().to_string();
            assert!(message.contains("is not a sheet"), "{message}");
            assert_eq!(fs::read(mine).unwrap(), before);
        }
    }

    #[test]
    fn a_sheet_of_too_many_pixels_is_refused() {
        let message = Sheet::new(20_000, 20_000).unwrap_err().to_string();
        assert!(message.contains("20000 x 20000"), "{message}");
    }
}
