//! The machine's limits, for other figures to be read as shares of: arithmetic in registers, and reading and copying
//! memory, in loops that do nothing else.
//!
//! The functions do the work and count it; whoever calls them holds the watch. A roofline (Williams, Waterman and
//! Patterson, 2009) is made of them: no kernel does more operations a second than [`multiply_adds`], or [`tile_products`]
//! in bf16, and none that does `i` operations for each byte it moves does more than `i` times the bytes a second of
//! [`read`] or [`copy`] on operands of that size. [`Caches`] says which sizes matter.

mod caches;

use std::hint::black_box;

pub use caches::Caches;

use crate::amx::{Depth, ROWS, Registers, Tiles, with_tiles};
use crate::cpu::Cpu;
use crate::simd::{Kernel, MAX_LANES, Simd, dispatch};

/// Sums that wait for nothing but themselves: more than two ports times the latency of 4 cycles, and with the factor they fit
/// into 16 registers.
const CHAINS: usize = 12;

/// The same where there are 32 registers, since some processors with NEON have four ports.
const MORE_CHAINS: usize = 24;

/// Vectors that [`read`] loads and [`copy`] moves at a time: enough to keep every load under way.
const UNROLL: usize = 8;

/// [`read`] and [`copy`] take slices of a multiple of this many elements.
pub const STEP: usize = UNROLL * MAX_LANES;

/// `rounds` of independent fused multiply-adds of f32 vectors in registers, with nothing loaded or stored between.
/// The number of floating-point operations done, two for each multiply-add.
///
/// ```
/// use selvedge_compute::{Cpu, peak};
/// let cpu = Cpu::detect()?;
/// assert_eq!(peak::multiply_adds(cpu, 20), 2 * peak::multiply_adds(cpu, 10));
/// # Ok::<(), selvedge_compute::CpuError>(())
/// ```
pub fn multiply_adds(cpu: Cpu, rounds: usize) -> u64 {
    dispatch(cpu, MultiplyAdds { rounds })
}

/// `rounds` of four independent products of bf16 tiles, all in tile registers. The number of floating-point operations
/// done, two for each multiply-add.
///
/// # Panics
/// If `cpu` does not prove AMX, or there are no rounds.
///
/// ```
/// use selvedge_compute::{Cpu, Precision, peak};
/// let cpu = Cpu::detect()?;
/// if cpu.check(Precision::Bf16).is_ok() {
///     assert_eq!(peak::tile_products(cpu, 3), 3 * 4 * 2 * 16 * 16 * 32);
/// }
/// # Ok::<(), selvedge_compute::CpuError>(())
/// ```
pub fn tile_products(cpu: Cpu, rounds: u64) -> u64 {
    assert!(rounds > 0, "no rounds of products");
    with_tiles(cpu, Depth::ThirtyTwo, Registers::Square, ROWS, |tiles| multiply_tiles(tiles, rounds));
    4 * rounds * 2 * 16 * 16 * 32
}

/// Reads all of `data` with vector loads, and adds it up, which costs nothing beside the loads. The sum, so that
/// nothing is left out.
///
/// # Panics
/// If the length is no multiple of [`STEP`].
///
/// ```
/// use selvedge_compute::{AlignedVec, Cpu, peak};
/// let data = AlignedVec::from_slice(&vec![1.0; 4 * peak::STEP]);
/// assert_eq!(peak::read(Cpu::detect()?, &data), 4.0 * peak::STEP as f32);
/// # Ok::<(), selvedge_compute::CpuError>(())
/// ```
pub fn read(cpu: Cpu, data: &[f32]) -> f32 {
    assert!(data.len().is_multiple_of(STEP), "{} elements are no multiple of {STEP}", data.len());
    dispatch(cpu, Read { data })
}

/// Copies `from` to `to` with vector loads and stores: as many bytes read as written.
///
/// # Panics
/// If the lengths differ or are no multiple of [`STEP`].
///
/// ```
/// use selvedge_compute::{AlignedVec, Cpu, peak};
/// let from = AlignedVec::from_slice(&[3.0; peak::STEP]);
/// let mut to = AlignedVec::zeroed(peak::STEP);
/// peak::copy(Cpu::detect()?, &from, &mut to);
/// assert_eq!(from[..], to[..]);
/// # Ok::<(), selvedge_compute::CpuError>(())
/// ```
pub fn copy(cpu: Cpu, from: &[f32], to: &mut [f32]) {
    assert_eq!(from.len(), to.len(), "the lengths of both sides of a copy");
    assert!(from.len().is_multiple_of(STEP), "{} elements are no multiple of {STEP}", from.len());
    dispatch(cpu, Copy { from, to });
}

struct MultiplyAdds {
    rounds: usize,
}

impl Kernel for MultiplyAdds {
    /// Operations done.
    type Output = u64;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> u64 {
        if S::REGISTERS >= 32 { self.in_chains::<S, MORE_CHAINS>(s) } else { self.in_chains::<S, CHAINS>(s) }
    }
}

