//! Shared by the kernels' tests: instruction sets, random numbers, tolerances.

use std::io::{Write, stderr};
use std::sync::Once;

use crate::layout::BlockShape;
use crate::simd::Element;
use crate::{Cpu, Isa};

/// Every instruction set of this machine. A warning on standard error names those it lacks, once. The one in
/// `SELVEDGE_REQUIRE_ISA`, and all that it extends, must be there.
pub(crate) fn cpus() -> Vec<Cpu> {
    static WARNED: Once = Once::new();
    let missing: Vec<_> = Isa::ALL.into_iter().filter(|&isa| Cpu::with(isa).is_err()).collect();
    if let Some(required) = std::env::var_os("SELVEDGE_REQUIRE_ISA") {
        let isa = required.to_string_lossy().parse().unwrap_or_else(|error| panic!("SELVEDGE_REQUIRE_ISA: {error}"));
        assert!(!missing.contains(&isa), "SELVEDGE_REQUIRE_ISA is {isa}, which this machine lacks");
    }
    WARNED.call_once(|| {
        for isa in missing {
            // Not `eprintln!`: the test harness hides its output while tests pass.
            writeln!(stderr(), "WARNING: kernels were NOT TESTED on {isa}, which this machine lacks").unwrap();
        }
    });
    Cpu::all()
}

/// Pseudo-random numbers, a sequence for each seed.
pub(crate) struct Numbers(u64);

impl Numbers {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(1))
    }

    /// Uniform in 0..2³².
    pub(crate) fn next_u32(&mut self) -> u32 {
        // Knuth's linear congruential generator (MMIX); its high bits are good enough for test data.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 32) as u32
    }

    /// Uniform in `low..high`.
    pub(crate) fn uniform(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * (self.next_u32() >> 8) as f32 / (1 << 24) as f32
    }

    /// `len` elements, uniform in −2..2, rounded to `E`.
    pub(crate) fn elements<E: Element>(&mut self, len: usize) -> Vec<E> {
        (0..len).map(|_| E::from_f32(self.uniform(-2.0, 2.0))).collect()
    }

    /// A block of elements whose padded channels are zero.
    pub(crate) fn block<E: Element>(&mut self, shape: &BlockShape) -> Vec<E> {
        let mut x = self.elements::<E>(shape.len());
        for (at, x) in x.iter_mut().enumerate() {
            if shape.image_and_channel(at).1 >= shape.channels {
                *x = E::from_f32(0.0);
            }
        }
        x
    }
}

/// The elements as f64.
pub(crate) fn wide<E: Element>(x: &[E]) -> Vec<f64> {
    x.iter().map(|x| f64::from(x.to_f32())).collect()
}

/// Panics unless each element equals its expected value up to `tolerance`, which is relative above 1 and absolute
/// below, plus the rounding error of the element type.
#[track_caller]
pub(crate) fn assert_close<E: Element>(what: &str, got: &[E], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}: lengths");
    let rounding = if E::IS_BF16 { 1.0 / 256.0 } else { 0.0 };
    for (i, (got, &want)) in got.iter().zip(want).enumerate() {
        let got = f64::from(got.to_f32());
        let allowed = tolerance * want.abs().max(1.0) + rounding * want.abs();
        assert!((got - want).abs() <= allowed, "{what}: element {i} is {got}, not {want}");
    }
}

/// The central difference (f(x + h) − f(x − h)) / 2h for element `i` of `x`.
pub(crate) fn central_difference(x: &mut [f64], i: usize, f: impl Fn(&[f64]) -> f64) -> f64 {
    const H: f64 = 1e-5;
    let at = x[i];
    x[i] = at + H;
    let above = f(x);
    x[i] = at - H;
    let below = f(x);
    x[i] = at;
    (above - below) / (2.0 * H)
}
