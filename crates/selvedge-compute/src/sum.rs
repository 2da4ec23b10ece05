//! The sum of two tensors, where a residual block's branches meet and where its gradients do, and a tensor in the other
//! precision.

use crate::cpu::Cpu;
use crate::prefetch::fetch_ahead;
use crate::simd::{Element, Kernel, MAX_LANES, Simd, dispatch};

/// `y = a + b`, element by element.
///
/// # Panics
/// If the lengths differ or are no multiple of [`MAX_LANES`].
///
/// ```
/// use selvedge_compute::{Cpu, sum};
/// let mut y = vec![0.0; 16];
/// sum::add(Cpu::detect()?, &[1.0; 16], &[2.0; 16], &mut y);
/// assert_eq!(y, [3.0; 16]);
/// # Ok::<(), selvedge_compute::CpuError>(())
/// ```
pub fn add<E: Element>(cpu: Cpu, a: &[E], b: &[E], y: &mut [E]) {
    assert_eq!(a.len(), b.len(), "the lengths of the summands");
    assert_eq!(a.len(), y.len(), "the lengths of a summand and the sum");
    assert!(a.len().is_multiple_of(MAX_LANES), "{} elements are no multiple of {MAX_LANES}", a.len());
    dispatch(cpu, Add { a, b, y });
}

/// `y = x`, widened or rounded to nearest even.
///
/// # Panics
/// If the lengths differ or are no multiple of [`MAX_LANES`].
pub fn convert<X: Element, Y: Element>(cpu: Cpu, x: &[X], y: &mut [Y]) {
    assert_eq!(x.len(), y.len(), "the lengths of x and y");
    assert!(x.len().is_multiple_of(MAX_LANES), "{} elements are no multiple of {MAX_LANES}", x.len());
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
            fetch_ahead(s, self.a, i);
            fetch_ahead(s, self.b, i);
            fetch_ahead(s, self.y, i);
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
            let mut converted = vec![bf16::ZERO; 48];
            convert(cpu, &b, &mut converted);
            assert_eq!(converted, narrow(&b), "{}", cpu.isa());
            let (a, b, mut y) = (narrow(&a), narrow(&b), narrow(&y));
            add(cpu, &a, &b, &mut y);
            assert!((0..48).all(|i| y[i] == bf16::from_f32(a[i].to_f32() + b[i].to_f32())), "{}", cpu.isa());
        }
    }
}
