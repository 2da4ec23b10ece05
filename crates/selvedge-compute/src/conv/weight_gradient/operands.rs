//! The operands of the gradient of the weights: blocks of a tensor, and their rows as repacked.

use crate::aligned::{Plain, view};
use crate::conv::{Conv2dShape, PANEL};
use crate::layout::{BLOCK, BlockShape};

use super::blocking::rows_per_sum;

/// Several blocks of one tensor in the memory of a network: one every `stride` elements.
#[derive(Clone, Copy)]
pub struct Blocks<'a, E> {
    /// From the first block's first element to at least the last block's last.
    pub data: &'a [E],
    /// Elements from the start of one block to the start of the next.
    pub stride: usize,
    /// How many blocks.
    pub count: usize,
}

impl<'a, E> Blocks<'a, E> {
    /// One block.
    pub fn one(data: &'a [E]) -> Self {
        Self { data, stride: data.len(), count: 1 }
    }

    /// Up to `count` blocks from `first` on.
    pub(super) fn part(&self, first: usize, count: usize) -> Self {
        Self { data: &self.data[first * self.stride..], stride: self.stride, count: count.min(self.count - first) }
    }

    /// Panics unless there are `count` blocks of `len` elements.
    pub(super) fn check(&self, len: usize, name: &str) {
        let needed = if self.count == 0 { 0 } else { (self.count - 1) * self.stride + len };
        assert!(self.data.len() >= needed, "{name}: {} elements, {} blocks need {needed}", self.data.len(), self.count);
    }
}

impl<'a> Blocks<'a, u8> {
    /// The same blocks as elements of `E`.
    ///
    /// # Panics
    /// If the bytes are not aligned for `E`, or their number is not a multiple of its size.
    pub(in crate::conv) fn view<E: Plain>(&self) -> Blocks<'a, E> {
        assert!(self.stride.is_multiple_of(size_of::<E>()), "blocks every {} bytes", self.stride);
        Blocks { data: view(self.data), stride: self.stride / size_of::<E>(), count: self.count }
    }
}

/// Elements of a repacked tile: 32 images × 16 channels of one pixel.
pub(in crate::conv) const TILE: usize = BLOCK * PANEL;

/// Repacked rows of pixels of blocks. Row `y` lies in slot `y` modulo `ring`; the [tiles](TILE) of a row are contiguous.
#[derive(Clone, Copy)]
pub(in crate::conv) struct RepackedRows<'a, E> {
    pub blocks: Blocks<'a, E>,
    /// How many rows are kept.
    pub ring: usize,
    /// Elements from row to row.
    pub row: usize,
    /// Elements from 16 channels to the next.
    pub panel: usize,
}

impl<'a, E> RepackedRows<'a, E> {
    /// All rows of blocks that are repacked as a whole.
    pub(super) fn of_blocks(blocks: Blocks<'a, E>, shape: &BlockShape) -> Self {
        let row = shape.width * TILE;
        Self { blocks, ring: shape.height, row, panel: shape.height * row }
    }

    /// The rows of one block that a ring buffer holds.
    pub(super) fn of_ring(data: &'a [E], shape: &BlockShape) -> Self {
        let ring = data.len() / shape.row();
        Self { blocks: Blocks::one(data), ring, row: shape.row(), panel: shape.width * TILE }
    }

    /// Offset of the first block's tile of pixel (`y`, `x`).
    pub(in crate::conv) fn offset(&self, y: usize, x: usize, panel: usize) -> usize {
        y % self.ring * self.row + panel * self.panel + x * TILE
    }
}

/// Elements of the two ring buffers in which rows of one block's x and dY are repacked: for x, the rows that the buffered rows
/// of dY are multiplied by. Both are 0 for an input with unpadded channels, which is read without repacking.
pub(in crate::conv) fn row_buffers(shape: &Conv2dShape) -> [usize; 2] {
    if shape.input.channel_stride.is_multiple_of(PANEL) {
        [input_ring(shape) * shape.input.row(), rows_per_sum(shape) * shape.output.row()]
    } else {
        [0; 2]
    }
}

/// Rows of x in its ring buffer: those that [`rows_per_sum`] rows of dY are multiplied by.
pub(super) fn input_ring(shape: &Conv2dShape) -> usize {
    ((rows_per_sum(shape) - 1) * shape.stride + shape.kernel[0]).min(shape.input.height)
}
