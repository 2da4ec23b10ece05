//! The sum of two tensors, as where the branches of a residual block or their gradients join; the sum of many slices;
//! and the conversion of a tensor to the other precision.

use crate::cpu::Cpu;
use crate::prefetch::prefetch_ahead;
use crate::simd::{Element, Kernel, MAX_LANES, Simd, dispatch};

/// `y = a + b`, element by element.
///
/// # Panics
/// If the lengths differ or are not a multiple of [`MAX_LANES`].
///
/// ```
/// use selvedge_compute::{Cpu, sum};
/// let mut y = vec![0.0; 16];
/// sum::add(Cpu::detect()?, &[1.0; 16], &[2.0; 16], &mut y);
/// assert_eq!(y, [3.0; 16]);
/// # Ok::<(), selvedge_compute::CpuError>(())
/// ```
pub fn add<E: Element>(cpu: Cpu, a: &[E], b: &[E], y: &mut [E]) {
    assert_eq!(a.len(), b.len(), "the lengths of a and b");
    assert_eq!(a.len(), y.len(), "the lengths of a and y");
    assert!(a.len().is_multiple_of(MAX_LANES), "{} elements are not a multiple of {MAX_LANES}", a.len());
    dispatch(cpu, Add { a, b, y });
}

/// The sum of `count` slices of `summands`, each as long as `y`, that begin `stride` elements apart, added in order.
///
/// # Panics
/// If `count` is 0, `summands` ends before the last slice, or the length of `y` is not a multiple of [`MAX_LANES`].
///
/// ```
/// use selvedge_compute::{Cpu, sum};
/// let mut y = vec![0.0; 16];
/// sum::add_up(Cpu::detect()?, &[1.5; 80], 32, 3, &mut y);
/// assert_eq!(y, [4.5; 16]);
/// # Ok::<(), selvedge_compute::CpuError>(())
/// ```
pub fn add_up(cpu: Cpu, summands: &[f32], stride: usize, count: usize, y: &mut [f32]) {
    assert!(count > 0, "a sum of no slices");
    let needed = (count - 1) * stride + y.len();
    assert!(summands.len() >= needed, "summands has {} elements, {count} slices need {needed}", summands.len());
    assert!(y.len().is_multiple_of(MAX_LANES), "{} elements are not a multiple of {MAX_LANES}", y.len());
    dispatch(cpu, AddUp { summands, stride, count, y });
}

struct AddUp<'a> {
    summands: &'a [f32],
    stride: usize,
    count: usize,
    y: &'a mut [f32],
}

impl Kernel for AddUp<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for i in (0..self.y.len()).step_by(S::LANES) {
            let load = |number: usize| {
                let at = number * self.stride + i;
                prefetch_ahead(s, self.summands, at);
                // SAFETY: `add_up` asserted that every slice has the length of y, a whole number of vectors.
                unsafe { f32::load(s, self.summands.as_ptr().add(at)) }
            };
            let sum = (1..self.count).fold(load(0), |sum, number| s.add(sum, load(number)));
            // SAFETY: `y` has a whole number of vectors.
            unsafe { f32::store(s, self.y.as_mut_ptr().add(i), sum) }
        }
    }
}

/// `y = x` in another element type: widened, or rounded to nearest even.
///
/// # Panics
/// If the lengths differ or are not a multiple of [`MAX_LANES`].
///
/// ```
/// use selvedge_compute::{Cpu, bf16, sum};
/// let mut y = [bf16::ZERO; 16];
/// sum::convert(Cpu::detect()?, &[1.0 + 1.0 / 512.0; 16], &mut y);
/// assert_eq!(y, [bf16::ONE; 16]);
/// # Ok::<(), selvedge_compute::CpuError>(())
/// ```
pub fn convert<X: Element, Y: Element>(cpu: Cpu, x: &[X], y: &mut [Y]) {
    assert_eq!(x.len(), y.len(), "the lengths of x and y");
    assert!(x.len().is_multiple_of(MAX_LANES), "{} elements are not a multiple of {MAX_LANES}", x.len());
    dispatch(cpu, Convert { x, y });
}

struct Convert<'a, X, Y> {
    x: &'a [X],
    y: &'a mut [Y],
}

impl<X: Element, Y: Element> Kernel for Convert<'_, X, Y> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for i in (0..self.y.len()).step_by(S::LANES) {
            // SAFETY: `convert` asserted that both are equally long, a whole number of vectors.
            unsafe { Y::store(s, self.y.as_mut_ptr().add(i), X::load(s, self.x.as_ptr().add(i))) }
        }
    }
}

struct Add<'a, E> {
    a: &'a [E],
    b: &'a [E],
    y: &'a mut [E],
}

impl<E: Element> Kernel for Add<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for i in (0..self.y.len()).step_by(S::LANES) {
            prefetch_ahead(s, self.a, i);
            prefetch_ahead(s, self.b, i);
            prefetch_ahead(s, self.y, i);
            // SAFETY: `add` asserted that all three are equally long, a whole number of vectors.
            unsafe {
                let sum = s.add(E::load(s, self.a.as_ptr().add(i)), E::load(s, self.b.as_ptr().add(i)));
                E::store(s, self.y.as_mut_ptr().add(i), sum);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    #[test]
    fn adds_on_every_instruction_set() {
        let a: Vec<f32> = (0..48).map(|i| i as f32).collect();
        let b: Vec<f32> = (0..48).map(|i| (i * i) as f32 * 0.5).collect();
        let narrow = |v: &[f32]| v.iter().map(|&x| bf16::from_f32(x)).collect::<Vec<_>>();
        for cpu in crate::test_support::cpus() {
            let mut y = vec![0.0; 48];
            add(cpu, &a, &b, &mut y);
            assert!((0..48).all(|i| y[i] == a[i] + b[i]), "{}", cpu.isa());
            let summands: Vec<f32> = [&a, &b, &y, &a].into_iter().flatten().copied().collect();
            let mut total = vec![f32::NAN; 32];
            add_up(cpu, &summands, 48, 3, &mut total);
            assert!((0..32).all(|i| total[i] == a[i] + b[i] + y[i]), "{}", cpu.isa());
            add_up(cpu, &summands, 48, 1, &mut total);
            assert_eq!(total, a[..32], "{}", cpu.isa());
            let mut converted = vec![bf16::ZERO; 48];
            convert(cpu, &b, &mut converted);
            assert_eq!(converted, narrow(&b), "{}", cpu.isa());
            let (a, b, mut y) = (narrow(&a), narrow(&b), narrow(&y));
            add(cpu, &a, &b, &mut y);
            assert!((0..48).all(|i| y[i] == bf16::from_f32(a[i].to_f32() + b[i].to_f32())), "{}", cpu.isa());
        }
    }
}
