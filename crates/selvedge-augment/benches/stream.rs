//! The cost of a new stream for every operation: the crate's generator against ChaCha8.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use selvedge_augment::{EpochKey, Stream};

fn streams(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("three draws of a new stream");
    let mut sample = 0u32;
    group.bench_function("splitmix", |bencher| {
        bencher.iter(|| {
            sample = sample.wrapping_add(1);
            let mut stream = Stream::for_sample(EpochKey { seed: 1, epoch: 2 }, sample).fork(3);
            black_box(stream.bits() ^ stream.bits() ^ stream.bits())
        });
    });
    group.bench_function("chacha8", |bencher| {
        bencher.iter(|| {
            sample = sample.wrapping_add(1);
            let mut seed = [0; 32];
            seed[..4].copy_from_slice(&sample.to_le_bytes());
            let mut stream = ChaCha8Rng::from_seed(seed);
            stream.set_stream(3);
            black_box(stream.next_u64() ^ stream.next_u64() ^ stream.next_u64())
        });
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = streams
}
criterion_main!(benches);
