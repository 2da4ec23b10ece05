//! What the weights pass is in either precision: sums over pixels and images, one tap after the other, of operands that are
//! repacked before so that they are read in one piece.
//!
//! [`TapSum`] is the sum of one tap: f32 vectors ([`crate::conv::direct::backward_weights`]) or bf16 tiles
//! ([`crate::conv::tiles::backward_weights`]).

mod blocking;

use std::ops::Range;

use crate::conv::prefetcher::{Piece, Prefetcher};
use blocking::{few_pixels, many_pixels, parts};

use crate::aligned::{Plain, view};
use crate::amx::TapRowGemm;
use crate::conv::{Conv2dShape, PANEL};
use crate::layout::{BLOCK, BlockShape};
pub(in crate::conv) use blocking::rows_at_once;

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

    /// Up to `count` blocks from `first` on.
    fn part(&self, first: usize, count: usize) -> Self {
        Self { data: &self.data[first * self.stride..], stride: self.stride, count: count.min(self.count - first) }
    }

    fn check(&self, len: usize, name: &str) {
        let needed = if self.count == 0 { 0 } else { (self.count - 1) * self.stride + len };
        assert!(self.data.len() >= needed, "{name}: {} elements, {} blocks need {needed}", self.data.len(), self.count);
    }
}

impl<'a> Blocks<'a, u8> {
    /// The same blocks as elements of `E`.
    ///
    /// # Panics
    /// If they do not begin where an `E` may begin, or are no whole number of them.
    pub(in crate::conv) fn view<E: Plain>(&self) -> Blocks<'a, E> {
        assert!(self.stride.is_multiple_of(size_of::<E>()), "blocks every {} bytes", self.stride);
        Blocks { data: view(self.data), stride: self.stride / size_of::<E>(), count: self.count }
    }
}

/// What a gradient is added to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accumulate {
    /// What the slice holds.
    Add,
    /// Nothing: the slice is overwritten.
    Overwrite,
}

/// Compares the lengths of blocks of repacked tensors, and of the gradient of `panels`, with the shape.
pub(in crate::conv) fn check_blocks<E>(
    shape: &Conv2dShape,
    x: &Blocks<'_, E>,
    dy: &Blocks<'_, E>,
    panels: &Range<usize>,
    dweights: &[f32],
) {
    check_padded(shape);
    x.check(shape.input.len(), "x");
    dy.check(shape.output.len(), "dy");
    assert_eq!(x.count, dy.count, "blocks of x and of dy");
    assert!(panels.start <= panels.end && panels.end <= shape.panels(), "panels {panels:?} of {}", shape.panels());
    assert_eq!(dweights.len(), panels.len() * shape.panel_len(), "the gradient's length and that of panels {panels:?}");
}

/// Compares the lengths of one block's tensors, of the buffers of their rows, and of the gradient with the shape.
pub(in crate::conv) fn check_block(
    shape: &Conv2dShape,
    [x, dy]: [usize; 2],
    [x_rows, dy_rows]: [usize; 2],
    dweights: &[f32],
) {
    assert_eq!(x, shape.input.len(), "x's length and that of {:?}", shape.input);
    assert_eq!(dy, shape.output.len(), "dy's length and that of {:?}", shape.output);
    assert_eq!([x_rows, dy_rows], row_buffers(shape), "the buffers' lengths and those of {shape:?}");
    assert_eq!(dweights.len(), shape.weights_len(), "the gradient's length and that of {shape:?}");
}

pub(in crate::conv) fn check_padded(shape: &Conv2dShape) {
    let stride = shape.input.channel_stride;
    assert!(stride.is_multiple_of(PANEL), "a channel stride of {stride}: this kernel needs multiples of {PANEL}");
}

/// The elements of the two buffers in which one block is repacked some rows at a time: the rows of X that those rows of dY
/// meet, and these. None for an input whose channels are not padded: it is read as it lies.
pub(in crate::conv) fn row_buffers(shape: &Conv2dShape) -> [usize; 2] {
    if shape.input.channel_stride.is_multiple_of(PANEL) {
        [ring(shape) * shape.input.row(), rows_at_once(shape) * shape.output.row()]
    } else {
        [0; 2]
    }
}

