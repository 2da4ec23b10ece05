//! Converts images, of bytes or of floats, to a block of the network's input.
//!
//! Images arrive one after another, `[image][height][width][channel]`; a block has the 32 images of a pixel side by
//! side. For one channel of bytes this is the transposition of a matrix of bytes. It transposes squares of 8 by 8 bytes
//! in eight 64-bit words: three rounds exchange the off-diagonal quarters of 2x2, 4x4 and 8x8 squares (Warren, Hacker's
//! Delight, 7-3, with bytes in place of bits). Eight squares lie side by side in the lanes of a vector, so 64 pixels of
//! 8 images are transposed together.

use crate::Cpu;
use crate::layout::{BLOCK, BlockShape};
use crate::simd::{Element, Kernel, Simd, dispatch};

/// Pixels of bytes transposed at a time.
const STRIP: usize = 64;
/// Pixels of floats transposed at a time.
const STRIP_F32: usize = 16;
/// Images of bytes transposed at a time, as many as a word has bytes.
const GROUP: usize = 8;

/// Images for a block, and how their numbers become elements: element = number·`scale` + `shift`.
///
/// To standardise bytes by a mean and a standard deviation on the scale of 0 to 1, `scale` is 1/(255·deviation) and
/// `shift` −mean/deviation.
#[derive(Clone, Copy, Debug)]
pub struct BlockImages<'a, P> {
    /// The numbers, `[valid][height][width][channels]`.
    pub pixels: &'a [P],
    /// The number of images, at most [`BLOCK`].
    pub valid: usize,
    /// The factor of every number.
    pub scale: f32,
    /// Added to every product.
    pub shift: f32,
}

/// Fills a block of `shape` with images; the block's images from `valid` on become zero.
///
/// `shape` is an input's ([`BlockShape::input`]).
///
/// # Panics
/// If `valid` is more than [`BLOCK`], the shape's channels are padded, or a slice does not fit the shape.
///
/// ```
/// use selvedge_compute::{BlockShape, Cpu, input::{BlockImages, fill_block}};
/// let shape = BlockShape::input(1, 2, 1);
/// let mut block = vec![0.0; shape.len()];
/// let images = BlockImages { pixels: &[0, 255, 51, 102], valid: 2, scale: 0.5, shift: 1.0 };
/// fill_block(Cpu::detect()?, shape, images, &mut block);
/// assert_eq!((block[0], block[1], block[32]), (1.0, 26.5, 128.5));
/// # Ok::<(), selvedge_compute::CpuError>(())
/// ```
pub fn fill_block<E: Element>(cpu: Cpu, shape: BlockShape, images: BlockImages<'_, u8>, out: &mut [E]) {
    check(&shape, &images, out);
    if !out.is_empty() {
        dispatch(cpu, FillBlock::new(&shape, images, out));
    }
}

/// [`fill_block`] from images of floats.
///
/// With numbers between 0 and 1, and a mean and a standard deviation in the same units, `scale` is 1/deviation and
/// `shift` −mean/deviation.
///
/// # Panics
/// As [`fill_block`].
///
/// ```
/// use selvedge_compute::{BlockShape, Cpu, input::{BlockImages, fill_block_f32}};
/// let shape = BlockShape::input(1, 2, 1);
/// let mut block = vec![0.0; shape.len()];
/// let images = BlockImages { pixels: &[0.0, 1.0, 0.25, 0.5], valid: 2, scale: 2.0, shift: -1.0 };
/// fill_block_f32(Cpu::detect()?, shape, images, &mut block);
/// assert_eq!((block[0], block[1], block[32]), (-1.0, -0.5, 1.0));
/// # Ok::<(), selvedge_compute::CpuError>(())
/// ```
pub fn fill_block_f32<E: Element>(cpu: Cpu, shape: BlockShape, images: BlockImages<'_, f32>, out: &mut [E]) {
    check(&shape, &images, out);
    if !out.is_empty() {
        dispatch(cpu, FillBlock::new(&shape, images, out));
    }
}

fn check<P, E>(shape: &BlockShape, images: &BlockImages<'_, P>, out: &[E]) {
    let (stride, channels, valid, len) = (shape.channel_stride, shape.channels, images.valid, images.pixels.len());
    assert!(valid <= BLOCK, "{valid} valid images in a block of {BLOCK}");
    assert_eq!(stride, channels, "the input's channel stride is {stride}, not its {channels} channels");
    let need = valid * shape.height * shape.width * channels;
    assert_eq!(len, need, "{len} numbers for {valid} images that have {need}");
    assert_eq!(out.len(), shape.len(), "the block has {} elements and its shape {}", out.len(), shape.len());
}

struct FillBlock<'a, P, E> {
    images: BlockImages<'a, P>,
    pixel_count: usize,
    channels: usize,
    plane: usize,
    out: &'a mut [E],
}

