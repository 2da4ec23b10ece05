//! Groups of several blocks: the first block overwrites the group's sums of gradients, the others add to them.

use super::*;
use crate::LayerSpec::Flatten;
use crate::test_support::{RELU, classes, conv, grey, max_pool};

#[test]
fn a_batch_of_copies_has_the_gradients_of_one() {
    // 64 blocks are groups of 4; by a power of two, gradients in bf16 are rounded alike.
    const COPIES: usize = 64;
    const COUNT: usize = selvedge_compute::BLOCK;
    let images: Vec<u8> = (0..COUNT * 64).map(|i| (i * i / 7 + i * 11) as u8).collect();
    let labels: Vec<u8> = (0..COUNT).map(|i| (i * 3 % 10) as u8).collect();
    // The layer next to the input with pooling in its pass, and without.
    for first in [vec![conv(6, true), RELU, max_pool(2)], vec![conv(6, true), RELU]] {
        let rest = [conv(16, true), RELU, max_pool(2), conv(16, false), Flatten, classes()];
        let spec = grey(8, 8, first.into_iter().chain(rest).collect());
        for cpu in Cpu::all() {
            for precision in [Precision::F32, Precision::Bf16] {
                if cpu.check(precision).is_err() {
                    continue;
                }
                let gradients = |copies: usize| {
                    let mut network = Network::build_on(cpu, &spec, &options(copies * COUNT, precision)).unwrap();
                    let (images, labels) = (images.repeat(copies), labels.repeat(copies));
                    // The second pass finds the sums of the first.
                    for step in 0..2 {
                        let key = StepKey { seed: 3, step };
                        network.forward_backward(&images, Targets::Labels(&labels), &Loss::default(), key);
                    }
                    logical_gradients(&network)
                };
                let (one, all) = (gradients(1), gradients(COPIES));
                assert_close(&format!("gradients in {precision} on {}", cpu.isa()), &all, &one, 1e-4, 0.0);
            }
        }
    }
}
