//! [`super::scatter`] for windows of 2x2 pixels and planes of 32 channels in bf16 on AVX-512: gradients and indices are
//! 16-bit words, 32 to a vector. The result is bit-identical to that of f32 lanes, of which half as many fit into a
//! vector and to which both operands must be widened. 14x14 pixels of 32 channels take 0.6 of the time.

use std::arch::x86_64::*;

use super::{BLOCK, Element, PooledGradient, Scatter};
use crate::amx::shuffle::{interleave, round_row};
use crate::layout::PLANE;

/// Pixels of a window.
const PIXELS: usize = 4;

/// # Safety
/// `E` must be bf16, the windows 2x2 pixels and planes [`PLANE`] channels. The assertions of [`super::scatter`] must
/// hold, and the processor must have AVX-512 with bf16.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) unsafe fn scatter<E: Element>(mut scatter: Scatter<'_, E>) {
    scatter.clear_rest();
    let (shape, dbias) = (scatter.shape, &mut scatter.dbias);
    let PooledGradient { dy, indices, scale } = scatter.gradient;
    let (input, output, [down, right]) = (shape.input, shape.output(), shape.stride);
    let pixels = [0, input.pixel(), input.row(), input.row() + input.pixel()];
    let (dy, dx) = (dy.as_ptr().cast::<u16>(), scatter.dx.as_mut_ptr().cast::<u16>());
    let scales = _mm512_set1_ps(scale);
    for y in 0..output.height {
        for x in 0..output.width {
            let (from, to) = (output.offset(y, x), input.offset(y * down, x * right));
            for plane in (0..output.pixel()).step_by(output.plane_len()) {
                // Sums of the even and of the odd channels.
                let mut sums = [_mm512_setzero_ps(); 2];
                for at in (plane..plane + output.plane_len()).step_by(PLANE) {
                    // SAFETY: the caller's promise: `dy` and `indices` hold the output, `dx` the input, in which every
                    // window lies; a plane has PLANE channels.
                    let (argmax, dy) = unsafe {
                        let argmax = _mm512_loadu_si512(indices.as_ptr().add(from + at).cast());
                        (argmax, _mm512_loadu_si512(dy.add(from + at).cast()))
                    };
                    let in_window = _mm512_cmplt_epu16_mask(argmax, _mm512_set1_epi16(PIXELS as i16));
                    let dy = _mm512_maskz_mov_epi16(in_window, dy);
                    let wide = [_mm512_slli_epi32::<16>(dy), _mm512_and_si512(dy, _mm512_set1_epi32(!0xffff))];
                    let wide = wide.map(|words| _mm512_mul_ps(_mm512_castsi512_ps(words), scales));
                    sums = [_mm512_add_ps(sums[0], wide[0]), _mm512_add_ps(sums[1], wide[1])];
                    let dy = if scale == 1.0 { dy } else { join(wide) };
                    for (pixel, offset) in pixels.into_iter().enumerate() {
                        let is_argmax = _mm512_cmpeq_epi16_mask(argmax, _mm512_set1_epi16(pixel as i16));
                        // SAFETY: as above.
                        unsafe {
                            _mm512_storeu_si512(dx.add(to + offset + at).cast(), _mm512_maskz_mov_epi16(is_argmax, dy))
                        };
                    }
                }
                if let Some(dbias) = dbias {
                    let channels = plane / BLOCK;
                    // SAFETY: `scatter` saw `dbias` hold the channel stride; these channels are one plane of it.
                    unsafe { add_channels(sums, dbias[channels..][..PLANE].as_mut_ptr()) };
                }
            }
        }
    }
}

/// Interleaves even and odd words, rounded to bf16.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn join([even, odd]: [__m512; 2]) -> __m512i {
    interleave(round_row(even, odd))
}

/// Adds the sums of a plane's even and odd channels to `to`.
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
