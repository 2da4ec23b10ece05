//! Sampling of an image at positions between its pixels.
//!
//! The image is first copied into a frame that is one pixel wider at the top and left and two at the
//! bottom and right, so that every position, once it is brought into the range from -1 to the side's
//! length, has four neighbours that can be read without asking where it lies. Then, for some rows at a
//! time, three loops follow: positions become fixed point with eight binary places; the four neighbours
//! are gathered; they are blended. The first and last are vectorised by the compiler, in 16 bits for
//! grey images. Eight places move a pixel by at most 1 of 255 against exact interpolation, which OpenCV 5
//! and torchvision do.
//!
//! Gathering, two loads and two stores a pixel, is nearly half of all with AVX-512. One load from a frame
//! whose words hold all four neighbours was measured and was not faster, for that frame has to be made too,
//! and slower by a third with SSE2.

use selvedge_compute::AlignedVec;
use serde::{Deserialize, Serialize};

use crate::canvas::Scratch;
use crate::parameter::Padding;
use crate::vectors::{GROUP, Group};
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

/// Replaces the image: `positions(y, x, xs, ys)` writes where the pixels of row `y` from column `x` on come from. For
/// those beyond the last column it may write anything. It must be `#[inline(always)]`, see [`Vectors::run`].
///
/// [`Vectors::run`]: crate::vectors::Vectors::run
#[inline]
pub(crate) fn warp(
    canvas: &mut Canvas,
    border: Border,
    interpolation: Interpolation,
    positions: impl Fn(usize, usize, &mut [f32; GROUP], &mut [f32; GROUP]),
) {
    let shape = canvas.shape();
    let rows = (BLOCK / shape.width).min(shape.height).max(1);
    canvas.redraw_with(|old, new, scratch| {
        let Scratch { vectors, frame, x, y, samples, .. } = scratch;
        let groups = (rows * shape.width).div_ceil(GROUP);
        // One group more for what is written beyond the last row.
        let room = (groups + 1) * GROUP;
        if x.len() < room {
            (*x, *y) = (AlignedVec::zeroed(room), AlignedVec::zeroed(room));
        }
        samples.resize(groups, Samples::default());
        let (x, y, samples) = (&mut x[..room], &mut y[..room], samples.as_mut_slice());
        vectors.run(
            #[inline(always)]
            move || {
                let frame = Frame::around(old, shape, border, frame);
                for (block, to) in new.chunks_mut(rows * shape.row_len()).enumerate() {
                    let pixels = to.len() / shape.channels;
                    for row in 0..pixels / shape.width {
                        for column in (0..shape.width).step_by(GROUP) {
                            // What stands beyond the end of a row is overwritten by the next, so that all loops run
                            // over whole groups and the later ones over no pixel too many.
                            let at = row * shape.width + column;
                            let (xs, ys) = (x[at..].first_chunk_mut(), y[at..].first_chunk_mut());
                            if let (Some(xs), Some(ys)) = (xs, ys) {
                                positions(block * rows + row, column, xs, ys);
                            }
                        }
                    }
                    let samples = &mut samples[..pixels.div_ceil(GROUP)];
                    let groups = x.as_chunks_mut().0.iter_mut().zip(y.as_chunks_mut().0);
                    for (samples, (x, y)) in samples.iter_mut().zip(groups) {
                        frame.locate(x, y, interpolation, samples);
                    }
                    if shape.channels == 1 {
                        frame.blend_grey(samples, to);
                    } else {
                        frame.blend(samples, to);
                    }
                }
            },
        );
    });
}

/// What the loops pass on, for each pixel of a group.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Samples {
    /// Which pixel of the frame is the upper left of the four neighbours.
    at: Group<u32>,
    /// How far the position is from it, in 1/256 pixel.
    fx: Group<u16>,
    fy: Group<u16>,
    /// In a grey image the upper two neighbours, and the lower two, the left one in the low byte.
    top: Group<u16>,
    bottom: Group<u16>,
}

/// The image within a border of the fill value.
struct Frame<'a> {
    pixels: &'a [u8],
    shape: ImageShape,
    padding: Padding,
}