impl<'a, P, E> FillBlock<'a, P, E> {
    fn new(shape: &BlockShape, images: BlockImages<'a, P>, out: &'a mut [E]) -> Self {
        let pixel_count = shape.height * shape.width;
        Self { images, pixel_count, channels: shape.channels, plane: shape.plane(), out }
    }
}

impl<E: Element> Kernel for FillBlock<'_, u8, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        match self.channels {
            1 if self.pixel_count >= STRIP => self.transpose_strips(s),
            // As a constant, the number of channels unrolls the copy of a pixel.
            1 => self.pixel_by_pixel(s, 1, 1),
            3 => self.pixel_by_pixel(s, 3, 3),
            channels => self.pixel_by_pixel(s, channels, self.plane),
        }
    }
}

impl<E: Element> FillBlock<'_, u8, E> {
    /// One channel, in strips of 64 pixels; the last strip overlaps the one before it.
    #[inline(always)]
    fn transpose_strips<S: Simd>(&mut self, s: S) {
        let BlockImages { pixels, valid, scale, shift } = self.images;
        let (scale, shift) = (s.splat(scale), s.splat(shift));
        let mut strip = [[0u8; BLOCK]; STRIP];
        for start in (0..self.pixel_count).step_by(STRIP) {
            let start = start.min(self.pixel_count - STRIP);
            for group in (0..valid).step_by(GROUP) {
                let mut words = [[0u64; STRIP / GROUP]; GROUP];
                for (image, row) in (group..valid).zip(&mut words) {
                    *row = load_words(&pixels[image * self.pixel_count + start..][..STRIP]);
                }
                transpose(&mut words);
                for (r, row) in words.iter().enumerate() {
                    for (square, word) in row.iter().enumerate() {
                        strip[square * GROUP + r][group..group + GROUP].copy_from_slice(&word.to_le_bytes());
                    }
                }
            }
            let out = &mut self.out[start * BLOCK..][..STRIP * BLOCK];
            for (to, from) in out.as_chunks_mut::<BLOCK>().0.iter_mut().zip(&strip) {
                for i in (0..BLOCK).step_by(S::LANES) {
                    // SAFETY: both are arrays of BLOCK elements, a multiple of LANES.
                    unsafe {
                        let x = s.to_f32(s.load_u8(from.as_ptr().add(i)));
                        E::store(s, to.as_mut_ptr().add(i), s.mul_add(x, scale, shift));
                    }
                }
                to[valid..].fill(E::default());
            }
        }
    }

    /// Any number of channels, pixel by pixel, through a table of each byte's element.
    #[inline(always)]
    fn pixel_by_pixel<S: Simd>(&mut self, s: S, channels: usize, plane: usize) {
        let BlockImages { pixels, valid, scale, shift } = self.images;
        let (scale, shift) = (s.splat(scale), s.splat(shift));
        let mut table = [E::default(); 256];
        for start in (0..table.len()).step_by(S::LANES) {
            let values = s.add_u(s.lane_numbers(), s.splat_u(start as u32));
            // SAFETY: the table's length is a multiple of LANES.
            unsafe { E::store(s, table.as_mut_ptr().add(start), s.mul_add(s.to_f32(values), scale, shift)) }
        }
        let size = self.pixel_count * channels;
        for (number, out) in self.out.chunks_exact_mut(BLOCK * plane).enumerate() {
            let (data, rest) = out.split_at_mut(valid * plane);
            for (image, to) in data.chunks_exact_mut(plane).enumerate() {
                let from = &pixels[image * size + number * plane..][..plane];
                for (to, &from) in to.iter_mut().zip(from) {
                    *to = table[usize::from(from)];
                }
            }
            rest.fill(E::default());
        }
    }
}

impl<E: Element> Kernel for FillBlock<'_, f32, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        if self.channels == 1 && self.pixel_count >= STRIP_F32 {
            self.transpose_strips(s);
        } else {
            self.pixel_by_pixel();
        }
    }
}

impl<E: Element> FillBlock<'_, f32, E> {
    /// One channel, in strips of 16 pixels; the last strip overlaps the one before it.
    #[inline(always)]
    fn transpose_strips<S: Simd>(&mut self, s: S) {
        let (scale, shift) = (s.splat(self.images.scale), s.splat(self.images.shift));
        let mut strip = [[0.0f32; BLOCK]; STRIP_F32];
        for start in (0..self.pixel_count).step_by(STRIP_F32) {
            let start = start.min(self.pixel_count - STRIP_F32);
            for image in 0..self.images.valid {
                let from = &self.images.pixels[image * self.pixel_count + start..][..STRIP_F32];
                for (to, &from) in strip.iter_mut().zip(from) {
                    to[image] = from;
                }
            }
            let out = &mut self.out[start * BLOCK..][..STRIP_F32 * BLOCK];
            for (to, from) in out.as_chunks_mut::<BLOCK>().0.iter_mut().zip(&strip) {
                for i in (0..BLOCK).step_by(S::LANES) {
                    // SAFETY: both are arrays of BLOCK elements, a multiple of LANES.
                    unsafe {
                        let x = s.load(from.as_ptr().add(i));
                        E::store(s, to.as_mut_ptr().add(i), s.mul_add(x, scale, shift));
                    }
                }
                to[self.images.valid..].fill(E::default());
            }
        }
    }

    /// Any number of channels, pixel by pixel.
    #[inline(always)]
    fn pixel_by_pixel(&mut self) {
        let (plane, size) = (self.plane, self.pixel_count * self.channels);
        for (number, out) in self.out.chunks_exact_mut(BLOCK * plane).enumerate() {
            let (data, rest) = out.split_at_mut(self.images.valid * plane);
            for (image, to) in data.chunks_exact_mut(plane).enumerate() {
                let from = &self.images.pixels[image * size + number * plane..][..plane];
                for (to, &from) in to.iter_mut().zip(from) {
                    *to = E::from_f32(from * self.images.scale + self.images.shift);
                }
            }
            rest.fill(E::default());
        }
    }
}

