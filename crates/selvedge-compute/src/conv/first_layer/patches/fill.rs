//! From bytes of images to the windows of a block.

use half::bf16;

use super::{SEEN, assert_amx, shape};
use crate::conv::Conv2dShape;
use crate::cpu::Cpu;
use crate::layout::BLOCK;

/// Fills a block with the windows of `valid` images: pixel = byte·`scale` + `shift`, rounded to bf16, and zero outside of the
/// image; the images from `valid` to `images_read`, those of the passes that follow, become zero.
///
/// `images` is `[valid][height][width]`; see [`crate::input::fill_block`].
///
/// # Panics
/// If `valid` is more than `images_read` or that more than [`BLOCK`], if a slice does not fit the layer, or if `cpu` does not prove AMX.
pub fn fill(
    cpu: Cpu,
    layer: &Conv2dShape,
    images: &[u8],
    [valid, images_read]: [usize; 2],
    scale: f32,
    shift: f32,
    windows: &mut [bf16],
) {
    assert_amx(cpu);
    let shape = shape(layer);
    assert!(valid <= images_read && images_read <= BLOCK, "{valid} of {images_read} images in a block of {BLOCK}");
    let bytes = valid * layer.input.height * layer.input.width;
    assert_eq!(images.len(), bytes, "{} bytes for {valid} images that have {bytes}", images.len());
    assert_eq!(windows.len(), shape.len(), "the length of the windows and that of {shape:?}");
    if windows.is_empty() {
        return;
    }
    // SAFETY: the assertions compared the lengths with the layer; AMX is reported only beside AVX-512 with bf16
    // (`cpu::detect`).
    unsafe { x86::fill(layer, images, valid, scale, shift, windows) };
    if valid < images_read {
        for window in windows.chunks_exact_mut(BLOCK * SEEN) {
            window[valid * SEEN..images_read * SEEN].fill(bf16::ZERO);
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use half::bf16;

    use super::super::{SEEN, shape};
    use super::{BLOCK, Conv2dShape};
    use crate::amx::shuffle::round_row;

    /// Pixels of a row that fit into a vector, with the one left of them; and the windows that see no other.
    const PIXELS: usize = 32;
    const WINDOWS: usize = PIXELS / 2 - 1;

    /// # Safety
    /// `images` must hold `valid` images of the layer, at most BLOCK, and `windows` a block of its windows.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    pub(super) unsafe fn fill(
        layer: &Conv2dShape,
        images: &[u8],
        valid: usize,
        scale: f32,
        shift: f32,
        windows: &mut [bf16],
    ) {
        let (height, width) = (layer.input.height, layer.input.width);
        let shape = shape(layer);
        let (scale, shift) = (_mm512_set1_ps(scale), _mm512_set1_ps(shift));
        for first in (0..shape.width).step_by(WINDOWS) {
            let count = WINDOWS.min(shape.width - first);
            // The vector's first pixel is the one left of the windows'.
            let (skipped, start) = (usize::from(first == 0), (2 * first).saturating_sub(1));
            let pixels = (PIXELS - skipped).min(width - start);
            let mask = ((u64::MAX >> (64 - pixels)) << skipped) as u32;
            let row_of = |image: usize, y: usize| {
                if y >= height {
                    return _mm512_setzero_si512();
                }
                let bytes = &images[(image * height + y) * width + start..][..pixels];
                // SAFETY: the mask has the bytes of this slice alone.
                let bytes = unsafe { _mm256_maskz_loadu_epi8(mask, bytes.as_ptr().wrapping_sub(skipped).cast()) };
                let half = |bytes| _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes)), scale, shift);
                let low = half(_mm256_castsi256_si128(bytes));
                let high = half(_mm256_extracti128_si256::<1>(bytes));
                _mm512_maskz_mov_epi16(mask, round_row(low, high))
            };
            // The two rows that the next row of windows sees, too.
            let mut seen = [[_mm512_setzero_si512(); 2]; BLOCK];
            for (image, seen) in seen[..valid].iter_mut().enumerate() {
                seen[1] = row_of(image, 0);
            }
            for y in 0..shape.height {
                let to = windows[shape.offset(y, first)..][..count * shape.pixel()].as_mut_ptr();
                for (image, seen) in seen[..valid].iter_mut().enumerate() {
                    let below = [row_of(image, 2 * y + 1), row_of(image, 2 * y + 2)];
                    // SAFETY: `to` has `count` windows of BLOCK images.
                    unsafe { store_windows(*seen, below, count, to.wrapping_add(image * SEEN)) };
                    *seen = below;
                }
            }
        }
    }

    /// Writes the `count` windows of one image whose four rows these are, a window's 16 numbers together.
    ///
    /// # Safety
    /// 16 numbers must be writable at `to` and at `count` − 1 distances of BLOCK times as many.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn store_windows(above: [__m512i; 2], below: [__m512i; 2], count: usize, to: *mut bf16) {
        // Pairs of pixels: of four windows the two of either row.
        let pairs = _mm512_setr_epi32(0, 1, 16, 17, 1, 2, 17, 18, 2, 3, 18, 19, 3, 4, 19, 20);
        let (low, high) = (_mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11), _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15));
        for group in (0..count).step_by(4) {
            // The last four overlap with those before.
            let group = group.min(count.saturating_sub(4));
            let pairs = _mm512_add_epi32(pairs, _mm512_set1_epi32(group as i32));
            let [upper, lower] = [above, below].map(|[a, b]| _mm512_permutex2var_epi32(a, pairs, b));
            let two = [low, high].map(|order| _mm512_permutex2var_epi64(upper, order, lower));
            let four = two.map(|two| [_mm512_castsi512_si256(two), _mm512_extracti64x4_epi64::<1>(two)]);
            for (window, &numbers) in four.as_flattened().iter().enumerate().take(count) {
                // SAFETY: the caller's promise.
                unsafe { _mm256_storeu_si256(to.add((group + window) * BLOCK * SEEN).cast(), numbers) };
            }
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod x86 {
    //! Nothing proves AMX here, so `assert_amx` has panicked before.
    use super::*;

    pub(super) unsafe fn fill(_: &Conv2dShape, _: &[u8], _: usize, _: f32, _: f32, _: &mut [bf16]) {}
}
