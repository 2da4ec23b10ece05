//! [`Simd`] on AVX-512 (F, BW, DQ, VL): sixteen lanes. Beside AMX there are also conversions to bf16 (AVX512_BF16).

use std::arch::x86_64::*;

use half::bf16;

use super::{Kernel, Simd, Tile, TileKernel};

/// Proof that AVX-512 is there, and with `BF16` also AVX512_BF16: made only by [`enter`] and [`enter_bf16`].
#[derive(Clone, Copy)]
pub(crate) struct Avx512<const BF16: bool>(());

/// Runs `kernel` in a function compiled for AVX-512.
///
/// # Safety
/// The processor must have AVX-512 F, BW, DQ and VL, and FMA.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
pub(super) unsafe fn enter<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx512::<false>(()))
}

/// Runs `kernel` in a function compiled for AVX-512 with conversions to bf16.
///
/// # Safety
/// As for [`enter`], and the processor must have AVX512_BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")]
pub(super) unsafe fn enter_bf16<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx512::<true>(()))
}

impl<const BF16: bool> Avx512<BF16> {
    /// The bits of `v` rounded to bf16, those of the bf16 in the upper half.
    ///
    /// Rounds to nearest even by adding half a unit, and one more where the kept part is odd. The conversion instruction
    /// does the same, but flushes denormals. NaN stays NaN: its kept bits are set apart, since the addition could carry out
    /// of them.
    #[inline(always)]
    fn rounded_bits(self, v: __m512) -> __m512i {
        // SAFETY: `self` proves AVX-512.
        unsafe {
            let bits = _mm512_castps_si512(v);
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v);
            let quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x0040_0000));
            _mm512_mask_blend_epi32(nan, rounded, quiet)
        }
    }
}

// SAFETY of every block below: an `Avx512` exists only inside `enter` or `enter_bf16`, whose callers proved the
// instruction set.
impl<const BF16: bool> Simd for Avx512<BF16> {
    type V = __m512;
    type U = __m512i;
    type M = __mmask16;
    const LANES: usize = 16;
    const REGISTERS: usize = 32;
    const TILE_PANELS: usize = 2;

