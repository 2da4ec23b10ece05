//! [`fill`]: the 4×4 patches of a block from the bytes of images.

use half::bf16;

use super::{PATCH, assert_amx, shape};
use crate::conv::Conv2dShape;
use crate::cpu::Cpu;
use crate::layout::BLOCK;

/// The images that [`fill`] makes patches of.
#[derive(Clone, Copy)]
pub struct Images<'a> {
    /// `[valid][height][width]`.
    pub bytes: &'a [u8],
    /// How many images there are.
    pub valid: usize,
    /// How many images of the block the passes read, up to [`BLOCK`]; those from `valid` on become zero.
    pub read: usize,
    /// A pixel is byte·`scale` + `shift`; see [`crate::input::fill_block`].
    pub scale: f32,
    /// Added to the scaled byte.
    pub shift: f32,
}

/// Fills a block with the 4×4 patches of images, rounded to bf16; pixels outside of the image are zero.
///
/// # Panics
/// If `valid` exceeds `read` or that exceeds [`BLOCK`], if a slice does not fit the layer, or if `cpu` does not prove AMX.
pub fn fill(cpu: Cpu, layer: &Conv2dShape, images: Images<'_>, patches: &mut [bf16]) {
    assert_amx(cpu);
    let (shape, Images { bytes, valid, read, .. }) = (shape(layer), images);
    assert!(valid <= read && read <= BLOCK, "{valid} of {read} images in a block of {BLOCK}");
    let expected = valid * layer.input.height * layer.input.width;
    assert_eq!(bytes.len(), expected, "{} bytes for {valid} images that have {expected}", bytes.len());
    assert_eq!(patches.len(), shape.len(), "the length of the patches and that of {shape:?}");
    if patches.is_empty() {
        return;
    }
    // SAFETY: the assertions compared the lengths with the layer; AMX is reported only beside AVX-512 with bf16
    // (`cpu::detect`).
    unsafe { x86::fill(layer, images, patches) };
    if valid < read {
        for patch in patches.chunks_exact_mut(BLOCK * PATCH) {
            patch[valid * PATCH..read * PATCH].fill(bf16::ZERO);
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use half::bf16;

    use super::super::{PATCH, shape};
    use super::{BLOCK, Conv2dShape, Images};
    use crate::amx::shuffle::round_row;

    /// Pixels of a vector.
    const PIXELS: usize = 32;
    /// Patches of a row whose pixels lie in one vector: the first pixel is the one left of the first window.
    const PATCHES: usize = PIXELS / 2 - 1;

    /// # Safety
    /// There must be bytes of `valid` images of the layer, at most BLOCK, and `patches` must be a block of its patches.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    pub(super) unsafe fn fill(layer: &Conv2dShape, images: Images<'_>, patches: &mut [bf16]) {
        let Images { bytes: images, valid, scale, shift, .. } = images;
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

    pub(super) unsafe fn fill(_: &Conv2dShape, _: Images<'_>, _: &mut [bf16]) {}
}
