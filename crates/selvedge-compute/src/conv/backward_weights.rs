//! [`backward_weights`]: the gradient of the weights, summed over pixels and images.
//!
//! A few output pixels at a time, so that their X and dY stay in the first cache while every tap, input channel and
//! output channel takes its turn; a tile of the gradient is loaded, added to over 32 images a pixel, and stored.

use std::ops::Range;

use super::tile::{Walk, accumulate, accumulate_rows, column};
use super::{Conv2dShape, PANEL};
use crate::cpu::Cpu;
use crate::layout::BLOCK;
use crate::simd::{Element, Kernel, Simd, dispatch};

/// Several blocks of one tensor, as they lie in the memory of a network: one every `stride` elements.
#[derive(Clone, Copy)]
pub struct Blocks<'a, E> {
    /// From the first block's first element to at least the last block's last.
    pub data: &'a [E],
    /// Elements from the beginning of one block to that of the next.
    pub stride: usize,
    /// How many blocks.
    pub count: usize,
}

impl<'a, E> Blocks<'a, E> {
    /// One block.
    pub fn one(data: &'a [E]) -> Self {
        Self { data, stride: data.len(), count: 1 }
    }

    pub(super) fn check(&self, len: usize, name: &str) {
        let needed = if self.count == 0 { 0 } else { (self.count - 1) * self.stride + len };
        assert!(self.data.len() >= needed, "{name}: {} elements, {} blocks need {needed}", self.data.len(), self.count);
    }
}

/// What a gradient is added to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Onto {
    /// What the slice holds.
    Content,
    /// Nothing: the slice is overwritten.
    Nothing,
}

/// The gradient of panels `panels` over all blocks: `xᵀ ∗ dy`, added to `dweights` or in its place.
///
/// `dweights` is exactly these panels, in the layout of the packed weights. The order of the sum is fixed by the shape
/// and the number of blocks. Images that a batch does not fill must have a dY of zero.
///
/// # Panics
/// If a slice is not as long as the shape says, or x and dy differ in their number of blocks.
pub fn backward_weights<E: Element>(
    cpu: Cpu,
    shape: &Conv2dShape,
    x: Blocks<'_, f32>,
    dy: Blocks<'_, E>,
    panels: Range<usize>,
    onto: Onto,
    dweights: &mut [f32],
) {
    x.check(shape.input.len(), "x");
    dy.check(shape.output.len(), "dy");
    assert_eq!(x.count, dy.count, "blocks of x and of dy");
    let stride = shape.input.channel_stride;
    assert!(stride.is_multiple_of(PANEL) || stride <= MAX_INPUT_CHANNELS, "{stride} channels that are not padded");
    assert!(panels.start <= panels.end && panels.end <= shape.panels(), "panels {panels:?} of {}", shape.panels());
    assert_eq!(dweights.len(), panels.len() * shape.panel_len(), "the gradient's length and that of panels {panels:?}");
    if onto == Onto::Nothing {
        dweights.fill(0.0);
    }
    dispatch(cpu, BackwardWeights { shape, x, dy, panels, dweights });
}

struct BackwardWeights<'a, E> {
    shape: &'a Conv2dShape,
    x: Blocks<'a, f32>,
    dy: Blocks<'a, E>,
    panels: Range<usize>,
    dweights: &'a mut [f32],
}

/// Pixels, times blocks, that a tile's sum runs over before it is stored: 128 steps for 16 loads and stores.
const PIXELS: usize = 4;

