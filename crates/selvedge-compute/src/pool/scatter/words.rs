//! [`super::spread`] of windows of 2x2 pixels and planes of 32 channels in bf16 on AVX-512: gradients and indices are words, 32
//! to a vector. The bits are those of f32 lanes, of which half as many fit and into which both have to be widened. 14x14 pixels of 32
//! channels take 0.6 of the time.

use std::arch::x86_64::*;

use super::{BLOCK, Element, Spread};
use crate::amx::shuffle::{interleave, round_row};
use crate::layout::PLANE;

/// Pixels of a window.
const PIXELS: usize = 4;

/// # Safety
/// `E` must be bf16, the windows 2x2 pixels and planes [`PLANE`] channels, and what [`super::spread`] asserts must hold; the processor must have AVX-512 with bf16.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) unsafe fn spread<E: Element>(mut spread: Spread<'_, E>) {
    spread.clear_rest();
    let (shape, dbias) = (spread.shape, &mut spread.dbias);
    let (input, output, [down, right]) = (shape.input, shape.output(), shape.stride);
    let places = [0, input.pixel(), input.row(), input.row() + input.pixel()];
    let (dy, dx) = (spread.dy.as_ptr().cast::<u16>(), spread.dx.as_mut_ptr().cast::<u16>());
    let scale = _mm512_set1_ps(spread.scale);
    for y in 0..output.height {
        for x in 0..output.width {
            let (from, to) = (output.offset(y, x), input.offset(y * down, x * right));
            for plane in (0..output.pixel()).step_by(output.plane_len()) {
                // Of the even and of the odd channels.
                let mut sums = [_mm512_setzero_ps(); 2];
                for at in (plane..plane + output.plane_len()).step_by(PLANE) {
                    // SAFETY: the caller's promise: `dy` and `indices` hold the output, `dx` the input, in which every window
                    // lies; a plane has PLANE channels.
                    let (indices, dy) = unsafe {
                        let indices = _mm512_loadu_si512(spread.indices.as_ptr().add(from + at).cast());
                        (indices, _mm512_loadu_si512(dy.add(from + at).cast()))
                    };
                    let won = _mm512_cmplt_epu16_mask(indices, _mm512_set1_epi16(PIXELS as i16));
                    let dy = _mm512_maskz_mov_epi16(won, dy);
                    let wide = [_mm512_slli_epi32::<16>(dy), _mm512_and_si512(dy, _mm512_set1_epi32(!0xffff))];
                    let wide = wide.map(|words| _mm512_mul_ps(_mm512_castsi512_ps(words), scale));
                    sums = [_mm512_add_ps(sums[0], wide[0]), _mm512_add_ps(sums[1], wide[1])];
                    let dy = if spread.scale == 1.0 { dy } else { join(wide) };
                    for (pixel, place) in places.into_iter().enumerate() {
                        let won = _mm512_cmpeq_epi16_mask(indices, _mm512_set1_epi16(pixel as i16));
                        // SAFETY: as above.
                        unsafe { _mm512_storeu_si512(dx.add(to + place + at).cast(), _mm512_maskz_mov_epi16(won, dy)) };
                    }
                }
                if let Some(dbias) = dbias {
                    let channels = plane / BLOCK;
                    // SAFETY: `spread` saw `dbias` hold a channel stride, of which these are a plane's.
                    unsafe { add_channels(sums, dbias[channels..][..PLANE].as_mut_ptr()) };
                }
            }
        }
    }
}

/// Even and odd words in turn, rounded to bf16.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn join([even, odd]: [__m512; 2]) -> __m512i {
    interleave(round_row(even, odd))
}

/// Adds what even and odd words sum up to.
///
/// # Safety
/// 32 channels must be readable and writable at `to`.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn add_channels([even, odd]: [__m512; 2], to: *mut f32) {
    let low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    let high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
    for (half, order) in [low, high].into_iter().enumerate() {
        // SAFETY: the caller's promise.
        unsafe {
            let to = to.add(half * 16);
            _mm512_storeu_ps(to, _mm512_add_ps(_mm512_loadu_ps(to), _mm512_permutex2var_ps(even, order, odd)));
        }
    }
}
