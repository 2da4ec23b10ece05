//! The gradient of the weights in f32, summed over pixels and images.
//!
//! A few output pixels at a time, so that their X and dY stay in the first cache while taps and channels take their turn;
//! a tile of the gradient is loaded, added to over 32 images a pixel, and stored. X and dY are regrouped in planes of 16
//! channels before ([`super::regroup::to_planes`]), in which the steps from image to image are one cache line.

use std::ops::Range;

use super::ahead::Ahead;
use super::input_weights::InputSum;
use super::regroup::store_planes;
use super::tile::{Walk, accumulate, column};
use super::weight_sums::{Regroup, Rows, TILE, Tap, TapRow, TapSum, add_block, add_blocks, check_block, check_blocks};
use super::{Blocks, Conv2dShape, Onto, PANEL};
use crate::cpu::Cpu;
use crate::layout::BLOCK;
use crate::simd::{Element, Kernel, Simd, dispatch};

/// The gradient of panels `panels` over all blocks: `xᵀ ∗ dy`, added to `dweights` or in its place.
///
/// Both tensors are regrouped by [`super::regroup::to_planes`]; `dweights` is exactly these panels, in the layout of the
/// packed weights. The order of the sum is fixed by the shape and the number of blocks. Images that a batch does not fill
/// must have a dY of zero.
///
/// # Panics
/// If a slice is not as long as the shape says, x and dy differ in their number of blocks, or the input's channels are not
/// padded.
pub fn backward_weights(
    cpu: Cpu,
    shape: &Conv2dShape,
    x: Blocks<'_, f32>,
    dy: Blocks<'_, f32>,
    panels: Range<usize>,
    onto: Onto,
    dweights: &mut [f32],
) {
    check_blocks(shape, &x, &dy, &panels, dweights);
    if onto == Onto::Nothing {
        dweights.fill(0.0);
    }
    if x.count > 0 {
        dispatch(cpu, OfBlocks { x, dy, gradient: Gradient { shape, panels, dweights } });
    }
}

/// The gradient of one block's `x` and `dy`, as they lie: `xᵀ ∗ dy`, added to `dweights` or in its place.
///
/// Their rows are regrouped in `buffers` on the way, of any content and of the lengths of [`super::row_buffers`].
///
/// # Panics
/// If a slice is not as long as the shape says, with both lengths, before anything is written.
pub fn backward_weights_of_block<E: Element>(
    cpu: Cpu,
    shape: &Conv2dShape,
    x: &[f32],
    dy: &[E],
    buffers: [&mut [f32]; 2],
    onto: Onto,
    dweights: &mut [f32],
) {
    check_block(shape, [x.len(), dy.len()], [buffers[0].len(), buffers[1].len()], dweights);
    if onto == Onto::Nothing {
        dweights.fill(0.0);
    }
    let gradient = Gradient { shape, panels: 0..shape.panels(), dweights };
    if shape.input.channel_stride.is_multiple_of(PANEL) {
        dispatch(cpu, OfBlock { x, dy, buffers, gradient });
    } else {
        dispatch(cpu, InputSum::new(x, dy, gradient));
    }
}

/// The panels of a gradient that are summed.
pub(super) struct Gradient<'a> {
    pub shape: &'a Conv2dShape,
    pub panels: Range<usize>,
    pub dweights: &'a mut [f32],
}

struct OfBlocks<'a> {
    x: Blocks<'a, f32>,
    dy: Blocks<'a, f32>,
    gradient: Gradient<'a>,
}

impl Kernel for OfBlocks<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut sum = VectorSum { s, gradient: self.gradient };
        // SAFETY: `check_blocks` has compared the lengths with the shape.
        unsafe { add_blocks(&mut sum, self.x, self.dy) };
    }
}

struct OfBlock<'a, E> {
    x: &'a [f32],
    dy: &'a [E],
    buffers: [&'a mut [f32]; 2],
    gradient: Gradient<'a>,
}

impl<E: Element> Kernel for OfBlock<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut sum = VectorSum { s, gradient: self.gradient };
        // SAFETY: `check_block` has compared the lengths of tensors and buffers with the shape.
        unsafe { add_block(&mut sum, (self.x, self.dy), self.buffers) };
    }
}

struct VectorSum<'a, S> {
    s: S,
    gradient: Gradient<'a>,
}

