//! [`Simd`]: the vector operations that kernels are written in, once for every instruction set.
//!
//! An algorithm is a [`Kernel`]: a struct of its arguments with a generic `run`. [`dispatch`] picks the instruction set
//! that a [`Cpu`] proves and runs the kernel inside a function compiled for it. `run`, and what it calls for each
//! vector, must be `#[inline(always)]`, or the vector operations would be calls.
//!
//! AMX is not here: it has tiles, not vectors, and a microkernel of its own; elementwise work beside it uses AVX-512.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub mod math;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;

use half::bf16;

use crate::cpu::{Cpu, Isa};

use portable::Portable;

/// The widest vector of any instruction set, in f32 lanes; channels are padded to a multiple of it.
pub const MAX_LANES: usize = 16;

/// Vectors of f32 and the few operations that kernels need of them.
///
/// A value of the implementing type proves that its instructions may be used. Every implementation computes each
/// lane alike up to the rounding of `mul_add` (fused where the instruction set has it).
pub trait Simd: Copy + Send + Sync {
    /// A vector of [`Simd::LANES`] f32.
    type V: Copy;
    /// As many u32.
    type U: Copy;
    /// A condition for each lane.
    type M: Copy;
    /// Lanes of a vector: 16, 8 or 4, a divisor of [`MAX_LANES`].
    const LANES: usize;
    /// Vector registers.
    const REGISTERS: usize;
    /// The most panels of [`MAX_LANES`] columns that a register tile spans: 1 or 2.
    const TILE_PANELS: usize;

    /// Runs `kernel` in a function of its own, which has all registers for itself: for a loop that needs them, inside of
    /// code that would have the compiler keep other things there.
    fn outlined<K: Kernel>(self, kernel: K) -> K::Output;

    /// Runs `kernel` in a function of its own, with the register tile for `panels` panels, from 1 to
    /// [`Simd::TILE_PANELS`].
    ///
    /// A tile has a sum for each of its rows and columns, ROWS × VECTORS vectors: as many as registers hold beside the
    /// operands, and no fewer than hide the latency of a multiply-add. ROWS divides [`MAX_LANES`].
    fn in_tile<K: TileKernel>(self, panels: usize, kernel: K) -> K::Output;

    /// All lanes zero.
    fn zero(self) -> Self::V;
    /// All lanes `x`.
    fn splat(self, x: f32) -> Self::V;
    /// `LANES` numbers from `from` on.
    ///
    /// # Safety
    /// They must be readable.
    unsafe fn load(self, from: *const f32) -> Self::V;
    /// Writes `LANES` numbers from `to` on.
    ///
    /// # Safety
    /// They must be writable.
    unsafe fn store(self, to: *mut f32, v: Self::V);
    /// `LANES` bf16 numbers from `from` on, widened.
    ///
    /// # Safety
    /// They must be readable.
    unsafe fn load_bf16(self, from: *const bf16) -> Self::V;
    /// Prefetches the line of `from` into L2. `from` may be any address: nothing is read.
    fn prefetch<T>(self, from: *const T);
    /// Writes `LANES` bf16 numbers from `to` on, rounded to nearest even.
    ///
    /// # Safety
    /// They must be writable.
    unsafe fn store_bf16(self, to: *mut bf16, v: Self::V);
    /// The nearest bf16 numbers, ties to even: what a load gives back of a store.
    fn round_to_bf16(self, v: Self::V) -> Self::V;

    /// a + b
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    /// a − b
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    /// a · b
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// a / b
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// a · b + c
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The larger; `b` where either is NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// The smaller; `b` where either is NaN.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// √a
    fn sqrt(self, a: Self::V) -> Self::V;
    /// The nearest whole number, ties to even.
    fn round(self, a: Self::V) -> Self::V;
    /// 2ⁿ for a whole n between −126 and 127.
    fn pow2(self, n: Self::V) -> Self::V;
    /// a > b; false where either is NaN.
    fn gt(self, a: Self::V, b: Self::V) -> Self::M;
    /// a where the condition holds, else b.
    fn select(self, m: Self::M, a: Self::V, b: Self::V) -> Self::V;
    /// The sum of the lanes, always in the same order.
    fn sum(self, a: Self::V) -> f32;
    /// The largest lane.
    fn largest(self, a: Self::V) -> f32;

