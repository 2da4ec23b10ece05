//! [`scatter`]: the gradient of a max pooling whose windows do not overlap (max-unpool), and of the bias before it, in
//! one pass.

use super::Pool2dShape;
#[cfg(target_arch = "x86_64")]
mod words;

use crate::cpu::Cpu;
use crate::layout::{BLOCK, PLANE};
use crate::simd::{Element, Kernel, Simd, dispatch};

/// The gradient of a max-pooled tensor, for [`scatter`].
#[derive(Clone, Copy, Debug)]
pub struct PooledGradient<'a, E> {
    /// One gradient per window: a block of the output shape.
    pub dy: &'a [E],
    /// Each window's argmax, row by row within the window, in the layout of `dy`. A value that is not a pixel of the
    /// window, such as [`crate::conv::NO_ARGMAX`], drops the gradient.
    pub indices: &'a [u16],
    /// What `dy` is multiplied by: the factor of a dropout in the same pass ([`crate::dropout::DropoutMask::scale`]),
    /// or 1.
    pub scale: f32,
}

/// Writes each window's gradient, times its scale, to the window's argmax in `dx`, and zero to all other pixels. What
/// it writes is also added to `dbias`, one number per channel.
///
/// `dx` is a block of the input shape. [`super::max_backward`] also takes windows that overlap, but reads each gradient
/// once for every pixel of its window; here it is read once.
///
/// # Panics
/// If the windows overlap, a slice is not a block of its shape, or `dbias` is not as long as the channel stride, a
/// multiple of [`crate::simd::MAX_LANES`].
///
/// ```
/// use selvedge_compute::{BlockShape, Cpu, pool::{Pool2dShape, PooledGradient, scatter}};
/// let shape = Pool2dShape::new(BlockShape::new(2, 2, 16), [2, 2], [2, 2]);
/// let (mut dx, mut dbias) = (vec![7.0; shape.input().len()], [0.0; 16]);
/// // The argmax of every window is its last pixel.
/// let gradient = PooledGradient { dy: &[0.5; 512], indices: &[3; 512], scale: 2.0 };
/// scatter(Cpu::detect()?, &shape, gradient, &mut dx, Some(&mut dbias));
/// assert_eq!((dx[0], dx[shape.input().offset(1, 1)], dbias), (0.0, 1.0, [32.0; 16]));
/// # Ok::<(), selvedge_compute::CpuError>(())
/// ```
pub fn scatter<E: Element>(
    cpu: Cpu,
    shape: &Pool2dShape,
    gradient: PooledGradient<'_, E>,
    dx: &mut [E],
    dbias: Option<&mut [f32]>,
) {
    let (size, stride) = (shape.size, shape.stride);
    assert!(stride[0] >= size[0] && stride[1] >= size[1], "windows of {size:?} with a stride of {stride:?} overlap");
    super::assert_block("dy", gradient.dy.len(), &shape.output());
    super::assert_block("indices", gradient.indices.len(), &shape.output());
    super::assert_block("dx", dx.len(), &shape.input);
    let channels = shape.input.channel_stride;
    assert!(channels.is_multiple_of(crate::simd::MAX_LANES), "a channel stride of {channels}");
    if let Some(dbias) = &dbias {
        assert_eq!(dbias.len(), channels, "the length of dbias and the channel stride");
    }
    let scatter = Scatter { shape, gradient, dx, dbias };
    if E::IS_BF16 && cpu.isa().has_tiles() && size == [2, 2] && channels.is_multiple_of(PLANE) {
        // SAFETY: the condition; AMX is reported only beside AVX-512 with bf16 (`cpu::detect`); the assertions above
        // are those that `words::scatter` names.
        return unsafe { words::scatter(scatter) };
    }
    dispatch(cpu, scatter);
}

struct Scatter<'a, E> {
    shape: &'a Pool2dShape,
    gradient: PooledGradient<'a, E>,
    dx: &'a mut [E],
    dbias: Option<&'a mut [f32]>,
}

#[cfg(not(target_arch = "x86_64"))]
mod words {
    pub(super) unsafe fn scatter<E>(_: super::Scatter<'_, E>) {
        unreachable!("nothing proves AMX here")
    }
}

impl<E: Element> Scatter<'_, E> {
    /// Zeroes the pixels that no window covers.
    #[inline(always)]
    fn clear_rest(&mut self) {
        let Pool2dShape { input, size: [height, width], stride } = *self.shape;
        if stride != [height, width] {
            self.dx.fill(E::default());
            return;
        }
        // The pixels at the right and lower edge that no window reaches.
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
        let (window, scale) = (s.splat_u((height * width) as u32), s.splat(self.gradient.scale));
        for y in 0..output.height {
            for x in 0..output.width {
                let corner = input.offset(y * stride[0], x * stride[1]);
                let from = output.offset(y, x);
                for c in (0..input.channel_stride).step_by(S::LANES) {
                    let mut sum = s.zero();
                    for image in 0..BLOCK {
                        let at = input.channel(c) + image * input.plane();
                        // SAFETY: `scatter` saw `dy` and `indices` hold the whole output and `dx` the whole input, in
                        // which every window lies; `c` + LANES is at most the channel stride.
                        unsafe {
                            let argmax = s.load_u16(self.gradient.indices.as_ptr().add(from + at));
                            let v = s.mul(E::load(s, self.gradient.dy.as_ptr().add(from + at)), scale);
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
                        // SAFETY: `scatter` saw `dbias` hold a channel stride.
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

impl<E: Element> Kernel for Scatter<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // As a constant, the usual window is unrolled.
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
                let gradient = PooledGradient { dy: &dy, indices: &indices, scale };
                scatter(cpu, &shape, gradient, &mut dx, Some(&mut dbias));
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
