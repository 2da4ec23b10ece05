//! Sampling of an image at positions between its pixels.
//!
//! The image is first copied into a frame that is one pixel wider at the top and left and two at the
//! bottom and right, so that every position, once it is brought into the range from -1 to the side's
//! length, has four neighbours that can be read without asking where it lies. Then, for some rows at a
//! time, three loops follow: positions become fixed point with eight binary places; the four neighbours
//! are gathered; they are blended. The first and last are vectorised by the compiler, in 16 bits for
//! grey images. Eight places move a pixel by at most 1 of 255 against exact interpolation, which OpenCV 5
//! and torchvision do.

use serde::{Deserialize, Serialize};

use crate::canvas::Scratch;
use crate::parameter::Padding;
use crate::{Canvas, ImageShape};

/// How a value between pixels is found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Interpolation {
    /// From the four pixels around, by distance.
    #[default]
    Bilinear,
    /// The nearest pixel.
    Nearest,
}

/// What stands beyond the edge of the image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Border {
    /// How the image goes on.
    pub padding: Padding,
    /// The value of zero padding, from 0 to 255.
    pub fill: u8,
}

/// Pixels of the frame before the image, and in all.
const BEFORE: usize = 1;
const FRAME: usize = 3;

const PLACES: u32 = 8;
const ONE: u32 = 1 << PLACES;

/// Pixels that are worked on at a time, so that what the loops pass on stays in the nearest cache.
const BLOCK: usize = 1024;

/// Replaces the image: `positions(y, xs, ys)` writes where the pixels of row `y` come from.
pub(crate) fn warp(
    canvas: &mut Canvas,
    border: Border,
    interpolation: Interpolation,
    mut positions: impl FnMut(usize, &mut [f32], &mut [f32]),
) {
    let shape = canvas.shape();
    let rows = (BLOCK / shape.width).max(1);
    canvas.redraw_with(|old, new, scratch| {
        let Scratch { padded, x, y, sampling, .. } = scratch;
        let pixels = (rows * shape.width).max(x.len());
        x.resize(pixels, 0.0);
        y.resize(pixels, 0.0);
        let frame = Frame::around(old, shape, border, padded);
        let mut row = 0;
        for to in new.chunks_mut(rows * shape.row_len()) {
            let pixels = to.len() / shape.channels;
            let (x, y) = (&mut x[..pixels], &mut y[..pixels]);
            for (x, y) in x.chunks_exact_mut(shape.width).zip(y.chunks_exact_mut(shape.width)) {
                positions(row, x, y);
                row += 1;
            }
            frame.sample(x, y, interpolation, sampling, to);
        }
    });
}

/// Replaces the image by what it shows at the positions in `scratch.x` and `scratch.y`, one for each
/// pixel.
pub(crate) fn warp_by_map(canvas: &mut Canvas, border: Border) {
    let shape = canvas.shape();
    canvas.redraw_with(|old, new, scratch| {
        let Scratch { padded, x, y, sampling, .. } = scratch;
        let frame = Frame::around(old, shape, border, padded);
        let blocks = x.chunks_mut(BLOCK).zip(y.chunks_mut(BLOCK));
        for (to, (x, y)) in new.chunks_mut(BLOCK * shape.channels).zip(blocks) {
            let pixels = to.len() / shape.channels;
            frame.sample(&mut x[..pixels], &mut y[..pixels], Interpolation::Bilinear, sampling, to);
        }
    });
}

/// What the loops pass on, for each pixel of a block.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sampling {
    /// Which pixel of the frame is the upper left of the four neighbours.
    at: Vec<u32>,
    /// How far the position is from it, in 1/256 pixel.
    fx: Vec<u16>,
    fy: Vec<u16>,
    /// The upper two neighbours, and the lower two, the left one in the low byte.
    top: Vec<u16>,
    bottom: Vec<u16>,
}

impl Sampling {
    /// Makes room for the pixels of a block.
    fn resize(&mut self, pixels: usize) {
        self.at.resize(pixels, 0);
        for values in [&mut self.fx, &mut self.fy, &mut self.top, &mut self.bottom] {
            values.resize(pixels, 0);
        }
    }
}

/// The image within a border of the fill value.
struct Frame<'a> {
    pixels: &'a [u8],
    shape: ImageShape,
    padding: Padding,
}

