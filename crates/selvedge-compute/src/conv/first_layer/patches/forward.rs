//! The forward pass: the products of a window, then the maxima.
//!
//! To take the maxima a window later, while tiles multiply, gains nothing here: the processor does so by itself.

use std::mem::MaybeUninit;
use std::ops::Range;

use half::bf16;

use super::{PANEL_LEN, SEEN, packed_len};
use crate::amx::patches::{PIXELS, TILE};
use crate::amx::{Depth, ROWS, Registers, Tiles, patches, with_tiles};
use crate::conv::first_layer::pooled::WINDOW;
use crate::conv::pooled::{Training, check, largest, pooled_shape, store};
use crate::conv::{Conv2dShape, PANEL, Part};
use crate::cpu::Cpu;
use crate::dropout::Draws;
use crate::layout::{BLOCK, BlockShape};
use crate::simd::{Element, Kernel, Simd, dispatch, math};

/// [`crate::conv::forward_pooled`] of a first layer in bf16 on AMX; `x` comes from [`super::fill`], `weights` from
/// [`super::pack`].
///
/// # Panics
/// If the layer is not of this form, a slice is not as long as the shape says, or `cpu` does not prove AMX.
pub fn forward<Y: Element>(
    cpu: Cpu,
    layer: &Conv2dShape,
    x: &[bf16],
    weights: &[bf16],
    bias: Option<&[f32]>,
    part: impl Into<Part>,
    y: &mut [Y],
    training: Option<Training<'_>>,
) {
    let Part { rows, images } = part.into();
    assert!((1..=BLOCK).contains(&images), "{images} images of a block of {BLOCK}");
    assert_eq!(x.len(), super::shape(layer).len(), "the length of x and that of {layer:?}");
    assert_eq!(weights.len(), packed_len(layer), "the weights' length and that of {layer:?}");
    let pooled = pooled_shape(layer, WINDOW);
    check(&pooled, &rows, bias, y, &training);
    with_tiles(cpu, Depth::Sixteen, Registers::Patches, images, |tiles| {
        dispatch(cpu, Forward { tiles, pooled, x, weights, bias, rows, images, y, training });
    });
}

struct Forward<'a, Y> {
    tiles: &'a Tiles,
    pooled: BlockShape,
    x: &'a [bf16],
    weights: &'a [bf16],
    bias: Option<&'a [f32]>,
    /// Pooled rows.
    rows: Range<usize>,
    images: usize,
    y: &'a mut [Y],
    training: Option<Training<'a>>,
}

/// The convolution at a window's pixels, `[half of the images][pixel][image][16]`: in the first cache. It is written and read
/// through a pointer alone.
#[repr(align(64))]
struct Sums {
    _numbers: [f32; 2 * PIXELS * TILE],
}

impl<Y: Element> Forward<'_, Y> {
    /// The maxima of window `number`.
    ///
    /// # Safety
    /// The sums of all images must have been written.
    #[inline(always)]
    unsafe fn pool<S: Simd>(&mut self, s: S, number: usize, panel: usize, sums: *const f32, draws: &Option<Draws<S>>) {
        let pooled = self.pooled;
        for lane in (0..PANEL).step_by(S::LANES) {
            let channel = panel * PANEL + lane;
            let bias = match self.bias {
                // SAFETY: `forward` asserted that the bias is as long as the channel stride.
                Some(bias) => unsafe { s.load(bias.as_ptr().add(channel)) },
                None => s.zero(),
            };
            let first = (number - self.rows.start * pooled.width) * pooled.pixel() + pooled.channel(channel);
            let positions = math::positions(s, (number * pooled.channels + channel) as u32);
            let mut of_pair = [positions; 2];
            for image in 0..self.images {
                if let (Some(draws), 0) = (draws, image % 2) {
                    of_pair = draws.of_pair(s, image / 2, positions);
                }
                let from = image / ROWS * PIXELS * TILE + image % ROWS * PANEL + lane;
                let to = first + image * pooled.plane();
                debug_assert!(to + S::LANES <= self.y.len());
                // SAFETY: the caller's promise; `to` lies in the window's pixel, whose room `forward` asserted.
                unsafe {
                    let (largest, argmax) = largest(s, PIXELS, |pixel| s.load(sums.add(pixel * TILE + from)));
                    let largest = s.add(largest, bias);
                    store(s, self.y, &mut self.training, to, largest, argmax, draws, of_pair[image % 2]);
                }
            }
        }
    }
}

impl<Y: Element> Kernel for Forward<'_, Y> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let draws = Training::draws(&self.training, s);
        let mut sums = MaybeUninit::<Sums>::uninit();
        let sums = sums.as_mut_ptr().cast::<f32>();
        let halves = self.images.div_ceil(ROWS);
        for number in self.rows.start * self.pooled.width..self.rows.end * self.pooled.width {
            for panel in 0..self.pooled.channel_stride / PANEL {
                // SAFETY: `forward` compared the lengths of x and of the weights with the layer: a window of x has 16 numbers of
                // BLOCK images, a panel PANEL_LEN weights. The products write the sums that are pooled.
                unsafe {
                    let a = self.x.as_ptr().add(number * BLOCK * SEEN);
                    let b = self.weights.as_ptr().add(panel * PANEL_LEN);
                    patches::forward(self.tiles, halves, a, b, sums);
                    self.pool(s, number, panel, sums, &draws);
                }
            }
        }
    }
}
