//! Instruction sets against each other: kernels add up in different orders, so their bits differ and no more.

use selvedge_compute::activation::Activation::{Gelu, Silu};

use super::*;
use crate::LayerSpec;
use crate::test_support::{RELU, classes, conv, dense, grey, max_pool, norm};

/// Every kind of layer that has a state or draws random numbers, with channels that fill no vector.
fn network() -> ModelSpec {
    use LayerSpec::{Activation, Dropout, Flatten, Residual};
    let layers = vec![
        conv(6, true),
        RELU,
        max_pool(2),
        Dropout { rate: 0.25 },
        Residual { layers: vec![conv(6, false), norm(), Activation(Silu)], drop: 0.0 },
        LayerSpec::AvgPool2d { size: 2, stride: None },
        Flatten,
        dense(40),
        Activation(Gelu),
        Dropout { rate: 0.5 },
        classes(),
    ];
    grey(12, 12, layers)
}

/// Some steps of gradient descent and a prediction.
fn train(cpu: Cpu) -> (Vec<f32>, Vec<f32>) {
    const COUNT: usize = 70;
    let spec = network();
    let mut network = Network::build_on(cpu, &spec, &options(COUNT, Precision::F32)).unwrap();
    let images: Vec<u8> = (0..COUNT * 144).map(|i| (i * i / 7 + i * 11) as u8).collect();
    let labels: Vec<u8> = (0..COUNT).map(|i| (i * 3 % 10) as u8).collect();
    for step in 0..5 {
        let key = StepKey { seed: 3, step };
        network.forward_backward(&images, Targets::Labels(&labels), &Loss::default(), key);
        let Params { values, grads, .. } = network.params_mut();
        values.iter_mut().zip(grads.iter()).for_each(|(value, grad)| *value -= 0.02 * grad);
    }
    let Snapshot { mut params, buffers } = network.snapshot();
    params.extend(buffers);
    (params, network.predict(&images).into_raw_vec_and_offset().0)
}

#[test]
fn instruction_sets_agree_after_several_steps() {
    let (weights, probabilities) = train(Cpu::all()[0]);
    for cpu in &Cpu::all()[1..] {
        let (other_weights, other_probabilities) = train(*cpu);
        // A single other dropout decision changes weights by more than 1e-3.
        assert_close(&format!("weights on {}", cpu.isa()), &other_weights, &weights, 1e-5, 0.0);
        assert_close(&format!("probabilities on {}", cpu.isa()), &other_probabilities, &probabilities, 1e-5, 0.0);
    }
}
