//! Each operation on every instruction set against plain f32 or f64 arithmetic.

use super::*;
use crate::test_support::cpus;

/// Runs `f` over vectors of `a` and `b` (padded to whole vectors).
struct Map<'a, F> {
    a: &'a [f32],
    b: &'a [f32],
    f: F,
}

trait Binary {
    fn apply<S: Simd>(&self, s: S, a: S::V, b: S::V) -> S::V;
}

impl<F: Binary> Kernel for Map<'_, F> {
    type Output = Vec<f32>;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Vec<f32> {
        let mut out = vec![0.0; self.a.len()];
        for i in (0..self.a.len()).step_by(S::LANES) {
            assert!(i + S::LANES <= self.a.len() && i + S::LANES <= self.b.len());
            // SAFETY: the assertion above.
            unsafe {
                let v = self.f.apply(s, s.load(self.a[i..].as_ptr()), s.load(self.b[i..].as_ptr()));
                s.store(out[i..].as_mut_ptr(), v);
            }
        }
        out
    }
}

macro_rules! binary {
    ($name:ident, |$s:ident, $a:ident, $b:ident| $body:expr) => {
        #[derive(Clone, Copy)]
        struct $name;
        impl Binary for $name {
            #[inline(always)]
            fn apply<S: Simd>(&self, $s: S, $a: S::V, $b: S::V) -> S::V {
                $body
            }
        }
    };
}

fn samples() -> (Vec<f32>, Vec<f32>) {
    let a: Vec<f32> = (0..4096).map(|i| (i as f32 - 2048.0) * 0.043).collect();
    let b = a.iter().map(|x| (x * 12.9898).sin() * 7.0 + 0.01).collect();
    (a, b)
}

fn check<F: Binary + Copy>(name: &str, f: F, expected: impl Fn(f32, f32) -> f64, tolerance: f64) {
    let (a, b) = samples();
    for cpu in cpus() {
        let got = dispatch(cpu, Map { a: &a, b: &b, f });
        for i in 0..a.len() {
            let want = expected(a[i], b[i]);
            let error = (got[i] as f64 - want).abs();
            assert!(
                error <= tolerance * (1.0 + want.abs()),
                "{name} on {}: ({}, {}) gives {}, not {want}",
                cpu.isa(),
                a[i],
                b[i],
                got[i]
            );
        }
    }
}

#[test]
fn arithmetic() {
    binary!(Add, |s, a, b| s.add(a, b));
    binary!(Sub, |s, a, b| s.sub(a, b));
    binary!(Mul, |s, a, b| s.mul(a, b));
    binary!(Div, |s, a, b| s.div(a, b));
    binary!(Max, |s, a, b| s.max(a, b));
    binary!(Min, |s, a, b| s.min(a, b));
    binary!(Fma, |s, a, b| s.mul_add(a, b, b));
    binary!(Round, |s, a, _b| s.round(a));
    binary!(Select, |s, a, b| s.select(s.gt(a, b), a, s.zero()));
    binary!(Root, |s, a, _b| s.sqrt(s.mul(a, a)));
    check("add", Add, |a, b| (a + b) as f64, 0.0);
    check("sub", Sub, |a, b| (a - b) as f64, 0.0);
    check("mul", Mul, |a, b| (a * b) as f64, 0.0);
    check("div", Div, |a, b| (a / b) as f64, 0.0);
    check("max", Max, |a, b| a.max(b) as f64, 0.0);
    check("min", Min, |a, b| a.min(b) as f64, 0.0);
    check("mul_add", Fma, |a, b| a as f64 * b as f64 + b as f64, 2e-6);
    check("round", Round, |a, _| a.round_ties_even() as f64, 0.0);
    check("select", Select, |a, b| if a > b { a as f64 } else { 0.0 }, 0.0);
    check("sqrt", Root, |a, _| a.abs() as f64, 1e-7);
}