impl<'a> Frame<'a> {
    fn around(image: &[u8], shape: ImageShape, border: Border, padded: &'a mut Vec<u8>) -> Frame<'a> {
        let ImageShape { height, width, channels } = shape;
        let stride = (width + FRAME) * channels;
        padded.clear();
        padded.resize(stride * (height + FRAME), border.fill);
        let rows = padded.chunks_exact_mut(stride).skip(BEFORE);
        for (to, from) in rows.zip(image.chunks_exact(shape.row_len())) {
            to[BEFORE * channels..][..from.len()].copy_from_slice(from);
        }
        Frame { pixels: padded, shape, padding: border.padding }
    }

    /// Writes the pixels at the positions; these are changed on the way.
    fn sample(
        &self,
        x: &mut [f32],
        y: &mut [f32],
        interpolation: Interpolation,
        sampling: &mut Sampling,
        to: &mut [u8],
    ) {
        let ImageShape { height, width, channels } = self.shape;
        fold(x, self.padding, width);
        fold(y, self.padding, height);
        if interpolation == Interpolation::Nearest {
            round_to_whole(x);
            round_to_whole(y);
        }
        sampling.resize(x.len());
        self.locate(x, y, sampling);
        match channels {
            1 => blend_grey(self.gather_grey(sampling), to),
            _ => self.blend(sampling, to),
        }
    }

    /// Finds the upper left neighbour of each position and the distance from it. What lies outside is
    /// moved to where only the border is seen, and so is a position that is not a number.
    fn locate(&self, x: &[f32], y: &[f32], sampling: &mut Sampling) {
        let (right, bottom) = (self.shape.width as f32, self.shape.height as f32);
        let stride = (self.shape.width + FRAME) as u32;
        let Sampling { at, fx, fy, .. } = sampling;
        let located = at.iter_mut().zip(fx.iter_mut().zip(fy.iter_mut()));
        for ((at, (fx, fy)), (&x, &y)) in located.zip(x.iter().zip(y)) {
            let (x, y) = (fixed(x, right), fixed(y, bottom));
            *at = (y >> PLACES) * stride + (x >> PLACES);
            *fx = (x % ONE) as u16;
            *fy = (y % ONE) as u16;
        }
    }

    fn gather_grey<'s>(&self, sampling: &'s mut Sampling) -> &'s Sampling {
        let stride = self.shape.width + FRAME;
        // Two views of one length, the second one row lower: one check is enough for both.
        let upper = &self.pixels[..self.pixels.len() - stride];
        let lower = &self.pixels[stride..][..upper.len()];
        let neighbours = sampling.top.iter_mut().zip(sampling.bottom.iter_mut());
        for ((top, bottom), &at) in neighbours.zip(&sampling.at) {
            let at = at as usize;
            let (upper, lower) = (&upper[at..at + 2], &lower[at..at + 2]);
            *top = u16::from_le_bytes([upper[0], upper[1]]);
            *bottom = u16::from_le_bytes([lower[0], lower[1]]);
        }
        sampling
    }

    fn blend(&self, sampling: &Sampling, to: &mut [u8]) {
        let channels = self.shape.channels;
        let stride = (self.shape.width + FRAME) * channels;
        let located = sampling.at.iter().zip(sampling.fx.iter().zip(&sampling.fy));
        for (to, (&at, (&fx, &fy))) in to.chunks_exact_mut(channels).zip(located) {
            let at = at as usize * channels;
            let (top, bottom) = (&self.pixels[at..][..2 * channels], &self.pixels[at + stride..][..2 * channels]);
            let (fx, fy) = (u32::from(fx), u32::from(fy));
            for (channel, to) in to.iter_mut().enumerate() {
                let across =
                    |row: &[u8]| u32::from(row[channel]) * (ONE - fx) + u32::from(row[channels + channel]) * fx;
                let sum = across(top) * (ONE - fy) + across(bottom) * fy;
                *to = ((sum + ONE * ONE / 2) >> (2 * PLACES)) as u8;
            }
        }
    }
}

fn blend_grey(sampling: &Sampling, to: &mut [u8]) {
    let Sampling { fx, fy, top, bottom, .. } = sampling;
    let pixels = top.iter().zip(bottom).zip(fx.iter().zip(fy));
    for (to, ((&top, &bottom), (&fx, &fy))) in to.iter_mut().zip(pixels) {
        // At most 255 * 256, so 16 bits; halved, the difference of two fits 16 bits with a sign.
        let across = |row: u16| (((row & 0xFF) * (ONE as u16 - fx) + (row >> 8) * fx) >> 1) as i16;
        let (top, bottom) = (across(top), across(bottom));
        // Half of the way, so that the factor fits too: SSE2 has the high half of such a product.
        let half = ((i32::from(bottom - top) * i32::from((fy << 7) as i16)) >> 16) as i16;
        *to = ((top + 2 * half + 64) >> 7) as u8;
    }
}

/// Brings positions beyond the edge to the position inside that shows the same. A mirrored image is
/// interpolated as the image is, so folding the position is exact.
fn fold(positions: &mut [f32], padding: Padding, len: usize) {
    let last = len as f32 - 1.0;
    match padding {
        Padding::Zero => {}
        Padding::Edge => positions.iter_mut().for_each(|p| *p = p.max(0.0).min(last)),
        Padding::Reflect if len == 1 => positions.fill(0.0),
        Padding::Reflect => {
            for p in positions.iter_mut().filter(|p| **p < 0.0 || **p > last) {
                let folded = p.rem_euclid(2.0 * last);
                *p = folded.min(2.0 * last - folded).max(0.0);
            }
        }
        Padding::Symmetric => {
            for p in positions.iter_mut().filter(|p| **p < 0.0 || **p > last) {
                let folded = (*p + 0.5).rem_euclid(2.0 * len as f32);
                *p = (folded.min(2.0 * len as f32 - folded) - 0.5).max(0.0).min(last);
            }
        }
    }
}

