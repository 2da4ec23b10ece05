//! Tiles of a tensor, transformed into the matrices that are multiplied at each point.

use super::super::PANEL;
use super::transform::{Linear, Tile, both};
use crate::layout::{BLOCK, BlockShape, PLANE};
use crate::simd::{MAX_LANES, Simd};

/// Matrices `[point][channels/16][row][16]` in a buffer.
#[derive(Clone, Copy)]
pub(super) struct Matrices {
    pub rows: usize,
    /// Groups of 16 channels.
    pub panels: usize,
}

impl Matrices {
    /// Elements of 16 channels.
    pub(super) fn panel(&self) -> usize {
        self.rows * PANEL
    }

    /// Elements from one point to the next: a line more than the matrix has. With a power of two between them, all points
    /// would share a few sets of the first cache.
    pub(super) fn point(&self) -> usize {
        self.panels * self.panel() + MAX_LANES
    }
}

/// What is read in place of pixels that do not exist: a plane of zeros.
static ZEROS: Zeros = Zeros([0.0; BLOCK * PLANE]);

#[repr(align(64))]
struct Zeros([f32; BLOCK * PLANE]);

/// The vectors `from` elements behind the beginning of each pixel's plane.
struct Pixels<'a, const FROM: usize> {
    first: &'a [[*const f32; FROM]; FROM],
    from: usize,
}

impl<const FROM: usize> Tile for Pixels<'_, FROM> {
    #[inline(always)]
    unsafe fn load<S: Simd>(&self, s: S, row: usize, column: usize) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { s.load(self.first[row][column].add(self.from)) }
    }
}

/// A block's tensor that tiles are taken of.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub data: &'a [f32],
    pub shape: &'a BlockShape,
    pub images: usize,
}

impl Source<'_> {
    /// Transforms the tile of FROM × FROM pixels from (`y`, `x`) on, pixels outside of the tensor zero, of `channels`, multiples of
    /// 16, into rows from `row` on of `matrices` at `to`, a row for each image.
    ///
    /// # Safety
    /// The data must have the shape's length, the channels lie within its stride, and `to` have room for the matrices of
    /// TO × TO points, in which the rows are.
    #[inline(always)]
    pub(super) unsafe fn transform<S: Simd, L: Linear<FROM, TO>, const FROM: usize, const TO: usize>(
        &self,
        s: S,
        [y, x]: [isize; 2],
        channels: std::ops::Range<usize>,
        (to, matrices, row): (*mut f32, Matrices, usize),
    ) {
        let plane = self.shape.plane();
        let mut channel = channels.start;
        while channel < channels.end {
            let lanes = ((channel / plane + 1) * plane).min(channels.end) - channel;
            let pixels: [[*const f32; FROM]; FROM] = std::array::from_fn(|i| {
                std::array::from_fn(|j| {
                    let (y, x) = (y.wrapping_add_unsigned(i) as usize, x.wrapping_add_unsigned(j) as usize);
                    if y < self.shape.height && x < self.shape.width {
                        self.data.as_ptr().wrapping_add(self.shape.offset(y, x) + self.shape.channel(channel))
                    } else {
                        ZEROS.0.as_ptr()
                    }
                })
            });
            for image in 0..self.images {
                for lane in (0..lanes).step_by(S::LANES) {
                    let from = image * plane + lane;
                    let panel = (channel - channels.start + lane) / PANEL;
                    let at = panel * matrices.panel() + (row + image) * PANEL + lane % PANEL;
                    // SAFETY: `channel` and `lanes` behind it lie in one plane of a pixel, and the zeros are as long as any
                    // plane; the caller promises the room.
                    unsafe {
                        let points = both::<S, L, FROM, TO>(s, &Pixels { first: &pixels, from });
                        for (i, points) in points.into_iter().enumerate() {
                            for (j, point) in points.into_iter().enumerate() {
                                s.store(to.add((i * TO + j) * matrices.point() + at), point);
                            }
                        }
                    }
                }
            }
            channel += lanes;
        }
    }
}
