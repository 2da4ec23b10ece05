//! Dropout (Srivastava et al., 2014): each element is zeroed with probability `rate`; the others are divided by
//! 1 − `rate`.
//!
//! A hash of a key, the image's number and the element's position in its image decides what is dropped. So no mask is
//! stored, the backward pass repeats the forward pass on the gradient, and the bits depend neither on the size of
//! blocks nor on the number of threads. After a max pooling that keeps its indices, dropout runs in the pooling's pass
//! ([`crate::conv::Training`]): a dropped element has no argmax there, and the backward pass needs no mask.

use std::ops::Range;

use crate::Cpu;
use crate::layout::{BLOCK, BlockShape};
use crate::simd::{Element, Kernel, MAX_LANES, Simd, dispatch, math};

/// Which elements are dropped.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DropoutMask {
    /// The key of the hash, which differs for each layer and step.
    pub key: u32,
    /// The number of the block's first image, in the batch or overall; it must be even. The other images follow it.
    pub first_image: u64,
    /// The probability that an element is dropped, at least 0 and below 1, rounded down to a multiple of 2⁻¹⁶.
    pub rate: f32,
}

/// y = x / (1 − rate) where the mask keeps an element, 0 where it drops one, for the rows of pixels `rows`; `x` and `y`
/// are these rows alone. With dy and dx in their places this is the backward pass.
///
/// The mask numbers an image's elements in the order `[height][width][channel]`, without padded channels.
///
/// # Panics
/// If a slice is not `rows` of the shape, the channel stride is not a multiple of [`MAX_LANES`], the first image's
/// number is odd, or the rate is not in 0..1.
pub fn apply<E: Element>(cpu: Cpu, shape: &BlockShape, rows: Range<usize>, mask: &DropoutMask, x: &[E], y: &mut [E]) {
    assert_eq!(x.len(), y.len(), "x has {} elements and y {}", x.len(), y.len());
    assert_arguments(shape, &rows, mask, y.len());
    // SAFETY: both slices are `rows` of `shape`, as asserted.
    dispatch(cpu, unsafe { Dropout::new(shape, rows, mask, x.as_ptr(), y.as_mut_ptr()) });
}

/// [`apply`] in place: y overwrites x.
///
/// # Panics
/// As [`apply`].
///
/// ```
/// use selvedge_compute::{BlockShape, Cpu, dropout::{self, DropoutMask}};
/// let shape = BlockShape::new(4, 4, 16);
/// let mut x = vec![1.0; shape.len()];
/// let mask = DropoutMask { key: 1, first_image: 0, rate: 0.5 };
/// dropout::apply_in_place(Cpu::detect()?, &shape, 0..4, &mask, &mut x);
/// assert!(x.iter().all(|&x| x == 0.0 || x == 2.0));
/// # Ok::<(), selvedge_compute::CpuError>(())
/// ```
pub fn apply_in_place<E: Element>(cpu: Cpu, shape: &BlockShape, rows: Range<usize>, mask: &DropoutMask, x: &mut [E]) {
    assert_arguments(shape, &rows, mask, x.len());
    let at = x.as_mut_ptr();
    // SAFETY: the slice is `rows` of `shape`, as asserted; `Dropout` reads an element before it writes it.
    dispatch(cpu, unsafe { Dropout::new(shape, rows, mask, at, at) });
}

impl DropoutMask {
    /// The factor of the elements that are kept, 1 / (1 − rate).
    pub fn scale(&self) -> f32 {
        (1.0 / (1.0 - f64::from(self.rate))) as f32
    }

    /// What the first element of each image of a block is multiplied by: 0 or [`scale`](Self::scale).
    pub(crate) fn factors(&self) -> [f32; BLOCK] {
        std::array::from_fn(|image| {
            let random = random_u32(pair_key(self.key, (self.first_image + image as u64) / 2), 0);
            let draw = if image.is_multiple_of(2) { random << 16 } else { random };
            if draw < self.threshold() { 0.0 } else { self.scale() }
        })
    }

    /// An element is dropped if its random number is below this: its upper 16 bits below rate·2¹⁶.
    fn threshold(&self) -> u32 {
        ((f64::from(self.rate) * 2f64.powi(16)) as u32) << 16
    }

    #[track_caller]
    pub(crate) fn check(&self) {
        assert!(self.first_image.is_multiple_of(2), "the first image's number {} is odd", self.first_image);
        assert!((0.0..1.0).contains(&self.rate), "the dropout rate must be at least 0 and below 1, not {}", self.rate);
    }
}