#[inline(always)]
fn load_words(bytes: &[u8]) -> [u64; STRIP / GROUP] {
    let mut words = [0; STRIP / GROUP];
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    words
}

/// In each column of words, transposes the square whose rows are the words and whose columns are their bytes.
#[inline(always)]
fn transpose(words: &mut [[u64; STRIP / GROUP]; GROUP]) {
    exchange::<1>(words, 0x00ff_00ff_00ff_00ff);
    exchange::<2>(words, 0x0000_ffff_0000_ffff);
    exchange::<4>(words, 0x0000_0000_ffff_ffff);
}

/// Exchanges the upper right quarter of each square of 2·`STEP` bytes with the lower left one. `low` masks the left
/// halves: the bytes of a word whose index has no bit `STEP`.
#[inline(always)]
fn exchange<const STEP: usize>(words: &mut [[u64; STRIP / GROUP]; GROUP], low: u64) {
    for upper in (0..GROUP).filter(|row| row & STEP == 0) {
        let (above, below) = words.split_at_mut(upper + STEP);
        for (a, b) in above[upper].iter_mut().zip(&mut below[0]) {
            let right = (*a >> (8 * STEP)) & low;
            *a = (*a & low) | ((*b & low) << (8 * STEP));
            *b = right | (*b & !low);
        }
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;
    use crate::test_support::{Numbers, assert_close, cpus};

    fn matches_reference<E: Element>() {
        let shapes = [
            (28, 28, 1),
            (8, 8, 1),
            (7, 9, 1),
            (5, 13, 1),
            (1, 1, 1),
            (16, 12, 1),
            (4, 5, 3),
            (9, 9, 2),
            (2, 3, 20),
            (2, 2, 48),
        ];
        for (cpu, (height, width, channels)) in cpus().into_iter().flat_map(|cpu| shapes.map(|shape| (cpu, shape))) {
            let shape = BlockShape::input(height, width, channels);
            for valid in [0, 1, 7, 8, 9, 31, 32] {
                let mut numbers = Numbers::new(valid as u64);
                let size = height * width * channels;
                let bytes: Vec<u8> = (0..valid * size).map(|_| (numbers.next_u32() >> 24) as u8).collect();
                let floats: Vec<f32> = bytes.iter().map(|&byte| f32::from(byte)).collect();
                let mut outs = [vec![E::from_f32(7.0); shape.len()], vec![E::from_f32(7.0); shape.len()]];
                let (scale, shift) = (0.0125, -0.75);
                fill_block(cpu, shape, BlockImages { pixels: &bytes, valid, scale, shift }, &mut outs[0]);
                fill_block_f32(cpu, shape, BlockImages { pixels: &floats, valid, scale, shift }, &mut outs[1]);
                let mut want = vec![0.0; shape.len()];
                for image in 0..valid {
                    for (i, &byte) in bytes[image * size..][..size].iter().enumerate() {
                        let to = i / channels * shape.pixel() + shape.channel(i % channels) + image * shape.plane();
                        want[to] = f64::from(byte) * f64::from(0.0125f32) - 0.75;
                    }
                }
                let zero = |i: &usize| shape.image_and_channel(*i).0 >= valid;
                for (from, out) in ["bytes", "floats"].into_iter().zip(&outs) {
                    assert_close(&format!("{shape:?}, {valid} images of {from} on {}", cpu.isa()), out, &want, 3e-7);
                    assert!((0..out.len()).filter(zero).all(|i| out[i].to_f32() == 0.0), "images from {valid} on");
                }
            }
        }
    }

    #[test]
    fn f32_matches_reference() {
        matches_reference::<f32>();
    }

    #[test]
    fn bf16_matches_reference() {
        matches_reference::<bf16>();
    }

    #[test]
    #[should_panic(expected = "5 numbers for 2 images that have 8")]
    fn lengths_must_agree() {
        let shape = BlockShape::input(2, 2, 1);
        let images = BlockImages { pixels: &[0; 5], valid: 2, scale: 1.0, shift: 0.0 };
        fill_block(cpus()[0], shape, images, &mut vec![0.0f32; shape.len()]);
    }
}
