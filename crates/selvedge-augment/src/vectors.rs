//! Loops in the widest vectors of the processor.
//!
//! A compiler vectorises with what every x86-64 has, SSE2, unless a function is compiled for more. The loops of this
//! crate are plain Rust; [`Vectors::run`] has them compiled once for each instruction set that
//! [`selvedge_compute`] knows, and enters those for the processor at hand. Nothing is fused or added in another order
//! by that, so the results are the same in every bit.

use selvedge_compute::Cpu;
use selvedge_compute::simd::{Kernel, Simd, dispatch};

/// Numbers that a loop takes at a time: as many as the widest vectors have 16-bit lanes.
pub(crate) const GROUP: usize = 32;

/// As many numbers as a loop takes at a time, on whole cache lines: a vector that lies on two takes twice as long to
/// read or write.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub(crate) struct Group<T>(pub(crate) [T; GROUP]);

impl<T: Copy + Default> Default for Group<T> {
    fn default() -> Group<T> {
        Group([T::default(); GROUP])
    }
}

/// The instruction set that loops are run with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Vectors(Cpu);

impl Default for Vectors {
    /// What selvedge-compute uses. Where the environment asks it for something impossible, which it refuses itself,
    /// the least: results are the same.
    fn default() -> Vectors {
        Vectors(Cpu::detect().unwrap_or_else(|_| Cpu::all()[0]))
    }
}

impl Vectors {
    /// Every instruction set of this machine.
    #[cfg(test)]
    pub(crate) fn all() -> impl Iterator<Item = Vectors> {
        Cpu::all().into_iter().map(Vectors)
    }

    /// Does the work, in functions of the instruction set. The closure, and what it calls in its loops, must be
    /// `#[inline(always)]`, or it stays outside of them.
    #[inline]
    pub(crate) fn run<R>(self, work: impl FnOnce() -> R) -> R {
        struct Work<F>(F);
        impl<R, F: FnOnce() -> R> Kernel for Work<F> {
            type Output = R;
            #[inline(always)]
            fn run<S: Simd>(self, _: S) -> R {
                (self.0)()
            }
        }
        dispatch(self.0, Work(work))
    }
}
