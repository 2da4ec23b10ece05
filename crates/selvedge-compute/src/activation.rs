//! Activation functions: ReLU, GELU, SiLU, forward and backward.
//!
//! All three map zero to zero, so the padded lanes of a tensor stay zero. Convolutions apply the same vector functions
//! (`apply`, `derivative`) to their results before they store them.

use std::marker::PhantomData;

use crate::Cpu;
use crate::simd::{Element, Kernel, MAX_LANES, Simd, dispatch, math};

/// An elementwise function with f(0) = 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// max(0, x). Its derivative at 0 is 0.
    Relu,
    /// x·Φ(x) with Φ the distribution function of the standard normal distribution (Hendrycks and Gimpel, 2016): the
    /// exact form with the error function, not the approximation by the hyperbolic tangent.
    Gelu,
    /// x / (1 + e⁻ˣ), also called swish.
    Silu,
}

/// f(v).
#[inline(always)]
pub(crate) fn apply<S: Simd>(s: S, kind: Activation, v: S::V) -> S::V {
    match kind {
        // The order of the arguments lets a NaN pass.
        Activation::Relu => s.max(s.zero(), v),
        Activation::Gelu => s.mul(v, normal_distribution(s, v)),
        Activation::Silu => s.mul(v, math::sigmoid(s, v)),
    }
}

/// f′(v).
#[inline(always)]
pub(crate) fn derivative<S: Simd>(s: S, kind: Activation, v: S::V) -> S::V {
    let one = s.splat(1.0);
    match kind {
        Activation::Relu => s.select(s.gt(v, s.zero()), one, s.zero()),
        Activation::Gelu => {
            // Φ + x·φ with the density φ(x) = e^(−x²/2) / √(2π).
            const DENSITY_AT_0: f32 = 0.398_942_3;
            let density = s.mul(s.splat(DENSITY_AT_0), math::exp(s, s.mul(s.mul(v, v), s.splat(-0.5))));
            s.mul_add(v, density, normal_distribution(s, v))
        }
        Activation::Silu => {
            // σ + x·σ·(1 − σ).
            let sigmoid = math::sigmoid(s, v);
            s.mul_add(s.mul(v, sigmoid), s.sub(one, sigmoid), sigmoid)
        }
    }
}

/// Φ(v) = (1 + erf(v/√2)) / 2.
#[inline(always)]
fn normal_distribution<S: Simd>(s: S, v: S::V) -> S::V {
    let half = s.splat(0.5);
    s.mul_add(half, math::erf(s, s.mul(v, s.splat(std::f32::consts::FRAC_1_SQRT_2))), half)
}

/// y = f(x), element by element.
///
/// # Panics
/// If the lengths differ or are no multiple of [`MAX_LANES`].
///
/// ```
/// use selvedge_compute::{Cpu, activation::{self, Activation}};
/// let x: Vec<f32> = (-8..8).map(|i| i as f32).collect();
/// let mut y = vec![0.0; 16];
/// activation::forward(Cpu::detect()?, Activation::Relu, &x, &mut y);
/// assert_eq!((y[0], y[15]), (0.0, 7.0));
/// # Ok::<(), selvedge_compute::CpuError>(())
/// ```
pub fn forward<E: Element>(cpu: Cpu, kind: Activation, x: &[E], y: &mut [E]) {
    assert_eq!(x.len(), y.len(), "x has {} elements and y {}", x.len(), y.len());
    assert_whole_vectors(x.len());
    // SAFETY: `x` and `y` are slices of `len` elements each, a whole number of vectors, as asserted.
    dispatch(cpu, unsafe { Forward::new(kind, x.as_ptr(), y.as_mut_ptr(), x.len()) });
}

/// x = f(x), element by element.
///
/// # Panics
/// If the length is no multiple of [`MAX_LANES`].
pub fn forward_in_place<E: Element>(cpu: Cpu, kind: Activation, x: &mut [E]) {
    assert_whole_vectors(x.len());
    let at = x.as_mut_ptr();
    // SAFETY: `x` is a slice of `len` elements, a whole number of vectors as asserted; `Forward` reads an element
    // before it writes it.
    dispatch(cpu, unsafe { Forward::new(kind, at, at, x.len()) });
}

/// dx = dy·f′(x), where `x` is what the function was applied to.
///
/// # Panics
/// If the lengths differ or are no multiple of [`MAX_LANES`].
pub fn backward<E: Element>(cpu: Cpu, kind: Activation, x: &[E], dy: &[E], dx: &mut [E]) {
    assert_eq!(x.len(), dy.len(), "x has {} elements and dy {}", x.len(), dy.len());
    assert_eq!(x.len(), dx.len(), "x has {} elements and dx {}", x.len(), dx.len());
    assert_whole_vectors(x.len());
    let (x, dy, dx, len) = (x.as_ptr(), dy.as_ptr(), dx.as_mut_ptr(), x.len());
    // SAFETY: all three are slices of `len` elements, a whole number of vectors, as asserted.
    dispatch(cpu, unsafe { Backward::new(kind, x, dy, dx, len) });
}

