//! The machine's limits, for other figures to be read as shares of: arithmetic in registers and copies of memory.
//!
//! `peak/multiply-add` counts floating-point operations, two for each multiply-add, so that criterion's Gelem/s are
//! GFLOP/s; `peak/copy` counts bytes read and written.

mod common;

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use selvedge_compute::simd::{Kernel, MAX_LANES, Simd, dispatch};
use selvedge_compute::{Cpu, Isa, Threads};

/// Sums that wait for nothing but themselves: more than two ports times the latency of 4 cycles, and with both factors
/// they fit into 16 registers.
const CHAINS: usize = 12;

/// A loop of multiply-adds that touches no memory.
struct MultiplyAdds {
    rounds: usize,
}

impl Kernel for MultiplyAdds {
    /// Operations done.
    type Output = u64;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> u64 {
        // Through memory, before and after, so that plain Rust becomes vectors, too.
        let mut numbers = black_box([[0.5; MAX_LANES]; CHAINS + 2]);
        let mut chains = [s.zero(); CHAINS];
        // SAFETY: every row of `numbers` has room for the widest vector.
        let (factor, term) = unsafe {
            for (chain, row) in chains.iter_mut().zip(&numbers) {
                *chain = s.load(row.as_ptr());
            }
            (s.load(numbers[CHAINS].as_ptr()), s.load(numbers[CHAINS + 1].as_ptr()))
        };
        for _ in 0..self.rounds {
            for chain in &mut chains {
                *chain = s.mul_add(*chain, factor, term);
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

/// The same on AMX tiles, of zeros; the number of operations.
#[cfg(target_arch = "x86_64")]
fn tile_products(cpu: Cpu, rounds: u64) -> u64 {
    #[repr(C, align(64))]
    struct Config([u8; 64]);

    assert!(cpu.isa() == Isa::Amx && rounds > 0);
    let mut config = Config([0; 64]);
    config.0[0] = 1; // palette
    for tile in 0..8 {
        config.0[16 + 2 * tile] = 64; // bytes of a row
        config.0[48 + tile] = 16; // rows
    }
    // SAFETY: `cpu` proves AMX. The configuration is 64 valid bytes, the tiles are clobbers and released at the end.
    unsafe {
        std::arch::asm!(
            "ldtilecfg [{config}]",
            "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
            "tilezero tmm4", "tilezero tmm5", "tilezero tmm6", "tilezero tmm7",
            "2:",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "dec {rounds}",
            "jnz 2b",
            "tilerelease",
            config = in(reg) &config,
            rounds = inout(reg) rounds => _,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack, readonly),
        );
    }
    4 * rounds * 2 * 16 * 16 * 32
}

#[cfg(not(target_arch = "x86_64"))]
fn tile_products(cpu: Cpu, _: u64) -> u64 {
    unreachable!("{} is an instruction set of x86-64", cpu.isa())
}

/// Arithmetic on one thread and on all, which says what a core loses when the others work too.
fn multiply_add(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("peak/multiply-add");
    group.sampling_mode(SamplingMode::Flat);
    let mut counts = vec![1, Threads::available()];
    counts.dedup();
    for count in counts {
        let threads = Threads::new(count).expect("a pool of threads");
        let mut measure = |cpu: Cpu, loops: fn(Cpu) -> u64| {
            group.throughput(Throughput::Elements(loops(cpu) * count as u64));
            group.bench_function(BenchmarkId::new(format!("threads={count}"), cpu.isa()), |bencher| {
                threads.install(|| bencher.iter(|| rayon::broadcast(|_| loops(cpu))));
            });
        };
        for cpu in common::vector_cpus() {
            measure(cpu, |cpu| dispatch(cpu, MultiplyAdds { rounds: 100_000 }));
        }
        if let Some(cpu) = common::amx() {
            measure(cpu, |cpu| tile_products(cpu, 10_000));
        }
    }
    group.finish();
}

/// Copies within the second cache, which a block of a layer fits into, and through memory.
fn copy(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("peak/copy");
    for (name, len) in [("400 KB", 100_000), ("256 MB", 64_000_000)] {
        let from = common::numbers::<f32>(len);
        let mut to = common::numbers::<f32>(len);
        group.sampling_mode(SamplingMode::Flat);
        group.throughput(Throughput::BytesDecimal(2 * 4 * len as u64));
        group.bench_function(name, |bencher| bencher.iter(|| black_box(&mut to).copy_from_slice(black_box(&from))));
    }
    group.finish();
}

criterion_group! { name = benches; config = common::settings(); targets = multiply_add, copy }
criterion_main!(benches);
