//! From bytes of images to a block of the network's input.
//!
//! Images arrive one after the other, `[image][height][width][channel]`; a block wants the 32 images of a pixel side by
//! side. For one channel this transposes a matrix of bytes, done on 8 by 8 bytes in eight 64-bit words: three rounds
//! exchange the off-diagonal quarters of 2x2, 4x4 and 8x8 squares (Warren, Hacker's Delight, 7-3, with bytes in place of
//! bits). Eight such squares lie side by side in the lanes of a vector, so 64 pixels of 8 images go through together.

use crate::Cpu;
use crate::layout::{BLOCK, BlockShape};
use crate::simd::{Element, Kernel, Simd, dispatch};

/// Pixels transposed at a time.
const STRIP: usize = 64;
/// Images transposed at a time, as many as a word has bytes.
const GROUP: usize = 8;

/// Fills a block with `valid` images: element = byte·`scale` + `shift`; the images from `valid` on become zero.
///
/// `images` is `[valid][height][width][channels]`, `shape` an input's shape ([`BlockShape::input`]). With a mean and a
/// standard deviation of pixels between 0 and 1, `scale` is 1/(255·deviation) and `shift` −mean/deviation.
///
/// # Panics
/// If `valid` is more than [`BLOCK`], if the shape is padded, or if a slice does not fit it.
///
/// ```
/// use selvedge_compute::{BlockShape, Cpu, input::fill_block};
/// let shape = BlockShape::input(1, 2, 1);
/// let mut block = vec![0.0; shape.len()];
/// fill_block(Cpu::detect()?, &[0, 255, 51, 102], 2, shape, 0.5, 1.0, &mut block);
/// assert_eq!((block[0], block[1], block[32]), (1.0, 26.5, 128.5));
/// # Ok::<(), selvedge_compute::CpuError>(())
/// ```
pub fn fill_block<E: Element>(
    cpu: Cpu,
    images: &[u8],
    valid: usize,
    shape: BlockShape,
    scale: f32,
    shift: f32,
    out: &mut [E],
) {
    assert!(valid <= BLOCK, "{valid} valid images in a block of {BLOCK}");
    let (stride, channels) = (shape.channel_stride, shape.channels);
    assert_eq!(stride, channels, "the input's channel stride is {stride}, not its {channels} channels");
    let bytes = valid * shape.height * shape.width * channels;
    assert_eq!(images.len(), bytes, "{} bytes for {valid} images that have {bytes}", images.len());
    assert_eq!(out.len(), shape.len(), "the block has {} elements and its shape {}", out.len(), shape.len());
    if out.is_empty() {
        return;
    }
    let (pixels, plane) = (shape.height * shape.width, shape.plane());
    dispatch(cpu, Fill { images, valid, pixels, channels, plane, scale, shift, out });
}

struct Fill<'a, E> {
    images: &'a [u8],
    valid: usize,
    pixels: usize,
    channels: usize,
    plane: usize,
    scale: f32,
    shift: f32,
    out: &'a mut [E],
}

impl<E: Element> Kernel for Fill<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        match self.channels {
            1 if self.pixels >= STRIP => self.transposed(s),
            // A constant count of channels unrolls the copy of a pixel.
            1 => self.pixelwise(s, [1, 1]),
            3 => self.pixelwise(s, [3, 3]),
            channels => self.pixelwise(s, [channels, self.plane]),
        }
    }
}

impl<E: Element> Fill<'_, E> {
    /// Strips of 64 pixels of one channel; the last strip overlaps the one before it.
    #[inline(always)]
    fn transposed<S: Simd>(&mut self, s: S) {
        let (scale, shift) = (s.splat(self.scale), s.splat(self.shift));
        let mut strip = [[0u8; BLOCK]; STRIP];
        for start in (0..self.pixels).step_by(STRIP) {
            let start = start.min(self.pixels - STRIP);
            for group in (0..self.valid).step_by(GROUP) {
                let mut words = [[0u64; STRIP / GROUP]; GROUP];
                for (image, row) in (group..self.valid).zip(&mut words) {
                    *row = load_words(&self.images[image * self.pixels + start..][..STRIP]);
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
                to[self.valid..].fill(E::default());
            }
        }
    }

    /// Any number of channels: pixel by pixel, through a table of what becomes of each byte.
    #[inline(always)]
    fn pixelwise<S: Simd>(&mut self, s: S, [channels, plane]: [usize; 2]) {
        let (scale, shift) = (s.splat(self.scale), s.splat(self.shift));
        let mut table = [E::default(); 256];
        for start in (0..table.len()).step_by(S::LANES) {
            let bytes = s.add_u(s.lane_numbers(), s.splat_u(start as u32));
            // SAFETY: the table's length is a multiple of LANES.
            unsafe { E::store(s, table.as_mut_ptr().add(start), s.mul_add(s.to_f32(bytes), scale, shift)) }
        }
        let size = self.pixels * channels;
        for (number, out) in self.out.chunks_exact_mut(BLOCK * plane).enumerate() {
            let (data, rest) = out.split_at_mut(self.valid * plane);
            for (image, to) in data.chunks_exact_mut(plane).enumerate() {
                let from = &self.images[image * size + number * plane..][..plane];
                for (to, &from) in to.iter_mut().zip(from) {
                    *to = table[usize::from(from)];
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

/// Transposes, in each column of words, the square whose rows are the words and whose columns are their bytes.
#[inline(always)]
fn transpose(words: &mut [[u64; STRIP / GROUP]; GROUP]) {
    exchange::<1>(words, 0x00ff_00ff_00ff_00ff);
    exchange::<2>(words, 0x0000_ffff_0000_ffff);
    exchange::<4>(words, 0x0000_0000_ffff_ffff);
}

/// Exchanges the upper right quarter of each square of 2·`STEP` bytes with its lower left one. `low` marks the left
/// halves: the bytes of a word whose number has no bit `STEP`.
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
                let images: Vec<u8> = (0..valid * size).map(|_| (numbers.next_u32() >> 24) as u8).collect();
                let mut out = vec![E::from_f32(7.0); shape.len()];
                fill_block(cpu, &images, valid, shape, 0.0125, -0.75, &mut out);
                let mut want = vec![0.0; shape.len()];
                for image in 0..valid {
                    for (i, &byte) in images[image * size..][..size].iter().enumerate() {
                        let to = i / channels * shape.pixel() + shape.channel(i % channels) + image * shape.plane();
                        want[to] = f64::from(byte) * f64::from(0.0125f32) - 0.75;
                    }
                }
                assert_close(&format!("{shape:?}, {valid} images on {}", cpu.isa()), &out, &want, 3e-7);
                let zero = |i: &usize| shape.image_and_channel(*i).0 >= valid;
                assert!((0..out.len()).filter(zero).all(|i| out[i].to_f32() == 0.0), "images from {valid} on");
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
    #[should_panic(expected = "5 bytes for 2 images that have 8")]
    fn lengths_must_agree() {
        let shape = BlockShape::input(2, 2, 1);
        fill_block(cpus()[0], &[0; 5], 2, shape, 1.0, 0.0, &mut vec![0.0f32; shape.len()]);
    }
}