#[test]
fn functions() {
    binary!(Exp, |s, a, _b| math::exp(s, a));
    binary!(Sigmoid, |s, a, _b| math::sigmoid(s, a));
    binary!(Erf, |s, a, _b| math::erf(s, a));
    binary!(ExpM1, |s, a, _b| math::exp_m1(s, a));
    binary!(Tanh, |s, a, _b| math::tanh(s, a));
    check("exp", Exp, |a, _| if a < -87.0 { 0.0 } else { (a.min(88.0) as f64).exp() }, 4e-7);
    check("sigmoid", Sigmoid, |a, _| 1.0 / (1.0 + (-a as f64).exp()), 3e-7);
    check("erf", Erf, |a, _| erf_reference(a as f64), 3e-7);
    check("exp_m1", ExpM1, |a, _| (a.min(88.0) as f64).exp_m1(), 4e-7);
    check("tanh", Tanh, |a, _| (a as f64).tanh(), 3e-7);
    binary!(Ln, |s, a, _b| math::ln(s, s.add(s.mul(a, a), s.splat(1e-6))));
    binary!(LnOfSmall, |s, a, _b| math::ln(s, s.mul(s.add(s.mul(a, a), s.splat(1e-6)), s.splat(1e-30))));
    check("ln", Ln, |a, _| f64::from(a * a + 1e-6).ln(), 3e-7);
    check("ln", LnOfSmall, |a, _| f64::from((a * a + 1e-6) * 1e-30).ln(), 3e-7);
}

/// e^x − 1 and tanh keep their relative error where they are small.
#[test]
fn small_results_are_as_accurate_as_large_ones() {
    binary!(ExpM1, |s, a, _b| math::exp_m1(s, a));
    binary!(Tanh, |s, a, _b| math::tanh(s, a));
    let a: Vec<f32> =
        (0..1024).map(|i| (i as f32 - 511.5) * 1e-3).flat_map(|x| [x, x * 1e-4, x * 1e-9, x * 1e-20]).collect();
    for cpu in cpus() {
        let got = [dispatch(cpu, Map { a: &a, b: &a, f: ExpM1 }), dispatch(cpu, Map { a: &a, b: &a, f: Tanh })];
        for (i, &a) in a.iter().enumerate() {
            for (got, want, bound) in [(got[0][i], f64::from(a).exp_m1(), 4e-7), (got[1][i], f64::from(a).tanh(), 1e-6)]
            {
                let error = (f64::from(got) - want).abs() / want.abs();
                assert!(error < bound, "{a} on {}: {got}, not {want}", cpu.isa());
            }
        }
    }
}

/// The error function by its Taylor series near zero and 1 beyond 4, where it differs by 1.5e-8.
fn erf_reference(x: f64) -> f64 {
    if x.abs() > 4.0 {
        return x.signum();
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= -x * x / n as f64;
        sum += term / (2 * n + 1) as f64;
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

/// Reductions, bf16 conversions and random numbers must agree between instruction sets, lane for lane.
struct Misc<'a> {
    a: &'a [f32],
}

impl Kernel for Misc<'_> {
    type Output = (Vec<f32>, Vec<f32>, Vec<u16>, Vec<f32>, usize);
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Self::Output {
        let (mut sums, mut tops, mut kept) = (vec![], vec![], 0);
        let mut narrow = vec![bf16::ZERO; self.a.len()];
        let (mut wide, mut rounded) = (vec![0.0f32; self.a.len()], vec![0.0f32; self.a.len()]);
        assert!(self.a.len().is_multiple_of(MAX_LANES));
        for i in (0..self.a.len()).step_by(S::LANES) {
            // SAFETY: the assertion above, and `narrow`, `wide` and `rounded` are as long as `a`.
            unsafe {
                let v = s.load(self.a[i..].as_ptr());
                sums.push(s.sum(v));
                tops.push(s.largest(v));
                s.store_bf16(narrow[i..].as_mut_ptr(), v);
                s.store(wide[i..].as_mut_ptr(), s.load_bf16(narrow[i..].as_ptr()));
                s.store(rounded[i..].as_mut_ptr(), s.round_to_bf16(v));
                let keep = s.lt_u(math::random_u32(s, 7, math::positions(s, i as u32)), s.splat_u(u32::MAX / 10 * 3));
                kept += s.sum(s.select(keep, s.splat(1.0), s.zero())) as usize;
            }
        }
        assert!(
            wide.iter().zip(&rounded).all(|(a, b)| a == b || a.is_nan() && b.is_nan()),
            "rounded and stored to bf16"
        );
        (sums, tops, narrow.iter().map(|x| x.to_bits()).collect(), wide, kept)
    }
}

