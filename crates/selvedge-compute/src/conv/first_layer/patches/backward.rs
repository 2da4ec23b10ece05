//! The gradient of the weights of a first layer with pooling. For each window, X is transposed into one tile, and dY of each of
//! the four pixels goes to a tile of its own, in pairs of images.

use half::bf16;

use super::shape;
use crate::amx::{Depth, ROWS, Registers, with_tiles};
use crate::conv::first_layer::PooledBackward;
use crate::conv::first_layer::pooled::WINDOW;
use crate::conv::pooled::pooled_shape;
use crate::conv::{Conv2dShape, PANEL};
use crate::cpu::Cpu;

/// [`crate::conv::first_layer::backward_pooled`] in bf16 on AMX; x comes from [`super::fill`].
///
/// # Panics
/// As [`crate::conv::first_layer::backward_pooled`], or if `cpu` does not prove AMX.
pub fn backward(cpu: Cpu, layer: &Conv2dShape, args: PooledBackward<'_, bf16>) {
    args.check(layer, &shape(layer));
    let PooledBackward { x, dy, indices, scale, dweights, mut dbias } = args;
    let pooled = pooled_shape(layer, WINDOW);
    with_tiles(cpu, Depth::ThirtyTwo, Registers::Square, ROWS, |tiles| {
        for (panel, dweights) in dweights.chunks_exact_mut(layer.panel_len()).enumerate() {
            let dbias = dbias.as_deref_mut().map(|dbias| &mut dbias[panel * PANEL..][..PANEL]);
            let of_panel = PooledBackward { x, dy, indices, scale, dweights, dbias };
            // SAFETY: `check` compared every length with the shape; AMX, which `with_tiles` asserted, is reported only beside
            // AVX-512 with bf16 (`cpu::detect`).
            unsafe { x86::panel(tiles, &pooled, panel, of_panel) };
        }
    });
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::transpose_patch;

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::mem::{MaybeUninit, transmute};

    use half::bf16;

    use super::super::{PANEL, PATCH, tap};
    use super::PooledBackward;
    use crate::amx::Tiles;
    use crate::amx::patches::{self, PIXELS, TILE};
    use crate::amx::shuffle::{interleave, pair_words, transpose};
    use crate::layout::{BLOCK, BlockShape};

    /// Windows whose products are one sum: their tiles are 20 KiB. Two take 1.07 of the time; seven, which exceed L1, take 1.5.
    const WINDOWS_PER_SUM: usize = 4;

    /// Tiles of some windows. Only accessed through pointers.
    #[repr(align(64))]
    struct Operands {
        _a: [bf16; WINDOWS_PER_SUM * 2 * TILE],
        _b: [bf16; WINDOWS_PER_SUM * PIXELS * 2 * TILE],
    }

    /// Adds the gradients of one panel of channels.
    ///
    /// # Safety
    /// dY and the indices must have the shape `pooled`, x a patch for each of its pixels; the gradients must be those of just
    /// this panel.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(super) unsafe fn panel(tiles: &Tiles, pooled: &BlockShape, panel: usize, args: PooledBackward<'_, bf16>) {
        #[repr(align(64))]
        struct Sums([[[f32; PANEL]; PATCH]; PIXELS]);
        let PooledBackward { x, dy, indices, scale, dweights, dbias } = args;
        let mut sums = Sums([[[0.0; PANEL]; PATCH]; PIXELS]);
        let mut operands = MaybeUninit::<Operands>::uninit();
        let a = operands.as_mut_ptr().cast::<bf16>();
        let b = a.wrapping_add(WINDOWS_PER_SUM * 2 * TILE);
        let mut bias = _mm512_setzero_ps();
        let all = pooled.height * pooled.width;
        for first in (0..all).step_by(WINDOWS_PER_SUM) {
            let windows = WINDOWS_PER_SUM.min(all - first);
            for window in 0..windows {
                let number = first + window;
                let at = number * pooled.pixel() + pooled.channel(panel * PANEL);
                // SAFETY: the caller's promise; `Operands` has room for WINDOWS_PER_SUM windows.
                unsafe {
                    transpose_patch(x.as_ptr().add(number * BLOCK * PATCH), a.add(window * 2 * TILE));
                    let to = b.add(window * PIXELS * 2 * TILE);
                    bias = by_pixels(pooled.plane(), dy.as_ptr().add(at), indices.as_ptr().add(at), to, bias);
                }
            }
            // SAFETY: the loop above wrote these tiles.
            unsafe { patches::add(tiles, windows, a, b, sums.0.as_mut_ptr().cast()) };
        }
        let scale = _mm512_set1_ps(scale);
        // SAFETY: every row is 16 f32.
        unsafe {
            for (pixel, sums) in sums.0.iter().enumerate() {
                for (element, sums) in sums.iter().enumerate() {
                    if let Some(tap) = tap(pixel, element) {
                        let to = dweights[tap * PANEL..][..PANEL].as_mut_ptr();
                        _mm512_storeu_ps(
                            to,
                            _mm512_fmadd_ps(_mm512_loadu_ps(sums.as_ptr()), scale, _mm512_loadu_ps(to)),
                        );
                    }
                }
            }
            if let Some(dbias) = dbias {
                let to = dbias[..PANEL].as_mut_ptr();
                _mm512_storeu_ps(to, _mm512_fmadd_ps(bias, scale, _mm512_loadu_ps(to)));
            }
        }
    }

    /// Transposes the patches of 32 images to `[16][image]`.
    ///
    /// # Safety
    /// Both must be 16 elements of 32 images.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(in super::super) unsafe fn transpose_patch(from: *const bf16, to: *mut bf16) {
        let mut pairs = [_mm512_setzero_si512(); 16];
        for (pair, words) in pairs.iter_mut().enumerate() {
            // SAFETY: the caller's promise.
            *words = interleave(unsafe { _mm512_loadu_si512(from.add(pair * 2 * PATCH).cast()) });
        }
        for (row, words) in transpose(pairs).into_iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe { _mm512_storeu_si512(to.add(row * BLOCK).cast(), words) };
        }
    }

    /// dY of one window in pairs of images, for each pixel where it is the maximum and zero elsewhere; the sum is added to `bias`.
    ///
    /// # Safety
    /// `dy` and `indices` must be a plane, whose images are `plane` elements apart, and `to` four tiles.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn by_pixels(plane: usize, dy: *const bf16, indices: *const u16, to: *mut bf16, mut bias: __m512) -> __m512 {
        let ones = _mm512_set1_epi16(bf16::ONE.to_bits() as i16);
        for pair in 0..BLOCK / 2 {
            // SAFETY: the caller's promise.
            let load = |from: *const u16| unsafe {
                if plane == PANEL {
                    interleave(_mm512_loadu_si512(from.add(pair * 2 * PANEL).cast()))
                } else {
                    let from = from.add(pair * 2 * plane);
                    pair_words(_mm256_loadu_si256(from.cast()), _mm256_loadu_si256(from.add(plane).cast()))
                }
            };
            let (dy, indices) = (load(dy.cast()), load(indices));
            let mut all = _mm512_setzero_si512();
            for pixel in 0..PIXELS {
                let is_max = _mm512_cmpeq_epi16_mask(indices, _mm512_set1_epi16(pixel as i16));
                let words = _mm512_maskz_mov_epi16(is_max, dy);
                all = _mm512_or_si512(all, words);
                // SAFETY: the caller's promise.
                unsafe { _mm512_storeu_si512(to.add((pixel * 16 + pair) * 2 * PANEL).cast(), words) };
            }
            // SAFETY: both types are 512 bits for which every pattern is a value.
            bias = unsafe {
                _mm512_dpbf16_ps(bias, transmute::<__m512i, __m512bh>(all), transmute::<__m512i, __m512bh>(ones))
            };
        }
        bias
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod x86 {
    //! Never called: there are no `Tiles` here.
    use half::bf16;

    use super::PooledBackward;
    use crate::amx::Tiles;
    use crate::layout::BlockShape;

    pub(super) unsafe fn panel(_: &Tiles, _: &BlockShape, _: usize, _: PooledBackward<'_, bf16>) {}
}
