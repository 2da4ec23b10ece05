//! The machine's limits, with which other figures are compared: the loops of `selvedge_compute::peak`.
//!
//! `peak/multiply-add` counts floating-point operations, two for each multiply-add, so that criterion's Gelem/s are
//! GFLOP/s; `peak/read` and `peak/copy` count bytes read and written, in L1, in L2 and beyond.

mod common;

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use selvedge_compute::peak::{self, Caches, STEP};
use selvedge_compute::{Cpu, Threads};

/// Arithmetic on one thread and on all threads, which shows what a core loses when the others work too.
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
            measure(cpu, |cpu| peak::multiply_adds(cpu, 100_000));
        }
        if let Some(cpu) = common::amx() {
            measure(cpu, |cpu| peak::tile_products(cpu, 10_000));
        }
    }
    group.finish();
}

/// Reading and copying in L1, in L2 and beyond, on every instruction set. A quarter of L1 and half of L2 leave room for
/// other data.
fn memory(criterion: &mut Criterion) {
    let caches = Caches::detect();
    let levels = [("L1", caches.first / 4), ("L2", caches.second / 2), ("beyond", 256 << 20)];
    for (level, bytes) in levels {
        let len = (bytes / size_of::<f32>()).next_multiple_of(STEP);
        let from = common::numbers::<f32>(len);
        let mut to = common::numbers::<f32>(len / 2 / STEP * STEP);
        let half = &from[..to.len()];
        for (name, bytes) in [("peak/read", size_of_val(&from[..])), ("peak/copy", 2 * size_of_val(half))] {
            let mut group = criterion.benchmark_group(name);
            group.sampling_mode(SamplingMode::Flat);
            group.throughput(Throughput::BytesDecimal(bytes as u64));
            for cpu in common::vector_cpus() {
                group.bench_function(BenchmarkId::new(level, cpu.isa()), |bencher| match name {
                    "peak/read" => bencher.iter(|| peak::read(cpu, black_box(&from))),
                    _ => bencher.iter(|| peak::copy(cpu, black_box(half), &mut to)),
                });
            }
            group.finish();
        }
    }
}

criterion_group! { name = benches; config = common::settings(); targets = multiply_add, memory }
criterion_main!(benches);
