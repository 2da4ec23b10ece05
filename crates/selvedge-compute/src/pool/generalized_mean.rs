//! Global pooling by the generalised mean, GeM (Radenović, Tolias and Chum, 2018): y = (mean(max(x, ε)ᵖ))^(1/p) for each image and
//! channel, with ε = 1e-6. With p = 1 it is the average of positive numbers; the larger p, the nearer it is to the maximum.

use std::ops::Range;

use super::{assert_block, assert_rows};
use crate::Cpu;
use crate::layout::BlockShape;
use crate::simd::{Element, Kernel, MAX_LANES, Simd, dispatch, math};

/// Smaller numbers count as this much, so that every power and root is finite.
pub const EPSILON: f32 = 1e-6;

/// The exponents that are allowed: [`EPSILON`] to the power of the largest is still a normal f32.
pub const EXPONENTS: std::ops::RangeInclusive<f32> = 1.0..=6.0;

/// The usual exponent, whose powers are two multiplications.
const USUAL: f32 = 3.0;

/// The generalised mean with exponent `p` of each image and channel of `x`, a block of `shape`; `y` is one pixel of it.
///
/// # Panics
/// If `p` is not one of [`EXPONENTS`], a slice does not have the length that `shape` says, or the channel stride is not a multiple
/// of [`MAX_LANES`].
///
/// ```
/// use selvedge_compute::{BlockShape, Cpu, pool::generalized_mean};
/// let shape = BlockShape::new(1, 2, 16);
/// let x = [[1.0; 512], [2.0; 512]].concat(); // two pixels of 32 images and 16 channels
/// let mut y = [0.0; 512];
/// generalized_mean::forward(Cpu::detect()?, &shape, 3.0, &x, &mut y);
/// assert!(y.iter().all(|y: &f32| (y - 4.5f32.powf(1.0 / 3.0)).abs() < 1e-6));
/// # Ok::<(), selvedge_compute::CpuError>(())
/// ```
pub fn forward<E: Element>(cpu: Cpu, shape: &BlockShape, p: f32, x: &[E], y: &mut [E]) {
    check(shape, p, y.len());
    assert_block("x", x.len(), shape);
    dispatch(cpu, Forward { shape, p, x, y });
}

/// The gradient of [`forward`] from `x`, `y` and `dy`; `dx` is the rows `rows` alone. What is below [`EPSILON`] has none.
///
/// # Panics
/// As [`forward`].
pub fn backward<E: Element>(
    cpu: Cpu,
    shape: &BlockShape,
    rows: Range<usize>,
    p: f32,
    x: &[E],
    [y, dy]: [&[E]; 2],
    dx: &mut [E],
) {
    check(shape, p, y.len());
    assert_eq!(y.len(), dy.len(), "the lengths of y and dy");
    assert_block("x", x.len(), shape);
    assert_rows("dx", dx.len(), &rows, shape);
    dispatch(cpu, Backward { shape, rows, p, x, y, dy, dx });
}

#[track_caller]
fn check(shape: &BlockShape, p: f32, y: usize) {
    let stride = shape.channel_stride;
    assert!(stride.is_multiple_of(MAX_LANES), "the channel stride is {stride}, not a multiple of {MAX_LANES}");
    assert!(EXPONENTS.contains(&p), "the exponent is {p}, not one of {EXPONENTS:?}");
    assert_block("y", y, &BlockShape { height: 1, width: 1, ..*shape });
}

/// vᵖ for a positive v; `IS_USUAL` says that p is [`USUAL`].
#[inline(always)]
fn power<S: Simd, const IS_USUAL: bool>(s: S, v: S::V, p: f32) -> S::V {
    if IS_USUAL { s.mul(v, s.mul(v, v)) } else { math::exp(s, s.mul(s.splat(p), math::ln(s, v))) }
}

struct Forward<'a, E> {
    shape: &'a BlockShape,
    p: f32,
    x: &'a [E],
    y: &'a mut [E],
}

