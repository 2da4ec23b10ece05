//! A training step allocates nothing. The only test of its program, because others would allocate meanwhile.

mod common;

use common::{Adam, build, convolutional, images};
use selvedge_compute::CountingAllocator;
use selvedge_model::{Loss, StepKey, Targets};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator::new();

#[test]
fn training_steps_allocate_nothing() {
    const BATCH: usize = 600;
    let mut network = build(&convolutional(), BATCH, 2);
    let mut adam = Adam::new(&network, 0.001);
    let (images, labels) = images(BATCH, 1);
    let mut steps = |numbers: std::ops::Range<u64>| {
        for step in numbers {
            let key = StepKey { seed: 1, step };
            network.forward_backward(&images, Targets::Labels(&labels), &Loss::default(), key);
            adam.step(&mut network);
        }
        ALLOCATOR.allocations()
    };
    let before = steps(0..3);
    assert_eq!(steps(3..23) - before, 0);
}
