//! F(3, 3) at the points 0, a, −a, b, ∞.

use super::transform::{A, B, Linear, Transform, plus_and_minus, scaled, scaled_plus, sum_and_difference};
use crate::simd::Simd;

/// The transforms of F(3, 3).
pub(super) struct F3;

impl Transform<3, 5> for F3 {
    type Input = Input;
    type Output = Output;
    type OutputGradient = OutputGradient;
    type Weights = Weights;
    type WeightsGradient = WeightsGradient;
}

pub(super) struct Input;

impl Linear<5, 5> for Input {
    #[inline(always)]
    fn times<S: Simd>(s: S, [d0, d1, d2, d3, d4]: [S::V; 5]) -> [S::V; 5] {
        let b_term = scaled_plus(s, -0.5, d1, d3);
        let (even, odd) = (scaled_plus(s, -B, d2, d3), scaled_plus(s, A, d2, s.sub(s.zero(), d1)));
        [
            scaled_plus(s, A, d0, scaled_plus(s, -B, d2, b_term)),
            s.add(even, odd),
            s.sub(even, odd),
            b_term,
            scaled_plus(s, A, d1, scaled_plus(s, -B, d3, scaled_plus(s, -0.5, d2, d4))),
        ]
    }
}

pub(super) struct Output;

impl Linear<5, 3> for Output {
    #[inline(always)]
    fn times<S: Simd>(s: S, [zero, a, minus_a, b, infinity]: [S::V; 5]) -> [S::V; 3] {
        let (sum, difference) = sum_and_difference(s, a, minus_a);
        [
            s.add(zero, s.add(sum, b)),
            scaled_plus(s, A, difference, scaled(s, B, b)),
            scaled_plus(s, 0.5, sum, scaled_plus(s, 2.0, b, infinity)),
        ]
    }
}

pub(super) struct OutputGradient;

impl Linear<3, 5> for OutputGradient {
    #[inline(always)]
    fn times<S: Simd>(s: S, [y0, y1, y2]: [S::V; 3]) -> [S::V; 5] {
        let [a, minus_a] = plus_and_minus(s, A, y1, scaled_plus(s, 0.5, y2, y0));
        [y0, a, minus_a, scaled_plus(s, 2.0, y2, scaled_plus(s, B, y1, y0)), y2]
    }
}

pub(super) struct Weights;

impl Linear<3, 5> for Weights {
    #[inline(always)]
    fn times<S: Simd>(s: S, [g0, g1, g2]: [S::V; 3]) -> [S::V; 5] {
        let (even, odd) = (scaled_plus(s, 0.5, g2, g0), scaled(s, A, g1));
        [
            scaled(s, B, g0),
            scaled(s, -B, s.add(even, odd)),
            scaled(s, -B / 3.0, s.sub(even, odd)),
            scaled(s, B / 3.0, scaled_plus(s, 2.0, g2, scaled_plus(s, B, g1, g0))),
            g2,
        ]
    }
}

pub(super) struct WeightsGradient;

impl Linear<5, 3> for WeightsGradient {
    #[inline(always)]
    fn times<S: Simd>(s: S, [zero, a, minus_a, b, infinity]: [S::V; 5]) -> [S::V; 3] {
        let (a, minus_a, b) = (scaled(s, -B, a), scaled(s, -B / 3.0, minus_a), scaled(s, B / 3.0, b));
        let (sum, difference) = sum_and_difference(s, a, minus_a);
        [
            scaled_plus(s, B, zero, s.add(sum, b)),
            scaled_plus(s, A, difference, scaled(s, B, b)),
            scaled_plus(s, 0.5, sum, scaled_plus(s, 2.0, b, infinity)),
        ]
    }
}
