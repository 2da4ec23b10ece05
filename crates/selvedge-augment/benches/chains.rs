//! Images per second on one core, for the chains of `chains.toml`.
//!
//! `cargo bench -p selvedge-augment --bench chains` measures with criterion. With `-- best` it prints the best of many
//! batches of 256, as `benches/peers.py` does for Albumentations, torchvision and Keras: other work on the same machine
//! changes this figure least.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput};
use ndarray::Array4;
use selvedge_augment::{Augmentation, Augmenter, Batch, EpochKey, ImageShape, Normalize};

const SHAPE: ImageShape = ImageShape { height: 28, width: 28, channels: 1 };
const BATCH: usize = 256;

#[derive(serde::Deserialize)]
struct Chain {
    ops: Vec<Augmentation>,
}

/// A chain and its input.
struct Bench {
    augmenter: Augmenter,
    images: Array4<u8>,
    labels: Vec<u8>,
    indices: Vec<u32>,
    one_core: rayon::ThreadPool,
    batch: Batch,
    epoch: u64,
}

impl Bench {
    fn new(chain: Chain) -> Bench {
        Bench {
            augmenter: Augmenter::new(chain.ops, SHAPE, 10).expect("a chain of chains.toml is invalid"),
            // A light shape on black, as garments are.
            images: Array4::from_shape_fn((10_000, 28, 28, 1), |(n, y, x, _)| {
                let inside = (y as i32 - 14).pow(2) + (x as i32 - 14).pow(2) < 100;
                if inside { (n * 31 + y * x) as u8 } else { 0 }
            }),
            labels: (0..10_000).map(|n| (n % 10) as u8).collect(),
            indices: (0..BATCH as u32).map(|i| i * 7919 % 10_000).collect(),
            one_core: rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a pool of one thread"),
            batch: Batch::new(),
            epoch: 0,
        }
    }

    fn run(&mut self) {
        let Bench { augmenter, images, labels, indices, one_core, batch, epoch } = self;
        *epoch += 1;
        let key = EpochKey { seed: 1, epoch: *epoch };
        one_core.install(|| augmenter.fill_batch(images.view(), labels, indices, key, batch));
        black_box(&batch.images);
    }
}

fn best(chains: BTreeMap<String, Chain>) {
    for (name, chain) in chains {
        let mut bench = Bench::new(chain);
        let (mut least, start) = (Duration::MAX, Instant::now());
        while start.elapsed() < Duration::from_secs(1) {
            let batch = Instant::now();
            bench.run();
            least = least.min(batch.elapsed());
        }
        println!("{:16} {name:20} {:10.0} images/s", "selvedge", BATCH as f64 / least.as_secs_f64());
    }
}

fn sampled(chains: BTreeMap<String, Chain>) {
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    let mut group = criterion.benchmark_group("chain");
    group.throughput(Throughput::Elements(BATCH as u64));
    for (name, chain) in chains {
        let mut bench = Bench::new(chain);
        group.bench_function(BenchmarkId::from_parameter(name), |bencher| bencher.iter(|| bench.run()));
    }
    // The cost per batch for networks that do not normalize their input themselves.
    let normalize = Normalize { mean: vec![0.286], std: vec![0.353], ..Normalize::default() };
    let images = vec![100; BATCH * SHAPE.len()];
    let mut numbers = vec![0.0f32; BATCH * SHAPE.len()];
    group.bench_function("normalize", |bencher| bencher.iter(|| normalize.apply(&images, black_box(&mut numbers))));
    group.finish();
    criterion.final_summary();
}

fn main() {
    let chains = toml::from_str(include_str!("chains.toml")).expect("chains.toml holds tables with `ops`");
    if std::env::args().any(|argument| argument == "best") { best(chains) } else { sampled(chains) }
}