    /// The lanes' numbers: 0, 1, 2 …
    fn lane_numbers(self) -> Self::U;
    /// All lanes `x`.
    fn splat_u(self, x: u32) -> Self::U;
    /// a + b, wrapping.
    fn add_u(self, a: Self::U, b: Self::U) -> Self::U;
    /// a · b, wrapping.
    fn mul_u(self, a: Self::U, b: Self::U) -> Self::U;
    /// Exclusive or.
    fn xor_u(self, a: Self::U, b: Self::U) -> Self::U;
    /// a << BITS, zeros shifted in.
    fn shl_u<const BITS: i32>(self, a: Self::U) -> Self::U;
    /// a >> BITS, zeros shifted in.
    fn shr_u<const BITS: i32>(self, a: Self::U) -> Self::U;
    /// a < b, unsigned.
    fn lt_u(self, a: Self::U, b: Self::U) -> Self::M;
    /// a = b.
    fn eq_u(self, a: Self::U, b: Self::U) -> Self::M;
    /// a where the condition holds, else b.
    fn select_u(self, m: Self::M, a: Self::U, b: Self::U) -> Self::U;
    /// The bits of the f32.
    fn to_bits(self, a: Self::V) -> Self::U;
    /// The f32 of these bits.
    fn of_bits(self, a: Self::U) -> Self::V;
    /// The numbers, below 2³¹, as f32.
    fn to_f32(self, a: Self::U) -> Self::V;
    /// `LANES` bytes from `from` on, widened.
    ///
    /// # Safety
    /// They must be readable.
    unsafe fn load_u8(self, from: *const u8) -> Self::U;
    /// `LANES` u16 from `from` on, widened.
    ///
    /// # Safety
    /// They must be readable.
    unsafe fn load_u16(self, from: *const u16) -> Self::U;
    /// Writes `LANES` u16 from `to` on; the numbers must be below 65,536, or what is written is of no use.
    ///
    /// # Safety
    /// They must be writable.
    unsafe fn store_u16(self, to: *mut u16, a: Self::U);
}

/// Types that activations are stored in: f32 and bf16. Arithmetic is f32 for both.
pub trait Element: crate::aligned::Plain {
    /// Whether this is bf16.
    const IS_BF16: bool;
    /// Widens to f32.
    fn to_f32(self) -> f32;
    /// Rounds to nearest even.
    fn from_f32(x: f32) -> Self;
    /// A vector from `LANES` elements at `from`.
    ///
    /// # Safety
    /// They must be readable.
    unsafe fn load<S: Simd>(s: S, from: *const Self) -> S::V;
    /// Writes a vector as `LANES` elements at `to`.
    ///
    /// # Safety
    /// They must be writable.
    unsafe fn store<S: Simd>(s: S, to: *mut Self, v: S::V);
    /// What [`load`](Self::load) would give back of a stored `v`.
    fn round<S: Simd>(s: S, v: S::V) -> S::V;
}

impl Element for f32 {
    const IS_BF16: bool = false;
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
    #[inline(always)]
    fn from_f32(x: f32) -> Self {
        x
    }
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, from: *const Self) -> S::V {
        // SAFETY: the caller's promise is that of `Simd::load`.
        unsafe { s.load(from) }
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(s: S, to: *mut Self, v: S::V) {
        // SAFETY: the caller's promise is that of `Simd::store`.
        unsafe { s.store(to, v) }
    }
    #[inline(always)]
    fn round<S: Simd>(_: S, v: S::V) -> S::V {
        v
    }
}

impl Element for bf16 {
    const IS_BF16: bool = true;
    #[inline(always)]
    fn to_f32(self) -> f32 {
        bf16::to_f32(self)
    }
    #[inline(always)]
    fn from_f32(x: f32) -> Self {
        bf16::from_f32(x)
    }
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, from: *const Self) -> S::V {
        // SAFETY: the caller's promise is that of `Simd::load_bf16`.
        unsafe { s.load_bf16(from) }
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(s: S, to: *mut Self, v: S::V) {
        // SAFETY: the caller's promise is that of `Simd::store_bf16`.
        unsafe { s.store_bf16(to, v) }
    }
    #[inline(always)]
    fn round<S: Simd>(s: S, v: S::V) -> S::V {
        s.round_to_bf16(v)
    }
}

/// A vector algorithm with its arguments, to be run on whichever instruction set is there.
pub trait Kernel {
    /// What it returns.
    type Output;
    /// Runs it; mark the implementation `#[inline(always)]`.
    fn run<S: Simd>(self, s: S) -> Self::Output;
}

/// A [`Kernel`] whose sums are a tile of registers, of the shape that suits the instruction set ([`Simd::in_tile`]).
pub trait TileKernel {
    /// What it returns.
    type Output;
    /// Runs it with ROWS × VECTORS sums; mark the implementation `#[inline(always)]`.
    fn run<S: Simd, const ROWS: usize, const VECTORS: usize>(self, s: S) -> Self::Output;
}

/// A [`TileKernel`] in a tile of a known shape.
struct Tile<K, const ROWS: usize, const VECTORS: usize>(K);

impl<K: TileKernel, const ROWS: usize, const VECTORS: usize> Kernel for Tile<K, ROWS, VECTORS> {
    type Output = K::Output;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> K::Output {
        self.0.run::<S, ROWS, VECTORS>(s)
    }
}

/// Runs `kernel` on the instruction set that `cpu` proves.
#[inline]
pub fn dispatch<K: Kernel>(cpu: Cpu, kernel: K) -> K::Output {
    match cpu.isa() {
        Isa::Portable => kernel.run(Portable),
        // SAFETY: a `Cpu` exists only for an instruction set that was detected (`Cpu::with`).
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => unsafe { neon::enter(kernel) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { avx2::enter(kernel) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { avx512::enter(kernel) },
        // SAFETY: as above; AMX is reported only beside AVX-512 with bf16 (`cpu::detect`).
        #[cfg(target_arch = "x86_64")]
        Isa::Amx => unsafe { avx512::enter_bf16(kernel) },
        foreign => unreachable!("no Cpu of this processor proves {foreign}"),
    }
}

#[cfg(test)]
mod tests;
