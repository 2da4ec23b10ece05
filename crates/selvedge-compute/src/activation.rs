//! Activation functions, forward and backward.
//!
//! Each maps zero to zero, so the padded lanes of a tensor stay zero. That leaves out sigmoid and softplus, which map it to 1/2 and
//! ln 2. Batch normalisation applies the same vector functions (`apply`, `backpropagate`) in its own passes.
//!
//! A new function is a variant of [`Activation`] with its name in [`Activation::ALL`] and an arm in each `match` of this file;
//! recipes, summaries, costs and profiles take it from here.

use std::marker::PhantomData;

use crate::Cpu;
use crate::simd::math::EXP_OPERATIONS;
use crate::simd::{Element, Kernel, MAX_LANES, Simd, dispatch, math};

/// An elementwise function with f(0) = 0.
///
/// | name | formula | source |
/// |---|---|---|
/// | `relu` | max(0, x) | Nair and Hinton, 2010 |
/// | `gelu` | x·Φ(x), Φ the distribution function of the standard normal distribution | Hendrycks and Gimpel, 2016 |
/// | `gelu_tanh` | x·(1 + tanh(√(2/π)·(x + 0.044715·x³))) / 2, which approximates `gelu` | Hendrycks and Gimpel, 2016 |
/// | `silu` | x / (1 + e⁻ˣ), also called swish | Elfwing, Uchibe and Doya, 2017 |
/// | `mish` | x·tanh(ln(1 + eˣ)) | Misra, 2019 |
/// | `hard_swish` | x·min(max(0, x + 3), 6) / 6 | Howard et al., 2019 (MobileNetV3) |
/// | `leaky_relu` | x, but 0.01·x below 0 | Maas, Hannun and Ng, 2013 |
/// | `elu` | x, but eˣ − 1 below 0 | Clevert, Unterthiner and Hochreiter, 2015 |
/// | `relu6` | min(max(0, x), 6) | Krizhevsky, 2010 |
/// | `tanh` | (eˣ − e⁻ˣ) / (eˣ + e⁻ˣ) | LeCun et al., 1998 |
/// | `softsign` | x / (1 + \|x\|) | Bergstra et al., 2009 |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// max(0, x). The derivative at 0 is 0.
    Relu,
    /// x·Φ(x) in its exact form with the error function, not the approximation with the hyperbolic tangent.
    Gelu,
    /// x·(1 + tanh(√(2/π)·(x + 0.044715·x³))) / 2: [`Activation::Gelu`] up to 5e-4, and cheaper.
    GeluTanh,
    /// x / (1 + e⁻ˣ), also called swish.
    Silu,
    /// x·tanh(ln(1 + eˣ)).
    Mish,
    /// x·min(max(0, x + 3), 6) / 6. The derivative at −3 is 0, and 1 at 3.
    HardSwish,
    /// x, but 0.01·x below 0. The derivative at 0 is 0.01.
    LeakyRelu,
    /// x, but eˣ − 1 below 0.
    Elu,
    /// min(max(0, x), 6). The derivative at 0 and at 6 is 0.
    Relu6,
    /// The hyperbolic tangent.
    Tanh,
    /// x / (1 + |x|).
    Softsign,
}

/// What [`Activation::LeakyRelu`] multiplies negative numbers by: the default of PyTorch.
const LEAKY_SLOPE: f32 = 0.01;

impl Activation {
    /// Every function, in the order of tables.
    pub const ALL: [Self; 11] = [
        Self::Relu,
        Self::Gelu,
        Self::GeluTanh,
        Self::Silu,
        Self::Mish,
        Self::HardSwish,
        Self::LeakyRelu,
        Self::Elu,
        Self::Relu6,
        Self::Tanh,
        Self::Softsign,
    ];

