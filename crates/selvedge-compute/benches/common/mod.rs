//! Shared by the benchmarks: instruction sets, numbers, settings.

use std::time::Duration;

use criterion::Criterion;
use selvedge_compute::simd::Element;
use selvedge_compute::{AlignedVec, Cpu};

/// Every instruction set of this machine, up to the one in `SELVEDGE_ISA`.
fn cpus() -> Vec<Cpu> {
    let most = Cpu::detect().unwrap_or_else(|error| panic!("{error}"));
    Cpu::all().into_iter().filter(|cpu| most.isa().includes(cpu.isa())).collect()
}

/// Those of [`cpus`] with vector kernels of their own: AMX uses those of AVX-512.
pub(crate) fn vector_cpus() -> Vec<Cpu> {
    cpus().into_iter().filter(|cpu| cpu.isa() == cpu.isa().vectors()).collect()
}

/// AMX, if it is one of [`cpus`].
pub(crate) fn amx() -> Option<Cpu> {
    cpus().into_iter().find(|cpu| cpu.isa().has_tiles())
}

/// `len` elements between −1 and 1, each a whole number of thousandths before rounding.
pub(crate) fn numbers<E: Element>(len: usize) -> AlignedVec<E> {
    let mut numbers = AlignedVec::zeroed(len);
    for (i, x) in numbers.iter_mut().enumerate() {
        *x = E::from_f32((i * 7919 % 2001) as f32 * 1e-3 - 1.0);
    }
    numbers
}

/// Ten samples in half a second: all figures of the crate take minutes, each repeatable within a few per cent.
pub(crate) fn settings() -> Criterion {
    Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(500))
        .nresamples(10_000)
        .without_plots()
}
