//! The forward pass of a first layer with pooling: the products of a window, then the maxima.
//!
//! Taking the maxima one window later, while tiles multiply, gains nothing here: out-of-order execution overlaps them already.

use std::mem::MaybeUninit;
use std::ops::Range;

use half::bf16;

use super::{PANEL_LEN, PATCH, packed_len};
use crate::amx::patches::{PIXELS, TILE};
use crate::amx::{Depth, ROWS, Registers, Tiles, patches, with_tiles};
use crate::conv::first_layer::pooled::WINDOW;
use crate::conv::pooled::{Maxima, PooledOutput, floor, pooled_shape, store};
use crate::conv::{Conv2dShape, PANEL, Part};
use crate::cpu::Cpu;
use crate::dropout::Draws;
use crate::layout::{BLOCK, BlockShape};
use crate::simd::{Element, Kernel, Simd, dispatch, math};

/// [`crate::conv::first_layer::forward_pooled`] in bf16 on AMX; `x` comes from [`super::fill`], `weights` from [`super::pack`].
///
/// # Panics
/// If the layer is not of this form, a slice is not as long as the shape says, or `cpu` does not prove AMX.
pub fn forward<Y: Element>(
    cpu: Cpu,
    layer: &Conv2dShape,
    x: &[bf16],
    weights: &[bf16],
    part: impl Into<Part>,
    output: PooledOutput<'_, Y>,
) {
    let Part { rows, images } = part.into();
    assert_eq!(output.window, WINDOW, "the pooling window of {layer:?}");
    assert!((1..=BLOCK).contains(&images), "{images} images of a block of {BLOCK}");
    assert_eq!(x.len(), super::shape(layer).len(), "the length of x and that of {layer:?}");
    assert_eq!(weights.len(), packed_len(layer), "the weights' length and that of {layer:?}");
    let pooled = pooled_shape(layer, WINDOW);
    output.check(&pooled, &rows);
    with_tiles(cpu, Depth::Sixteen, Registers::Patches, images, |tiles| {
        dispatch(cpu, Forward { tiles, pooled, x, weights, rows, images, output });
    });
}

struct Forward<'a, Y> {
    tiles: &'a Tiles,
    pooled: BlockShape,
    x: &'a [bf16],
    weights: &'a [bf16],
    /// Pooled rows.
    rows: Range<usize>,
    images: usize,
    output: PooledOutput<'a, Y>,
}

/// The sums of a window's pixels, `[half of the images][pixel][image][16]`, which stay in L1. Only accessed through a pointer.
#[repr(align(64))]
struct WindowSums {
    _values: [f32; 2 * PIXELS * TILE],
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
            // SAFETY: `forward` compared the bias with the channel stride.
            let bias = unsafe { self.output.bias_at(s, channel) };
            let floor = floor(s, self.output.relu);
            let first = (number - self.rows.start * pooled.width) * pooled.pixel() + pooled.channel(channel);
            let positions = math::positions(s, (number * pooled.channels + channel) as u32);
            let mut of_pair = [positions; 2];
            for image in 0..self.images {
                if let (Some(draws), 0) = (draws, image % 2) {
                    of_pair = draws.of_pair(s, image / 2, positions);
                }
                let from = image / ROWS * PIXELS * TILE + image % ROWS * PANEL + lane;
                let to = first + image * pooled.plane();
                debug_assert!(to + S::LANES <= self.output.y.len());
                // SAFETY: the caller's promise; `to` lies in the window's pixel, whose room `forward` asserted.
                unsafe {
                    let maxima = Maxima::of(s, PIXELS, |pixel| s.load(sums.add(pixel * TILE + from)));
                    let maxima = maxima.after(s, bias, floor);
                    let PooledOutput { y, training, .. } = &mut self.output;
                    store(s, y, training, to, maxima, draws, of_pair[image % 2]);
                }
            }
        }
    }
}

impl<Y: Element> Kernel for Forward<'_, Y> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let draws = self.output.draws(s);
        let mut sums = MaybeUninit::<WindowSums>::uninit();
        let sums = sums.as_mut_ptr().cast::<f32>();
        let halves = self.images.div_ceil(ROWS);
        for number in self.rows.start * self.pooled.width..self.rows.end * self.pooled.width {
            for panel in 0..self.pooled.channel_stride / PANEL {
                // SAFETY: `forward` compared x and the weights with the layer: a patch has 16 elements of BLOCK images, a panel
                // PANEL_LEN weights. The products write the sums that are pooled.
                unsafe {
                    let a = self.x.as_ptr().add(number * BLOCK * PATCH);
                    let b = self.weights.as_ptr().add(panel * PANEL_LEN);
                    patches::forward(self.tiles, halves, a, b, sums);
                    self.pool(s, number, panel, sums, &draws);
                }
            }
        }
    }
}