/// The draws of a mask, for vectors of elements.
pub(crate) struct Draws<S: Simd> {
    keys: [u32; BLOCK / 2],
    threshold: S::U,
    scale: S::V,
}

impl<S: Simd> Draws<S> {
    #[inline(always)]
    pub(crate) fn new(s: S, mask: &DropoutMask) -> Self {
        let keys = std::array::from_fn(|pair| pair_key(mask.key, mask.first_image / 2 + pair as u64));
        Self { keys, threshold: s.splat_u(mask.threshold()), scale: s.splat(mask.scale()) }
    }

    /// The draws for the elements at `positions` of images 2·`pair` and 2·`pair` + 1.
    #[inline(always)]
    pub(crate) fn of_pair(&self, s: S, pair: usize, positions: S::U) -> [S::U; 2] {
        // The low half of a random number serves the first image, the high half the second.
        let random = math::random_u32(s, self.keys[pair], positions);
        [s.shl_u::<16>(random), random]
    }

    /// A mask of the elements that `draw` drops.
    #[inline(always)]
    pub(crate) fn drops(&self, s: S, draw: S::U) -> S::M {
        s.lt_u(draw, self.threshold)
    }

    /// Zero for the elements that are dropped, scaled `x` for the others.
    #[inline(always)]
    pub(crate) fn keep(&self, s: S, dropped: S::M, x: S::V) -> S::V {
        s.select(dropped, s.zero(), s.mul(x, self.scale))
    }
}

#[track_caller]
fn assert_arguments(shape: &BlockShape, rows: &Range<usize>, mask: &DropoutMask, len: usize) {
    let stride = shape.channel_stride;
    assert!(stride.is_multiple_of(MAX_LANES), "the channel stride is {stride}, not a multiple of {MAX_LANES}");
    assert!(
        rows.start <= rows.end && rows.end <= shape.height,
        "rows {rows:?} are not within the {} rows",
        shape.height
    );
    let need = rows.len() * shape.row();
    assert_eq!(len, need, "the slice has {len} elements and rows {rows:?} {need}");
    mask.check();
}

struct Dropout<'a, E> {
    shape: &'a BlockShape,
    rows: Range<usize>,
    mask: &'a DropoutMask,
    x: *const E,
    y: *mut E,
}

impl<'a, E: Element> Dropout<'a, E> {
    /// # Safety
    /// `rows` of `shape`, whose channel stride is a multiple of [`MAX_LANES`], must be readable at `x` and writable at
    /// `y` while it lives. The two may be equal but must not overlap otherwise.
    unsafe fn new(shape: &'a BlockShape, rows: Range<usize>, mask: &'a DropoutMask, x: *const E, y: *mut E) -> Self {
        Self { shape, rows, mask, x, y }
    }
}

impl<E: Element> Kernel for Dropout<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let BlockShape { width, channels, channel_stride, .. } = *self.shape;
        let draws = Draws::new(s, self.mask);
        for (row, pixel) in (self.rows.start * width..self.rows.end * width).enumerate() {
            for c in (0..channel_stride).step_by(S::LANES) {
                let positions = math::positions(s, (pixel * channels + c) as u32);
                let first = self.shape.channel(c);
                for pair in 0..BLOCK / 2 {
                    for (image, draw) in draws.of_pair(s, pair, positions).into_iter().enumerate() {
                        let at = row * self.shape.pixel() + first + (2 * pair + image) * self.shape.plane();
                        // SAFETY: `new`'s promise; `at` lies in one of `rows`, in steps of LANES, which divides the
                        // channels of a plane.
                        unsafe {
                            let x = E::load(s, self.x.add(at));
                            E::store(s, self.y.add(at), draws.keep(s, draws.drops(s, draw), x));
                        }
                    }
                }
            }
        }
    }
}

