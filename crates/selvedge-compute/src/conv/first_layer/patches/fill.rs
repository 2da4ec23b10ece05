//! [`fill`]: the 4×4 patches of a block from the bytes of images.

use half::bf16;

use std::ops::Range;

use super::{PATCH, SIDE, assert_amx, shape};
use crate::conv::Conv2dShape;
use crate::cpu::Cpu;
use crate::input::BlockImages;
use crate::layout::BLOCK;

/// Fills a block with the 4×4 patches of grey images, rounded to bf16; pixels outside of the image are zero, and so are the
/// images from `images.valid` to `read`, the number of images that the passes read.
///
/// # Panics
/// If `valid` exceeds `read` or that exceeds [`BLOCK`], if a slice does not fit the layer, or if `cpu` does not prove AMX.
pub fn fill(cpu: Cpu, layer: &Conv2dShape, images: BlockImages<'_, u8>, read: usize, patches: &mut [bf16]) {
    assert_amx(cpu);
    check(layer, &images, read, patches);
    if patches.is_empty() {
        return;
    }
    // SAFETY: `check` compared the lengths with the layer; AMX is reported only beside AVX-512 with bf16 (`cpu::detect`).
    unsafe { x86::fill(layer, images, patches) };
    clear(images.valid..read, patches);
}

/// [`fill`] from images of f32. Plain code that runs on any processor.
///
/// ```
/// use selvedge_compute::conv::{Conv2dShape, first_layer::patches};
/// use selvedge_compute::{BlockShape, bf16, input::BlockImages};
/// let layer = Conv2dShape::same(BlockShape::input(2, 2, 1), 16, [3, 3], 1);
/// let mut filled = vec![bf16::ZERO; patches::shape(&layer).len()];
/// let images = BlockImages { pixels: &[0.0, 0.5, 1.0, 1.5], valid: 1, scale: 2.0, shift: 1.0 };
/// patches::fill_f32(&layer, images, 32, &mut filled);
/// let patch: Vec<f32> = filled[..16].iter().map(|x| x.to_f32()).collect();
/// assert_eq!(patch, [0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 2.0, 0.0, 0.0, 3.0, 4.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
/// ```
///
/// # Panics
/// As [`fill`], but for AMX.
pub fn fill_f32(layer: &Conv2dShape, images: BlockImages<'_, f32>, read: usize, patches: &mut [bf16]) {
    check(layer, &images, read, patches);
    let BlockImages { pixels, valid, scale, shift } = images;
    let (height, width, columns) = (layer.input.height, layer.input.width, shape(layer).width);
    for (number, patch) in patches.chunks_exact_mut(BLOCK * PATCH).enumerate() {
        // The patch begins one pixel above and left of the pixels that are pooled into one.
        let [top, left] = [2 * (number / columns), 2 * (number % columns)];
        for (image, patch) in patch.chunks_exact_mut(PATCH).take(valid).enumerate() {
            let pixels = &pixels[image * height * width..][..height * width];
            for (at, to) in patch.iter_mut().enumerate() {
                let [y, x] = [top + at / SIDE, left + at % SIDE];
                let is_inside = (1..=height).contains(&y) && (1..=width).contains(&x);
                let pixel = || bf16::from_f32(pixels[(y - 1) * width + x - 1] * scale + shift);
                *to = if is_inside { pixel() } else { bf16::ZERO };
            }
        }
    }
    clear(valid..read, patches);
}

fn check<P>(layer: &Conv2dShape, images: &BlockImages<'_, P>, read: usize, patches: &[bf16]) {
    let (shape, valid, len) = (shape(layer), images.valid, images.pixels.len());
    assert!(valid <= read && read <= BLOCK, "{valid} of {read} images in a block of {BLOCK}");
    let need = valid * layer.input.height * layer.input.width;
    assert_eq!(len, need, "{len} numbers for {valid} images that have {need}");
    assert_eq!(patches.len(), shape.len(), "the length of the patches and that of {shape:?}");
}

