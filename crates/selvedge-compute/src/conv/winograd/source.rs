//! [`Source`]: the tensor whose tiles are transformed to the matrices that are multiplied at each point.

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

    /// Elements from one point to the next: one cache line more than the matrix. At a distance of a power of two, all points
    /// would map to a few sets of L1.
    pub(super) fn point(&self) -> usize {
        self.panels * self.panel() + MAX_LANES
    }
}

/// A plane of zeros, which is read in place of pixels outside of the image.
static ZEROS: Zeros = Zeros([0.0; BLOCK * PLANE]);

#[repr(align(64))]
struct Zeros([f32; BLOCK * PLANE]);

/// The vectors at `offset` in the plane of each pixel.
struct TilePixels<'a, const FROM: usize> {
    planes: &'a [[*const f32; FROM]; FROM],
    offset: usize,
}

impl<const FROM: usize> Tile for TilePixels<'_, FROM> {
    #[inline(always)]
    unsafe fn load<S: Simd>(&self, s: S, row: usize, column: usize) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { s.load(self.planes[row][column].add(self.offset)) }
    }
}

/// The tensor of a block that tiles are read from.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub data: &'a [f32],
    pub shape: &'a BlockShape,
    pub images: usize,
}

/// Rows of matrices at `to`, from `row` on.
#[derive(Clone, Copy)]
pub(super) struct MatrixRows {
    pub to: *mut f32,
    pub matrices: Matrices,
    pub row: usize,
}

impl Source<'_> {
    /// Transforms the tile of FROM × FROM pixels from (`y`, `x`) on, whose pixels outside of the tensor are zero, for `channels`,
    /// multiples of 16. Each image becomes one of `rows`.
    ///
    /// # Safety
    /// The data must have the shape's length, the channels must lie within its stride, and the target must have room for the
    /// matrices of TO × TO points, in which the rows lie.
    #[inline(always)]
    pub(super) unsafe fn transform<S: Simd, L: Linear<FROM, TO>, const FROM: usize, const TO: usize>(
        &self,
        s: S,
        [y, x]: [isize; 2],
        channels: std::ops::Range<usize>,
        rows: MatrixRows,
    ) {
        let MatrixRows { to, matrices, row } = rows;
        let plane = self.shape.plane();
        let mut channel = channels.start;
        while channel < channels.end {
            let lanes = ((channel / plane + 1) * plane).min(channels.end) - channel;
            let planes: [[*const f32; FROM]; FROM] = std::array::from_fn(|i| {
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
                    let offset = image * plane + lane;
                    let panel = (channel - channels.start + lane) / PANEL;
                    let at = panel * matrices.panel() + (row + image) * PANEL + lane % PANEL;
                    // SAFETY: the `lanes` channels from `channel` on lie in one plane of a pixel, and the zeros are as long as
                    // any plane; the caller promises the room.
                    unsafe {
                        let points = both::<S, L, FROM, TO>(s, &TilePixels { planes: &planes, offset });
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