/// The key of a pair of images: the 64-bit finaliser of MurmurHash3 (Appleby), applied to both numbers.
fn pair_key(key: u32, pair: u64) -> u32 {
    let mut x = pair.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (u64::from(key) << 32 | u64::from(!key));
    x = (x ^ x >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    x = (x ^ x >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    (x ^ x >> 33) as u32
}

/// [`math::random_u32`] of one number.
fn random_u32(key: u32, position: u32) -> u32 {
    let x = position ^ key;
    let x = (x ^ x >> 16).wrapping_mul(0x85eb_ca6b);
    let x = (x ^ x >> 13).wrapping_mul(0xc2b2_ae35);
    x ^ x >> 16
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;
    use crate::test_support::{Numbers, assert_close, cpus, wide};

    /// Whether an element is kept, computed with scalar arithmetic.
    fn kept(mask: &DropoutMask, image: u64, position: u32) -> bool {
        let mut x = position.wrapping_mul(0x9e37_79b9) ^ pair_key(mask.key, image / 2);
        x = (x ^ x >> 16).wrapping_mul(0x85eb_ca6b);
        x = (x ^ x >> 13).wrapping_mul(0xc2b2_ae35);
        let half = if image.is_multiple_of(2) { (x ^ x >> 16) & 0xffff } else { (x ^ x >> 16) >> 16 };
        f64::from(half) >= (f64::from(mask.rate) * 2f64.powi(16)).floor()
    }

    fn matches_reference<E: Element>() {
        for (cpu, channels) in cpus().into_iter().flat_map(|cpu| [1, 10, 16, 35].map(|channels| (cpu, channels))) {
            let shape = BlockShape::new(5, 3, channels);
            let x = Numbers::new(channels as u64).block::<E>(&shape);
            for rate in [0.0, 0.25, 0.9] {
                let mask = DropoutMask { key: 77, first_image: 96, rate };
                let mut y = vec![E::from_f32(7.0); x.len()];
                let half = 2 * shape.row();
                apply(cpu, &shape, 2..5, &mask, &x[half..], &mut y[half..]);
                apply(cpu, &shape, 0..2, &mask, &x[..half], &mut y[..half]);
                let mut want = vec![0.0; x.len()];
                for pixel in 0..15 {
                    for image in 0..BLOCK {
                        for c in 0..channels {
                            let at = shape.offset(pixel / 3, pixel % 3) + shape.channel(c) + image * shape.plane();
                            if kept(&mask, 96 + image as u64, (pixel * channels + c) as u32) {
                                want[at] = f64::from(x[at].to_f32()) / (1.0 - f64::from(rate));
                            }
                        }
                    }
                }
                assert_close(&format!("{channels} channels on {}", cpu.isa()), &y, &want, 1e-6);
                let mut in_place = x.clone();
                apply_in_place(cpu, &shape, 0..5, &mask, &mut in_place);
                assert_eq!(wide(&in_place), wide(&y));
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

    /// Zeros are as frequent as in independent draws, alone and in common between two keys, images or positions.
    #[test]
    fn masks_look_independent() {
        let shape = BlockShape::new(16, 16, 16);
        let rate = 0.3;
        let draw = |key, first_image| {
            let mut x = vec![1.0f32; shape.len()];
            let mask = DropoutMask { key, first_image, rate };
            apply_in_place(cpus()[0], &shape, 0..16, &mask, &mut x);
            x
        };
        let a = draw(0, 0);
        let next_image: Vec<f32> = a.chunks(shape.pixel()).flat_map(|p| [&p[16..], &p[..16]].concat()).collect();
        let next_pixel = [&a[shape.pixel()..], &a[..shape.pixel()]].concat();
        for (name, b) in [
            ("key", draw(1, 0)),
            ("high key", draw(1 << 31, 0)),
            ("block", draw(0, 32)),
            ("far block", draw(0, 1 << 40)),
            ("image", next_image),
            ("pixel", next_pixel),
            ("element", [&a[1..], &a[..1]].concat()),
        ] {
            let zeros = b.iter().filter(|&&x| x == 0.0).count() as f32 / b.len() as f32;
            let common = a.iter().zip(&b).filter(|&(&a, &b)| a == 0.0 && b == 0.0).count() as f32 / b.len() as f32;
            assert!((zeros - rate).abs() < 0.005, "{name}: {zeros} are zero");
            assert!((common - rate * rate).abs() < 0.005, "{name}: {common} are zero in both");
        }
    }

    #[test]
    #[should_panic(expected = "the dropout rate must be at least 0 and below 1, not 1")]
    fn a_rate_of_one_is_refused() {
        let mask = DropoutMask { key: 0, first_image: 0, rate: 1.0 };
        apply_in_place(cpus()[0], &BlockShape::new(1, 1, 16), 0..1, &mask, &mut [0.0f32; 512]);
    }
}
