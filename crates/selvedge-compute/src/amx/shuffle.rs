//! Shuffles that repack rows as tiles: they interleave pairs of rows and transpose 16 × 16 pairs.

use std::arch::x86_64::*;

/// Word k of the lower half, then word k of the upper half.
const INTERLEAVE: [u16; 32] = {
    let mut index = [0; 32];
    let mut i = 0;
    while i < 32 {
        index[i] = (i / 2 + i % 2 * 16) as u16;
        i += 1;
    }
    index
};

/// Interleaves the lower and the upper half of 32 words.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(crate) fn interleave(halves: __m512i) -> __m512i {
    // SAFETY: INTERLEAVE is 64 readable bytes.
    let index = unsafe { _mm512_loadu_si512(INTERLEAVE.as_ptr().cast()) };
    _mm512_permutexvar_epi16(index, halves)
}

/// Lane i: `even[i]` and `odd[i]`, rounded to bf16.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(crate) fn round_pairs(even: __m512, odd: __m512) -> __m512i {
    interleave(round_row(even, odd))
}

/// The 16 numbers of `low` and then those of `high`, rounded to bf16.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
pub(crate) fn round_row(low: __m512, high: __m512) -> __m512i {
    // SAFETY: both types are 512 bits for which every pattern is a value.
    unsafe { std::mem::transmute(_mm512_cvtne2ps_pbh(high, low)) }
}

/// Lane i: word i of `even` and word i of `odd`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(crate) fn pair_words(even: __m256i, odd: __m256i) -> __m512i {
    interleave(_mm512_inserti64x4::<1>(_mm512_castsi256_si512(even), odd))
}

/// Transposes 16 × 16 lanes, first within the 128-bit quarters of the rows, then across them.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn transpose(rows: [__m512i; 16]) -> [__m512i; 16] {
    let mut within = rows;
    for g in (0..16).step_by(4) {
        let [a, b, c, d] = [rows[g], rows[g + 1], rows[g + 2], rows[g + 3]];
        let (ab, ab_high) = (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
        let (cd, cd_high) = (_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
        within[g] = _mm512_unpacklo_epi64(ab, cd);
        within[g + 1] = _mm512_unpackhi_epi64(ab, cd);
        within[g + 2] = _mm512_unpacklo_epi64(ab_high, cd_high);
        within[g + 3] = _mm512_unpackhi_epi64(ab_high, cd_high);
    }
    let mut out = rows;
    for j in 0..4 {
        let [a, b, c, d] = [within[j], within[4 + j], within[8 + j], within[12 + j]];
        let (ab_even, ab_odd) = (_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0xdd>(a, b));
        let (cd_even, cd_odd) = (_mm512_shuffle_i32x4::<0x88>(c, d), _mm512_shuffle_i32x4::<0xdd>(c, d));
        out[j] = _mm512_shuffle_i32x4::<0x88>(ab_even, cd_even);
        out[4 + j] = _mm512_shuffle_i32x4::<0x88>(ab_odd, cd_odd);
        out[8 + j] = _mm512_shuffle_i32x4::<0xdd>(ab_even, cd_even);
        out[12 + j] = _mm512_shuffle_i32x4::<0xdd>(ab_odd, cd_odd);
    }
    out
}
