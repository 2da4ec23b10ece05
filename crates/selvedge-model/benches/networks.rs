//! Training steps and predictions of whole networks, those of `networks.toml`, on all threads.
//!
//! Figures count images. A step is a training pass over a batch of random pixels, its gradients not used: what an
//! optimizer and a loader add, `cargo xtask profile --recipe` shows. Before the first measurement of a network its weights
//! are packed and its memory has been touched. Predictions are made on a worker of the network's pool, as
//! [`Network::predict`] recommends where images come one by one.

use std::collections::BTreeMap;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use selvedge_compute::Cpu;
use selvedge_model::{BuildOptions, Loss, ModelSpec, Network, Precision, StepKey, Targets, Threads};

/// Networks, and the batches they are trained with.
const BATCHES: [(&str, usize); 2] = [("seed", 128), ("resnet9", 256)];

/// How many images are predicted in a call: with 10,000 a network works through a test set.
const PREDICTIONS: [usize; 2] = [1, 10_000];

fn precisions() -> impl Iterator<Item = Precision> {
    let cpu = Cpu::detect().expect("an instruction set");
    [Precision::F32, Precision::Bf16].into_iter().filter(move |&precision| cpu.check(precision).is_ok())
}

fn build(spec: &ModelSpec, max_batch: usize, precision: Precision) -> (Threads, Network) {
    let threads = Threads::new(Threads::available()).expect("a pool of threads");
    let options = BuildOptions { seed: 1, max_batch, precision, threads: threads.clone() };
    (threads, Network::build(spec, &options).expect("a network of networks.toml"))
}

fn pixels(images: usize) -> Vec<u8> {
    (0..images * 28 * 28).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

fn networks(criterion: &mut Criterion) {
    let specs: BTreeMap<String, ModelSpec> =
        toml::from_str(include_str!("networks.toml")).expect("networks.toml describes networks");
    for (name, batch) in BATCHES {
        let spec = &specs[name];
        let (images, labels) = (pixels(batch), (0..batch).map(|i| (i % 10) as u8).collect::<Vec<_>>());
        let mut group = criterion.benchmark_group(format!("{name}/train"));
        group.sampling_mode(SamplingMode::Flat).throughput(Throughput::Elements(batch as u64));
        for precision in precisions() {
            let (_, mut network) = build(spec, batch, precision);
            let mut step = 0;
            group.bench_function(BenchmarkId::from_parameter(precision), |bencher| {
                bencher.iter(|| {
                    step += 1;
                    let key = StepKey { seed: 1, step };
                    network.forward_backward(&images, Targets::Labels(&labels), &Loss::default(), key)
                });
            });
        }
        group.finish();
    }
    let spec = &specs["seed"];
    let mut group = criterion.benchmark_group("seed/predict");
    group.sampling_mode(SamplingMode::Flat);
    for count in PREDICTIONS {
        let images = pixels(count);
        group.throughput(Throughput::Elements(count as u64));
        for precision in precisions() {
            let (threads, mut network) = build(spec, count.min(128), precision);
            group.bench_function(BenchmarkId::new(count.to_string(), precision), |bencher| {
                threads.install(|| bencher.iter(|| network.predict(&images)))
            });
        }
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = networks
}
criterion_main!(benches);