/// Rows of X that are kept at a time: those that the rows of dY meet.
fn ring(shape: &Conv2dShape) -> usize {
    ((rows_at_once(shape) - 1) * shape.stride + shape.kernel[0]).min(shape.input.height)
}

/// Repacked rows of pixels of blocks, of which `ring` are kept, each at its number modulo `ring`. The tiles of a row,
/// 32 images × 16 channels each, follow each other.
#[derive(Clone, Copy)]
pub(in crate::conv) struct Rows<'a, E> {
    pub blocks: Blocks<'a, E>,
    pub ring: usize,
    /// Elements from row to row.
    pub row: usize,
    /// Elements from 16 channels to the next.
    pub panel: usize,
}

/// Elements of a tile.
pub(in crate::conv) const TILE: usize = BLOCK * PANEL;

impl<'a, E> Rows<'a, E> {
    /// Blocks that are repacked as a whole.
    fn of_blocks(blocks: Blocks<'a, E>, shape: &BlockShape) -> Self {
        let row = shape.width * TILE;
        Self { blocks, ring: shape.height, row, panel: shape.height * row }
    }

    /// Rows of one block that are repacked one by one.
    fn of_ring(data: &'a [E], shape: &BlockShape) -> Self {
        let ring = data.len() / shape.row();
        Self { blocks: Blocks::one(data), ring, row: shape.row(), panel: shape.width * TILE }
    }

    /// Where the first block's tile of pixel (`y`, `x`) lies.
    pub(in crate::conv) fn offset(&self, y: usize, x: usize, panel: usize) -> usize {
        y % self.ring * self.row + panel * self.panel + x * TILE
    }
}

/// Output pixels `columns` of row `y`, seen through tap (`ky`, `kx`), and the first panel and input channel of a tile of
/// the gradient.
pub(in crate::conv) struct Tap {
    pub y: usize,
    pub columns: Range<usize>,
    pub ky: usize,
    pub kx: usize,
    pub panel: usize,
    pub channel: usize,
}

/// All taps of a row of the kernel over all pixels of output rows `rows`.
pub(in crate::conv) struct TapRow {
    pub rows: Range<usize>,
    /// The row of taps, the panel, and the first input channel of the tiles of the gradient.
    pub tile: [usize; 3],
    /// The same of those that are summed after these.
    pub next: [usize; 3],
    /// Whether these rows of these blocks are the first that the tiles are summed over.
    pub first: bool,
}

/// Adds up one tap, or a row of taps, for a tile of the gradient.
pub(in crate::conv) trait TapSum {
    /// What it reads.
    type Element: Copy;

    /// Pixels, times blocks, that a tile's sum of one tap runs over before it is stored.
    const PIXELS: usize;
    /// Input channels of a tile of the gradient of one tap.
    const CHANNELS: usize;

    /// Whether rows of taps are added up, and not one tap at a time.
    fn by_rows(&self) -> bool;

    fn shape(&self) -> &Conv2dShape;

    /// The panels that are summed.
    fn panels(&self) -> Range<usize>;

    /// How many panels from `panel` on are summed together: 1 or 2.
    fn panels_at_once(&self, panel: usize) -> usize;

    /// Adds the products of `tap` over all its pixels and all images.
    ///
    /// # Safety
    /// X and dY must have the lengths of the shape, as far as their rings go, and the taps' pixels lie on the input.
    unsafe fn add(&mut self, x: Rows<'_, Self::Element>, dy: Rows<'_, Self::Element>, tap: &Tap);

    /// Adds the products of a row of taps over all its pixels and all images, for 16 channels and one panel.
    ///
    /// # Safety
    /// As for `add`; the rows must lie in the rings.
    unsafe fn add_row(
        &mut self,
        x: Rows<'_, Self::Element>,
        dy: Rows<'_, Self::Element>,
        taps: &TapRow,
        ahead: &mut Prefetcher,
    );
}

