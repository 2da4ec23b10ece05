//! Sampling of an image at positions between its pixels.
//!
//! The image is first copied into a frame with one more pixel at the top and left and two at the bottom and right.
//! Every position, once it is clamped to the range from -1 to the length of the side, then has four neighbours that can
//! be read without a test. Some rows at a time then pass through three loops: positions are rounded to fixed point with
//! eight binary places; the four neighbours are gathered; they are blended. The compiler vectorises the first and the
//! last, in 16 bits for grey images. Eight places change a value by at most 1 of 255 against exact interpolation, as
//! OpenCV 5 and torchvision compute it.
//!
//! Gathering, two loads and two stores per pixel, takes nearly half of the time with AVX-512. A frame of words that
//! hold all four neighbours, read with one load, was measured: it was not faster with AVX-512, since the frame must be
//! built as well, and a third slower with SSE2.

use selvedge_compute::AlignedVec;
use serde::{Deserialize, Serialize};

use crate::parameter::Padding;
use crate::shape::ImageShape;
use crate::vectors::{GROUP, Group};

/// How a value between pixels is found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Interpolation {
    /// From the four pixels around, weighted by distance.
    #[default]
    Bilinear,
    /// The nearest pixel.
    Nearest,
}

/// How an image is continued beyond its edges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Border {
    /// The rule.
    pub padding: Padding,
    /// The value of zero padding, from 0 to 255.
    pub fill: u8,
}

/// Pixels of the frame before the image, and in all.
const BEFORE: usize = 1;
const FRAME: usize = 3;

const PLACES: u32 = 8;
const ONE: u32 = 1 << PLACES;

/// Pixels of the result that pass through the three loops at a time, so that the data between the loops stays in L1.
const BLOCK: usize = 1024;

/// The buffers of resampling, kept from image to image.
#[derive(Clone, Debug, Default)]
pub(crate) struct Resampler {
    /// The image with a border around it.
    frame: Vec<u8>,
    /// Positions of a block's pixels, in rows that are as long as the image's.
    x: AlignedVec<f32>,
    y: AlignedVec<f32>,
    samples: Vec<Samples>,
}

impl Resampler {
    /// Sizes the buffers for an image.
    #[inline]
    pub(crate) fn prepare(&mut self, shape: ImageShape, border: Border, interpolation: Interpolation) -> Sampler<'_> {
        let rows = (BLOCK / shape.width).min(shape.height).max(1);
        let groups = (rows * shape.width).div_ceil(GROUP);
        // One more group for positions that are written beyond the last row.
        let room = (groups + 1) * GROUP;
        let Resampler { frame, x, y, samples } = self;
        if x.len() < room {
            (*x, *y) = (AlignedVec::zeroed(room), AlignedVec::zeroed(room));
        }
        samples.resize(groups, Samples::default());
        Sampler { shape, border, interpolation, rows, frame, x: &mut x[..room], y: &mut y[..room], samples }
    }
}

/// A [`Resampler`] that is prepared for an image.
pub(crate) struct Sampler<'a> {
    shape: ImageShape,
    border: Border,
    interpolation: Interpolation,
    /// Rows of a block.
    rows: usize,
    frame: &'a mut Vec<u8>,
    x: &'a mut [f32],
    y: &'a mut [f32],
    samples: &'a mut [Samples],
}

impl Sampler<'_> {
    /// Writes the image as sampled at `positions`, see [`Canvas::warp`](crate::Canvas).
    #[inline(always)]
    pub(crate) fn run(
        self,
        from: &[u8],
        positions: impl Fn(usize, usize, &mut [f32; GROUP], &mut [f32; GROUP]),
        to: &mut [u8],
    ) {
        let Sampler { shape, border, interpolation, rows, frame, x, y, samples } = self;
        let frame = Frame::around(from, shape, border, frame);
        for (block, to) in to.chunks_mut(rows * shape.row_len()).enumerate() {
            let pixels = to.len() / shape.channels;
            for row in 0..pixels / shape.width {
                for column in (0..shape.width).step_by(GROUP) {
                    // Positions beyond the end of a row are overwritten by the next row's, so that this loop runs over
                    // whole groups and the later ones over no pixel too many.
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
    }
}

/// The data between the loops, for each pixel of a group.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Samples {
    /// The index of the upper left of the four neighbours, in pixels of the frame.
    at: Group<u32>,
    /// The distance of the position from it, in 1/256 of a pixel.
    fx: Group<u16>,
    fy: Group<u16>,
    /// In a grey image the upper two neighbours and the lower two, the left one in the low byte.
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
            // Whole groups, although the last of a row reaches into the next row, which is copied next: a copy of a
            // variable number of bytes would be a call of memcpy. The last rows are copied exactly.
            for start in (0..row).step_by(GROUP) {
                match (from[start..].first_chunk::<GROUP>(), to[start..].first_chunk_mut::<GROUP>()) {
                    (Some(from), Some(to)) => *to = *from,
                    _ => to[start..row].copy_from_slice(&from[start..row]),
                }
            }
            let after = to[row..].as_chunks_mut::<FRAME>().0;
            after.iter_mut().take(channels).for_each(|pixels| *pixels = [border.fill; FRAME]);
        }
        pixels[first + height * stride - BEFORE * channels..].fill(border.fill);
        Frame { pixels, shape, padding: border.padding }
    }

    /// Finds the upper left neighbour of each position and the distance from it. Positions outside, and NaN, move to
    /// where only the border is visible.
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
        // Two views of equal length, the second one row lower: one bounds check serves both.
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
    // Both factors fit into 16 bits, as the sides do: SSE2 has no wider multiplication.
    let stride = u32::from((width + FRAME) as u16);
    // Local arrays, which the compiler knows not to overlap.
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
        // At most 255 * 256, so 16 bits; halved, the difference of two fits into 16 bits with a sign.
        let across = |row: u16| (((row & 0xFF) * (ONE as u16 - fx) + (row >> 8) * fx) >> 1) as i16;
        let (top, bottom) = (across(top.0[i]), across(bottom.0[i]));
        // Half of the step, so that the factor fits too: SSE2 can take the high half of such a product.
        let half = ((i32::from(bottom - top) * i32::from((fy << 7) as i16)) >> 16) as i16;
        *blended = ((top + 2 * half + 64) >> 7) as u8;
    }
    blended
}

/// Moves positions beyond the edge to the position inside that shows the same. Interpolating in the mirrored image
/// equals interpolating in the image at the mirrored position, so this is exact.
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

/// Rounds to whole positions, halves to even, as torchvision does.
#[inline(always)]
fn round_to_whole(positions: &mut [f32; GROUP]) {
    positions.iter_mut().for_each(|p| *p = p.round_ties_even());
}

/// A position along one side in the frame, in units of 1/256 pixel.
#[inline(always)]
fn fixed(position: f32, len: f32) -> u32 {
    // The lowest 23 bits of an f32 between 2²³ and 2²⁴ hold a whole number: one addition rounds to it, where a
    // conversion takes several instructions to treat every number.
    const WHOLE: f32 = (1 << 23) as f32;
    let position = if position > -1.0 { position } else { -1.0 };
    let position = if position < len { position } else { len };
    (position * ONE as f32 + (BEFORE as f32 * ONE as f32 + WHOLE)).to_bits() & ((1 << 23) - 1)
}