impl<S: Simd> TapSum for VectorSum<'_, S> {
    type Element = f32;

    /// 128 steps for 16 loads and stores.
    const PIXELS: usize = 4;
    const CHANNELS: usize = PANEL;

    #[inline(always)]
    fn by_rows(&self) -> bool {
        false
    }

    #[inline(always)]
    fn shape(&self) -> &Conv2dShape {
        self.gradient.shape
    }

    #[inline(always)]
    fn panels(&self) -> Range<usize> {
        self.gradient.panels.clone()
    }

    #[inline(always)]
    fn panels_at_once(&self, panel: usize) -> usize {
        // Two panels fill AVX-512's registers; the others take one, of several vectors.
        if S::LANES == 16 { 2.min(self.gradient.panels.end - panel) } else { 1 }
    }

    #[inline(always)]
    unsafe fn add(&mut self, x: Rows<'_, f32>, dy: Rows<'_, f32>, tap: &Tap) {
        let panels = self.panels_at_once(tap.panel);
        let gradient = &mut self.gradient;
        // What the loads and stores of `Channels` rest on is the caller's promise.
        match (S::LANES, panels) {
            (16, 2) => self.s.apart(Channels::<8, 2> { gradient, x, dy, tap }),
            (16, _) => self.s.apart(Channels::<16, 1> { gradient, x, dy, tap }),
            (8, _) => self.s.apart(Channels::<4, 2> { gradient, x, dy, tap }),
            _ => self.s.apart(Channels::<2, 4> { gradient, x, dy, tap }),
        }
    }

    unsafe fn add_row(&mut self, _: Rows<'_, f32>, _: Rows<'_, f32>, _: &TapRow, _: &mut Ahead) {
        unreachable!("vectors add up one tap at a time")
    }
}

impl<S: Simd, E: Element> Regroup<E> for VectorSum<'_, S> {
    #[inline(always)]
    fn regroup_x(&self, from: &[f32], to: &mut [f32]) {
        store_planes(self.s, &self.gradient.shape.input, from, to);
    }

    #[inline(always)]
    fn regroup_dy(&self, from: &[E], to: &mut [f32]) {
        store_planes(self.s, &self.gradient.shape.output, from, to);
    }
}

/// One tap of 16 input channels, the rows of the tile, in steps of ROWS.
///
/// It is made only by [`TapSum::add`], whose caller promises what its loads and stores rest on.
struct Channels<'a, 'g, const ROWS: usize, const VECTORS: usize> {
    gradient: &'a mut Gradient<'g>,
    x: Rows<'a, f32>,
    dy: Rows<'a, f32>,
    tap: &'a Tap,
}

impl<const ROWS: usize, const VECTORS: usize> Kernel for Channels<'_, '_, ROWS, VECTORS> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Channels { gradient, x, dy, tap } = self;
        let Conv2dShape { input, kernel, stride, padding, .. } = *gradient.shape;
        let &Tap { y, ref columns, ky, kx, panel, channel } = tap;
        let walk = Walk {
            count: [1, x.blocks.count, columns.len()],
            a_step: [0, x.blocks.stride as isize, (stride * TILE) as isize],
            b_step: [0, dy.blocks.stride, TILE],
            depth: BLOCK,
            a_row: 1,
            b_panel: dy.panel,
        };
        let a = x.offset(y * stride + ky - padding[0], columns.start * stride + kx - padding[1], channel / PANEL);
        let b = dy.offset(y, columns.start, panel);
        let first_panel = panel - gradient.panels.start;
        let weight =
            ((first_panel * gradient.shape.taps() + ky * kernel[1] + kx) * input.channel_stride + channel) * PANEL;
        for row in (0..PANEL).step_by(ROWS) {
            // SAFETY: `TapSum::add`'s caller promises the lengths and the taps' pixels; `row + ROWS` does not pass the 16
            // channels of a plane.
            unsafe {
                let at = weight + row * PANEL;
                let mut acc = gradient.load::<S, ROWS, VECTORS>(s, at);
                let (a, b) = (x.blocks.data.as_ptr().add(a + row), dy.blocks.data.as_ptr().add(b));
                accumulate::<S, f32, true, ROWS, VECTORS>(s, &walk, a, b, &mut acc);
                gradient.store(s, at, &acc);
            }
        }
    }
}

impl Gradient<'_> {
    /// Loads a tile of the gradient.
    ///
    /// # Safety
    /// `at` must begin ROWS rows of a panel of `dweights`, with VECTORS vectors' panels behind it.
    #[inline(always)]
    pub(super) unsafe fn load<S: Simd, const ROWS: usize, const VECTORS: usize>(
        &self,
        s: S,
        at: usize,
    ) -> [[S::V; VECTORS]; ROWS] {
        let mut acc = [[s.zero(); VECTORS]; ROWS];
        for (row, acc) in acc.iter_mut().enumerate() {
            for (v, acc) in acc.iter_mut().enumerate() {
                let at = at + row * PANEL + column::<S>(v, self.shape.panel_len());
                debug_assert!(at + S::LANES <= self.dweights.len());
                // SAFETY: the caller's promise.
                *acc = unsafe { s.load(self.dweights.as_ptr().add(at)) };
            }
        }
        acc
    }

    /// Stores a tile of the gradient.
    ///
    /// # Safety
    /// As for `load`.
    #[inline(always)]
    pub(super) unsafe fn store<S: Simd, const ROWS: usize, const VECTORS: usize>(
        &mut self,
        s: S,
        at: usize,
        acc: &[[S::V; VECTORS]; ROWS],
    ) {
        for (row, acc) in acc.iter().enumerate() {
            for (v, &acc) in acc.iter().enumerate() {
                let at = at + row * PANEL + column::<S>(v, self.shape.panel_len());
                debug_assert!(at + S::LANES <= self.dweights.len());
                // SAFETY: the caller's promise.
                unsafe { s.store(self.dweights.as_mut_ptr().add(at), acc) };
            }
        }
    }
}