impl<E: Element> Kernel for BackwardWeights<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let Conv2dShape { input, output, .. } = *self.shape;
        let padded_input = input.channel_stride.is_multiple_of(PANEL);
        let chunk = if padded_input { PIXELS.div_ceil(self.x.count.max(1)) } else { output.width };
        for y in 0..output.height {
            for from in (0..output.width).step_by(chunk) {
                let columns = from..(from + chunk).min(output.width);
                let mut panel = self.panels.start;
                while panel < self.panels.end {
                    // Two panels fill AVX-512's registers; the others take one, of several vectors.
                    let wide = S::LANES == 16 && panel + 2 <= self.panels.end;
                    match (S::LANES, wide, padded_input) {
                        (16, true, true) => self.channels::<S, 8, 2>(s, y, &columns, panel),
                        (16, false, true) => self.channels::<S, 16, 1>(s, y, &columns, panel),
                        (16, true, false) => self.taps::<S, 2>(s, y, &columns, panel),
                        (16, false, false) => self.taps::<S, 1>(s, y, &columns, panel),
                        (8, _, true) => self.channels::<S, 4, 2>(s, y, &columns, panel),
                        (8, _, false) => self.taps::<S, 2>(s, y, &columns, panel),
                        (_, _, true) => self.channels::<S, 2, 4>(s, y, &columns, panel),
                        (_, _, false) => self.taps::<S, 4>(s, y, &columns, panel),
                    }
                    panel += if wide { 2 } else { 1 };
                }
            }
        }
    }
}