impl<'a> Frame<'a> {
    #[inline(always)]
    fn around(image: &[u8], shape: ImageShape, border: Border, pixels: &'a mut Vec<u8>) -> Frame<'a> {
        let ImageShape { height, width, channels } = shape;
        let (row, stride) = (shape.row_len(), (width + FRAME) * channels);
        pixels.resize((height + FRAME) * stride, 0);
        let pixels = pixels.as_mut_slice();
        let first = (stride + channels) * BEFORE;
        pixels[..first].fill(border.fill);
        for y in 0..height {
            let (from, to) = (&image[y * row..], &mut pixels[first + y * stride..]);
            // Whole groups, although they reach into the next row, which comes next; a copy of any number of bytes is
            // a call. The last rows, behind which no row comes, are copied as they are.
            for start in (0..row).step_by(GROUP) {
                match (from[start..].first_chunk::<GROUP>(), to[start..].first_chunk_mut::<GROUP>()) {
                    (Some(from), Some(to)) => *to = *from,
                    _ => to[start..row].copy_from_slice(&from[start..row]),
                }
            }
            let behind = to[row..].as_chunks_mut::<FRAME>().0;
            behind.iter_mut().take(channels).for_each(|pixels| *pixels = [border.fill; FRAME]);
        }
        pixels[first + height * stride - BEFORE * channels..].fill(border.fill);
        Frame { pixels, shape, padding: border.padding }
    }

    /// Finds the upper left neighbour of each position and the distance from it. What lies outside is
    /// moved to where only the border is seen, and so is a position that is not a number.
    #[inline(always)]
    fn locate(&self, x: &mut [f32; GROUP], y: &mut [f32; GROUP], interpolation: Interpolation, samples: &mut Samples) {
        let ImageShape { height, width, .. } = self.shape;
        fold(x, self.padding, width);
        fold(y, self.padding, height);
        if interpolation == Interpolation::Nearest {
            round_to_whole(x);
            round_to_whole(y);
        }
        locate(x, y, width, height, samples);
    }

    #[inline(always)]
    fn blend_grey(&self, samples: &mut [Samples], to: &mut [u8]) {
        let stride = self.shape.width + FRAME;
        // Two views of one length, the second one row lower: one check is enough for both.
        let upper = &self.pixels[..self.pixels.len() - stride];
        let lower = &self.pixels[stride..][..upper.len()];
        for Samples { at, top, bottom, .. } in &mut *samples {
            for (&at, (top, bottom)) in at.0.iter().zip(top.0.iter_mut().zip(&mut bottom.0)) {
                let at = at as usize;
                let (upper, lower) = (&upper[at..at + 2], &lower[at..at + 2]);
                *top = u16::from_le_bytes([upper[0], upper[1]]);
                *bottom = u16::from_le_bytes([lower[0], lower[1]]);
            }
        }
        for (to, samples) in to.chunks_mut(GROUP).zip(samples) {
            let blended = blend_group(samples);
            match to.first_chunk_mut() {
                Some(whole) => *whole = blended,
                None => to.copy_from_slice(&blended[..to.len()]),
            }
        }
    }

    #[inline(always)]
    fn blend(&self, samples: &[Samples], to: &mut [u8]) {
        let channels = self.shape.channels;
        let stride = (self.shape.width + FRAME) * channels;
        for (to, Samples { at, fx, fy, .. }) in to.chunks_mut(GROUP * channels).zip(samples) {
            let located = at.0.iter().zip(fx.0.iter().zip(&fy.0));
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
}

#[inline(always)]
fn locate(x: &[f32; GROUP], y: &[f32; GROUP], width: usize, height: usize, samples: &mut Samples) {
    // Both factors fit 16 bits, as the sides do: SSE2 multiplies no wider ones.
    let stride = u32::from((width + FRAME) as u16);
    // Arrays of its own, of which the compiler knows that writing one does not change the other.
    let (x, y) = (*x, *y);
    let (mut at, mut fx, mut fy) = ([0; GROUP], [0; GROUP], [0; GROUP]);
    for i in 0..GROUP {
        let (x, y) = (fixed(x[i], width as f32), fixed(y[i], height as f32));
        at[i] = (y >> PLACES) * stride + (x >> PLACES);
        fx[i] = (x % ONE) as u16;
        fy[i] = (y % ONE) as u16;
    }
    (samples.at.0, samples.fx.0, samples.fy.0) = (at, fx, fy);
}

#[inline(always)]
fn blend_group(Samples { fx, fy, top, bottom, .. }: &Samples) -> [u8; GROUP] {
    let mut blended = [0; GROUP];
    for (i, blended) in blended.iter_mut().enumerate() {
        let (fx, fy) = (fx.0[i], fy.0[i]);
        // At most 255 * 256, so 16 bits; halved, the difference of two fits 16 bits with a sign.
        let across = |row: u16| (((row & 0xFF) * (ONE as u16 - fx) + (row >> 8) * fx) >> 1) as i16;
        let (top, bottom) = (across(top.0[i]), across(bottom.0[i]));
        // Half of the way, so that the factor fits too: SSE2 has the high half of such a product.
        let half = ((i32::from(bottom - top) * i32::from((fy << 7) as i16)) >> 16) as i16;
        *blended = ((top + 2 * half + 64) >> 7) as u8;
    }
    blended
}

/// Brings positions beyond the edge to the position inside that shows the same. A mirrored image is
/// interpolated as the image is, so folding the position is exact.
#[inline(always)]
fn fold(positions: &mut [f32; GROUP], padding: Padding, len: usize) {
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
#[inline(always)]
fn round_to_whole(positions: &mut [f32; GROUP]) {
    positions.iter_mut().for_each(|p| *p = p.round_ties_even());
}

/// A position along one side in the frame, in units of 1/256 pixel.
#[inline(always)]
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
    use crate::Transform;
    use crate::photometric::{Blur, BlurDrawn};
    use crate::vectors::Vectors;
    use crate::warp::affine::warp_affine;
    use crate::warp::{ElasticDrawn, ElasticTransform, Matrix};

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
                warp(&mut canvas, border, Interpolation::Bilinear, |row, column, xs, ys| {
                    for (i, (x, y)) in xs.iter_mut().zip(ys).enumerate() {
                        (*x, *y) = place(row, column + i);
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
    fn instruction_sets_agree_in_every_bit() {
        let elastic = ElasticTransform { padding: Padding::Reflect, ..ElasticTransform::default() };
        for shape in [(28, 28, 1), (9, 45, 1), (6, 1100, 1), (20, 24, 3)] {
            let shape = ImageShape { height: shape.0, width: shape.1, channels: shape.2 };
            let image: Vec<u8> = (0..shape.len()).map(|i| (i * 97 % 251) as u8).collect();
            let results: Vec<Vec<u8>> = Vectors::all()
                .map(|vectors| {
                    let mut canvas = Canvas::new(shape);
                    canvas.scratch_mut().vectors = vectors;
                    canvas.load(&image);
                    let map = Matrix::rotation(17.0).after(Matrix::scale(0.9, 1.2)).about(9.3, 4.1);
                    let border = Border { padding: Padding::Symmetric, fill: 0 };
                    warp_affine(&mut canvas, map, border, Interpolation::Bilinear);
                    elastic.apply(&ElasticDrawn(9), &mut canvas);
                    Blur::default().apply(&BlurDrawn(5), &mut canvas);
                    canvas.image().to_vec()
                })
                .collect();
            assert!(results[0] != image && results.iter().all(|result| *result == results[0]), "{shape:?}");
        }
    }

    #[test]
    fn whole_positions_are_exact_and_far_ones_show_the_fill() {
        let shape = ImageShape { height: 2, width: 3, channels: 1 };
        let mut canvas = Canvas::new(shape);
        canvas.load(&[1, 2, 3, 4, 5, 255]);
        let border = Border { padding: Padding::Zero, fill: 9 };
        warp(&mut canvas, border, Interpolation::Bilinear, |row, _, xs, ys| {
            xs[..3].copy_from_slice(&[2.0, -1e30, f32::INFINITY]);
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
        warp(&mut canvas, border, Interpolation::Nearest, |_, _, xs, ys| {
            xs[..4].copy_from_slice(&[0.4, 0.6, 3.4, 3.6]);
            ys.fill(0.0);
        });
        assert_eq!(canvas.image(), [10, 20, 40, 0]);
    }
}
