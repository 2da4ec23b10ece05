//! [`Simd`] on NEON, the vectors of 64-bit ARM processors: four lanes, fused multiply-add, 32 registers.

use std::arch::aarch64::*;

use half::bf16;

use super::{Kernel, Simd, Tile, TileKernel};

/// Proof that NEON is there: made only by [`enter`].
#[derive(Clone, Copy)]
pub(crate) struct Neon(());

/// Runs `kernel` in a function compiled for NEON.
///
/// # Safety
/// The processor must have NEON.
#[target_feature(enable = "neon")]
pub(super) unsafe fn enter<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Neon(()))
}

impl Neon {
    /// The bits of `v` rounded to bf16, those of the bf16 in the upper half.
    ///
    /// Rounds to nearest even by adding half a unit, and one more where the kept part is odd. NaN stays NaN: its kept bits are
    /// set separately, since the addition could carry out of them.
    #[inline(always)]
    fn rounded_bits(self, v: float32x4_t) -> uint32x4_t {
        // SAFETY: `self` proves NEON.
        unsafe {
            let bits = vreinterpretq_u32_f32(v);
            let odd = vandq_u32(vshrq_n_u32::<16>(bits), vdupq_n_u32(1));
            let rounded = vaddq_u32(vaddq_u32(bits, vdupq_n_u32(0x7fff)), odd);
            let quiet = vorrq_u32(bits, vdupq_n_u32(0x0040_0000));
            vbslq_u32(vceqq_f32(v, v), rounded, quiet)
        }
    }
}

// SAFETY of every block below: a `Neon` exists only inside `enter`, whose caller proved the instruction set.
impl Simd for Neon {
    type V = float32x4_t;
    type U = uint32x4_t;
    type M = uint32x4_t;
    const LANES: usize = 4;
    const REGISTERS: usize = 32;
    const TILE_PANELS: usize = 1;

