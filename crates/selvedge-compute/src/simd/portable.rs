//! [`Simd`] in plain Rust: four lanes, which compilers turn into the 128-bit vectors every 64-bit processor has.

use half::bf16;

use super::{Kernel, Simd, Tile, TileKernel};

const LANES: usize = 4;

/// Plain Rust; there is nothing to prove.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

#[inline(always)]
fn map2<T: Copy, R: Copy + Default>(a: [T; LANES], b: [T; LANES], f: impl Fn(T, T) -> R) -> [R; LANES] {
    let mut r = [R::default(); LANES];
    for i in 0..LANES {
        r[i] = f(a[i], b[i]);
    }
    r
}

impl Simd for Portable {
    type V = [f32; LANES];
    type U = [u32; LANES];
    type M = [bool; LANES];
    const LANES: usize = LANES;
    const REGISTERS: usize = 16;
    const TILE_PANELS: usize = 1;

    #[inline(never)]
    fn outlined<K: Kernel>(self, kernel: K) -> K::Output {
        kernel.run(self)
    }
    #[inline(always)]
    fn in_tile<K: TileKernel>(self, _: usize, kernel: K) -> K::Output {
        // Four vectors are a panel: 8 sums.
        self.outlined(Tile::<K, 2, 4>(kernel))
    }
    #[inline(always)]
    fn zero(self) -> Self::V {
        [0.0; LANES]
    }
    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        [x; LANES]
    }
    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> Self::V {
        // SAFETY: the caller promises `LANES` readable numbers.
        unsafe { from.cast::<Self::V>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32, v: Self::V) {
        // SAFETY: the caller promises `LANES` writable numbers.
        unsafe { to.cast::<Self::V>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn load_bf16(self, from: *const bf16) -> Self::V {
        // SAFETY: the caller promises `LANES` readable numbers.
        unsafe { from.cast::<[bf16; LANES]>().read_unaligned() }.map(bf16::to_f32)
    }
    #[inline(always)]
    fn prefetch<T>(self, _: *const T) {}
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut bf16, v: Self::V) {
        // SAFETY: the caller promises `LANES` writable numbers.
        unsafe { to.cast::<[bf16; LANES]>().write_unaligned(v.map(bf16::from_f32)) }
    }
    #[inline(always)]
    fn round_to_bf16(self, v: Self::V) -> Self::V {
        v.map(|v| bf16::from_f32(v).to_f32())
    }

    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        map2(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        map2(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        map2(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        map2(a, b, |a, b| a / b)
    }
    #[inline(always)]
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // Two roundings: a fused `f32::mul_add` is a library call where the processor has no such instruction.
        self.add(self.mul(a, b), c)
    }
    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        map2(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        map2(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn sqrt(self, a: Self::V) -> Self::V {
        a.map(f32::sqrt)
    }
    #[inline(always)]
    fn round(self, a: Self::V) -> Self::V {
        a.map(f32::round_ties_even)
    }
    #[inline(always)]
    fn pow2(self, n: Self::V) -> Self::V {
        n.map(|n| f32::from_bits(((n as i32 + 127) as u32) << 23))
    }
    #[inline(always)]
    fn gt(self, a: Self::V, b: Self::V) -> Self::M {
        map2(a, b, |a, b| a > b)
    }
    #[inline(always)]
    fn select(self, m: Self::M, a: Self::V, b: Self::V) -> Self::V {
        let mut r = b;
        for i in 0..LANES {
            r[i] = if m[i] { a[i] } else { b[i] };
        }
        r
    }
    #[inline(always)]
    fn sum(self, a: Self::V) -> f32 {
        (a[0] + a[2]) + (a[1] + a[3])
    }
    #[inline(always)]
    fn largest(self, a: Self::V) -> f32 {
        a[0].max(a[1]).max(a[2].max(a[3]))
    }

    #[inline(always)]
    fn lane_numbers(self) -> Self::U {
        [0, 1, 2, 3]
    }
    #[inline(always)]
    fn splat_u(self, x: u32) -> Self::U {
        [x; LANES]
    }
    #[inline(always)]
    fn add_u(self, a: Self::U, b: Self::U) -> Self::U {
        map2(a, b, u32::wrapping_add)
    }
    #[inline(always)]
    fn mul_u(self, a: Self::U, b: Self::U) -> Self::U {
        map2(a, b, u32::wrapping_mul)
    }
    #[inline(always)]
    fn xor_u(self, a: Self::U, b: Self::U) -> Self::U {
        map2(a, b, |a, b| a ^ b)
    }
    #[inline(always)]
    fn shl_u<const BITS: i32>(self, a: Self::U) -> Self::U {
        a.map(|a| a << BITS)
    }
    #[inline(always)]
    fn shr_u<const BITS: i32>(self, a: Self::U) -> Self::U {
        a.map(|a| a >> BITS)
    }
    #[inline(always)]
    fn lt_u(self, a: Self::U, b: Self::U) -> Self::M {
        map2(a, b, |a, b| a < b)
    }
    #[inline(always)]
    fn eq_u(self, a: Self::U, b: Self::U) -> Self::M {
        map2(a, b, |a, b| a == b)
    }
    #[inline(always)]
    fn select_u(self, m: Self::M, a: Self::U, b: Self::U) -> Self::U {
        let mut r = b;
        for i in 0..LANES {
            r[i] = if m[i] { a[i] } else { b[i] };
        }
        r
    }
    #[inline(always)]
    fn to_bits(self, a: Self::V) -> Self::U {
        a.map(f32::to_bits)
    }
    #[inline(always)]
    fn of_bits(self, a: Self::U) -> Self::V {
        a.map(f32::from_bits)
    }
    #[inline(always)]
    fn to_f32(self, a: Self::U) -> Self::V {
        a.map(|a| a as i32 as f32)
    }
    #[inline(always)]
    unsafe fn load_u8(self, from: *const u8) -> Self::U {
        // SAFETY: the caller promises `LANES` readable bytes.
        unsafe { from.cast::<[u8; LANES]>().read_unaligned() }.map(u32::from)
    }
    #[inline(always)]
    unsafe fn load_u16(self, from: *const u16) -> Self::U {
        // SAFETY: the caller promises `LANES` readable numbers.
        unsafe { from.cast::<[u16; LANES]>().read_unaligned() }.map(u32::from)
    }
    #[inline(always)]
    unsafe fn store_u16(self, to: *mut u16, a: Self::U) {
        // SAFETY: the caller promises `LANES` writable numbers.
        unsafe { to.cast::<[u16; LANES]>().write_unaligned(a.map(|a| a as u16)) }
    }
}
