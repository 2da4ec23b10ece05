//! F(4, 3) at the points 0, a, −a, b, −b, ∞.

use super::transform::{A, B, Linear, Transform, plus_and_minus, scaled, scaled_plus, sum_and_difference};
use crate::simd::Simd;

/// The transforms of F(4, 3).
pub(super) struct F4;

impl Transform<4, 6> for F4 {
    type Input = Input;
    type Output = Output;
    type OutputGradient = OutputGradient;
    type Weights = Weights;
    type WeightsGradient = WeightsGradient;
}

pub(super) struct Input;

impl Linear<6, 6> for Input {
    #[inline(always)]
    fn times<S: Simd>(s: S, [d0, d1, d2, d3, d4, d5]: [S::V; 6]) -> [S::V; 6] {
        let zero = scaled_plus(s, -2.5, d2, s.add(d0, d4));
        let (even_a, odd_a) = (scaled_plus(s, -2.0, d2, d4), scaled_plus(s, -2.0, d1, d3));
        let (even_b, odd_b) = (scaled_plus(s, -0.5, d2, d4), scaled_plus(s, -0.5, d1, d3));
        let infinity = scaled_plus(s, -2.5, d3, s.add(d1, d5));
        let [a, minus_a] = plus_and_minus(s, A, odd_a, even_a);
        let [b, minus_b] = plus_and_minus(s, B, odd_b, even_b);
        [zero, a, minus_a, b, minus_b, infinity]
    }
}

pub(super) struct Output;

impl Linear<6, 4> for Output {
    #[inline(always)]
    fn times<S: Simd>(s: S, [zero, a, minus_a, b, minus_b, infinity]: [S::V; 6]) -> [S::V; 4] {
        let (sum_a, difference_a) = sum_and_difference(s, a, minus_a);
        let (sum_b, difference_b) = sum_and_difference(s, b, minus_b);
        [
            s.add(zero, s.add(sum_a, sum_b)),
            scaled_plus(s, A, difference_a, scaled(s, B, difference_b)),
            scaled_plus(s, 0.5, sum_a, s.add(sum_b, sum_b)),
            scaled_plus(s, A / 2.0, difference_a, scaled_plus(s, 2.0 * B, difference_b, infinity)),
        ]
    }
}

pub(super) struct OutputGradient;

impl Linear<4, 6> for OutputGradient {
    #[inline(always)]
    fn times<S: Simd>(s: S, [y0, y1, y2, y3]: [S::V; 4]) -> [S::V; 6] {
        let (even_a, odd_a) = (scaled_plus(s, 0.5, y2, y0), scaled_plus(s, 0.5, y3, y1));
        let (even_b, odd_b) = (scaled_plus(s, 2.0, y2, y0), scaled_plus(s, 2.0, y3, y1));
        let [a, minus_a] = plus_and_minus(s, A, odd_a, even_a);
        let [b, minus_b] = plus_and_minus(s, B, odd_b, even_b);
        [y0, a, minus_a, b, minus_b, y3]
    }
}

pub(super) struct Weights;

impl Linear<3, 6> for Weights {
    #[inline(always)]
    fn times<S: Simd>(s: S, [g0, g1, g2]: [S::V; 3]) -> [S::V; 6] {
        let (even_a, odd_a) = (scaled_plus(s, 0.5, g2, g0), scaled(s, A, g1));
        let (even_b, odd_b) = (scaled_plus(s, 2.0, g2, g0), scaled(s, B, g1));
        [
            g0,
            scaled(s, -2.0 / 3.0, s.add(even_a, odd_a)),
            scaled(s, -2.0 / 3.0, s.sub(even_a, odd_a)),
            scaled(s, 1.0 / 6.0, s.add(even_b, odd_b)),
            scaled(s, 1.0 / 6.0, s.sub(even_b, odd_b)),
            g2,
        ]
    }
}

pub(super) struct WeightsGradient;

impl Linear<6, 3> for WeightsGradient {
    #[inline(always)]
    fn times<S: Simd>(s: S, [zero, a, minus_a, b, minus_b, infinity]: [S::V; 6]) -> [S::V; 3] {
        let (sum_a, difference_a) = sum_and_difference(s, a, minus_a);
        let (sum_b, difference_b) = sum_and_difference(s, b, minus_b);
        let (sum_a, sum_b) = (scaled(s, -2.0 / 3.0, sum_a), scaled(s, 1.0 / 6.0, sum_b));
        [
            s.add(zero, s.add(sum_a, sum_b)),
            scaled_plus(s, A * (-2.0 / 3.0), difference_a, scaled(s, B * (1.0 / 6.0), difference_b)),
            scaled_plus(s, 0.5, sum_a, scaled_plus(s, 2.0, sum_b, infinity)),
        ]
    }
}
