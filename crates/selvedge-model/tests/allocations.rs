//! A training step allocates nothing. The only test of its program, because others would allocate meanwhile.

mod common;

use common::{Adam, build_in, convolutional, images, precisions, threads};
use selvedge_compute::CountingAllocator;
use selvedge_model::{Loss, StepKey, Targets};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator::new();

#[test]
fn training_steps_allocate_nothing() {
    const BATCH: usize = 600;
    let threads = threads(2);
    let (images, labels) = images(BATCH, 1);
    for (precision, recorded) in precisions().into_iter().flat_map(|precision| [(precision, false), (precision, true)])
    {
        let mut network = build_in(precision, &convolutional(), BATCH, &threads);
        network.record_times(recorded);
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
        assert_eq!(counts[1] - counts[0], 0, "allocations in 20 steps in {precision}, times recorded: {recorded}");
    }
}