    #[inline(never)]
    fn outlined<K: Kernel>(self, kernel: K) -> K::Output {
        // SAFETY: `self` proves NEON.
        unsafe { enter(kernel) }
    }
    #[inline(always)]
    fn in_tile<K: TileKernel>(self, _: usize, kernel: K) -> K::Output {
        // Four vectors are a panel: 16 sums, what hides a latency of 4 cycles on the four ports of the widest cores. More rows
        // would have to divide 16, and the sums of eight fill all registers.
        self.outlined(Tile::<K, 4, 4>(kernel))
    }
    #[inline(always)]
    fn zero(self) -> Self::V {
        self.splat(0.0)
    }
    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        // SAFETY: `self` proves NEON.
        unsafe { vdupq_n_f32(x) }
    }
    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> Self::V {
        // SAFETY: `self` proves NEON. The caller promises 4 readable numbers.
        unsafe { vld1q_f32(from) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32, v: Self::V) {
        // SAFETY: `self` proves NEON. The caller promises 4 writable numbers.
        unsafe { vst1q_f32(to, v) }
    }
    #[inline(always)]
    unsafe fn load_bf16(self, from: *const bf16) -> Self::V {
        // SAFETY: `self` proves NEON. The caller promises 4 readable numbers.
        unsafe { vreinterpretq_f32_u32(vshll_n_u16::<16>(vld1_u16(from.cast()))) }
    }
    #[inline(always)]
    fn prefetch<T>(self, from: *const T) {
        // SAFETY: every aarch64 processor has the instruction, which accesses no memory that a program could tell.
        unsafe {
            std::arch::asm!("prfm pldl2keep, [{0}]", in(reg) from.addr(), options(nomem, nostack, preserves_flags));
        }
    }
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut bf16, v: Self::V) {
        // SAFETY: `self` proves NEON. The caller promises 4 writable numbers.
        unsafe { vst1_u16(to.cast(), vshrn_n_u32::<16>(self.rounded_bits(v))) }
    }
    #[inline(always)]
    fn round_to_bf16(self, v: Self::V) -> Self::V {
        // SAFETY: `self` proves NEON.
        unsafe { vreinterpretq_f32_u32(vandq_u32(self.rounded_bits(v), vdupq_n_u32(!0xffff))) }
    }

    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: `self` proves NEON.
        unsafe { vaddq_f32(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: `self` proves NEON.
        unsafe { vsubq_f32(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: `self` proves NEON.
        unsafe { vmulq_f32(a, b) }
    }
    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: `self` proves NEON.
        unsafe { vdivq_f32(a, b) }
    }
    #[inline(always)]
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // SAFETY: `self` proves NEON.
        unsafe { vfmaq_f32(c, b, a) }
    }
    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        // The instruction for it gives NaN where `a` alone is NaN.
        self.select(self.gt(a, b), a, b)
    }
    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        self.select(self.gt(b, a), a, b)
    }
    #[inline(always)]
    fn sqrt(self, a: Self::V) -> Self::V {
        // SAFETY: `self` proves NEON.
        unsafe { vsqrtq_f32(a) }
    }
    #[inline(always)]
    fn round(self, a: Self::V) -> Self::V {
        // SAFETY: `self` proves NEON.
        unsafe { vrndnq_f32(a) }
    }
    #[inline(always)]
    fn pow2(self, n: Self::V) -> Self::V {
        // SAFETY: `self` proves NEON.
        unsafe { vreinterpretq_f32_s32(vshlq_n_s32::<23>(vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127)))) }
    }
    #[inline(always)]
    fn gt(self, a: Self::V, b: Self::V) -> Self::M {
        // SAFETY: `self` proves NEON.
        unsafe { vcgtq_f32(a, b) }
    }
    #[inline(always)]
    fn select(self, m: Self::M, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: `self` proves NEON.
        unsafe { vbslq_f32(m, a, b) }
    }
    #[inline(always)]
    fn sum(self, a: Self::V) -> f32 {
        // SAFETY: `self` proves NEON.
        unsafe {
            let halves = vadd_f32(vget_low_f32(a), vget_high_f32(a));
            vget_lane_f32::<0>(vpadd_f32(halves, halves))
        }
    }
    #[inline(always)]
    fn largest(self, a: Self::V) -> f32 {
        // SAFETY: `self` proves NEON.
        unsafe { vmaxnmvq_f32(a) }
    }

    #[inline(always)]
    fn lane_numbers(self) -> Self::U {
        const NUMBERS: [u32; 4] = [0, 1, 2, 3];
        // SAFETY: `self` proves NEON; the array has the 4 numbers that are read.
        unsafe { vld1q_u32(NUMBERS.as_ptr()) }
    }
    #[inline(always)]
    fn splat_u(self, x: u32) -> Self::U {
        // SAFETY: `self` proves NEON.
        unsafe { vdupq_n_u32(x) }
    }
    #[inline(always)]
    fn add_u(self, a: Self::U, b: Self::U) -> Self::U {
        // SAFETY: `self` proves NEON.
        unsafe { vaddq_u32(a, b) }
    }
    #[inline(always)]
    fn mul_u(self, a: Self::U, b: Self::U) -> Self::U {
        // SAFETY: `self` proves NEON.
        unsafe { vmulq_u32(a, b) }
    }
    #[inline(always)]
    fn xor_u(self, a: Self::U, b: Self::U) -> Self::U {
        // SAFETY: `self` proves NEON.
        unsafe { veorq_u32(a, b) }
    }
    #[inline(always)]
    fn shl_u<const BITS: i32>(self, a: Self::U) -> Self::U {
        // SAFETY: `self` proves NEON.
        unsafe { vshlq_u32(a, vdupq_n_s32(BITS)) }
    }
    #[inline(always)]
    fn shr_u<const BITS: i32>(self, a: Self::U) -> Self::U {
        // A shift to the left by a negative number, which the compiler makes one to the right by a constant.
        // SAFETY: `self` proves NEON.
        unsafe { vshlq_u32(a, vdupq_n_s32(-BITS)) }
    }
    #[inline(always)]
    fn lt_u(self, a: Self::U, b: Self::U) -> Self::M {
        // SAFETY: `self` proves NEON.
        unsafe { vcltq_u32(a, b) }
    }
    #[inline(always)]
    fn eq_u(self, a: Self::U, b: Self::U) -> Self::M {
        // SAFETY: `self` proves NEON.
        unsafe { vceqq_u32(a, b) }
    }
    #[inline(always)]
    fn select_u(self, m: Self::M, a: Self::U, b: Self::U) -> Self::U {
        // SAFETY: `self` proves NEON.
        unsafe { vbslq_u32(m, a, b) }
    }
    #[inline(always)]
    fn to_bits(self, a: Self::V) -> Self::U {
        // SAFETY: `self` proves NEON.
        unsafe { vreinterpretq_u32_f32(a) }
    }
    #[inline(always)]
    fn of_bits(self, a: Self::U) -> Self::V {
        // SAFETY: `self` proves NEON.
        unsafe { vreinterpretq_f32_u32(a) }
    }
    #[inline(always)]
    fn to_f32(self, a: Self::U) -> Self::V {
        // SAFETY: `self` proves NEON.
        unsafe { vcvtq_f32_u32(a) }
    }
    #[inline(always)]
    unsafe fn load_u8(self, from: *const u8) -> Self::U {
        // SAFETY: `self` proves NEON. The caller promises 4 readable bytes, a vector of half the usual length.
        unsafe {
            let bytes = vcreate_u8(u64::from(from.cast::<u32>().read_unaligned()));
            vmovl_u16(vget_low_u16(vmovl_u8(bytes)))
        }
    }
    #[inline(always)]
    unsafe fn load_u16(self, from: *const u16) -> Self::U {
        // SAFETY: `self` proves NEON. The caller promises 4 readable numbers.
        unsafe { vmovl_u16(vld1_u16(from)) }
    }
    #[inline(always)]
    unsafe fn store_u16(self, to: *mut u16, a: Self::U) {
        // SAFETY: `self` proves NEON. The caller promises 4 writable numbers.
        unsafe { vst1_u16(to, vmovn_u32(a)) }
    }
}
