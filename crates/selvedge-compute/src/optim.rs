//! Optimizer steps: SGD with momentum, Adam and AdamW, each in one pass over the parameters.
//!
//! The functions take slices, and each element is computed alone: callers may partition the parameters in any way and
//! run the chunks in parallel. A parameter whose value and gradient are zero, such as a padded lane, stays zero.

use crate::Cpu;
use crate::simd::{Kernel, MAX_LANES, Simd, dispatch};

/// Elements that a worker should take at a time: values, gradients and two moments fill 256 KiB, a share of L2, and
/// even a small network has enough chunks for a few workers.
pub const CHUNK: usize = 1 << 14;

/// Hyperparameters of stochastic gradient descent ([`sgd`]).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SgdParams {
    /// The learning rate.
    pub rate: f32,
    /// The share of the momentum buffer that each step keeps; 0 for plain gradient descent.
    pub momentum: f32,
    /// Whether to use Nesterov momentum (Sutskever et al., 2013).
    pub nesterov: bool,
    /// L2 penalty: `weight_decay`·value is added to the gradient.
    pub weight_decay: f32,
}

/// Hyperparameters of Adam and AdamW ([`adam`]).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamParams {
    /// The learning rate.
    pub rate: f32,
    /// The share of the first moment that each step keeps, usually 0.9.
    pub beta1: f32,
    /// The share of the second moment that each step keeps, usually 0.999.
    pub beta2: f32,
    /// Added to the denominator; above 0.
    pub epsilon: f32,
    /// `weight_decay`·value is added to the gradient or, if `decoupled`, `rate`·`weight_decay`·value is subtracted from
    /// the value.
    pub weight_decay: f32,
    /// Whether weight decay is decoupled from the moments: AdamW (Loshchilov and Hutter, 2019).
    pub decoupled: bool,
    /// The number of this step, counted from 1; it corrects the bias of the moments, which start at zero.
    pub step: u64,
}

/// One step of stochastic gradient descent, as PyTorch defines it.
///
/// With g = `grad` + `weight_decay`·`value`, `buffer` = `momentum`·`buffer` + g and `value` −= `rate`·`buffer`, or for
/// Nesterov momentum `rate`·(g + `momentum`·`buffer`). `buffer` starts at zero.
///
/// # Panics
/// If the lengths differ or are not a multiple of [`MAX_LANES`].
///
/// ```
/// use selvedge_compute::{Cpu, optim::{SgdParams, sgd}};
/// let (mut value, grad, mut buffer) = ([1.0; 16], [0.5; 16], [0.0; 16]);
/// let params = SgdParams { rate: 0.1, momentum: 0.9, nesterov: false, weight_decay: 0.0 };
/// sgd(Cpu::detect()?, &mut value, &grad, &mut buffer, &params);
/// assert_eq!((value[0], buffer[0]), (0.95, 0.5));
/// # Ok::<(), selvedge_compute::CpuError>(())
/// ```
pub fn sgd(cpu: Cpu, value: &mut [f32], grad: &[f32], buffer: &mut [f32], params: &SgdParams) {
    assert_lengths(value.len(), &[("grad", grad.len()), ("buffer", buffer.len())]);
    dispatch(cpu, Sgd { value, grad, buffer, params });
}

/// One step of Adam (Kingma and Ba, 2015), as PyTorch defines it: `value` −= `rate`·m̂ / (√v̂ + `epsilon`), where m̂
/// and v̂ are the first and second moment divided by 1 − βᵗ. `m` and `v` start at zero.
///
/// Keras folds the corrections into the rate and adds its epsilon, 1e-7, to the uncorrected √v instead. The two agree
/// if this `epsilon` is Keras' divided by √(1 − β₂ᵗ), which tends to 1; they differ only while gradients are near 1e-7.
///
/// # Panics
/// If the lengths differ or are not a multiple of [`MAX_LANES`], `step` is 0, or `epsilon` is not above 0.
///
/// ```
/// use selvedge_compute::{Cpu, optim::{AdamParams, adam}};
/// let (mut value, grad, mut m, mut v) = ([1.0; 16], [0.5; 16], [0.0; 16], [0.0; 16]);
/// let params = AdamParams {
///     rate: 0.1, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0, decoupled: false, step: 1,
/// };
/// adam(Cpu::detect()?, &mut value, &grad, &mut m, &mut v, &params);
/// assert!((value[0] - 0.9).abs() < 1e-6); // the first step has the size of the rate
/// # Ok::<(), selvedge_compute::CpuError>(())
/// ```
pub fn adam(cpu: Cpu, value: &mut [f32], grad: &[f32], m: &mut [f32], v: &mut [f32], params: &AdamParams) {
    assert_lengths(value.len(), &[("grad", grad.len()), ("m", m.len()), ("v", v.len())]);
    assert!(params.step > 0, "Adam's steps count from 1, not {}", params.step);
    assert!(params.epsilon > 0.0, "Adam's epsilon must be above 0, not {}", params.epsilon);
    let correction = |beta: f32| 1.0 - f64::from(beta).powf(params.step as f64);
    let kernel = Adam {
        value,
        grad,
        m,
        v,
        params,
        rate: (f64::from(params.rate) / correction(params.beta1)) as f32,
        root_scale: (1.0 / correction(params.beta2).sqrt()) as f32,
    };
    dispatch(cpu, kernel);
}