/// dy = dy·f′(x), where `x` is what the function was applied to.
///
/// # Panics
/// If the lengths differ or are no multiple of [`MAX_LANES`].
pub fn backward_in_place<E: Element>(cpu: Cpu, kind: Activation, x: &[E], dy: &mut [E]) {
    assert_eq!(x.len(), dy.len(), "x has {} elements and dy {}", x.len(), dy.len());
    assert_whole_vectors(x.len());
    let (x, dy, len) = (x.as_ptr(), dy.as_mut_ptr(), x.len());
    // SAFETY: both are slices of `len` elements, a whole number of vectors, as asserted; `Backward` reads an element
    // before it writes it.
    dispatch(cpu, unsafe { Backward::new(kind, x, dy, dy, len) });
}

#[track_caller]
fn assert_whole_vectors(len: usize) {
    assert!(len.is_multiple_of(MAX_LANES), "{len} elements are no multiple of {MAX_LANES}");
}

struct Forward<'a, E> {
    kind: Activation,
    x: *const E,
    y: *mut E,
    len: usize,
    borrowed: PhantomData<&'a mut E>,
}

impl<E: Element> Forward<'_, E> {
    /// # Safety
    /// `len` elements, a multiple of [`MAX_LANES`], must be readable at `x` and writable at `y` while it lives. The two
    /// may be equal but must not overlap otherwise.
    unsafe fn new(kind: Activation, x: *const E, y: *mut E, len: usize) -> Self {
        Self { kind, x, y, len, borrowed: PhantomData }
    }

    #[inline(always)]
    fn each<S: Simd>(&self, s: S, kind: Activation) {
        for i in (0..self.len).step_by(S::LANES) {
            // SAFETY: `new`'s promise; i + LANES ≤ len, because LANES divides len.
            unsafe { E::store(s, self.y.add(i), apply(s, kind, E::load(s, self.x.add(i)))) }
        }
    }
}

impl<E: Element> Kernel for Forward<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.kind {
            Activation::Relu => self.each(s, Activation::Relu),
            Activation::Gelu => self.each(s, Activation::Gelu),
            Activation::Silu => self.each(s, Activation::Silu),
        }
    }
}

struct Backward<'a, E> {
    kind: Activation,
    x: *const E,
    dy: *const E,
    dx: *mut E,
    len: usize,
    borrowed: PhantomData<&'a mut E>,
}

impl<E: Element> Backward<'_, E> {
    /// # Safety
    /// `len` elements, a multiple of [`MAX_LANES`], must be readable at `x` and `dy` and writable at `dx` while it lives.
    /// `dy` and `dx` may be equal; nothing must overlap otherwise.
    unsafe fn new(kind: Activation, x: *const E, dy: *const E, dx: *mut E, len: usize) -> Self {
        Self { kind, x, dy, dx, len, borrowed: PhantomData }
    }

    #[inline(always)]
    fn each<S: Simd>(&self, s: S, kind: Activation) {
        for i in (0..self.len).step_by(S::LANES) {
            // SAFETY: `new`'s promise; i + LANES ≤ len, because LANES divides len.
            unsafe {
                let (x, dy) = (E::load(s, self.x.add(i)), E::load(s, self.dy.add(i)));
                let dx = match kind {
                    Activation::Relu => s.select(s.gt(x, s.zero()), dy, s.zero()),
                    _ => s.mul(dy, derivative(s, kind, x)),
                };
                E::store(s, self.dx.add(i), dx);
            }
        }
    }
}

impl<E: Element> Kernel for Backward<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.kind {
            Activation::Relu => self.each(s, Activation::Relu),
            Activation::Gelu => self.each(s, Activation::Gelu),
            Activation::Silu => self.each(s, Activation::Silu),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use half::bf16;

    use super::*;
    use crate::test_support::{Numbers, assert_close, central_difference, cpus, wide};

    const KINDS: [Activation; 3] = [Activation::Relu, Activation::Gelu, Activation::Silu];

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
        let edges =
            [0.0, -0.0, 1e-6, -1e-6, 30.0, -30.0, 100.0, -100.0, 3e4, -3e4, 1e-30, -1e-30, 0.5, -0.5, 1.0, -1.0];
        x.extend(edges.map(E::from_f32));
        x
    }

    fn matches_reference<E: Element>() {
        let x = values::<E>();
        let dy = Numbers::new(2).elements::<E>(x.len());
        for (cpu, kind) in cpus().into_iter().flat_map(|cpu| KINDS.map(|kind| (cpu, kind))) {
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
    fn nan_passes() {
        for cpu in cpus() {
            for kind in KINDS {
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
}
