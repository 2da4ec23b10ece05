//! The gradient of the weights: dW = Gᵀ (Σ V ⊙ Z) G, with V = Bᵀ x B and Z = A dy Aᵀ.
//!
//! The sums of some panels and input channels, 1.2 MB at most, stay in L2 for all tiles of all blocks, and are then transformed to
//! the gradient of the weights.

use std::marker::PhantomData;
use std::ops::Range;

use super::super::{Accumulate, Blocks, Conv2dShape, PANEL};
use super::source::{Matrices, MatrixRows, Source};
use super::transform::{Strided, Transform, both};
use crate::conv::direct::microkernel::{Walk, accumulate};
use crate::conv::panel::column;
use crate::conv::weight_gradient::check_blocks;
use crate::layout::BLOCK;
use crate::simd::{Kernel, Simd, TileKernel};

/// Pairs of input and output channels whose sums stay in L2. Half as many, twice as many, or the rows of two tiles at a time are
/// not faster.
const SUMS_PER_POINT: usize = 8192;

/// How many channels have their sums in L2.
struct CachedChannels {
    /// Output channels, in panels.
    panels: usize,
    /// Input channels.
    channels: usize,
}

impl CachedChannels {
    /// For a gradient of `panels` panels.
    fn of(shape: &Conv2dShape, panels: usize) -> Self {
        let panels = panels.clamp(1, 8);
        let plane = shape.input.plane();
        let channels = (SUMS_PER_POINT / (panels * PANEL)).max(plane) / plane * plane;
        Self { panels, channels: channels.min(shape.input.channel_stride) }
    }
}

/// The matrices V of `channels` input channels.
fn inputs(channels: usize) -> Matrices {
    Matrices { rows: BLOCK, panels: channels / PANEL }
}

/// The matrices Z of `panels` panels of output channels.
fn gradients(panels: usize) -> Matrices {
    Matrices { rows: BLOCK, panels }
}

/// Elements of scratch memory for a pass over `panels` panels: V, Z and the sums.
pub(super) fn scratch_len(points: usize, shape: &Conv2dShape, panels: usize) -> usize {
    let CachedChannels { panels, channels } = CachedChannels::of(shape, panels);
    points * (inputs(channels).point() + gradients(panels).point() + panels * channels * PANEL)
}

/// The gradient of panels `panels`.
pub(super) struct GradientPass<'a, T, const M: usize, const N: usize> {
    shape: &'a Conv2dShape,
    x: Blocks<'a, f32>,
    dy: Blocks<'a, f32>,
    panels: Range<usize>,
    accumulate: Accumulate,
    dweights: &'a mut [f32],
    buffer: &'a mut [f32],
    transform: PhantomData<T>,
}

/// The panels and input channels whose sums are computed together.
struct ChannelChunk {
    panels: Range<usize>,
    channels: Range<usize>,
}

impl<'a, T: Transform<M, N>, const M: usize, const N: usize> GradientPass<'a, T, M, N> {
    /// Compares the blocks, the panels and the gradient with the shape; `buffer` has [`scratch_len`] elements.
    pub(super) fn new(
        shape: &'a Conv2dShape,
        [x, dy]: [Blocks<'a, f32>; 2],
        panels: Range<usize>,
        accumulate: Accumulate,
        dweights: &'a mut [f32],
        buffer: &'a mut [f32],
    ) -> Self {
        check_blocks(shape, &x, &dy, &panels, dweights);
        assert_eq!(buffer.len(), scratch_len(N * N, shape, panels.len()), "the buffer's length");
        Self { shape, x, dy, panels, accumulate, dweights, buffer, transform: PhantomData }
    }

    /// The sums of a chunk over all tiles of all blocks, `[panel][point][channel][16]`, at the end of the buffer.
    #[inline(always)]
    fn sum<S: Simd>(&mut self, s: S, chunk: &ChannelChunk) {
        let Conv2dShape { input, output, padding, .. } = self.shape;
        let (of_x, of_dy) = (inputs(chunk.channels.len()), gradients(chunk.panels.len()));
        let (v, rest) = self.buffer.split_at_mut(N * N * of_x.point());
        let (z, sums) = rest.split_at_mut(N * N * of_dy.point());
        let [rows, columns] = [output.height.div_ceil(M), output.width.div_ceil(M)];
        let tiles = rows * columns;
        for number in 0..self.x.count * tiles {
            let (block, tile) = (number / tiles, number % tiles);
            let [y, x] = [tile / columns * M, tile % columns * M].map(|at| at as isize);
            let source = |blocks: &Blocks<'a, f32>, shape| {
                let data = &blocks.data[block * blocks.stride..];
                Source { data, shape, images: BLOCK }
            };
            let first = [y - padding[0] as isize, x - padding[1] as isize];
            let channels = chunk.panels.start * PANEL..chunk.panels.end * PANEL;
            // SAFETY: `new` compared the blocks' length with their shapes and made room for the matrices.
            unsafe {
                let to_v = MatrixRows { to: v.as_mut_ptr(), matrices: of_x, row: 0 };
                let to_z = MatrixRows { to: z.as_mut_ptr(), matrices: of_dy, row: 0 };
                source(&self.x, input).transform::<S, T::Input, N, N>(s, first, chunk.channels.clone(), to_v);
                source(&self.dy, output).transform::<S, T::OutputGradient, M, N>(s, [y, x], channels, to_z);
            }
            let mut add = |panels_per_tile: usize, panels: Range<usize>| {
                s.in_tile(
                    panels_per_tile,
                    OuterProducts::<N> { v, z, sums: &mut *sums, of_x, of_dy, panels, is_first: number == 0 },
                );
            };
            let whole = of_dy.panels / S::TILE_PANELS * S::TILE_PANELS;
            add(S::TILE_PANELS, 0..whole);
            if whole < of_dy.panels {
                add(1, whole..of_dy.panels);
            }
        }
    }

