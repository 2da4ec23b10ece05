//! Panels: groups of 16 columns of packed weights, which a microkernel reads sequentially.

use crate::simd::{MAX_LANES, Simd};

/// Columns of a panel of packed weights: one cache line of f32.
pub const PANEL: usize = MAX_LANES;

/// Offset of vector `v` of a row, in elements, if panels are `panel` elements apart.
#[inline(always)]
pub(in crate::conv) fn column<S: Simd>(v: usize, panel: usize) -> usize {
    let lane = v * S::LANES;
    lane / PANEL * panel + lane % PANEL
}

/// Panics unless a tensor's channels are padded to whole panels.
#[track_caller]
pub(in crate::conv) fn assert_padded(channels: usize) {
    assert!(channels.is_multiple_of(PANEL), "a channel stride of {channels}: this kernel needs multiples of {PANEL}");
}