/// Brings pixels of X, and of dY in elements of `D`, into the forms that a [`TapSum`] reads.
pub(in crate::conv) trait Repack<D>: TapSum {
    fn repack_x(&self, from: &[Self::Element], to: &mut [Self::Element]);

    fn repack_dy(&self, from: &[D], to: &mut [Self::Element]);
}

/// Adds what blocks bring that have been repacked.
///
/// Sums by rows run over many pixels of some blocks, and over a few of these at a time: X's of 16 channels stay in the first
/// cache for all panels and rows of taps, and dY's of all panels in the second one for all channels.
///
/// # Safety
/// [`check_blocks`] must have compared the lengths with the shape.
#[inline(always)]
pub(in crate::conv) unsafe fn add_blocks<K: TapSum>(
    sum: &mut K,
    x: Blocks<'_, K::Element>,
    dy: Blocks<'_, K::Element>,
) {
    let shape = *sum.shape();
    let repacked = |first, count| {
        let (x, dy) = (x.part(first, count), dy.part(first, count));
        (Rows::of_blocks(x, &shape.input), Rows::of_blocks(dy, &shape.output))
    };
    if !sum.by_rows() {
        let (x, dy) = repacked(0, x.count);
        for y in 0..shape.output.height {
            // SAFETY: the caller's promise.
            unsafe { add_row(sum, y, x, dy) };
        }
        return;
    }
    let (few, panels_of_x) = (few_pixels(&shape), shape.input.channel_stride / PANEL);
    for (blocks, rows) in parts(0..x.count, 0..shape.output.height, many_pixels(&shape)) {
        let (x, _) = repacked(blocks.start, blocks.len());
        for panel_of_x in 0..panels_of_x {
            // X's next channels of the same rows.
            let later = match panel_of_x + 1 {
                next if next < panels_of_x => {
                    let at = x.blocks.data.as_ptr().wrapping_add(x.offset(rows.start, 0, next));
                    Piece::new(at, rows.len() * x.row, x.blocks.stride, x.blocks.count)
                }
                _ => Piece::NONE,
            };
            let mut ahead = Prefetcher::new([later, Piece::NONE], points(sum, blocks.len(), rows.len()));
            for (blocks, rows) in parts(blocks.clone(), rows.clone(), few) {
                let (first, (x, dy)) = (blocks.start + rows.start == 0, repacked(blocks.start, blocks.len()));
                // SAFETY: the caller's promise.
                unsafe { add_channels(sum, panel_of_x * PANEL, (rows, first), x, dy, &mut ahead) };
            }
        }
    }
}

/// How often sums by rows of 16 channels ask for memory, for so many rows of so many blocks.
fn points<K: TapSum>(sum: &K, blocks: usize, rows: usize) -> usize {
    let shape = sum.shape();
    shape.kernel[0] * sum.panels().len() * TapRowGemm::prefetch_points([blocks, rows, shape.output.width], 0)
}

