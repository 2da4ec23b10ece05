//! Activations against their definitions in f64, and against PyTorch.

use half::bf16;

use super::*;
use crate::test_support::{Numbers, assert_close, central_difference, cpus, wide};

/// The functions in f64.
pub(crate) fn reference(kind: Activation, x: f64) -> f64 {
    match kind {
        Activation::Relu => x.max(0.0),
        Activation::Gelu => x * 0.5 * (1.0 + erf(x / 2f64.sqrt())),
        Activation::Silu => x / (1.0 + (-x).exp()),
    }
}

/// The error function: its Taylor series near zero, the continued fraction of 1 − erf elsewhere.
fn erf(x: f64) -> f64 {
    let root_pi = std::f64::consts::PI.sqrt();
    if x.abs() < 2.5 {
        let (mut term, mut sum) = (x, x);
        for n in 1..100 {
            term *= -x * x / n as f64;
            sum += term / (2 * n + 1) as f64;
        }
        return sum * 2.0 / root_pi;
    }
    let mut tail = x.abs();
    for n in (1..100).rev() {
        tail = x.abs() + n as f64 / 2.0 / tail;
    }
    x.signum() * (1.0 - (-x * x).exp() / root_pi / tail)
}

fn values<E: Element>() -> Vec<E> {
    let mut numbers = Numbers::new(1);
    let mut x: Vec<E> = (0..1008).map(|_| E::from_f32(numbers.uniform(-6.0, 6.0))).collect();
    let edges = [0.0, -0.0, 1e-6, -1e-6, 30.0, -30.0, 100.0, -100.0, 3e4, -3e4, 1e-30, -1e-30, 0.5, -0.5, 1.0, -1.0];
    x.extend(edges.map(E::from_f32));
    x
}

fn matches_reference<E: Element>() {
    let x = values::<E>();
    let dy = Numbers::new(2).elements::<E>(x.len());
    for (cpu, kind) in cpus().into_iter().flat_map(|cpu| Activation::ALL.map(|kind| (cpu, kind))) {
        let name = format!("{kind:?} on {}", cpu.isa());
        let zero = E::from_f32(0.0);
        let (mut y, mut dx) = (vec![zero; x.len()], vec![zero; x.len()]);
        forward(cpu, kind, &x, &mut y);
        let want: Vec<f64> = wide(&x).into_iter().map(|x| reference(kind, x)).collect();
        assert_close(&name, &y, &want, 1e-6);
        backward(cpu, kind, &x, &dy, &mut dx);
        let want: Vec<f64> = (0..x.len())
            .map(|i| {
                let x = f64::from(x[i].to_f32());
                // ReLU's derivative at its kink, and what the difference cannot resolve beside it, by definition.
                let slope = match kind {
                    Activation::Relu => f64::from(u8::from(x > 0.0)),
                    _ => central_difference(&mut [x], 0, |x| reference(kind, x[0])),
                };
                slope * f64::from(dy[i].to_f32())
            })
            .collect();
        assert_close(&format!("derivative of {name}"), &dx, &want, 2e-6);

        let (mut y_in_place, mut dx_in_place) = (x.clone(), dy.clone());
        forward_in_place(cpu, kind, &mut y_in_place);
        backward_in_place(cpu, kind, &x, &mut dx_in_place);
        assert_eq!(wide(&y), wide(&y_in_place), "{name}");
        assert_eq!(wide(&dx), wide(&dx_in_place), "{name}");
    }
}

#[test]
fn f32_matches_reference() {
    matches_reference::<f32>();
}

#[test]
fn bf16_matches_reference() {
    matches_reference::<bf16>();
}

/// ```python
/// import torch, torch.nn.functional as F
/// torch.set_default_dtype(torch.float64)
/// x = torch.tensor([-3., -1.5, -.75, -.1, 0., .3, .9, 2.5], requires_grad=True)
/// y = F.gelu(x); y.sum().backward(); print(y.tolist(), x.grad.tolist())    # torch 2.15.0; F.silu likewise
/// ```
#[test]
fn matches_pytorch() {
    let mut x = [0.0; 16];
    x[..8].copy_from_slice(&[-3.0, -1.5, -0.75, -0.1, 0.0, 0.3, 0.9, 2.5]);
    let expected = [
        (
            Activation::Gelu,
            [-0.00404969, -0.10021080, -0.16997051, -0.04601722, 0.0, 0.18537343, 0.73434589, 2.48447584],
            [-0.01194565, -0.12746919, 0.00077428, 0.42047691, 0.5, 0.73232777, 1.05541660, 1.03761109],
        ),
        (
            Activation::Silu,
            [-0.14227762, -0.27363829, -0.24061598, -0.04750208, 0.0, 0.17233276, 0.63985455, 2.31035455],
            [-0.08810411, -0.04129415, 0.15740006, 0.45008321, 0.5, 0.64778001, 0.89589978, 1.09940111],
        ),
    ];
    for cpu in cpus() {
        for (kind, values, slopes) in expected {
            let (mut y, mut dx) = ([0.0f32; 16], [0.0f32; 16]);
            forward(cpu, kind, &x, &mut y);
            backward(cpu, kind, &x, &[1.0; 16], &mut dx);
            assert_close("value", &y[..8], &values, 5e-7);
            assert_close("slope", &dx[..8], &slopes, 5e-7);
        }
    }
}

#[test]
fn names_are_found_again() {
    for kind in Activation::ALL {
        assert_eq!(Activation::from_name(kind.name()), Some(kind));
    }
}

/// The padded lanes of a tensor stay zero, and so do those of its gradient.
#[test]
fn zeros_stay_zero() {
    for (cpu, kind) in cpus().into_iter().flat_map(|cpu| Activation::ALL.map(|kind| (cpu, kind))) {
        let (zeros, mut y, mut dx) = ([0.0f32; 16], [7.0; 16], [7.0; 16]);
        forward(cpu, kind, &zeros, &mut y);
        backward(cpu, kind, &zeros, &zeros, &mut dx);
        assert_eq!((y, dx), (zeros, zeros), "{kind:?} on {}", cpu.isa());
    }
}

#[test]
fn nan_passes() {
    for cpu in cpus() {
        for kind in Activation::ALL {
            let mut x = [f32::NAN; 16];
            forward_in_place(cpu, kind, &mut x);
            assert!(x.iter().all(|x| x.is_nan()), "{kind:?} on {}", cpu.isa());
        }
    }
}

#[test]
#[should_panic(expected = "x has 16 elements and y 32")]
fn lengths_must_agree() {
    forward(cpus()[0], Activation::Relu, &[0.0f32; 16], &mut [0.0; 32]);
}