    #[inline(never)]
    fn outlined<K: Kernel>(self, kernel: K) -> K::Output {
        // SAFETY: `self` proves AVX-512, and if it says so AVX512_BF16.
        unsafe { if BF16 { enter_bf16(kernel) } else { enter(kernel) } }
    }
    #[inline(always)]
    fn in_tile<K: TileKernel>(self, panels: usize, kernel: K) -> K::Output {
        // 16 sums, twice what hides a latency of 4 cycles on two ports; of two panels, with 10 loads for 16 multiply-adds.
        match panels {
            2 => self.outlined(Tile::<K, 8, 2>(kernel)),
            _ => self.outlined(Tile::<K, 16, 1>(kernel)),
        }
    }
    #[inline(always)]
    fn zero(self) -> Self::V {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_setzero_ps() }
    }
    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> Self::V {
        // SAFETY: `self` proves AVX-512. The caller promises 16 readable numbers.
        unsafe { _mm512_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32, v: Self::V) {
        // SAFETY: `self` proves AVX-512. The caller promises 16 writable numbers.
        unsafe { _mm512_storeu_ps(to, v) }
    }
    #[inline(always)]
    unsafe fn load_bf16(self, from: *const bf16) -> Self::V {
        // SAFETY: `self` proves AVX-512. The caller promises 16 readable numbers.
        unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast())))) }
    }
    #[inline(always)]
    fn prefetch<T>(self, from: *const T) {
        // SAFETY: every x86-64 processor has the instruction, and it accesses no memory that a program could tell.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(from.cast()) }
    }
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut bf16, v: Self::V) {
        if BF16 {
            // SAFETY: `self` proves AVX512_BF16. The caller promises 16 writable numbers.
            unsafe {
                let rounded: __m256i = std::mem::transmute(_mm512_cvtneps_pbh(v));
                _mm256_storeu_si256(to.cast(), rounded);
            }
            return;
        }
        // SAFETY: `self` proves AVX-512. The caller promises 16 writable numbers.
        unsafe {
            let high = _mm512_srli_epi32::<16>(self.rounded_bits(v));
            _mm256_storeu_si256(to.cast(), _mm512_cvtepi32_epi16(high));
        }
    }
    #[inline(always)]
    fn round_to_bf16(self, v: Self::V) -> Self::V {
        // SAFETY: `self` proves AVX-512, and where it says so AVX512_BF16.
        unsafe {
            if BF16 {
                let rounded: __m256i = std::mem::transmute(_mm512_cvtneps_pbh(v));
                return _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(rounded)));
            }
            let kept = _mm512_set1_epi32(!0xffff);
            _mm512_castsi512_ps(_mm512_and_si512(self.rounded_bits(v), kept))
        }
    }

    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_min_ps(a, b) }
    }
    #[inline(always)]
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn sqrt(self, a: Self::V) -> Self::V {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_sqrt_ps(a) }
    }
    #[inline(always)]
    fn round(self, a: Self::V) -> Self::V {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }
    #[inline(always)]
    fn pow2(self, n: Self::V) -> Self::V {
        // SAFETY: `self` proves AVX-512.
        unsafe {
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(_mm512_add_epi32(
                _mm512_cvtps_epi32(n),
                _mm512_set1_epi32(127),
            )))
        }
    }
    #[inline(always)]
    fn gt(self, a: Self::V, b: Self::V) -> Self::M {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, b) }
    }
    #[inline(always)]
    fn select(self, m: Self::M, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_mask_blend_ps(m, b, a) }
    }
    #[inline(always)]
    fn sum(self, a: Self::V) -> f32 {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_reduce_add_ps(a) }
    }
    #[inline(always)]
    fn largest(self, a: Self::V) -> f32 {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_reduce_max_ps(a) }
    }

    #[inline(always)]
    fn lane_numbers(self) -> Self::U {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15) }
    }
    #[inline(always)]
    fn splat_u(self, x: u32) -> Self::U {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_set1_epi32(x as i32) }
    }
    #[inline(always)]
    fn add_u(self, a: Self::U, b: Self::U) -> Self::U {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_add_epi32(a, b) }
    }
    #[inline(always)]
    fn mul_u(self, a: Self::U, b: Self::U) -> Self::U {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_mullo_epi32(a, b) }
    }
    #[inline(always)]
    fn xor_u(self, a: Self::U, b: Self::U) -> Self::U {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_xor_si512(a, b) }
    }
    #[inline(always)]
    fn shl_u<const BITS: i32>(self, a: Self::U) -> Self::U {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_sll_epi32(a, _mm_cvtsi32_si128(BITS)) }
    }
    #[inline(always)]
    fn shr_u<const BITS: i32>(self, a: Self::U) -> Self::U {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_srl_epi32(a, _mm_cvtsi32_si128(BITS)) }
    }
    #[inline(always)]
    fn lt_u(self, a: Self::U, b: Self::U) -> Self::M {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_cmplt_epu32_mask(a, b) }
    }
    #[inline(always)]
    fn eq_u(self, a: Self::U, b: Self::U) -> Self::M {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_cmpeq_epu32_mask(a, b) }
    }
    #[inline(always)]
    fn select_u(self, m: Self::M, a: Self::U, b: Self::U) -> Self::U {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_mask_blend_epi32(m, b, a) }
    }
    #[inline(always)]
    fn to_bits(self, a: Self::V) -> Self::U {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_castps_si512(a) }
    }
    #[inline(always)]
    fn of_bits(self, a: Self::U) -> Self::V {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_castsi512_ps(a) }
    }
    #[inline(always)]
    fn to_f32(self, a: Self::U) -> Self::V {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_cvtepi32_ps(a) }
    }
    #[inline(always)]
    unsafe fn load_u8(self, from: *const u8) -> Self::U {
        // SAFETY: `self` proves AVX-512. The caller promises 16 readable bytes.
        unsafe { _mm512_cvtepu8_epi32(_mm_loadu_si128(from.cast())) }
    }
    #[inline(always)]
    unsafe fn load_u16(self, from: *const u16) -> Self::U {
        // SAFETY: `self` proves AVX-512. The caller promises 16 readable numbers.
        unsafe { _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast())) }
    }
    #[inline(always)]
    unsafe fn store_u16(self, to: *mut u16, a: Self::U) {
        // SAFETY: `self` proves AVX-512. The caller promises 16 writable numbers.
        unsafe { _mm256_storeu_si256(to.cast(), _mm512_cvtepi32_epi16(a)) }
    }
}