impl<E: Element> Forward<'_, E> {
    #[inline(always)]
    fn pass<S: Simd, const IS_USUAL: bool>(self, s: S) {
        let BlockShape { height, width, channels, .. } = *self.shape;
        let (epsilon, share) = (s.splat(EPSILON), s.splat(1.0 / (height * width) as f32));
        for i in (0..self.shape.pixel()).step_by(S::LANES) {
            let mut total = s.zero();
            for row in 0..height {
                // Summing rows first keeps rounding errors of large images small.
                let mut sum = s.zero();
                for column in 0..width {
                    // SAFETY: `forward` asserted that x is a block, whose pixels are whole vectors.
                    let x = unsafe { E::load(s, self.x.as_ptr().add(self.shape.offset(row, column) + i)) };
                    // A NaN passes.
                    sum = s.add(sum, power::<S, IS_USUAL>(s, s.max(epsilon, x), self.p));
                }
                total = s.add(total, sum);
            }
            let mean = math::exp(s, s.mul(s.splat(1.0 / self.p), math::ln(s, s.mul(total, share))));
            // The lanes of padding must stay zero, and ε is not.
            let first = s.splat_u(self.shape.image_and_channel(i).1 as u32);
            let is_channel = s.lt_u(s.add_u(first, s.lane_numbers()), s.splat_u(channels as u32));
            // SAFETY: `forward` asserted that y is a pixel.
            unsafe { E::store(s, self.y.as_mut_ptr().add(i), s.select(is_channel, mean, s.zero())) }
        }
    }
}

impl<E: Element> Kernel for Forward<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        if self.p == USUAL { self.pass::<S, true>(s) } else { self.pass::<S, false>(s) }
    }
}

struct Backward<'a, E> {
    shape: &'a BlockShape,
    rows: Range<usize>,
    p: f32,
    x: &'a [E],
    y: &'a [E],
    dy: &'a [E],
    dx: &'a mut [E],
}

impl<E: Element> Backward<'_, E> {
    /// dx = dy·(x / y)^(p − 1) / pixels, which is in range wherever y is.
    #[inline(always)]
    fn pass<S: Simd, const IS_USUAL: bool>(self, s: S) {
        let BlockShape { height, width, .. } = *self.shape;
        let (epsilon, share) = (s.splat(EPSILON), s.splat(1.0 / (height * width) as f32));
        for i in (0..self.shape.pixel()).step_by(S::LANES) {
            // SAFETY: `backward` asserted that y and dy are a pixel.
            let [y, dy] = [self.y, self.dy].map(|from| unsafe { E::load(s, from.as_ptr().add(i)) });
            let (inverse, scaled) = (s.div(s.splat(1.0), s.max(epsilon, y)), s.mul(dy, share));
            for (row, in_image) in self.rows.clone().enumerate() {
                for column in 0..width {
                    // SAFETY: `backward` asserted that x is a block, and that dx is `rows` of one.
                    unsafe {
                        let x = E::load(s, self.x.as_ptr().add(self.shape.offset(in_image, column) + i));
                        let ratio = s.mul(s.max(epsilon, x), inverse);
                        let slope =
                            if IS_USUAL { s.mul(ratio, ratio) } else { power::<S, false>(s, ratio, self.p - 1.0) };
                        let dx = s.select(s.gt(x, epsilon), s.mul(scaled, slope), s.zero());
                        E::store(s, self.dx.as_mut_ptr().add(self.shape.offset(row, column) + i), dx);
                    }
                }
            }
        }
    }
}