impl<E: Element> BackwardWeights<'_, E> {
    /// Rows of the tile are adjacent input channels; every tap in turn.
    #[inline(always)]
    fn channels<S: Simd, const ROWS: usize, const VECTORS: usize>(
        &mut self,
        s: S,
        y: usize,
        columns: &Range<usize>,
        panel: usize,
    ) {
        let Conv2dShape { input, output, kernel, stride, padding } = *self.shape;
        let ys = self.shape.rows_of(y);
        for ky in ys.tap..ys.tap + ys.count {
            for kx in 0..kernel[1] {
                let Range { start: first, end } = self.shape.columns_seeing(kx, columns);
                if first >= end {
                    continue;
                }
                let walk = Walk {
                    count: [self.x.count, end - first],
                    a_step: [self.x.stride as isize, (stride * input.pixel()) as isize],
                    b_step: [self.dy.stride, output.pixel()],
                    depth: BLOCK,
                    a_row: 1,
                    a_depth: input.channel_stride,
                    b_depth: output.channel_stride,
                    b_panel: PANEL,
                };
                let a = input.offset(y * stride + ky - padding[0], first * stride + kx - padding[1], 0);
                let b = output.offset(y, first, 0) + panel * PANEL;
                let tap = (panel - self.panels.start) * self.shape.taps() + ky * kernel[1] + kx;
                for channel in (0..input.channel_stride).step_by(ROWS) {
                    let at = (tap * input.channel_stride + channel) * PANEL;
                    // SAFETY: `backward_weights` compared all lengths with the shape; ky and kx lie on the image for
                    // these columns, and `channel + ROWS` does not pass the stride, a multiple of 16.
                    unsafe {
                        let mut acc = self.load::<S, ROWS, VECTORS>(s, at);
                        let (a, b) = (self.x.data.as_ptr().add(a + channel), self.dy.data.as_ptr().add(b));
                        accumulate(s, &walk, a, b, &mut acc);
                        self.store(s, at, &acc);
                    }
                }
            }
        }
    }

    /// Rows of the tile are taps and channels together: for a network's input, whose channels are few.
    #[inline(always)]
    fn taps<S: Simd, const VECTORS: usize>(&mut self, s: S, y: usize, columns: &Range<usize>, panel: usize) {
        let rows = self.shape.taps() * self.shape.input.channels;
        let mut row = 0;
        while row < rows {
            match rows - row {
                9.. => row += self.tap_rows::<S, 9, VECTORS>(s, y, columns, panel, row),
                4.. => row += self.tap_rows::<S, 4, VECTORS>(s, y, columns, panel, row),
                _ => row += self.tap_rows::<S, 1, VECTORS>(s, y, columns, panel, row),
            }
        }
    }

    #[inline(always)]
    fn tap_rows<S: Simd, const ROWS: usize, const VECTORS: usize>(
        &mut self,
        s: S,
        y: usize,
        columns: &Range<usize>,
        panel: usize,
        row: usize,
    ) -> usize {
        let Conv2dShape { input, output, kernel, stride, padding } = *self.shape;
        let channels = input.channels;
        let at = ((panel - self.panels.start) * self.shape.taps() * channels + row) * PANEL;
        let taps: [[usize; 3]; ROWS] = std::array::from_fn(|r| {
            let (tap, channel) = ((row + r) / channels, (row + r) % channels);
            [tap / kernel[1], tap % kernel[1], channel]
        });
        // SAFETY: `backward_weights` compared all lengths with the shape. A tap on the image is read there; one on the
        // padding is read from ZEROS with a step of 0.
        unsafe {
            let mut acc = self.load::<S, ROWS, VECTORS>(s, at);
            for block in 0..self.x.count {
                let x = self.x.data.as_ptr().add(block * self.x.stride);
                let dy = self.dy.data.as_ptr().add(block * self.dy.stride + panel * PANEL);
                for column in columns.clone() {
                    let a = taps.map(|[ky, kx, channel]| {
                        let (iy, ix) = (
                            (y * stride + ky).wrapping_sub(padding[0]),
                            (column * stride + kx).wrapping_sub(padding[1]),
                        );
                        if iy < input.height && ix < input.width {
                            x.add(input.offset(iy, ix, 0) + channel)
                        } else {
                            ZEROS.as_ptr()
                        }
                    });
                    let b = dy.add(output.offset(y, column, 0));
                    accumulate_rows(s, a, channels, b, output.channel_stride, BLOCK, &mut acc);
                }
            }
            self.store(s, at, &acc);
        }
        ROWS
    }

    /// Loads a tile of the gradient.
    ///
    /// # Safety
    /// `at` must begin ROWS rows of a panel of `dweights`, with VECTORS vectors' panels behind it.
    #[inline(always)]
    unsafe fn load<S: Simd, const ROWS: usize, const VECTORS: usize>(
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
    unsafe fn store<S: Simd, const ROWS: usize, const VECTORS: usize>(
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

/// The most channels a network's input may have without padding: what [`ZEROS`] holds for each image.
pub(super) const MAX_INPUT_CHANNELS: usize = PANEL - 1;

/// What a tap on the padding reads for a block of images.
static ZEROS: [f32; BLOCK * MAX_INPUT_CHANNELS] = [0.0; BLOCK * MAX_INPUT_CHANNELS];

/// Adds the gradient of a bias: the sum of `dy` over pixels and images, `[channel_stride]`.
///
/// # Panics
/// If `dy` is not whole rows of `dbias.len()` channels, a multiple of 16.
pub fn backward_bias<E: Element>(cpu: Cpu, dy: &[E], dbias: &mut [f32]) {
    assert!(
        dbias.len().is_multiple_of(PANEL) && !dbias.is_empty() && dy.len().is_multiple_of(dbias.len()),
        "{} elements of dy in rows of {} channels",
        dy.len(),
        dbias.len()
    );
    dispatch(cpu, BackwardBias { dy, dbias });
}

struct BackwardBias<'a, E> {
    dy: &'a [E],
    dbias: &'a mut [f32],
}

impl<E: Element> Kernel for BackwardBias<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        /// Independent sums, to hide the latency of the addition.
        const CHAINS: usize = 4;
        let channels = self.dbias.len();
        let rows = self.dy.len() / channels;
        for c in (0..channels).step_by(S::LANES) {
            let mut sums = [s.zero(); CHAINS];
            for row in 0..rows {
                let chain = row % CHAINS;
                // SAFETY: row < rows and c + LANES ≤ channels, a multiple of 16, and dy is rows · channels long.
                sums[chain] = s.add(sums[chain], unsafe { E::load(s, self.dy.as_ptr().add(row * channels + c)) });
            }
            let sum = s.add(s.add(sums[0], sums[1]), s.add(sums[2], sums[3]));
            // SAFETY: c + LANES ≤ channels, the length of dbias.
            unsafe {
                let to = self.dbias.as_mut_ptr().add(c);
                s.store(to, s.add(s.load(to), sum));
            }
        }
    }
}
