//! Shifts by whole pixels, also in the form of a crop of the padded image.

use std::fmt::{self, Display};

use serde::{Deserialize, Serialize};

use crate::canvas::Canvas;
use crate::check::Check;
use crate::error::AugmentError;
use crate::operation::{Operation, Transform};
use crate::parameter::{Padding, PerAxis};
use crate::shape::ImageShape;
use crate::stream::Stream;

/// Shifts by whole pixels, uniform from `-max` to `max` along each axis.
///
/// Source: K. Jordan's airbench (`translate`, there with reflected borders). Recipes may also write `shift`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Translate {
    /// The largest shift in pixels, one number or `[vertical, horizontal]`, each smaller than the side.
    pub max: PerAxis,
    /// How the image is continued beyond its edges.
    pub padding: Padding,
    /// The value of zero padding, from 0 to 255.
    pub fill: u8,
    /// The probability, from 0 to 1.
    pub p: f32,
}

/// Pads the image on all sides and crops it to its own size, at a position drawn uniformly.
///
/// Source: torchvision `RandomCrop(size, padding, padding_mode)` with the size of the images, the usual augmentation
/// for CIFAR and Fashion-MNIST (padding 4).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RandomCrop {
    /// Pixels added on each side, one number or `[vertical, horizontal]`, each smaller than the side.
    pub padding: PerAxis,
    /// How the image is continued beyond its edges.
    pub padding_mode: Padding,
    /// The value of zero padding, from 0 to 255.
    pub fill: u8,
    /// The probability, from 0 to 1.
    pub p: f32,
}

/// The shift in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TranslateDrawn {
    /// Rows, positive downwards.
    pub dy: i32,
    /// Columns, positive to the right.
    pub dx: i32,
}

impl Default for Translate {
    fn default() -> Self {
        Translate { max: PerAxis::both(2), padding: Padding::Zero, fill: 0, p: 1.0 }
    }
}

impl Default for RandomCrop {
    fn default() -> Self {
        RandomCrop { padding: PerAxis::both(4), padding_mode: Padding::Zero, fill: 0, p: 1.0 }
    }
}

impl Display for TranslateDrawn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "down {}, right {}", self.dy, self.dx)
    }
}

impl Operation for Translate {
    fn probability(&self) -> f32 {
        self.p
    }

    fn check(&self, check: Check, shape: ImageShape) -> Result<(), AugmentError> {
        check_reach(check, "max", self.max, shape)
    }
}

impl Transform for Translate {
    type Drawn = TranslateDrawn;

    fn draw(&self, rng: &mut Stream, _: ImageShape) -> TranslateDrawn {
        draw_shift(self.max, rng)
    }

    fn apply(&self, drawn: &TranslateDrawn, canvas: &mut Canvas) {
        shift(canvas, *drawn, self.padding, self.fill);
    }
}

impl Operation for RandomCrop {
    fn probability(&self) -> f32 {
        self.p
    }

    fn check(&self, check: Check, shape: ImageShape) -> Result<(), AugmentError> {
        check_reach(check, "padding", self.padding, shape)
    }
}

impl Transform for RandomCrop {
    type Drawn = TranslateDrawn;

    fn draw(&self, rng: &mut Stream, _: ImageShape) -> TranslateDrawn {
        draw_shift(self.padding, rng)
    }

    fn apply(&self, drawn: &TranslateDrawn, canvas: &mut Canvas) {
        shift(canvas, *drawn, self.padding_mode, self.fill);
    }
}

fn check_reach(check: Check, parameter: &'static str, reach: PerAxis, shape: ImageShape) -> Result<(), AugmentError> {
    if usize::from(reach.y) < shape.height && usize::from(reach.x) < shape.width {
        return Ok(());
    }
    let allowed = format!("at most [{}, {}] for images of this size", shape.height - 1, shape.width - 1);
    Err(check.refuse(parameter, reach, allowed))
}

fn draw_shift(reach: PerAxis, rng: &mut Stream) -> TranslateDrawn {
    let (y, x) = (i32::from(reach.y), i32::from(reach.x));
    TranslateDrawn { dy: rng.whole(-y, y), dx: rng.whole(-x, x) }
}

fn shift(canvas: &mut Canvas, TranslateDrawn { dy, dx }: TranslateDrawn, padding: Padding, fill: u8) {
    if dy == 0 && dx == 0 {
        return;
    }
    let shape = canvas.shape();
    let (dy, dx) = (dy as isize, dx as isize);
    canvas.redraw(|old, new| {
        if padding == Padding::Zero {
            shift_filled(old, new, shape, dy, dx, fill);
        } else {
            shift_padded(old, new, shape, dy, dx, padding);
        }
    });
}