#[test]
fn reductions_conversions_and_random_numbers() {
    let (mut a, _) = samples();
    a[5] = f32::INFINITY;
    a[6] = f32::NEG_INFINITY;
    a[16 + 5] = 3.0e38;
    a[32 + 1] = f32::NAN;
    let mut kept_before = None;
    for cpu in cpus() {
        let (sums, tops, narrow, wide, kept) = dispatch(cpu, Misc { a: &a });
        let lanes = a.len() / sums.len();
        for (i, chunk) in a.chunks(lanes).enumerate() {
            if chunk.iter().all(|x| x.is_finite()) {
                let sum: f64 = chunk.iter().map(|&x| x as f64).sum();
                assert!((sums[i] as f64 - sum).abs() <= 1e-6 * (1.0 + sum.abs()) * lanes as f64, "{}", cpu.isa());
                assert_eq!(tops[i], chunk.iter().copied().fold(f32::NEG_INFINITY, f32::max));
            }
        }
        for i in 0..a.len() {
            let want = bf16::from_f32(a[i]);
            if a[i].is_nan() {
                assert!(wide[i].is_nan());
            } else {
                assert_eq!(narrow[i], want.to_bits(), "{} on {}", a[i], cpu.isa());
                assert_eq!(wide[i], want.to_f32());
            }
        }
        assert!((kept as f64 / a.len() as f64 - 0.3).abs() < 0.03, "{kept} of {}", a.len());
        assert_eq!(*kept_before.get_or_insert(kept), kept, "{}", cpu.isa());
    }
}

/// Whole numbers: loads of both widths, equality, selection, conversion and the store.
struct Whole<'a> {
    bytes: &'a [u8],
    words: &'a [u16],
}

impl Kernel for Whole<'_> {
    type Output = (Vec<f32>, Vec<u16>);
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Self::Output {
        let (mut numbers, mut chosen) = (vec![0.0; self.bytes.len()], vec![0; self.bytes.len()]);
        assert!(self.bytes.len().is_multiple_of(MAX_LANES) && self.words.len() == self.bytes.len());
        for i in (0..self.bytes.len()).step_by(S::LANES) {
            // SAFETY: the assertion above, and `numbers` and `chosen` are as long as `bytes`.
            unsafe {
                let (a, b) = (s.load_u8(self.bytes[i..].as_ptr()), s.load_u16(self.words[i..].as_ptr()));
                s.store(numbers[i..].as_mut_ptr(), s.to_f32(s.mul_u(a, b)));
                let c = s.select_u(s.eq_u(a, s.splat_u(200)), b, s.add_u(a, s.splat_u(1)));
                s.store_u16(chosen[i..].as_mut_ptr(), c);
            }
        }
        (numbers, chosen)
    }
}

#[test]
fn whole_numbers() {
    let bytes: Vec<u8> = (0..=255).collect();
    let words: Vec<u16> = (0..256).map(|i| 65535 - 97 * i).collect();
    for cpu in cpus() {
        let (numbers, chosen) = dispatch(cpu, Whole { bytes: &bytes, words: &words });
        for i in 0..256 {
            assert_eq!(numbers[i], bytes[i] as f32 * words[i] as f32, "{}", cpu.isa());
            assert_eq!(chosen[i], if bytes[i] == 200 { words[i] } else { bytes[i] as u16 + 1 }, "{}", cpu.isa());
        }
    }
}
