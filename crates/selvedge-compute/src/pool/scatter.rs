//! [`spread`]: the gradient of a max pooling whose windows do not overlap, and of the bias before it, in one pass.

use super::Pool2dShape;
#[cfg(target_arch = "x86_64")]
mod words;

use crate::cpu::Cpu;
use crate::layout::{BLOCK, PLANE};
use crate::simd::{Element, Kernel, Simd, dispatch};

/// Each window's `dy`, times `scale`, goes to the pixel that `indices` names, or nowhere if it names none; all other pixels of `dx` become
/// zero. What goes somewhere is also added to `dbias`, one number a channel.
///
/// The general form, for windows that overlap, is [`super::max_backward`], which reads each gradient once for every pixel
/// of its window; here it is read once.
///
/// # Panics
/// If the windows overlap, or a slice is not a block of its shape, or `dbias` not a channel stride long.
pub fn scatter<E: Element>(
    cpu: Cpu,
    shape: &Pool2dShape,
    dy: &[E],
    indices: &[u16],
    scale: f32,
    dx: &mut [E],
    dbias: Option<&mut [f32]>,
) {
    let (size, stride) = (shape.size, shape.stride);
    assert!(stride[0] >= size[0] && stride[1] >= size[1], "windows of {size:?}, {stride:?} apart, overlap");
    super::assert_block("dy", dy.len(), &shape.output());
    super::assert_block("indices", indices.len(), &shape.output());
    super::assert_block("dx", dx.len(), &shape.input);
    let channels = shape.input.channel_stride;
    assert!(channels.is_multiple_of(crate::simd::MAX_LANES), "a channel stride of {channels}");
    if let Some(dbias) = &dbias {
        assert_eq!(dbias.len(), channels, "the length of dbias and the channel stride");
    }
    let spread = Spread { shape, dy, indices, scale, dx, dbias };
    if E::IS_BF16 && cpu.isa().has_tiles() && size == [2, 2] && channels.is_multiple_of(PLANE) {
        // SAFETY: the condition; AMX is reported only beside AVX-512 with bf16 (`cpu::detect`); the assertions above are `Spread`'s.
        return unsafe { words::spread(spread) };
    }
    dispatch(cpu, spread);
}

struct Spread<'a, E> {
    shape: &'a Pool2dShape,
    dy: &'a [E],
    indices: &'a [u16],
    scale: f32,
    dx: &'a mut [E],
    dbias: Option<&'a mut [f32]>,
}

#[cfg(not(target_arch = "x86_64"))]
mod words {
    pub(super) unsafe fn spread<E>(_: super::Spread<'_, E>) {
        unreachable!("nothing proves AMX here")
    }
}

