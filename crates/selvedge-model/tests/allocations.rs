//! A training step allocates nothing. The only test of its program, because others would allocate meanwhile, and without the test
//! harness, because its thread allocates when it reports a test that has been running for over a minute.

mod common;

use common::{Adam, build_in, convolutional, images, precisions, spec, threads};
use selvedge_compute::CountingAllocator;
use selvedge_model::{Loss, ModelSpec, Precision, StepKey, Targets};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator::new();

/// One block on more threads, which cut its layers.
const LARGE: &str = r#"
    { layer = "conv2d", filters = 128, kernel = 3 },
    { layer = "batch_norm" },
    { layer = "relu" },
    { layer = "conv2d", filters = 128, kernel = 3, bias = false },
    { layer = "batch_norm" },
    { layer = "relu" },
    { layer = "max_pool2d", size = 3 },
    { layer = "squeeze_excitation" },
    { layer = "residual", drop = 0.2, layers = [{ layer = "mish" }] },
    { layer = "conv2d", filters = 128, kernel = 3 },
    { layer = "flatten" },
    { layer = "dense", units = "classes" },
"#;

const NAME: &str = "training_steps_allocate_nothing";

fn main() {
    // Cargo passes a filter first.
    if std::env::args().nth(1).is_some_and(|filter| !filter.starts_with('-') && !NAME.contains(&filter)) {
        println!("{NAME} is filtered out");
        return;
    }
    training_steps_allocate_nothing();
    println!("test {NAME} ... ok");
}

fn training_steps_allocate_nothing() {
    for precision in precisions() {
        for recorded in [false, true] {
            steps_allocate_nothing(precision, &convolutional(), [600, 2], recorded);
        }
        steps_allocate_nothing(precision, &spec(LARGE), [20, 5], false);
    }
}

fn steps_allocate_nothing(
    precision: Precision,
    spec: &ModelSpec,
    [batch, thread_count]: [usize; 2],
    times_recorded: bool,
) {
    let threads = threads(thread_count);
    let (images, labels) = images(batch, 1);
    let mut network = build_in(precision, spec, batch, &threads);
    network.record_times(times_recorded);
    let mut adam = Adam::new(&network, 0.001);
    // The whole loop inside, as a trainer's is: handing work to the pool from outside allocates now and then.
    let counts = threads.install(|| {
        [0..3, 3..23].map(|numbers| {
            for step in numbers {
                let key = StepKey { seed: 1, step };
                network.forward_backward(&images, Targets::Labels(&labels), &Loss::default(), key);
                adam.step(&mut network);
            }
            ALLOCATOR.allocations()
        })
    });
    let name = format!("batches of {batch} in {precision} on {thread_count} threads, times recorded: {times_recorded}");
    assert_eq!(counts[1] - counts[0], 0, "allocations in 20 steps of {name}");
}