impl MultiplyAdds {
    #[inline(always)]
    fn in_chains<S: Simd, const CHAINS: usize>(self, s: S) -> u64 {
        // Through memory, before and after, so that plain Rust becomes vectors, too. The factor leaves the sums as they are.
        let mut numbers = black_box([[0.5; MAX_LANES]; CHAINS]);
        let factor = black_box([f32::EPSILON / 8.0; MAX_LANES]);
        let mut chains = [s.zero(); CHAINS];
        // SAFETY: `factor` and every row of `numbers` have MAX_LANES elements, room for the widest vector.
        let factor = unsafe {
            for (chain, row) in chains.iter_mut().zip(&numbers) {
                *chain = s.load(row.as_ptr());
            }
            s.load(factor.as_ptr())
        };
        for _ in 0..self.rounds {
            for chain in &mut chains {
                // Added to itself: NEON's instruction leaves the sum in the register of what it adds to.
                *chain = s.mul_add(*chain, factor, *chain);
            }
        }
        for (chain, row) in chains.into_iter().zip(&mut numbers) {
            // SAFETY: as above.
            unsafe { s.store(row.as_mut_ptr(), chain) };
        }
        black_box(numbers);
        (2 * self.rounds * CHAINS * S::LANES) as u64
    }
}

struct Read<'a> {
    data: &'a [f32],
}

impl Kernel for Read<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let mut sums = [s.zero(); UNROLL];
        for start in (0..self.data.len()).step_by(UNROLL * S::LANES) {
            for (i, sum) in sums.iter_mut().enumerate() {
                // SAFETY: `read` asserted a multiple of STEP elements, which is one of UNROLL vectors.
                *sum = s.add(*sum, unsafe { s.load(self.data.as_ptr().add(start + i * S::LANES)) });
            }
        }
        s.sum(sums.into_iter().fold(s.zero(), |all, sum| s.add(all, sum)))
    }
}

struct Copy<'a> {
    from: &'a [f32],
    to: &'a mut [f32],
}

impl Kernel for Copy<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (from, to) = (self.from.as_ptr(), self.to.as_mut_ptr());
        for start in (0..self.to.len()).step_by(UNROLL * S::LANES) {
            for i in 0..UNROLL {
                let at = start + i * S::LANES;
                // SAFETY: `copy` asserted equal lengths, a multiple of STEP elements, which is one of UNROLL vectors.
                unsafe { s.store(to.add(at), s.load(from.add(at))) };
            }
        }
    }
}

/// The products of [`tile_products`]. What is in the tiles does not matter: they start from zero.
#[cfg(target_arch = "x86_64")]
fn multiply_tiles(_: &Tiles, rounds: u64) {
    // SAFETY: `Tiles` proves AMX and configured tiles. They are clobbers, no memory is touched, and `tile_products`
    // asserted at least one round.
    unsafe {
        std::arch::asm!(
            "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
            "tilezero tmm4", "tilezero tmm5", "tilezero tmm6", "tilezero tmm7",
            "2:",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "dec {rounds}",
            "jnz 2b",
            rounds = inout(reg) rounds => _,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack, nomem),
        );
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn multiply_tiles(_: &Tiles, _: u64) {
    unreachable!("no Tiles exist without AMX")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::AlignedVec;

    struct Lanes;

    impl Kernel for Lanes {
        type Output = [usize; 2];
        #[inline(always)]
        fn run<S: Simd>(self, _: S) -> [usize; 2] {
            [S::LANES, S::REGISTERS]
        }
    }

    #[test]
    fn operations_are_counted_by_lanes() {
        for cpu in crate::test_support::cpus() {
            let [lanes, registers] = dispatch(cpu, Lanes);
            let chains = if registers < 32 { 12 } else { 24 };
            assert_eq!(multiply_adds(cpu, 7), (7 * 2 * lanes * chains) as u64, "{}", cpu.isa());
            if cpu.isa().has_tiles() {
                assert_eq!(tile_products(cpu, 5), 5 * 65_536);
            }
        }
    }

    #[test]
    fn all_is_read_and_all_is_copied() {
        let data = AlignedVec::from_slice(&(0..3 * STEP).map(|i| (i % 251) as f32).collect::<Vec<_>>());
        let expected: f32 = data.iter().sum();
        for cpu in crate::test_support::cpus() {
            // Whole numbers below 2²⁴: no sum is rounded, in whatever order.
            assert_eq!(read(cpu, &data), expected, "{}", cpu.isa());
            let mut to = AlignedVec::zeroed(data.len());
            copy(cpu, &data, &mut to);
            assert_eq!(to[..], data[..], "{}", cpu.isa());
        }
    }

    #[test]
    #[should_panic(expected = "130 elements")]
    fn lengths_are_checked() {
        read(crate::Cpu::detect().unwrap(), &[0.0; 130]);
    }
}