/// Rounds to whole positions, halves to even as torchvision does.
fn round_to_whole(positions: &mut [f32]) {
    positions.iter_mut().for_each(|p| *p = p.round_ties_even());
}

/// A position along one side in the frame, in units of 1/256 pixel.
#[inline]
fn fixed(position: f32, len: f32) -> u32 {
    // A number in floating point between 2²³ and 2²⁴ is stored as a whole one in its lowest 23 bits:
    // one addition rounds, without the conversion that needs several instructions to treat all numbers.
    const WHOLE: f32 = (1 << 23) as f32;
    let position = if position > -1.0 { position } else { -1.0 };
    let position = if position < len { position } else { len };
    (position * ONE as f32 + (BEFORE as f32 * ONE as f32 + WHOLE)).to_bits() & ((1 << 23) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition, in f64, with the border looked up pixel by pixel.
    fn reference(image: &[u8], shape: ImageShape, border: Border, x: f32, y: f32, channel: usize) -> f64 {
        let (x, y) = (f64::from(x), f64::from(y));
        let (left, top) = (x.floor(), y.floor());
        let value = |dx: f64, dy: f64| {
            let source = border.padding.source((left + dx) as isize, shape.width);
            let row = border.padding.source((top + dy) as isize, shape.height);
            source.zip(row).map_or(f64::from(border.fill), |(x, y)| {
                f64::from(image[(y * shape.width + x) * shape.channels + channel])
            })
        };
        let (fx, fy) = (x - left, y - top);
        (value(0.0, 0.0) * (1.0 - fx) + value(1.0, 0.0) * fx) * (1.0 - fy)
            + (value(0.0, 1.0) * (1.0 - fx) + value(1.0, 1.0) * fx) * fy
    }

    #[test]
    fn sampling_equals_exact_interpolation_within_one() {
        for (height, width, channels) in [(1, 1, 1), (5, 9, 1), (7, 4, 3), (28, 28, 1)] {
            let shape = ImageShape { height, width, channels };
            let mut canvas = Canvas::new(shape);
            let image: Vec<u8> = (0..shape.len()).map(|i| (i * 97 % 256) as u8).collect();
            for padding in [Padding::Zero, Padding::Edge, Padding::Reflect, Padding::Symmetric] {
                let border = Border { padding, fill: 40 };
                let place = |row: usize, column: usize| {
                    let (x, y) = (column as f32, row as f32);
                    (1.37 * x - 0.71 * y - 2.3, 0.93 * y + 0.55 * x - 3.1)
                };
                canvas.load(&image);
                warp(&mut canvas, border, Interpolation::Bilinear, |row, xs, ys| {
                    for (column, (x, y)) in xs.iter_mut().zip(ys).enumerate() {
                        (*x, *y) = place(row, column);
                    }
                });
                for (i, &found) in canvas.image().iter().enumerate() {
                    let (row, column) = (i / channels / width, i / channels % width);
                    let (x, y) = place(row, column);
                    let exact = reference(&image, shape, border, x, y, i % channels);
                    // 1/256 of a pixel in each direction, times the steepest slope, and the rounding.
                    assert!(
                        (f64::from(found) - exact).abs() <= 1.5,
                        "{shape:?} {padding:?} at {x}, {y}: {found}, exact {exact}"
                    );
                }
            }
        }
    }

    #[test]
    fn whole_positions_are_exact_and_far_ones_show_the_fill() {
        let shape = ImageShape { height: 2, width: 3, channels: 1 };
        let mut canvas = Canvas::new(shape);
        canvas.load(&[1, 2, 3, 4, 5, 255]);
        let border = Border { padding: Padding::Zero, fill: 9 };
        warp(&mut canvas, border, Interpolation::Bilinear, |row, xs, ys| {
            xs.copy_from_slice(&[2.0, -1e30, f32::INFINITY]);
            ys.fill(1.0 - row as f32);
        });
        assert_eq!(canvas.image(), [255, 9, 9, 3, 9, 9]);
    }

    #[test]
    fn the_nearest_pixel_is_taken_whole() {
        let shape = ImageShape { height: 1, width: 4, channels: 1 };
        let mut canvas = Canvas::new(shape);
        canvas.load(&[10, 20, 30, 40]);
        let border = Border { padding: Padding::Zero, fill: 0 };
        warp(&mut canvas, border, Interpolation::Nearest, |_, xs, ys| {
            xs.copy_from_slice(&[0.4, 0.6, 3.4, 3.6]);
            ys.fill(0.0);
        });
        assert_eq!(canvas.image(), [10, 20, 40, 0]);
    }
}
