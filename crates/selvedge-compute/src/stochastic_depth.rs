//! Stochastic depth (Huang et al., 2016): a residual body is left out of some images of a training batch.
//!
//! y = x + m·body(x) with one m for each image: 0 with probability `rate`, otherwise 1 / (1 − `rate`), as in timm's `DropPath`. The
//! draws are those of dropout for the first element of each image ([`DropoutMask`]), so no mask is stored, and the bits depend
//! neither on the size of blocks nor on the number of threads.

use crate::Cpu;
use crate::dropout::DropoutMask;
use crate::layout::BLOCK;
use crate::simd::{Element, Kernel, MAX_LANES, Simd, dispatch};

/// y = shortcut + m·body, for whole planes of [`BLOCK`] images with `plane` channels each
/// ([`BlockShape::plane`](crate::BlockShape::plane)).
///
/// # Panics
/// If the lengths differ or are no whole planes, the plane is not a multiple of [`MAX_LANES`], or the mask is not allowed.
pub fn add<E: Element>(cpu: Cpu, plane: usize, mask: &DropoutMask, [shortcut, body]: [&[E]; 2], y: &mut [E]) {
    assert_eq!(shortcut.len(), y.len(), "the lengths of shortcut and y");
    scale_and_add(cpu, plane, mask, Some(shortcut), body, y);
}

/// dbody = m·dy, the gradient of the body, for whole planes as in [`add`].
///
/// # Panics
/// As [`add`].
pub fn body_gradient<E: Element>(cpu: Cpu, plane: usize, mask: &DropoutMask, dy: &[E], dbody: &mut [E]) {
    scale_and_add(cpu, plane, mask, None, dy, dbody);
}

fn scale_and_add<E: Element>(
    cpu: Cpu,
    plane: usize,
    mask: &DropoutMask,
    shortcut: Option<&[E]>,
    body: &[E],
    y: &mut [E],
) {
    assert!(plane > 0 && plane.is_multiple_of(MAX_LANES), "a plane of {plane} channels is not whole vectors");
    assert_eq!(body.len(), y.len(), "the lengths of body and y");
    assert!(y.len().is_multiple_of(BLOCK * plane), "{} elements are not planes of {plane} channels", y.len());
    mask.check();
    dispatch(cpu, ScaleAndAdd { plane, factors: mask.factors(), shortcut, body, y });
}

struct ScaleAndAdd<'a, E> {
    plane: usize,
    factors: [f32; BLOCK],
    shortcut: Option<&'a [E]>,
    body: &'a [E],
    y: &'a mut [E],
}

impl<E: Element> Kernel for ScaleAndAdd<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for first in (0..self.y.len()).step_by(BLOCK * self.plane) {
            for (image, &factor) in self.factors.iter().enumerate() {
                let factor = s.splat(factor);
                for lane in (0..self.plane).step_by(S::LANES) {
                    let at = first + image * self.plane + lane;
                    // SAFETY: all tensors are equally long, whole planes of whole vectors, as `add` and `scale_and_add` asserted.
                    unsafe {
                        let body = E::load(s, self.body.as_ptr().add(at));
                        let y = match self.shortcut {
                            Some(shortcut) => s.mul_add(body, factor, E::load(s, shortcut.as_ptr().add(at))),
                            None => s.mul(body, factor),
                        };
                        E::store(s, self.y.as_mut_ptr().add(at), y);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;
    use crate::dropout;
    use crate::layout::BlockShape;
    use crate::test_support::{Numbers, assert_close, cpus, wide};

    fn matches_reference<E: Element>() {
        for (height, width, channels) in [(1, 1, 5), (3, 2, 17), (2, 2, 64)] {
            let shape = BlockShape::new(height, width, channels);
            let mut numbers = Numbers::new(channels as u64);
            let (shortcut, body) = (numbers.block::<E>(&shape), numbers.block::<E>(&shape));
            for (cpu, rate) in cpus().into_iter().flat_map(|cpu| [0.0, 0.25, 0.9].map(|rate| (cpu, rate))) {
                let mask = DropoutMask { key: 5, first_image: 64, rate };
                // What dropout makes of ones: the factor of an image is that of its first element.
                let one = BlockShape::new(1, 1, 1);
                let mut ones = vec![1.0f32; one.len()];
                dropout::apply_in_place(cpu, &one, 0..1, &mask, &mut ones);
                let factor = |at: usize| f64::from(ones[shape.image_and_channel(at).0 * one.plane()]);
                let dropped = (0..BLOCK).filter(|image| ones[image * one.plane()] == 0.0).count();
                assert!((rate == 0.0) == (dropped == 0) && dropped < BLOCK, "{dropped} images at {rate}");
                let (mut y, mut dbody) = (vec![E::from_f32(7.0); shape.len()], vec![E::from_f32(7.0); shape.len()]);
                add(cpu, shape.plane(), &mask, [&shortcut, &body], &mut y);
                body_gradient(cpu, shape.plane(), &mask, &body, &mut dbody);
                let scaled: Vec<f64> = wide(&body).iter().enumerate().map(|(at, body)| body * factor(at)).collect();
                let sum: Vec<f64> =
                    wide(&shortcut).iter().zip(&scaled).map(|(shortcut, body)| shortcut + body).collect();
                let name = format!("{shape:?} on {}", cpu.isa());
                assert_close(&name, &y, &sum, 1e-6);
                assert_close(&format!("gradient, {name}"), &dbody, &scaled, 1e-6);
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

    /// A quarter of many images, whatever the batch that they are in.
    #[test]
    fn as_many_images_are_dropped_as_the_rate_says() {
        let dropped = |first_image: u64| {
            let mask = DropoutMask { key: 9, first_image, rate: 0.25 };
            mask.factors().iter().filter(|&&factor| factor == 0.0).count()
        };
        let dropped: usize = (0..1000).map(|block| dropped(block * BLOCK as u64)).sum();
        // Of 32,000 draws, five standard deviations of 77.
        assert!((8000 - 390..8000 + 390).contains(&dropped), "{dropped} of 32,000");
    }

    #[test]
    #[should_panic(expected = "256 elements are not planes of 16 channels")]
    fn planes_must_be_whole() {
        let mask = DropoutMask { key: 0, first_image: 0, rate: 0.5 };
        body_gradient(cpus()[0], 16, &mask, &[0.0f32; 256], &mut [0.0; 256]);
    }
}