impl<E: Element> Kernel for Backward<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        if self.p == USUAL { self.pass::<S, true>(s) } else { self.pass::<S, false>(s) }
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;
    use crate::test_support::{Numbers, assert_close, central_difference, cpus, wide};

    /// The generalised mean of one image and channel.
    fn reference(x: &[f64], p: f32) -> f64 {
        let powers = x.iter().map(|x| x.max(f64::from(EPSILON)).powf(p.into()));
        (powers.sum::<f64>() / x.len() as f64).powf(1.0 / f64::from(p))
    }

    fn matches_reference<E: Element>() {
        for (height, width, channels) in [(1, 1, 5), (3, 2, 17), (7, 7, 64)] {
            let (shape, one) = (BlockShape::new(height, width, channels), BlockShape::new(1, 1, channels));
            let mut numbers = Numbers::new(channels as u64);
            let (x, dy) = (numbers.block::<E>(&shape), numbers.block::<E>(&one));
            for (cpu, p) in cpus().into_iter().flat_map(|cpu| [1.0, 2.5, 3.0, 6.0].map(|p| (cpu, p))) {
                let name = format!("{shape:?} with {p} on {}", cpu.isa());
                let (mut y, mut dx) = (vec![E::from_f32(7.0); one.len()], vec![E::from_f32(7.0); shape.len()]);
                forward(cpu, &shape, p, &x, &mut y);
                let (upper, lower) = dx.split_at_mut(height / 2 * shape.row());
                backward(cpu, &shape, height / 2..height, p, &x, [&y, &dy], lower);
                backward(cpu, &shape, 0..height / 2, p, &x, [&y, &dy], upper);
                for i in 0..one.len() {
                    let at: Vec<usize> = (i..shape.len()).step_by(shape.pixel()).collect();
                    let mut xs: Vec<f64> = at.iter().map(|&at| f64::from(x[at].to_f32())).collect();
                    let got: Vec<E> = at.iter().map(|&at| dx[at]).collect();
                    if one.image_and_channel(i).1 >= channels {
                        assert!(y[i].to_f32() == 0.0 && got.iter().all(|dx| dx.to_f32() == 0.0), "padding, {name}");
                        continue;
                    }
                    assert_close(&name, &y[i..=i], &[reference(&xs, p)], 2e-6);
                    if i % 7 == 0 {
                        let dy = f64::from(dy[i].to_f32());
                        let want: Vec<f64> =
                            (0..xs.len()).map(|k| dy * central_difference(&mut xs, k, |x| reference(x, p))).collect();
                        // The gradient divides by y^(p − 1), which bf16 rounds; where all x are small, it changes fast.
                        if xs.iter().all(|x| x.abs() > 1e-3) && reference(&xs, p) > 0.1 {
                            let rounding = if E::IS_BF16 { 0.02 } else { 0.0 };
                            assert_close(&format!("gradient, {name}"), &got, &want, 2e-5 + rounding);
                        }
                    }
                }
            }
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
    /// import torch
    /// torch.set_default_dtype(torch.float64)
    /// x = torch.tensor([.5, -1., 2., .25], requires_grad=True)
    /// for p in (3., 2.5):
    ///     x.grad = None
    ///     y = x.clamp(min=1e-6).pow(p).mean().pow(1 / p); y.backward(); print(y.item(), x.grad.tolist())    # torch 2.15.0
    /// ```
    #[test]
    fn matches_pytorch() {
        let shape = BlockShape::new(2, 2, 16);
        let x: Vec<f32> = [0.5, -1.0, 2.0, 0.25].iter().flat_map(|&x| [x; 512]).collect();
        let expected = [
            (3.0, 1.26726056, [0.03891779, 0.0, 0.62268465, 0.00972945]),
            (2.5, 1.16541253, [0.07025472, 0.0, 0.56203774, 0.02483879]),
        ];
        for (cpu, (p, value, slopes)) in cpus().into_iter().flat_map(|cpu| expected.map(|case| (cpu, case))) {
            let (mut y, mut dx) = (vec![7.0; 512], vec![7.0; 2048]);
            forward(cpu, &shape, p, &x, &mut y);
            backward(cpu, &shape, 0..2, p, &x, [&y, &[1.0; 512]], &mut dx);
            assert_close("value", &y, &[value; 512], 5e-7);
            assert_close("gradient", &dx, &slopes.map(|slope| [slope; 512]).concat(), 1e-6);
        }
    }

    #[test]
    fn extremes_stay_finite() {
        let shape = BlockShape::new(1, 2, 16);
        for (cpu, p) in cpus().into_iter().flat_map(|cpu| [1.0, 3.0, 6.0].map(|p| (cpu, p))) {
            for x in [-5.0, 0.0, 1e-7, 1e-6, 1e4] {
                let (x, mut y, mut dx) = (vec![x; 1024], vec![7.0; 512], vec![7.0; 1024]);
                forward(cpu, &shape, p, &x, &mut y);
                backward(cpu, &shape, 0..1, p, &x, [&y, &[1.0; 512]], &mut dx);
                let want = f64::from(x[0].max(EPSILON));
                assert!(
                    wide(&y).iter().all(|y| (y / want - 1.0).abs() < 1e-4),
                    "{} of {} on {}",
                    y[0],
                    x[0],
                    cpu.isa()
                );
                assert!(dx.iter().all(|dx| (0.0..=0.501).contains(dx)), "{} of {} on {}", dx[0], x[0], cpu.isa());
            }
        }
    }

    #[test]
    #[should_panic(expected = "the exponent is 0.5, not one of 1.0..=6.0")]
    fn exponents_have_a_range() {
        forward(cpus()[0], &BlockShape::new(1, 1, 16), 0.5, &[0.0f32; 512], &mut [0.0; 512]);
    }
}
