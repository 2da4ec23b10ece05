//! Functions of vectors: exponential and logarithm, sigmoid, hyperbolic tangent, error function.

use super::Simd;

/// Floating-point operations that costs count for [`exp`], polynomial and scaling together.
pub const EXP_OPERATIONS: u64 = 16;

/// eˣ with a relative error below 2e-7, for any x; 0 below −87, the value at 88 above 88, NaN for NaN.
///
/// Cody and Waite's reduction x = n·ln 2 + r with |r| ≤ ln 2 / 2, a polynomial of degree 6 in r (the Taylor series with
/// the last coefficients as they are: its error at the ends is 3e-8), and a scaling by 2ⁿ.
#[inline(always)]
pub fn exp<S: Simd>(s: S, x: S::V) -> S::V {
    let below = s.gt(s.splat(-87.0), x);
    let [n, r] = reduce(s, x);
    let p = s.mul_add(quotient(s, r), r, s.splat(1.0));
    s.select(below, s.zero(), s.mul(p, s.pow2(n)))
}

/// eˣ − 1 with a relative error below 4e-7, for any x; the value at 88 above 88, NaN for NaN.
#[inline(always)]
pub fn exp_m1<S: Simd>(s: S, x: S::V) -> S::V {
    let [n, r] = reduce(s, x);
    let (p, scale) = (s.mul(quotient(s, r), r), s.pow2(n));
    s.mul_add(p, scale, s.sub(scale, s.splat(1.0)))
}

/// n and r of x = n·ln 2 + r, for x from −87 to 88 and beyond as at these ends.
#[inline(always)]
fn reduce<S: Simd>(s: S, x: S::V) -> [S::V; 2] {
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // `max` and `min` give their second argument where either is NaN, so a NaN passes.
    let x = s.min(s.splat(88.0), s.max(s.splat(-87.0), x));
    let n = s.round(s.mul(x, s.splat(std::f32::consts::LOG2_E)));
    let r = s.mul_add(n, s.splat(-LN2_HIGH), x);
    [n, s.mul_add(n, s.splat(-LN2_LOW), r)]
}

/// The polynomial for (eʳ − 1) / r.
#[inline(always)]
fn quotient<S: Simd>(s: S, r: S::V) -> S::V {
    let mut p = s.splat(1.0 / 5040.0);
    for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0] {
        p = s.mul_add(p, r, s.splat(c));
    }
    p
}

/// Floating-point operations that costs count for [`ln`].
pub const LN_OPERATIONS: u64 = 14;

/// The natural logarithm of a positive number that is not denormal, with an error below 2e-7 of the result and below 1e-7 near 1.
///
/// x = m·2ⁿ with m between √½ and √2, and ln m = 2·artanh(t) with t = (m − 1) / (m + 1), by its series: |t| is below 0.172, so
/// the terms from t¹¹ on are below 1e-9.
#[inline(always)]
pub fn ln<S: Simd>(s: S, x: S::V) -> S::V {
    const ONE_BITS: u32 = 1.0f32.to_bits();
    const EXPONENT_OF_1: f32 = 127.0;
    let bits = s.to_bits(x);
    let exponent = s.sub(s.to_f32(s.shr_u::<23>(bits)), s.splat(EXPONENT_OF_1));
    // Without sign and exponent, then with the exponent of 1.
    let m = s.of_bits(s.add_u(s.shr_u::<9>(s.shl_u::<9>(bits)), s.splat_u(ONE_BITS)));
    let large = s.gt(m, s.splat(std::f32::consts::SQRT_2));
    let m = s.select(large, s.mul(m, s.splat(0.5)), m);
    let n = s.select(large, s.add(exponent, s.splat(1.0)), exponent);
    let t = s.div(s.sub(m, s.splat(1.0)), s.add(m, s.splat(1.0)));
    let square = s.mul(t, t);
    let mut p = s.splat(2.0 / 9.0);
    for c in [2.0 / 7.0, 2.0 / 5.0, 2.0 / 3.0, 2.0] {
        p = s.mul_add(p, square, s.splat(c));
    }
    s.mul_add(n, s.splat(std::f32::consts::LN_2), s.mul(t, p))
}

/// The sigmoid function 1 / (1 + e⁻ˣ).
#[inline(always)]
pub fn sigmoid<S: Simd>(s: S, x: S::V) -> S::V {
    s.div(s.splat(1.0), s.add(s.splat(1.0), exp(s, s.sub(s.zero(), x))))
}

/// The hyperbolic tangent with a relative error below 1e-6, as e / (e + 2) with e = e²ˣ − 1.
#[inline(always)]
pub fn tanh<S: Simd>(s: S, x: S::V) -> S::V {
    let e = exp_m1(s, s.add(x, x));
    s.div(e, s.add(e, s.splat(2.0)))
}

/// The error function, absolute error below 2e-7 (Abramowitz and Stegun, formula 7.1.26).
#[inline(always)]
pub fn erf<S: Simd>(s: S, x: S::V) -> S::V {
    let negative = s.gt(s.zero(), x);
    let a = s.max(x, s.sub(s.zero(), x));
    let t = s.div(s.splat(1.0), s.mul_add(s.splat(0.327_591_1), a, s.splat(1.0)));
    let mut p = s.splat(1.061_405_4);
    for c in [-1.453_152_1, 1.421_413_8, -0.284_496_72, 0.254_829_6] {
        p = s.mul_add(p, t, s.splat(c));
    }
    let tail = s.mul(s.mul(p, t), exp(s, s.sub(s.zero(), s.mul(a, a))));
    let y = s.sub(s.splat(1.0), tail);
    s.select(negative, s.sub(s.zero(), y), y)
}

/// The positions `counter`, `counter` + 1, … spread over all u32, as [`random_u32`] takes them.
#[inline(always)]
pub fn positions<S: Simd>(s: S, counter: u32) -> S::U {
    s.mul_u(s.add_u(s.splat_u(counter), s.lane_numbers()), s.splat_u(0x9e37_79b9))
}

/// A random u32 for each of the [`positions`]: a bijective hash, different for each `key`.
///
/// The finaliser of MurmurHash3 (Appleby) with the key mixed in before it; used where a sequence must be a function
/// of its position, as dropout masks are.
#[inline(always)]
pub fn random_u32<S: Simd>(s: S, key: u32, positions: S::U) -> S::U {
    let x = s.xor_u(positions, s.splat_u(key));
    let x = s.mul_u(s.xor_u(x, s.shr_u::<16>(x)), s.splat_u(0x85eb_ca6b));
    let x = s.mul_u(s.xor_u(x, s.shr_u::<13>(x)), s.splat_u(0xc2b2_ae35));
    s.xor_u(x, s.shr_u::<16>(x))
}
