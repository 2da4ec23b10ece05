//! Activation functions, forward and backward.
//!
//! Each maps zero to zero, so the padded lanes of a tensor stay zero. Batch normalisation applies the same vector functions
//! (`apply`, `backpropagate`) in its own passes.
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
/// | `silu` | x / (1 + e⁻ˣ), also called swish | Elfwing, Uchibe and Doya, 2017 |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// max(0, x). The derivative at 0 is 0.
    Relu,
    /// x·Φ(x) in its exact form with the error function, not the approximation with the hyperbolic tangent.
    Gelu,
    /// x / (1 + e⁻ˣ), also called swish.
    Silu,
}

impl Activation {
    /// Every function, in the order of tables.
    pub const ALL: [Self; 3] = [Self::Relu, Self::Gelu, Self::Silu];

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
            Self::Silu => "silu",
        }
    }

    /// The name in prose.
    pub fn title(self) -> &'static str {
        match self {
            Self::Relu => "ReLU",
            Self::Gelu => "GELU",
            Self::Silu => "SiLU",
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
            Self::Silu => [EXP_OPERATIONS + 3, EXP_OPERATIONS + 7],
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
        Activation::Silu => s.mul(v, math::sigmoid(s, v)),
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
    };
    s.mul(dy, derivative)
}

/// `$body` once for each function, with `$kind` a constant: a choice in the inner loop would cost more than ReLU.
macro_rules! with_constant {
    ($activation:expr, |$kind:ident| $body:expr) => {
        match $activation {
            Activation::Relu => {
                let $kind = Activation::Relu;
                $body
            }
            Activation::Gelu => {
                let $kind = Activation::Gelu;
                $body
            }
            Activation::Silu => {
                let $kind = Activation::Silu;
                $body
            }
        }
    };
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
