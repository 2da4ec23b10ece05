//! The strategy that adds one tap at a time to a tile of the gradient.

use std::ops::Range;

use super::{Blocks, GradientSum, RepackedRows, Strategy};
use crate::conv::prefetcher::Region;

/// Output pixels `columns` of row `y`, multiplied by the input pixels of tap (`ky`, `kx`), and the first panel and input channel
/// of a tile of the gradient.
pub(in crate::conv) struct Tap {
    pub y: usize,
    pub columns: Range<usize>,
    pub ky: usize,
    pub kx: usize,
    pub panel: usize,
    pub channel: usize,
}

/// A gradient to whose tiles one tap is added per call.
pub(in crate::conv) trait TapSum: GradientSum {
    /// Pixels, times blocks, over which a tile's sum of one tap runs before it is stored.
    const PIXELS: usize;
    /// Input channels of a tile of the gradient.
    const CHANNELS: usize;

    /// How many panels from `panel` on are summed together: 1 or 2.
    fn panels_per_call(&self, panel: usize) -> usize;

    /// Adds the products of `tap` over all its pixels and all images.
    ///
    /// # Safety
    /// X and dY must have the lengths of the shape, as far as their rings go, and the tap's pixels must lie on the input.
    unsafe fn add(&mut self, x: RepackedRows<'_, Self::Element>, dy: RepackedRows<'_, Self::Element>, tap: &Tap);
}

/// Adds the gradient over blocks that are repacked as a whole.
///
/// # Safety
/// [`check_blocks`](super::check_blocks) must have compared the lengths with the shape.
#[inline(always)]
pub(in crate::conv) unsafe fn add_blocks<K: TapSum>(
    sum: &mut K,
    x: Blocks<'_, K::Element>,
    dy: Blocks<'_, K::Element>,
) {
    let shape = *sum.shape();
    let (x, dy) = (RepackedRows::of_blocks(x, &shape.input), RepackedRows::of_blocks(dy, &shape.output));
    for y in 0..shape.output.height {
        // SAFETY: the caller's promise.
        unsafe { add_row(sum, y, x, dy) };
    }
}

/// [`Strategy`]: one tap at a time, one row of pixels after the other.
pub(in crate::conv) struct TapByTap;

impl<K: TapSum> Strategy<K> for TapByTap {
    #[inline(always)]
    unsafe fn add_rows(
        sum: &mut K,
        rows: Range<usize>,
        x: RepackedRows<'_, K::Element>,
        dy: RepackedRows<'_, K::Element>,
        _: [Region; 2],
    ) {
        for y in rows {
            // SAFETY: the caller's promise.
            unsafe { add_row(sum, y, x, dy) };
        }
    }
}

/// Adds the products of output row `y`.
///
/// All taps of a tile's channels before the next channels: dY and these channels of X stay in L1, which is worth up to a tenth
/// on AMX from 128 channels on.
///
/// # Safety
/// As for [`TapSum::add`].
#[inline(always)]
unsafe fn add_row<K: TapSum>(sum: &mut K, y: usize, x: RepackedRows<'_, K::Element>, dy: RepackedRows<'_, K::Element>) {
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
                        let columns = shape.columns_with_tap(kx, &all_columns);
                        if !columns.is_empty() {
                            // SAFETY: the caller's promise; `rows_of` and `columns_with_tap` leave out the padding.
                            unsafe { sum.add(x, dy, &Tap { y, columns, ky, kx, panel, channel }) };
                        }
                    }
                }
            }
            panel += sum.panels_per_call(panel);
        }
    }
}