impl<E: Element> Spread<'_, E> {
    /// Makes zero what no window covers.
    #[inline(always)]
    fn clear_rest(&mut self) {
        let Pool2dShape { input, size: [height, width], stride } = *self.shape;
        if stride != [height, width] {
            self.dx.fill(E::default());
            return;
        }
        // What is left over at the right and at the lower edge.
        let rest = input.width % width * input.pixel();
        for row in self.dx.chunks_exact_mut(input.row()) {
            row[input.row() - rest..].fill(E::default());
        }
        let covered = input.height / height * height * input.row();
        self.dx[covered..].fill(E::default());
    }

    #[inline(always)]
    fn pass<S: Simd>(mut self, s: S, [height, width]: [usize; 2]) {
        let Pool2dShape { input, stride, .. } = *self.shape;
        let output = self.shape.output();
        self.clear_rest();
        let (window, scale) = (s.splat_u((height * width) as u32), s.splat(self.scale));
        for y in 0..output.height {
            for x in 0..output.width {
                let corner = input.offset(y * stride[0], x * stride[1]);
                let from = output.offset(y, x);
                for c in (0..input.channel_stride).step_by(S::LANES) {
                    let mut sum = s.zero();
                    for image in 0..BLOCK {
                        let at = input.channel(c) + image * input.plane();
                        // SAFETY: `spread` saw `dy` and `indices` hold the whole output and `dx` the whole input, in
                        // which every window lies; `c` + LANES does not pass the channel stride.
                        unsafe {
                            let argmax = s.load_u16(self.indices.as_ptr().add(from + at));
                            let v = s.mul(E::load(s, self.dy.as_ptr().add(from + at)), scale);
                            let v = s.select(s.lt_u(argmax, window), v, s.zero());
                            sum = s.add(sum, v);
                            for pixel in 0..height * width {
                                let v = s.select(s.eq_u(argmax, s.splat_u(pixel as u32)), v, s.zero());
                                let to = corner + pixel / width * input.row() + pixel % width * input.pixel() + at;
                                E::store(s, self.dx.as_mut_ptr().add(to), v);
                            }
                        }
                    }
                    if let Some(dbias) = &mut self.dbias {
                        // SAFETY: `spread` saw `dbias` hold a channel stride.
                        unsafe {
                            let to = dbias.as_mut_ptr().add(c);
                            s.store(to, s.add(s.load(to), sum));
                        }
                    }
                }
            }
        }
    }
}

impl<E: Element> Kernel for Spread<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // The usual window is a constant, which unrolls it.
        match self.shape.size {
            [2, 2] => self.pass(s, [2, 2]),
            size => self.pass(s, size),
        }
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;
    use crate::conv::NO_ARGMAX;
    use crate::layout::BlockShape;
    use crate::pool::max_backward;
    use crate::test_support::{Numbers, cpus, wide};

    fn equals_max_backward<E: Element>() {
        for (height, width, channels, size, stride) in [
            (4, 6, 20, [2, 2], [2, 2]),
            (5, 7, 40, [2, 2], [2, 2]),
            (5, 6, 64, [2, 2], [3, 2]),
            (7, 7, 20, [3, 2], [3, 3]),
            (3, 3, 20, [3, 3], [3, 3]),
        ] {
            let shape = Pool2dShape::new(BlockShape::new(height, width, channels), size, stride);
            let mut numbers = Numbers::new(height as u64);
            let dy = numbers.block::<E>(&shape.output());
            let mut indices = vec![0; dy.len()];
            for argmax in &mut indices {
                let draw = numbers.next_u32() as usize % (size[0] * size[1] + 1);
                *argmax = if draw == size[0] * size[1] { NO_ARGMAX } else { draw as u16 };
            }
            for (cpu, scale) in cpus().into_iter().flat_map(|cpu| [(cpu, 1.0), (cpu, 0.5)]) {
                let (mut dx, mut want) =
                    (vec![E::from_f32(7.0); shape.input().len()], vec![E::default(); shape.input().len()]);
                let mut dbias = vec![0.5; shape.input().channel_stride];
                scatter(cpu, &shape, &dy, &indices, scale, &mut dx, Some(&mut dbias));
                max_backward(cpu, &shape, 0..height, &dy, &indices, &mut want);
                let want: Vec<f64> = wide(&want).iter().map(|want| f64::from(scale) * want).collect();
                assert_eq!(wide(&dx), want, "{shape:?} on {}", cpu.isa());
                for (c, dbias) in dbias.iter().enumerate() {
                    let channel = |&(at, _): &(usize, &f64)| shape.input().image_and_channel(at).1 == c;
                    let sum: f64 = wide(&dx).iter().enumerate().filter(channel).map(|(_, dx)| dx).sum();
                    assert!((f64::from(*dbias) - 0.5 - sum).abs() < 1e-4, "{dbias}, not 0.5 + {sum}");
                }
            }
        }
    }

    #[test]
    fn equals_max_backward_and_sums_it() {
        equals_max_backward::<f32>();
        equals_max_backward::<bf16>();
    }
}