/// Zeros for these images.
fn clear(images: Range<usize>, patches: &mut [bf16]) {
    if !images.is_empty() {
        for patch in patches.chunks_exact_mut(BLOCK * PATCH) {
            patch[images.start * PATCH..images.end * PATCH].fill(bf16::ZERO);
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use half::bf16;

    use super::super::{PATCH, shape};
    use super::{BLOCK, BlockImages, Conv2dShape};
    use crate::amx::shuffle::round_row;

    /// Pixels of a vector.
    const PIXELS: usize = 32;
    /// Patches of a row whose pixels lie in one vector: the first pixel is the one left of the first window.
    const PATCHES: usize = PIXELS / 2 - 1;

    /// # Safety
    /// There must be bytes of `valid` images of the layer, at most BLOCK, and `patches` must be a block of its patches.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    pub(super) unsafe fn fill(layer: &Conv2dShape, images: BlockImages<'_, u8>, patches: &mut [bf16]) {
        let BlockImages { pixels: images, valid, scale, shift } = images;
        let (height, width) = (layer.input.height, layer.input.width);
        let shape = shape(layer);
        let (scale, shift) = (_mm512_set1_ps(scale), _mm512_set1_ps(shift));
        for first in (0..shape.width).step_by(PATCHES) {
            let count = PATCHES.min(shape.width - first);
            // The vector's first pixel is the one left of the first window.
            let (skipped, start) = (usize::from(first == 0), (2 * first).saturating_sub(1));
            let pixels = (PIXELS - skipped).min(width - start);
            let mask = ((u64::MAX >> (64 - pixels)) << skipped) as u32;
            let row_of = |image: usize, y: usize| {
                if y >= height {
                    return _mm512_setzero_si512();
                }
                let bytes = &images[(image * height + y) * width + start..][..pixels];
                // SAFETY: the mask selects only bytes of this slice.
                let bytes = unsafe { _mm256_maskz_loadu_epi8(mask, bytes.as_ptr().wrapping_sub(skipped).cast()) };
                let half = |bytes| _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes)), scale, shift);
                let low = half(_mm256_castsi256_si128(bytes));
                let high = half(_mm256_extracti128_si256::<1>(bytes));
                _mm512_maskz_mov_epi16(mask, round_row(low, high))
            };
            // The two rows that overlap with the patches above.
            let mut above = [[_mm512_setzero_si512(); 2]; BLOCK];
            for (image, above) in above[..valid].iter_mut().enumerate() {
                above[1] = row_of(image, 0);
            }
            for y in 0..shape.height {
                let to = patches[shape.offset(y, first)..][..count * shape.pixel()].as_mut_ptr();
                for (image, above) in above[..valid].iter_mut().enumerate() {
                    let below = [row_of(image, 2 * y + 1), row_of(image, 2 * y + 2)];
                    // SAFETY: `to` has `count` patches of BLOCK images.
                    unsafe { store_patches(*above, below, count, to.wrapping_add(image * PATCH)) };
                    *above = below;
                }
            }
        }
    }

    /// Writes `count` patches of one image from their four rows, the 16 elements of each contiguous.
    ///
    /// # Safety
    /// 16 elements must be writable at `to` and at each of the `count` − 1 following multiples of 16 · BLOCK elements.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn store_patches(above: [__m512i; 2], below: [__m512i; 2], count: usize, to: *mut bf16) {
        // Pairs of pixels: of four patches, the two of either row.
        let pairs = _mm512_setr_epi32(0, 1, 16, 17, 1, 2, 17, 18, 2, 3, 18, 19, 3, 4, 19, 20);
        let (low, high) = (_mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11), _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15));
        for group in (0..count).step_by(4) {
            // The last group of four overlaps with the one before.
            let group = group.min(count.saturating_sub(4));
            let pairs = _mm512_add_epi32(pairs, _mm512_set1_epi32(group as i32));
            let [upper, lower] = [above, below].map(|[a, b]| _mm512_permutex2var_epi32(a, pairs, b));
            let two = [low, high].map(|order| _mm512_permutex2var_epi64(upper, order, lower));
            let four = two.map(|two| [_mm512_castsi512_si256(two), _mm512_extracti64x4_epi64::<1>(two)]);
            for (patch, &elements) in four.as_flattened().iter().enumerate().take(count) {
                // SAFETY: the caller's promise.
                unsafe { _mm256_storeu_si256(to.add((group + patch) * BLOCK * PATCH).cast(), elements) };
            }
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod x86 {
    //! Never called: no `Cpu` proves AMX here, so `assert_amx` panics first.
    use super::*;

    pub(super) unsafe fn fill(_: &Conv2dShape, _: BlockImages<'_, u8>, _: &mut [bf16]) {}
}
