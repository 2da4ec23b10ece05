//! [`Simd`] on AVX2 with fused multiply-add: eight lanes.

use std::arch::x86_64::*;

use half::bf16;

use super::{Kernel, Simd, Tile, TileKernel};

/// Proof that AVX2 and FMA are there: made only by [`enter`].
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

/// Runs `kernel` in a function compiled for AVX2 with FMA.
///
/// # Safety
/// The processor must have AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn enter<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx2(()))
}

impl Avx2 {
    /// The bits of `v` rounded to bf16 as on AVX-512, those of the bf16 in the upper half.
    #[inline(always)]
    fn rounded_bits(self, v: __m256) -> __m256i {
        // SAFETY: `self` proves AVX2 and FMA.
        unsafe {
            let bits = _mm256_castps_si256(v);
            let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
            let rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
            let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(v, v));
            let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x0040_0000));
            _mm256_blendv_epi8(rounded, quiet, nan)
        }
    }
}

// SAFETY of every block below: an `Avx2` exists only inside `enter`, whose caller proved the instruction set.
impl Simd for Avx2 {
    type V = __m256;
    type U = __m256i;
    type M = __m256;
    const LANES: usize = 8;
    const REGISTERS: usize = 16;
    const TILE_PANELS: usize = 1;

    #[inline(never)]
    fn outlined<K: Kernel>(self, kernel: K) -> K::Output {
        // SAFETY: `self` proves AVX2 and FMA.
        unsafe { enter(kernel) }
    }
    #[inline(always)]
    fn in_tile<K: TileKernel>(self, _: usize, kernel: K) -> K::Output {
        // Two vectors are a panel: 8 sums, with 2 loads and 4 broadcasts for 8 multiply-adds.
        self.outlined(Tile::<K, 4, 2>(kernel))
    }
    #[inline(always)]
    fn zero(self) -> Self::V {
        // SAFETY: `self` proves AVX2 and FMA.
        unsafe { _mm256_setzero_ps() }
    }
    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        // SAFETY: `self` proves AVX2 and FMA.
        unsafe { _mm256_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> Self::V {
        // SAFETY: `self` proves AVX2 and FMA. The caller promises 8 readable numbers.
        unsafe { _mm256_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32, v: Self::V) {
        // SAFETY: `self` proves AVX2 and FMA. The caller promises 8 writable numbers.
        unsafe { _mm256_storeu_ps(to, v) }
    }
    #[inline(always)]
    unsafe fn load_bf16(self, from: *const bf16) -> Self::V {
        // SAFETY: `self` proves AVX2 and FMA. The caller promises 8 readable numbers.
        unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast())))) }
    }
    #[inline(always)]
    fn prefetch<T>(self, from: *const T) {
        // SAFETY: every x86-64 processor has the instruction, and it accesses no memory that a program could tell.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(from.cast()) }
    }
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut bf16, v: Self::V) {
        // The pack works within 128-bit halves, so the halves are joined after it.
        // SAFETY: `self` proves AVX2 and FMA. The caller promises 8 writable numbers.
        unsafe {
            let high = _mm256_srli_epi32::<16>(self.rounded_bits(v));
            let packed = _mm_packus_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256::<1>(high));
            _mm_storeu_si128(to.cast(), packed);
        }
    }
    #[inline(always)]
    fn round_to_bf16(self, v: Self::V) -> Self::V {
        // SAFETY: `self` proves AVX2 and FMA.
        unsafe {
            let kept = _mm256_set1_epi32(!0xffff);
            _mm256_castsi256_ps(_mm256_and_si256(self.rounded_bits(v), kept))
        }
    }

    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: `self` proves AVX2 and FMA.
        unsafe { _mm256_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: `self` proves AVX2 and FMA.
        unsafe { _mm256_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: `self` proves AVX2 and FMA.
        unsafe { _mm256_mul_ps(a, b) }
    }
    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: `self` proves AVX2 and FMA.
        unsafe { _mm256_div_ps(a, b) }
    }
    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: `self` proves AVX2 and FMA.
        unsafe { _mm256_max_ps(a, b) }
    }
    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: `self` proves AVX2 and FMA.
        unsafe { _mm256_min_ps(a, b) }
    }
    #[inline(always)]
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // SAFETY: `self` proves AVX2 and FMA.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn sqrt(self, a: Self::V) -> Self::V {
        // SAFETY: `self` proves AVX2 and FMA.
        unsafe { _mm256_sqrt_ps(a) }
    }
    #[inline(always)]
    fn round(self, a: Self::V) -> Self::V {
        // SAFETY: `self` proves AVX2 and FMA.
        unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }
    #[inline(always)]
    fn pow2(self, n: Self::V) -> Self::V {
        // SAFETY: `self` proves AVX2 and FMA.
        unsafe {
            _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(
                _mm256_cvtps_epi32(n),
                _mm256_set1_epi32(127),
            )))
        }
    }
    #[inline(always)]
    fn gt(self, a: Self::V, b: Self::V) -> Self::M {
        // SAFETY: `self` proves AVX2 and FMA.
        unsafe { _mm256_cmp_ps::<_CMP_GT_OQ>(a, b) }
    }
    #[inline(always)]
    fn select(self, m: Self::M, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: `self` proves AVX2 and FMA.
        unsafe { _mm256_blendv_ps(b, a, m) }
    }
    #[inline(always)]
    fn sum(self, a: Self::V) -> f32 {
        // SAFETY: `self` proves AVX2 and FMA.
        unsafe {
            let halves = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let pairs = _mm_add_ps(halves, _mm_movehl_ps(halves, halves));
            _mm_cvtss_f32(_mm_add_ss(pairs, _mm_movehdup_ps(pairs)))
        }
    }
    #[inline(always)]
    fn largest(self, a: Self::V) -> f32 {
        // SAFETY: `self` proves AVX2 and FMA.
        unsafe {
            let halves = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let pairs = _mm_max_ps(halves, _mm_movehl_ps(halves, halves));
            _mm_cvtss_f32(_mm_max_ss(pairs, _mm_movehdup_ps(pairs)))
        }
    }

    #[inline(always)]
    fn lane_numbers(self) -> Self::U {
        // SAFETY: `self` proves AVX2 and FMA.
        unsafe { _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7) }
    }
    #[inline(always)]
    fn splat_u(self, x: u32) -> Self::U {
        // SAFETY: `self` proves AVX2 and FMA.
        unsafe { _mm256_set1_epi32(x as i32) }
    }
    #[inline(always)]
    fn add_u(self, a: Self::U, b: Self::U) -> Self::U {
        // SAFETY: `self` proves AVX2 and FMA.
        unsafe { _mm256_add_epi32(a, b) }
    }
    #[inline(always)]
    fn mul_u(self, a: Self::U, b: Self::U) -> Self::U {
        // SAFETY: `self` proves AVX2 and FMA.
        unsafe { _mm256_mullo_epi32(a, b) }
    }
    #[inline(always)]
    fn xor_u(self, a: Self::U, b: Self::U) -> Self::U {
        // SAFETY: `self` proves AVX2 and FMA.
        unsafe { _mm256_xor_si256(a, b) }
    }
    #[inline(always)]
    fn shl_u<const BITS: i32>(self, a: Self::U) -> Self::U {
        // SAFETY: `self` proves AVX2 and FMA.
        unsafe { _mm256_sll_epi32(a, _mm_cvtsi32_si128(BITS)) }
    }
    #[inline(always)]
    fn shr_u<const BITS: i32>(self, a: Self::U) -> Self::U {
        // SAFETY: `self` proves AVX2 and FMA.
        unsafe { _mm256_srl_epi32(a, _mm_cvtsi32_si128(BITS)) }
    }
    #[inline(always)]
    fn lt_u(self, a: Self::U, b: Self::U) -> Self::M {
        // AVX2 compares signed numbers only: flipping the top bit of both keeps the unsigned order.
        // SAFETY: `self` proves AVX2 and FMA.
        unsafe {
            let top = _mm256_set1_epi32(i32::MIN);
            _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_xor_si256(b, top), _mm256_xor_si256(a, top)))
        }
    }
    #[inline(always)]
    fn eq_u(self, a: Self::U, b: Self::U) -> Self::M {
        // SAFETY: `self` proves AVX2 and FMA.
        unsafe { _mm256_castsi256_ps(_mm256_cmpeq_epi32(a, b)) }
    }
    #[inline(always)]
    fn select_u(self, m: Self::M, a: Self::U, b: Self::U) -> Self::U {
        // SAFETY: `self` proves AVX2 and FMA.
        unsafe { _mm256_blendv_epi8(b, a, _mm256_castps_si256(m)) }
    }
    #[inline(always)]
    fn to_bits(self, a: Self::V) -> Self::U {
        // SAFETY: `self` proves AVX2 and FMA.
        unsafe { _mm256_castps_si256(a) }
    }
    #[inline(always)]
    fn of_bits(self, a: Self::U) -> Self::V {
        // SAFETY: `self` proves AVX2 and FMA.
        unsafe { _mm256_castsi256_ps(a) }
    }
    #[inline(always)]
    fn to_f32(self, a: Self::U) -> Self::V {
        // SAFETY: `self` proves AVX2 and FMA.
        unsafe { _mm256_cvtepi32_ps(a) }
    }
    #[inline(always)]
    unsafe fn load_u8(self, from: *const u8) -> Self::U {
        // SAFETY: `self` proves AVX2 and FMA. The caller promises 8 readable bytes.
        unsafe { _mm256_cvtepu8_epi32(_mm_loadl_epi64(from.cast())) }
    }
    #[inline(always)]
    unsafe fn load_u16(self, from: *const u16) -> Self::U {
        // SAFETY: `self` proves AVX2 and FMA. The caller promises 8 readable numbers.
        unsafe { _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast())) }
    }
    #[inline(always)]
    unsafe fn store_u16(self, to: *mut u16, a: Self::U) {
        // SAFETY: `self` proves AVX2 and FMA. The caller promises 8 writable numbers.
        unsafe {
            let packed = _mm_packus_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256::<1>(a));
            _mm_storeu_si128(to.cast(), packed);
        }
    }
}