#[track_caller]
fn assert_lengths(len: usize, others: &[(&str, usize)]) {
    for &(name, other) in others {
        assert_eq!(len, other, "value has {len} elements and {name} {other}");
    }
    assert!(len.is_multiple_of(MAX_LANES), "{len} elements are not a multiple of {MAX_LANES}");
}

struct Sgd<'a> {
    value: &'a mut [f32],
    grad: &'a [f32],
    buffer: &'a mut [f32],
    params: &'a SgdParams,
}

impl Kernel for Sgd<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let p = self.params;
        let (rate, momentum) = (s.splat(-p.rate), s.splat(p.momentum));
        let decay = s.splat(p.weight_decay);
        let (value, grad, buffer) = (self.value.as_mut_ptr(), self.grad.as_ptr(), self.buffer.as_mut_ptr());
        for i in (0..self.value.len()).step_by(S::LANES) {
            // SAFETY: `assert_lengths` saw the three slices equally long, a whole number of vectors.
            unsafe {
                let w = s.load(value.add(i));
                let g = s.mul_add(decay, w, s.load(grad.add(i)));
                let b = s.mul_add(momentum, s.load(buffer.add(i)), g);
                s.store(buffer.add(i), b);
                let direction = if p.nesterov { s.mul_add(momentum, b, g) } else { b };
                s.store(value.add(i), s.mul_add(rate, direction, w));
            }
        }
    }
}

struct Adam<'a> {
    value: &'a mut [f32],
    grad: &'a [f32],
    m: &'a mut [f32],
    v: &'a mut [f32],
    params: &'a AdamParams,
    /// The rate, divided by the first moment's correction.
    rate: f32,
    /// Corrects √v.
    root_scale: f32,
}

