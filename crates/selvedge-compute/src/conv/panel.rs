//! Panels: the 16 columns of packed weights that a microkernel reads from beginning to end.

use crate::simd::{MAX_LANES, Simd};

/// Columns of a panel of packed weights: one cache line of f32.
pub const PANEL: usize = MAX_LANES;

/// Where vector `v` of a tile begins, in elements, where panels lie `panel` apart.
#[inline(always)]
pub(in crate::conv) fn column<S: Simd>(v: usize, panel: usize) -> usize {
    let lane = v * S::LANES;
    lane / PANEL * panel + lane % PANEL
}

/// Panics unless a tensor's channels are padded to whole panels.
#[track_caller]
pub(in crate::conv) fn assert_padded(channels: usize) {
    assert!(channels.is_multiple_of(PANEL), "a channel stride of {channels}: these kernels need multiples of {PANEL}");
}