/// One copy moves all pixels at once; the pixels that wrap around from row to row are then overwritten.
fn shift_filled(old: &[u8], new: &mut [u8], shape: ImageShape, dy: isize, dx: isize, fill: u8) {
    let row = shape.row_len();
    if dy.unsigned_abs() >= shape.height || dx.unsigned_abs() >= shape.width {
        new.fill(fill);
        return;
    }
    let offset = dy * row as isize + dx * shape.channels as isize;
    let distance = offset.unsigned_abs();
    let kept = old.len() - distance;
    if offset >= 0 {
        new[..distance].fill(fill);
        new[distance..].copy_from_slice(&old[..kept]);
    } else {
        new[..kept].copy_from_slice(&old[distance..]);
        new[kept..].fill(fill);
    }
    let columns = dx.unsigned_abs() * shape.channels;
    for line in new.chunks_exact_mut(row) {
        let exposed = if dx >= 0 { &mut line[..columns] } else { &mut line[row - columns..] };
        // A loop, since a call of memset for two bytes in each row takes longer than all the rest.
        for value in exposed {
            *value = fill;
        }
    }
    let rows = dy.unsigned_abs() * row;
    let exposed = if dy >= 0 { 0..rows } else { new.len() - rows..new.len() };
    new[exposed].fill(fill);
}

fn shift_padded(old: &[u8], new: &mut [u8], shape: ImageShape, dy: isize, dx: isize, padding: Padding) {
    let ImageShape { height, width, channels } = shape;
    let row = shape.row_len();
    let inside = dx.clamp(0, width as isize) as usize..(width as isize + dx.min(0)).max(0) as usize;
    for (y, to) in new.chunks_exact_mut(row).enumerate() {
        let source_row = padding.source(y as isize - dy, height).unwrap_or_default();
        let from = &old[source_row * row..][..row];
        if !inside.is_empty() {
            let start = (inside.start as isize - dx) as usize * channels;
            let moved = &mut to[inside.start * channels..inside.end * channels];
            moved.copy_from_slice(&from[start..start + moved.len()]);
        }
        for x in (0..inside.start.min(width)).chain(inside.end.max(inside.start)..width) {
            let source = padding.source(x as isize - dx, width).unwrap_or_default() * channels;
            to[x * channels..][..channels].copy_from_slice(&from[source..source + channels]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::EpochKey;

    /// The definition, pixel by pixel.
    fn reference(old: &[u8], shape: ImageShape, dy: isize, dx: isize, padding: Padding, fill: u8) -> Vec<u8> {
        let mut new = Vec::new();
        for y in 0..shape.height as isize {
            for x in 0..shape.width as isize {
                let source = padding.source(y - dy, shape.height).zip(padding.source(x - dx, shape.width));
                for c in 0..shape.channels {
                    new.push(source.map_or(fill, |(y, x)| old[(y * shape.width + x) * shape.channels + c]));
                }
            }
        }
        new
    }

    #[test]
    fn every_shift_equals_the_definition() {
        for (height, width, channels) in [(1, 1, 1), (3, 5, 1), (6, 4, 3)] {
            let shape = ImageShape { height, width, channels };
            let image: Vec<u8> = (1..=shape.len() as u8).collect();
            let mut canvas = Canvas::new(shape);
            for padding in [Padding::Zero, Padding::Edge, Padding::Reflect, Padding::Symmetric] {
                for dy in -8..=8 {
                    for dx in -8..=8 {
                        canvas.load(&image);
                        let translate = Translate { padding, fill: 77, ..Translate::default() };
                        translate.apply(&TranslateDrawn { dy, dx }, &mut canvas);
                        let expected = reference(&image, shape, dy as isize, dx as isize, padding, 77);
                        assert_eq!(canvas.image(), expected, "{shape:?} {padding:?} down {dy} right {dx}");
                    }
                }
            }
        }
    }

    #[test]
    fn shifts_are_uniform_over_both_axes() {
        let shape = ImageShape { height: 28, width: 28, channels: 1 };
        let translate = Translate::default();
        let mut counts = [[0u32; 5]; 5];
        for sample in 0..25_000 {
            let mut stream = Stream::for_sample(EpochKey { seed: 0, epoch: 0 }, sample).fork(0);
            let TranslateDrawn { dy, dx } = translate.draw(&mut stream, shape);
            counts[(dy + 2) as usize][(dx + 2) as usize] += 1;
        }
        // 1000 expected in each, standard deviation 31.
        assert!(counts.iter().flatten().all(|count| (840..1160).contains(count)), "{counts:?}");
    }

    #[test]
    fn a_shift_out_of_the_image_is_refused() {
        let shape = ImageShape { height: 28, width: 20, channels: 1 };
        let crop = RandomCrop { padding: PerAxis { y: 4, x: 20 }, ..RandomCrop::default() };
        let message = crop.validate(shape).unwrap_err().to_string();
        assert!(message.contains("padding = [4, 20]") && message.contains("[27, 19]"), "{message}");
    }
}
