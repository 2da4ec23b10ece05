//! Activations against their definitions in f64, and against PyTorch.

use half::bf16;

use super::*;
use crate::test_support::{Numbers, assert_close, central_difference, cpus, wide};

/// The functions in f64.
pub(crate) fn reference(kind: Activation, x: f64) -> f64 {
    match kind {
        Activation::Relu => x.max(0.0),
        Activation::Gelu => x * 0.5 * (1.0 + erf(x / 2f64.sqrt())),
        Activation::GeluTanh => {
            let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            0.5 * x * (1.0 + u.tanh())
        }
        Activation::Silu => x / (1.0 + (-x).exp()),
        // ln(1 + eˣ) without an overflow.
        Activation::Mish => x * (x.max(0.0) + (-x.abs()).exp().ln_1p()).tanh(),
        Activation::HardSwish => x * (x + 3.0).clamp(0.0, 6.0) / 6.0,
        Activation::LeakyRelu => x.max(0.01 * x),
        Activation::Elu => x.max(0.0) + x.min(0.0).exp_m1(),
        Activation::Relu6 => x.clamp(0.0, 6.0),
        Activation::Tanh => x.tanh(),
        Activation::Softsign => x / (1.0 + x.abs()),
    }
}

/// Where the derivative jumps.
pub(crate) fn kinks(kind: Activation) -> &'static [f64] {
    match kind {
        Activation::Relu | Activation::LeakyRelu => &[0.0],
        Activation::HardSwish => &[-3.0, 3.0],
        Activation::Relu6 => &[0.0, 6.0],
        _ => &[],
    }
}

/// The derivative: by its formula where it, or its slope, jumps, and by a central difference elsewhere.
pub(crate) fn slope(kind: Activation, x: f64) -> f64 {
    match kind {
        Activation::Relu => f64::from(u8::from(x > 0.0)),
        Activation::LeakyRelu if x > 0.0 => 1.0,
        Activation::LeakyRelu => 0.01,
        Activation::Relu6 => f64::from(u8::from(x > 0.0 && x < 6.0)),
        Activation::HardSwish if x <= -3.0 => 0.0,
        Activation::HardSwish if x >= 3.0 => 1.0,
        Activation::HardSwish => x / 3.0 + 0.5,
        Activation::Elu => x.min(0.0).exp(),
        Activation::Softsign => (1.0 + x.abs()).powi(-2),
        _ => central_difference(&mut [x], 0, |x| reference(kind, x[0])),
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
    let edges = [0.0, -0.0, 1e-6, -1e-6, 30.0, -30.0, 100.0, -100.0, 3e4, -3e4, 1e-30, -1e-30, 3.0, -3.0, 6.0, -6.0];
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
        let want: Vec<f64> = wide(&x).into_iter().zip(wide(&dy)).map(|(x, dy)| slope(kind, x) * dy).collect();
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
/// for f in (F.gelu, lambda x: F.gelu(x, approximate="tanh"), F.silu, F.mish, F.hardswish, F.leaky_relu, F.elu, F.relu6,
///           torch.tanh, F.softsign):
///     x = torch.tensor([-3., -1.5, -.75, -.1, 0., .3, .9, 2.5], requires_grad=True)
///     y = f(x); y.sum().backward(); print(y.tolist(), x.grad.tolist())    # torch 2.15.0
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
            Activation::GeluTanh,
            [-0.00363739, -0.10042842, -0.17003944, -0.04601725, 0.0, 0.18537092, 0.73422849, 2.48491573],
            [-0.01158417, -0.12771079, 0.00106174, 0.42047821, 0.5, 0.73229545, 1.0550672, 1.03795158],
        ),
        (
            Activation::Silu,
            [-0.14227762, -0.27363829, -0.24061598, -0.04750208, 0.0, 0.17233276, 0.63985455, 2.31035455],
            [-0.08810411, -0.04129415, 0.15740006, 0.45008321, 0.5, 0.64778001, 0.89589978, 1.09940111],
        ),
        (
            Activation::Mish,
            [-0.14564746, -0.29809974, -0.27649471, -0.05678858, 0.0, 0.20800137, 0.76120593, 2.4713923],
            [-0.09339311, -0.06409782, 0.16074574, 0.53570282, 0.6, 0.7828273, 1.0279182, 1.04112953],
        ),
        (
            Activation::HardSwish,
            [0.0, -0.375, -0.28125, -0.04833333, 0.0, 0.165, 0.585, 2.29166667],
            [0.0, 0.0, 0.25, 0.46666667, 0.5, 0.6, 0.8, 1.33333333],
        ),
        (
            Activation::LeakyRelu,
            [-0.03, -0.015, -0.0075, -0.001, 0.0, 0.3, 0.9, 2.5],
            [0.01, 0.01, 0.01, 0.01, 0.01, 1.0, 1.0, 1.0],
        ),
        (
            Activation::Elu,
            [-0.95021293, -0.77686984, -0.52763345, -0.09516258, 0.0, 0.3, 0.9, 2.5],
            [0.04978707, 0.22313016, 0.47236655, 0.90483742, 1.0, 1.0, 1.0, 1.0],
        ),
        (Activation::Relu6, [0.0, 0.0, 0.0, 0.0, 0.0, 0.3, 0.9, 2.5], [0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0]),
        (
            Activation::Tanh,
            [-0.99505475, -0.90514825, -0.63514895, -0.09966799, 0.0, 0.29131261, 0.71629787, 0.9866143],
            [0.00986604, 0.18070664, 0.59658581, 0.99006629, 1.0, 0.91513696, 0.48691736, 0.02659223],
        ),
        (
            Activation::Softsign,
            [-0.75, -0.6, -0.42857143, -0.09090909, 0.0, 0.23076923, 0.47368421, 0.71428571],
            [0.0625, 0.16, 0.32653061, 0.82644628, 1.0, 0.59171598, 0.27700831, 0.08163265],
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

/// At the kinks, too: `F.hardswish`, `F.leaky_relu` and `F.relu6` as above, of `[-3., 0., 3., 6.]`.
#[test]
fn slopes_at_kinks_are_those_of_pytorch() {
    let mut x = [0.0; 16];
    x[..4].copy_from_slice(&[-3.0, 0.0, 3.0, 6.0]);
    let expected = [
        (Activation::HardSwish, [0.0, 0.5, 1.0, 1.0]),
        (Activation::LeakyRelu, [0.01, 0.01, 1.0, 1.0]),
        (Activation::Relu6, [0.0, 0.0, 1.0, 0.0]),
    ];
    for (cpu, (kind, slopes)) in cpus().into_iter().flat_map(|cpu| expected.map(|case| (cpu, case))) {
        let mut dx = [0.0f32; 16];
        backward(cpu, kind, &x, &[1.0; 16], &mut dx);
        assert_eq!(dx[..4], slopes, "{kind:?} on {}", cpu.isa());
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
