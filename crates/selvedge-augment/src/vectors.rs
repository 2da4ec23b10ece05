//! Loops compiled for the widest vectors of the processor.
//!
//! The compiler vectorises for the baseline of the target, such as SSE2 on x86-64, unless a function enables more. The
//! loops of this crate are plain Rust; [`Vectors::run`] compiles them once for each instruction set that
//! [`selvedge_compute`] supports and calls those for the processor at hand. This neither fuses nor reorders
//! floating-point operations, so all instruction sets give the same bits.

use selvedge_compute::Cpu;
use selvedge_compute::simd::{Kernel, Simd, dispatch};

/// Elements per iteration of a loop: the number of 16-bit lanes of the widest vectors.
pub(crate) const GROUP: usize = 32;

/// The elements of one iteration, aligned to cache lines: a vector that spans two lines takes twice as long to load or
/// store.
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
    /// The instruction set that selvedge-compute uses, or its lowest if the environment asks for one that the machine
    /// lacks: selvedge-compute reports that error, and the results are the same.
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

    /// Calls `work` in a function compiled for the instruction set. The closure, and the functions that its loops call,
    /// must be `#[inline(always)]`; otherwise they are compiled for the baseline.
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