    /// The name in recipes, files and profiles.
    ///
    /// ```
    /// use selvedge_compute::activation::Activation;
    /// assert_eq!(Activation::Gelu.name(), "gelu");
    /// assert_eq!(Activation::from_name("silu"), Some(Activation::Silu));
    /// assert_eq!(Activation::from_name("SiLU"), None);
    /// ```
    pub fn name(self) -> &'static str {
        match self {
            Self::Relu => "relu",
            Self::Gelu => "gelu",
            Self::GeluTanh => "gelu_tanh",
            Self::Silu => "silu",
            Self::Mish => "mish",
            Self::HardSwish => "hard_swish",
            Self::LeakyRelu => "leaky_relu",
            Self::Elu => "elu",
            Self::Relu6 => "relu6",
            Self::Tanh => "tanh",
            Self::Softsign => "softsign",
        }
    }

    /// The name in prose.
    pub fn title(self) -> &'static str {
        match self {
            Self::Relu => "ReLU",
            Self::Gelu => "GELU",
            Self::GeluTanh => "GELU (tanh)",
            Self::Silu => "SiLU",
            Self::Mish => "Mish",
            Self::HardSwish => "hard swish",
            Self::LeakyRelu => "leaky ReLU",
            Self::Elu => "ELU",
            Self::Relu6 => "ReLU6",
            Self::Tanh => "tanh",
            Self::Softsign => "softsign",
        }
    }

    /// The function of that [`name`](Self::name).
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Operations for each element, forward and backward, as [`crate::cost`] counts them.
    pub(crate) fn operations(self) -> [u64; 2] {
        match self {
            Self::Relu => [1, 1],
            Self::Gelu => [EXP_OPERATIONS + 8, EXP_OPERATIONS + 14],
            Self::GeluTanh => [EXP_OPERATIONS + 7, EXP_OPERATIONS + 15],
            Self::Silu => [EXP_OPERATIONS + 3, EXP_OPERATIONS + 7],
            Self::Mish => [EXP_OPERATIONS + 5, EXP_OPERATIONS + 11],
            Self::HardSwish => [5, 5],
            Self::LeakyRelu => [2, 2],
            Self::Elu => [EXP_OPERATIONS + 2, EXP_OPERATIONS + 2],
            Self::Relu6 => [2, 3],
            Self::Tanh => [EXP_OPERATIONS + 4, EXP_OPERATIONS + 7],
            Self::Softsign => [3, 5],
        }
    }
}

/// f(v).
#[inline(always)]
pub(crate) fn apply<S: Simd>(s: S, kind: Activation, v: S::V) -> S::V {
    match kind {
        // The order of the arguments lets a NaN pass.
        Activation::Relu => s.max(s.zero(), v),
        Activation::Gelu => s.mul(v, normal_distribution(s, v)),
        Activation::GeluTanh => s.mul(v, math::sigmoid(s, tanh_argument(s, v)[0])),
        Activation::Silu => s.mul(v, math::sigmoid(s, v)),
        Activation::Mish => {
            let [_, w] = mish_powers(s, v);
            s.mul(v, s.div(w, s.add(w, s.splat(2.0))))
        }
        Activation::HardSwish => {
            let gate = s.min(s.splat(6.0), s.max(s.zero(), s.add(v, s.splat(3.0))));
            s.mul(v, s.mul(gate, s.splat(1.0 / 6.0)))
        }
        Activation::LeakyRelu => s.select(s.gt(v, s.zero()), v, s.mul(v, s.splat(LEAKY_SLOPE))),
        Activation::Elu => s.select(s.gt(v, s.zero()), v, math::exp_m1(s, v)),
        Activation::Relu6 => s.min(s.splat(6.0), s.max(s.zero(), v)),
        Activation::Tanh => math::tanh(s, v),
        Activation::Softsign => s.div(v, s.add(s.splat(1.0), absolute(s, v))),
    }
}

