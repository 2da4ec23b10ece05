//! [`add_block`]: the gradient over one block, whose rows are repacked in ring buffers on the way.

use std::ops::Range;

use super::blocking::rows_per_sum;
use super::operands::input_ring;
use super::{GradientSum, RepackedRows};
use crate::conv::prefetcher::Region;

/// Repacks pixels of X, and of dY in elements of `D`, as a [`GradientSum`] reads them.
pub(in crate::conv) trait Repack<D>: GradientSum {
    fn repack_x(&self, from: &[Self::Element], to: &mut [Self::Element]);

    fn repack_dy(&self, from: &[D], to: &mut [Self::Element]);
}

/// How the products of repacked rows are added to a gradient.
pub(in crate::conv) trait Strategy<K: GradientSum> {
    /// Adds the products of output rows `rows`; mark the implementation `#[inline(always)]`. `next` is the memory that is
    /// repacked after these rows, which the strategy may prefetch.
    ///
    /// # Safety
    /// X and dY must have the lengths of the shape, as far as their rings go, and the rings must hold the rows.
    unsafe fn add_rows(
        sum: &mut K,
        rows: Range<usize>,
        x: RepackedRows<'_, K::Element>,
        dy: RepackedRows<'_, K::Element>,
        next: [Region; 2],
    );
}

/// A block's tensors as the network stores them, and the ring buffers of their repacked rows.
pub(in crate::conv) struct BlockOperands<'a, E, D> {
    pub x: &'a [E],
    pub dy: &'a [D],
    pub x_rows: &'a mut [E],
    pub dy_rows: &'a mut [E],
}

/// Adds the gradient over one block by strategy `W`.
///
/// # Safety
/// [`check_block`](super::check_block) must have compared the lengths with the shape.
#[inline(always)]
pub(in crate::conv) unsafe fn add_block<W: Strategy<K>, D, K: Repack<D>>(
    sum: &mut K,
    block: BlockOperands<'_, K::Element, D>,
) {
    let BlockOperands { x, dy, x_rows, dy_rows } = block;
    let shape = *sum.shape();
    let (x_row, dy_row, rows_per_sum) = (shape.input.row(), shape.output.row(), rows_per_sum(&shape));
    let ring = input_ring(&shape);
    // The first row of X that is not repacked yet.
    let mut next = 0;
    for start in (0..shape.output.height).step_by(rows_per_sum) {
        let rows = start..(start + rows_per_sum).min(shape.output.height);
        for y in rows.clone() {
            let ys = shape.rows_of(y);
            if ys.count > 0 {
                let first = y * shape.stride + ys.tap - shape.padding[0];
                for row in first.max(next)..first + ys.count {
                    sum.repack_x(&x[row * x_row..][..x_row], &mut x_rows[row % ring * x_row..][..x_row]);
                }
                next = next.max(first + ys.count);
            }
            let to = &mut dy_rows[y % rows_per_sum * dy_row..][..dy_row];
            sum.repack_dy(&dy[y * dy_row..][..dy_row], to);
        }
        let next_x = x.len().min((next + rows_per_sum * shape.stride) * x_row).saturating_sub(next * x_row);
        let next_dy = dy.len().min((rows.end + rows_per_sum) * dy_row) - rows.end * dy_row;
        let next_rows = [
            Region::new(x.as_ptr().wrapping_add(next * x_row), next_x, 0, 1),
            Region::new(dy.as_ptr().wrapping_add(rows.end * dy_row), next_dy, 0, 1),
        ];
        let (x, dy) = (RepackedRows::of_ring(x_rows, &shape.input), RepackedRows::of_ring(dy_rows, &shape.output));
        // SAFETY: the caller's promise; the loop above repacked these rows.
        unsafe { W::add_rows(sum, rows, x, dy, next_rows) };
    }
}