impl Kernel for Adam<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let p = self.params;
        let (keep1, take1) = (s.splat(p.beta1), s.splat(1.0 - p.beta1));
        let (keep2, take2) = (s.splat(p.beta2), s.splat(1.0 - p.beta2));
        let (rate, root_scale, epsilon) = (s.splat(-self.rate), s.splat(self.root_scale), s.splat(p.epsilon));
        // One of the two kinds of weight decay is always off.
        let (to_grad, kept) = if p.decoupled { (0.0, 1.0 - p.rate * p.weight_decay) } else { (p.weight_decay, 1.0) };
        let (to_grad, kept) = (s.splat(to_grad), s.splat(kept));
        let (value, grad) = (self.value.as_mut_ptr(), self.grad.as_ptr());
        let (m, v) = (self.m.as_mut_ptr(), self.v.as_mut_ptr());
        for i in (0..self.value.len()).step_by(S::LANES) {
            // SAFETY: `assert_lengths` saw the four slices equally long, a whole number of vectors.
            unsafe {
                let w = s.load(value.add(i));
                let g = s.mul_add(to_grad, w, s.load(grad.add(i)));
                let first = s.mul_add(keep1, s.load(m.add(i)), s.mul(take1, g));
                let second = s.mul_add(keep2, s.load(v.add(i)), s.mul(take2, s.mul(g, g)));
                s.store(m.add(i), first);
                s.store(v.add(i), second);
                let direction = s.div(first, s.mul_add(s.sqrt(second), root_scale, epsilon));
                s.store(value.add(i), s.mul_add(rate, direction, s.mul(w, kept)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::{Numbers, assert_close, cpus, wide};

    /// Three elements, padded to the widest vector.
    fn padded(x: [f32; 3]) -> [f32; 16] {
        let mut out = [0.0; 16];
        out[..3].copy_from_slice(&x);
        out
    }

    /// ```python
    /// import torch
    /// torch.set_default_dtype(torch.float64)
    /// for nesterov in (False, True):
    ///     p = torch.nn.Parameter(torch.tensor([1., -2., .5]))
    ///     o = torch.optim.SGD([p], lr=.1, momentum=.9, nesterov=nesterov, weight_decay=.01)
    ///     for k in range(3):
    ///         p.grad = torch.tensor([.5, -.25, 1.]) * (k + 1); o.step()
    ///     print(p.tolist())    # torch 2.15.0
    /// ```
    #[test]
    fn sgd_matches_pytorch() {
        let expected =
            [(false, [0.519184749, -1.751184573, -0.4532227005]), (true, [0.2648904582, -1.6203925808, -0.9581664353])];
        for cpu in cpus() {
            for (nesterov, want) in expected {
                let params = SgdParams { rate: 0.1, momentum: 0.9, nesterov, weight_decay: 0.01 };
                let (mut value, mut buffer) = (padded([1.0, -2.0, 0.5]), [0.0; 16]);
                for k in 1..=3 {
                    let grad = padded([0.5, -0.25, 1.0]).map(|g| g * k as f32);
                    sgd(cpu, &mut value, &grad, &mut buffer, &params);
                }
                assert_close("value", &value[..3], &want, 5e-7);
                assert_eq!(value[3..], [0.0; 13]);
            }
        }
    }

    /// ```python
    /// for cls in (torch.optim.Adam, torch.optim.AdamW):
    ///     p = torch.nn.Parameter(torch.tensor([1., -2., .5]))
    ///     o = cls([p], lr=.1, betas=(.9, .999), eps=1e-7, weight_decay=.01)
    ///     for k in range(3):
    ///         p.grad = torch.tensor([.5, -.25, 1.]) * (k - .5); o.step()
    ///     print(p.tolist())    # torch 2.15.0, float64
    /// ```
    #[test]
    fn adam_matches_pytorch() {
        let expected =
            [(false, [1.0295604985, -2.0137087754, 0.5337267712]), (true, [1.0320207139, -2.0290236876, 0.5335192271])];
        for cpu in cpus() {
            for (decoupled, want) in expected {
                let (mut value, mut m, mut v) = (padded([1.0, -2.0, 0.5]), [0.0; 16], [0.0; 16]);
                for step in 1..=3 {
                    let params = AdamParams {
                        rate: 0.1,
                        beta1: 0.9,
                        beta2: 0.999,
                        epsilon: 1e-7,
                        weight_decay: 0.01,
                        decoupled,
                        step,
                    };
                    let grad = padded([0.5, -0.25, 1.0]).map(|g| g * (step as f32 - 1.5));
                    adam(cpu, &mut value, &grad, &mut m, &mut v, &params);
                }
                assert_close("value", &value[..3], &want, 2e-6);
                assert_eq!(value[3..], [0.0; 13]);
            }
        }
    }

    /// Both optimizers against the same formulas in f64, over several lengths and many steps.
    #[test]
    fn match_reference() {
        for (cpu, len) in cpus().into_iter().flat_map(|cpu| [0, 16, 48, 1040].map(|len| (cpu, len))) {
            let mut numbers = Numbers::new(len as u64);
            let start = numbers.elements::<f32>(len);
            let (mut a, mut b) = (start.clone(), start.clone());
            let (mut buffer, mut m, mut v) = (vec![0.0; len], vec![0.0; len], vec![0.0; len]);
            let mut want_a = wide(&start);
            let mut want_b = want_a.clone();
            let mut state = vec![[0.0f64; 3]; len];
            for step in 1..=20 {
                let grad = numbers.elements::<f32>(len);
                let s = SgdParams { rate: 0.01, momentum: 0.75, nesterov: step % 2 == 0, weight_decay: 0.125 };
                let p = AdamParams {
                    rate: 0.01,
                    beta1: 0.75,
                    beta2: 0.96875,
                    epsilon: 1e-3,
                    weight_decay: 0.125,
                    decoupled: step % 2 == 0,
                    step,
                };
                sgd(cpu, &mut a, &grad, &mut buffer, &s);
                adam(cpu, &mut b, &grad, &mut m, &mut v, &p);
                let rate = f64::from(0.01f32);
                for i in 0..len {
                    let [buffer, m, v] = &mut state[i];
                    let g = f64::from(grad[i]) + 0.125 * want_a[i];
                    *buffer = 0.75 * *buffer + g;
                    want_a[i] -= rate * if s.nesterov { g + 0.75 * *buffer } else { *buffer };

                    let mut g = f64::from(grad[i]);
                    if p.decoupled {
                        want_b[i] *= 1.0 - rate * 0.125;
                    } else {
                        g += 0.125 * want_b[i];
                    }
                    *m = 0.75 * *m + 0.25 * g;
                    *v = 0.96875 * *v + 0.03125 * g * g;
                    let corrected_m = *m / (1.0 - 0.75f64.powi(step as i32));
                    let corrected_v = *v / (1.0 - 0.96875f64.powi(step as i32));
                    want_b[i] -= rate * corrected_m / (corrected_v.sqrt() + f64::from(1e-3f32));
                }
            }
            assert_close(&format!("SGD, {len} on {}", cpu.isa()), &a, &want_a, 2e-6);
            assert_close(&format!("Adam, {len} on {}", cpu.isa()), &b, &want_b, 2e-6);
        }
    }

    #[test]
    #[should_panic(expected = "value has 16 elements and buffer 32")]
    fn lengths_must_agree() {
        let params = SgdParams { rate: 0.1, momentum: 0.0, nesterov: false, weight_decay: 0.0 };
        sgd(cpus()[0], &mut [0.0; 16], &[0.0; 16], &mut [0.0; 32], &params);
    }
}