/// dy·f′(v).
#[inline(always)]
pub(crate) fn backpropagate<S: Simd>(s: S, kind: Activation, v: S::V, dy: S::V) -> S::V {
    let derivative = match kind {
        Activation::Relu => return s.select(s.gt(v, s.zero()), dy, s.zero()),
        Activation::Gelu => {
            // Φ + x·φ with the density φ(x) = e^(−x²/2) / √(2π).
            const DENSITY_AT_0: f32 = 0.398_942_3;
            let density = s.mul(s.splat(DENSITY_AT_0), math::exp(s, s.mul(s.mul(v, v), s.splat(-0.5))));
            s.mul_add(v, density, normal_distribution(s, v))
        }
        Activation::Silu => {
            // σ + x·σ·(1 − σ).
            let sigmoid = math::sigmoid(s, v);
            s.mul_add(s.mul(v, sigmoid), s.sub(s.splat(1.0), sigmoid), sigmoid)
        }
        Activation::GeluTanh => {
            // σ(u) + x·σ·(1 − σ)·u′, since (1 + tanh(u/2)) / 2 = σ(u).
            let [u, slope] = tanh_argument(s, v);
            let sigmoid = math::sigmoid(s, u);
            s.mul_add(s.mul(s.mul(v, slope), sigmoid), s.sub(s.splat(1.0), sigmoid), sigmoid)
        }
        Activation::Mish => {
            // t + x·σ·(1 − t²), where σ·(1 − t²) = 4·n·(n + 1) / (w + 2)².
            let [n, w] = mish_powers(s, v);
            let inverse = s.div(s.splat(1.0), s.add(w, s.splat(2.0)));
            let slope = s.mul(s.mul(s.mul(s.splat(4.0), n), inverse), s.mul(s.add(n, s.splat(1.0)), inverse));
            s.mul_add(v, slope, s.mul(w, inverse))
        }
        Activation::HardSwish => {
            let inner = s.mul_add(v, s.splat(1.0 / 3.0), s.splat(0.5));
            let below_3 = s.select(s.gt(s.splat(3.0), v), inner, s.splat(1.0));
            s.select(s.gt(v, s.splat(-3.0)), below_3, s.zero())
        }
        Activation::LeakyRelu => s.select(s.gt(v, s.zero()), s.splat(1.0), s.splat(LEAKY_SLOPE)),
        Activation::Elu => s.select(s.gt(v, s.zero()), s.splat(1.0), math::exp(s, v)),
        Activation::Relu6 => {
            let below_6 = s.select(s.gt(s.splat(6.0), v), dy, s.zero());
            return s.select(s.gt(v, s.zero()), below_6, s.zero());
        }
        Activation::Tanh => {
            let y = math::tanh(s, v);
            s.sub(s.splat(1.0), s.mul(y, y))
        }
        Activation::Softsign => {
            let inverse = s.div(s.splat(1.0), s.add(s.splat(1.0), absolute(s, v)));
            s.mul(inverse, inverse)
        }
    };
    s.mul(dy, derivative)
}

/// `$body` once for each function, with `$kind` a constant: a choice in the inner loop would cost more than ReLU.
macro_rules! with_constant {
    ($activation:expr, |$kind:ident| $body:expr) => {
        with_constant!($activation, |$kind| $body, [
            Relu, Gelu, GeluTanh, Silu, Mish, HardSwish, LeakyRelu, Elu, Relu6, Tanh, Softsign,
        ])
    };
    ($activation:expr, |$kind:ident| $body:expr, [$($name:ident),*,]) => {
        match $activation {
            $(Activation::$name => {
                let $kind = Activation::$name;
                $body
            })*
        }
    };
}

/// |v|.
#[inline(always)]
fn absolute<S: Simd>(s: S, v: S::V) -> S::V {
    s.max(s.sub(s.zero(), v), v)
}

/// n = eᵛ and w = n·(n + 2), of which tanh(ln(1 + eᵛ)) is w / (w + 2). From v = 20 on, where that is 1 in f32, their values at 20:
/// n⁴ must not overflow.
#[inline(always)]
fn mish_powers<S: Simd>(s: S, v: S::V) -> [S::V; 2] {
    let n = math::exp(s, s.min(s.splat(20.0), v));
    [n, s.mul(n, s.add(n, s.splat(2.0)))]
}

/// u = 2·√(2/π)·(v + 0.044715·v³) and its derivative. Beyond ±10, where the sigmoid of u is 0 or 1 in f32, their values there: v³
/// must not overflow.
#[inline(always)]
fn tanh_argument<S: Simd>(s: S, v: S::V) -> [S::V; 2] {
    const FACTOR: f32 = 2.0 * 0.797_884_6;
    const CUBIC: f32 = 0.044_715 * FACTOR;
    let v = s.min(s.splat(10.0), s.max(s.splat(-10.0), v));
    let square = s.mul(v, v);
    let u = s.mul(v, s.mul_add(square, s.splat(CUBIC), s.splat(FACTOR)));
    [u, s.mul_add(square, s.splat(3.0 * CUBIC), s.splat(FACTOR))]
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
        with_constant!(self.kind, |kind| self.each(s, kind));
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
                E::store(s, self.dx.add(i), backpropagate(s, kind, x, dy));
            }
        }
    }
}

impl<E: Element> Kernel for Backward<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        with_constant!(self.kind, |kind| self.each(s, kind));
    }
}

#[cfg(test)]
pub(crate) mod tests;
