//! The strategy that adds a row of taps at a time, over several rows of pixels. Only AMX tiles implement it: a sum over three
//! taps in a row loads each tile of x once ([`TapRowGemm`]).

use std::ops::Range;

use super::blocking::{cached_pixels, partition, sum_pixels};
use super::{Blocks, GradientSum, RepackedRows, Strategy};
use crate::amx::TapRowGemm;
use crate::conv::PANEL;
use crate::conv::prefetcher::{Prefetcher, Region};

/// The tiles of the gradient that one sum adds to: a row of taps of 16 input channels and one panel of output channels.
#[derive(Clone, Copy)]
pub(in crate::conv) struct GradientTiles {
    pub ky: usize,
    pub panel: usize,
    /// The first input channel.
    pub channel: usize,
}

/// A row of taps over all pixels of output rows `rows`.
pub(in crate::conv) struct KernelRow {
    pub rows: Range<usize>,
    /// What is added to.
    pub tiles: GradientTiles,
    /// What the sum after this one adds to.
    pub next: GradientTiles,
    /// Whether these are the first rows of the first blocks that the tiles are summed over.
    pub is_first: bool,
}

/// A gradient to whose tiles a row of taps is added per call.
pub(in crate::conv) trait KernelRowSum: GradientSum {
    /// Adds the products of a row of taps over all its pixels and all images, for 16 channels and one panel.
    ///
    /// # Safety
    /// X and dY must have the lengths of the shape, as far as their rings go. The rings must hold the rows, and at each of them
    /// the row of taps must fall on the input.
    unsafe fn add_kernel_row(
        &mut self,
        x: RepackedRows<'_, Self::Element>,
        dy: RepackedRows<'_, Self::Element>,
        row: &KernelRow,
        prefetcher: &mut Prefetcher,
    );
}

/// Adds the gradient over blocks that are repacked as a whole.
///
/// The walk is blocked twice. 16 channels of X of [`sum_pixels`] stay in L1 for all panels and rows of taps; dY of all panels of
/// [`cached_pixels`] stays in L2 for all channels.
///
/// # Safety
/// [`check_blocks`](super::check_blocks) must have compared the lengths with the shape.
#[inline(always)]
pub(in crate::conv) unsafe fn add_blocks<K: KernelRowSum>(
    sum: &mut K,
    x: Blocks<'_, K::Element>,
    dy: Blocks<'_, K::Element>,
) {
    let shape = *sum.shape();
    let repacked = |blocks: &Range<usize>| {
        let (x, dy) = (x.part(blocks.start, blocks.len()), dy.part(blocks.start, blocks.len()));
        (RepackedRows::of_blocks(x, &shape.input), RepackedRows::of_blocks(dy, &shape.output))
    };
    let (per_sum, input_panels) = (sum_pixels(&shape), shape.input.channel_stride / PANEL);
    for (blocks, rows) in partition(0..x.count, 0..shape.output.height, cached_pixels(&shape)) {
        let (x, _) = repacked(&blocks);
        for input_panel in 0..input_panels {
            // X's next channels of the same rows.
            let next_channels = match input_panel + 1 {
                next if next < input_panels => {
                    let at = x.blocks.data.as_ptr().wrapping_add(x.offset(rows.start, 0, next));
                    Region::new(at, rows.len() * x.row, x.blocks.stride, x.blocks.count)
                }
                _ => Region::NONE,
            };
            let points = prefetch_points(sum, blocks.len(), rows.len());
            let mut prefetcher = Prefetcher::new([next_channels, Region::NONE], points);
            for (blocks, rows) in partition(blocks.clone(), rows.clone(), per_sum) {
                let (channel, is_first) = (input_panel * PANEL, blocks.start + rows.start == 0);
                let (x, dy) = repacked(&blocks);
                // SAFETY: the caller's promise.
                unsafe { add_channels(sum, &ChannelRows { channel, rows, is_first }, x, dy, &mut prefetcher) };
            }
        }
    }
}

/// [`Strategy`]: all rows of pixels together, 16 channels after the other.
pub(in crate::conv) struct ByKernelRows;

impl<K: KernelRowSum> Strategy<K> for ByKernelRows {
    #[inline(always)]
    unsafe fn add_rows(
        sum: &mut K,
        rows: Range<usize>,
        x: RepackedRows<'_, K::Element>,
        dy: RepackedRows<'_, K::Element>,
        next: [Region; 2],
    ) {
        let channels = (0..sum.shape().input.channel_stride).step_by(PANEL);
        let mut prefetcher = Prefetcher::new(next, channels.len() * prefetch_points(sum, 1, rows.len()));
        for channel in channels {
            let channel_rows = ChannelRows { channel, rows: rows.clone(), is_first: rows.start == 0 };
            // SAFETY: the caller's promise.
            unsafe { add_channels(sum, &channel_rows, x, dy, &mut prefetcher) };
        }
    }
}

/// How many prefetch points the sums over 16 channels of `rows` rows of `blocks` blocks have.
fn prefetch_points<K: KernelRowSum>(sum: &K, blocks: usize, rows: usize) -> usize {
    let shape = sum.shape();
    shape.kernel[0] * sum.panels().len() * TapRowGemm::prefetch_points([blocks, rows, shape.output.width], 0)
}

/// 16 input channels of output rows.
struct ChannelRows {
    channel: usize,
    rows: Range<usize>,
    /// Whether these are the first rows of the first blocks.
    is_first: bool,
}

/// Adds the products of `channel_rows` to the tiles of all rows of taps and panels.
///
/// # Safety
/// As for [`KernelRowSum::add_kernel_row`].
#[inline(always)]
unsafe fn add_channels<K: KernelRowSum>(
    sum: &mut K,
    channel_rows: &ChannelRows,
    x: RepackedRows<'_, K::Element>,
    dy: RepackedRows<'_, K::Element>,
    prefetcher: &mut Prefetcher,
) {
    let (shape, panels) = (*sum.shape(), sum.panels());
    let &ChannelRows { channel, ref rows, is_first } = channel_rows;
    let next_channel = (channel + PANEL).min(shape.input.channel_stride - PANEL);
    let of_row = |ky| panels.clone().map(move |panel| GradientTiles { ky, panel, channel });
    let mut all_tiles = (0..shape.kernel[0]).flat_map(of_row).peekable();
    while let Some(tiles) = all_tiles.next() {
        let rows = shape.rows_with_tap(tiles.ky, rows);
        if !rows.is_empty() {
            let next_channels = GradientTiles { ky: 0, panel: panels.start, channel: next_channel };
            let next = *all_tiles.peek().unwrap_or(&next_channels);
            // SAFETY: the caller's promise; `rows_with_tap` leaves out the padding.
            unsafe { sum.add_kernel_row(x, dy, &KernelRow { rows, tiles, next, is_first }, prefetcher) };
        }
    }
}