/// Adds what one block brings, whose rows are repacked in the buffers on the way.
///
/// # Safety
/// [`check_block`] must have compared the lengths with the shape.
#[inline(always)]
pub(in crate::conv) unsafe fn add_block<D, K: Repack<D>>(
    sum: &mut K,
    (x, dy): (&[K::Element], &[D]),
    [x_rows, dy_rows]: [&mut [K::Element]; 2],
) {
    let shape = *sum.shape();
    let (x_row, dy_row_len, rows_at_once) = (shape.input.row(), shape.output.row(), rows_at_once(&shape));
    let ring = ring(&shape);
    // The first row of X that is not repacked yet.
    let mut next = 0;
    for start in (0..shape.output.height).step_by(rows_at_once) {
        let rows = start..(start + rows_at_once).min(shape.output.height);
        for y in rows.clone() {
            let ys = shape.rows_of(y);
            if ys.count > 0 {
                let first = y * shape.stride + ys.tap - shape.padding[0];
                for row in first.max(next)..first + ys.count {
                    sum.repack_x(&x[row * x_row..][..x_row], &mut x_rows[row % ring * x_row..][..x_row]);
                }
                next = next.max(first + ys.count);
            }
            let to = &mut dy_rows[y % rows_at_once * dy_row_len..][..dy_row_len];
            sum.repack_dy(&dy[y * dy_row_len..][..dy_row_len], to);
        }
        let x_later = x.len().min((next + rows_at_once * shape.stride) * x_row).saturating_sub(next * x_row);
        let dy_later = dy.len().min((rows.end + rows_at_once) * dy_row_len) - rows.end * dy_row_len;
        let later = [
            Piece::new(x.as_ptr().wrapping_add(next * x_row), x_later, 0, 1),
            Piece::new(dy.as_ptr().wrapping_add(rows.end * dy_row_len), dy_later, 0, 1),
        ];
        let (x, dy) = (Rows::of_ring(x_rows, &shape.input), Rows::of_ring(dy_rows, &shape.output));
        let channels = (0..shape.input.channel_stride).step_by(PANEL);
        let mut ahead = Prefetcher::new(later, channels.len() * points(sum, 1, rows.len()));
        // SAFETY: the caller's promise.
        unsafe {
            if sum.by_rows() {
                channels.for_each(|channel| add_channels(sum, channel, (rows.clone(), start == 0), x, dy, &mut ahead));
            } else {
                rows.for_each(|y| add_row(sum, y, x, dy));
            }
        }
    }
}

/// Adds what output rows `rows` bring to 16 channels by rows of taps; whether they are the first ones.
///
/// # Safety
/// As for [`TapSum::add_row`].
#[inline(always)]
unsafe fn add_channels<K: TapSum>(
    sum: &mut K,
    channel: usize,
    (rows, first): (Range<usize>, bool),
    x: Rows<'_, K::Element>,
    dy: Rows<'_, K::Element>,
    ahead: &mut Prefetcher,
) {
    let (shape, panels) = (*sum.shape(), sum.panels());
    let next_channel = (channel + PANEL).min(shape.input.channel_stride - PANEL);
    let mut tiles =
        (0..shape.kernel[0]).flat_map(|ky| panels.clone().map(move |panel| [ky, panel, channel])).peekable();
    while let Some(tile) = tiles.next() {
        let rows = shape.rows_seeing(tile[0], &rows);
        if !rows.is_empty() {
            let next = *tiles.peek().unwrap_or(&[0, panels.start, next_channel]);
            // SAFETY: the caller's promise; `rows_seeing` leaves out the padding.
            unsafe { sum.add_row(x, dy, &TapRow { rows, tile, next, first }, ahead) };
        }
    }
}

/// Adds what output row `y` brings.
///
/// All taps of a tile's channels before the next channels: dY and these channels of X stay in the first cache, which is
/// worth up to a tenth on AMX from 128 channels on.
///
/// # Safety
/// As for [`TapSum::add`].
#[inline(always)]
unsafe fn add_row<K: TapSum>(sum: &mut K, y: usize, x: Rows<'_, K::Element>, dy: Rows<'_, K::Element>) {
    let (shape, panels) = (*sum.shape(), sum.panels());
    let chunk = K::PIXELS.div_ceil(x.blocks.count);
    let ys = shape.rows_of(y);
    for start in (0..shape.output.width).step_by(chunk) {
        let all_columns = start..(start + chunk).min(shape.output.width);
        let mut panel = panels.start;
        while panel < panels.end {
            for channel in (0..shape.input.channel_stride).step_by(K::CHANNELS) {
                for ky in ys.tap..ys.tap + ys.count {
                    for kx in 0..shape.kernel[1] {
                        let columns = shape.columns_seeing(kx, &all_columns);
                        if !columns.is_empty() {
                            // SAFETY: the caller's promise; `rows_of` and `columns_seeing` leave out the padding.
                            unsafe { sum.add(x, dy, &Tap { y, columns, ky, kx, panel, channel }) };
                        }
                    }
                }
            }
            panel += sum.panels_at_once(panel);
        }
    }
}