    /// Transforms the sums of a chunk to its gradient.
    #[inline(always)]
    fn write<S: Simd>(&mut self, s: S, chunk: &ChannelChunk) {
        let channels = chunk.channels.len();
        let start = N * N * (inputs(channels).point() + gradients(chunk.panels.len()).point());
        let sums = &self.buffer[start..];
        let all_channels = self.shape.input.channel_stride;
        for panel in chunk.panels.clone() {
            let panel_sums =
                &sums[(panel - chunk.panels.start) * N * N * channels * PANEL..][..N * N * channels * PANEL];
            let to =
                &mut self.dweights[(panel - self.panels.start) * self.shape.panel_len()..][..self.shape.panel_len()];
            for at in (0..channels * PANEL).step_by(S::LANES) {
                // SAFETY: the vector at `at` lies in the sums of a point and panel, and in the gradient, counted from the
                // chunk's first channel, in each tap of the panel.
                unsafe {
                    let point = (channels * PANEL) as isize;
                    let sums = Strided { first: panel_sums.as_ptr().add(at), steps: [N as isize * point, point] };
                    let taps = both::<S, T::WeightsGradient, N, 3>(s, &sums);
                    for (row, taps) in taps.into_iter().enumerate() {
                        for (column, mut tap) in taps.into_iter().enumerate() {
                            let at = ((row * 3 + column) * all_channels + chunk.channels.start) * PANEL + at;
                            let to = to.as_mut_ptr().add(at);
                            if self.accumulate == Accumulate::Add {
                                tap = s.add(s.load(to), tap);
                            }
                            s.store(to, tap);
                        }
                    }
                }
            }
        }
    }
}

impl<T: Transform<M, N>, const M: usize, const N: usize> Kernel for GradientPass<'_, T, M, N> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        if self.x.count == 0 {
            if self.accumulate == Accumulate::Overwrite {
                self.dweights.fill(0.0);
            }
            return;
        }
        let CachedChannels { panels, channels } = CachedChannels::of(self.shape, self.panels.len());
        let all_channels = self.shape.input.channel_stride;
        for panel in self.panels.clone().step_by(panels) {
            for channel in (0..all_channels).step_by(channels) {
                let chunk = ChannelChunk {
                    panels: panel..(panel + panels).min(self.panels.end),
                    channels: channel..(channel + channels).min(all_channels),
                };
                self.sum(s, &chunk);
                self.write(s, &chunk);
            }
        }
    }
}

/// The outer products of the rows of V and Z at each of N × N points, for all input channels and the output channels of `panels`.
/// They are added to the sums; those of the first tile overwrite them.
struct OuterProducts<'a, const N: usize> {
    v: &'a [f32],
    z: &'a [f32],
    sums: &'a mut [f32],
    of_x: Matrices,
    of_dy: Matrices,
    panels: Range<usize>,
    is_first: bool,
}

impl<const N: usize> TileKernel for OuterProducts<'_, N> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd, const HEIGHT: usize, const VECTORS: usize>(self, s: S) {
        let OuterProducts { v, z, sums, of_x, of_dy, panels, is_first } = self;
        let channels = of_x.panels * PANEL;
        let step = N * N * channels * PANEL;
        let walk =
            Walk { count: [1; 3], a_step: [0; 3], b_step: [0; 3], depth: BLOCK, a_row: 1, b_panel: of_dy.panel() };
        for point in 0..N * N {
            for panel in panels.clone().step_by(VECTORS * S::LANES / PANEL) {
                for channel in (0..channels).step_by(HEIGHT) {
                    // SAFETY: `GradientPass::new` made room for V, Z and the sums of all points, panels and channels; HEIGHT
                    // divides 16.
                    unsafe {
                        let a = v.as_ptr().add(point * of_x.point() + channel / PANEL * of_x.panel() + channel % PANEL);
                        let b = z.as_ptr().add(point * of_dy.point() + panel * of_dy.panel());
                        let to = sums.as_mut_ptr().add(((panel * N * N + point) * channels + channel) * PANEL);
                        let at = |row: usize, v: usize| to.add(row * PANEL + column::<S>(v, step));
                        let mut acc = [[s.zero(); VECTORS]; HEIGHT];
                        if !is_first {
                            for (row, acc) in acc.iter_mut().enumerate() {
                                for (v, sum) in acc.iter_mut().enumerate() {
                                    *sum = s.load(at(row, v));
                                }
                            }
                        }
                        accumulate::<S, f32, true, HEIGHT, VECTORS>(s, &walk, a, b, &mut acc);
                        for (row, acc) in acc.into_iter().enumerate() {
                            for (v, sum) in acc.into_iter().enumerate() {
                                s.store(at(row, v), sum);
                            }
                        }
                    }
                }
            }
        }
    }
}
