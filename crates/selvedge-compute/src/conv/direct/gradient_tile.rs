//! [`GradientTile`]: panels of a gradient, whose tiles the microkernels load, add to and store.

use std::ops::Range;

use crate::conv::panel::column;
use crate::conv::{Conv2dShape, PANEL};
use crate::simd::Simd;

/// The panels of a gradient that are summed.
pub(in crate::conv) struct GradientTile<'a> {
    pub shape: &'a Conv2dShape,
    pub panels: Range<usize>,
    pub dweights: &'a mut [f32],
}

impl GradientTile<'_> {
    /// Loads a tile of the gradient.
    ///
    /// # Safety
    /// `dweights` must hold ROWS rows of VECTORS vectors from `at` on, the last of which may lie in later panels.
    #[inline(always)]
    pub(in crate::conv) unsafe fn load<S: Simd, const ROWS: usize, const VECTORS: usize>(
        &self,
        s: S,
        at: usize,
    ) -> [[S::V; VECTORS]; ROWS] {
        let mut acc = [[s.zero(); VECTORS]; ROWS];
        for (row, acc) in acc.iter_mut().enumerate() {
            for (v, acc) in acc.iter_mut().enumerate() {
                let at = at + row * PANEL + column::<S>(v, self.shape.panel_len());
                debug_assert!(at + S::LANES <= self.dweights.len());
                // SAFETY: the caller's promise.
                *acc = unsafe { s.load(self.dweights.as_ptr().add(at)) };
            }
        }
        acc
    }

    /// Stores a tile of the gradient.
    ///
    /// # Safety
    /// As for `load`.
    #[inline(always)]
    pub(in crate::conv) unsafe fn store<S: Simd, const ROWS: usize, const VECTORS: usize>(
        &mut self,
        s: S,
        at: usize,
        acc: &[[S::V; VECTORS]; ROWS],
    ) {
        for (row, acc) in acc.iter().enumerate() {
            for (v, &acc) in acc.iter().enumerate() {
                let at = at + row * PANEL + column::<S>(v, self.shape.panel_len());
                debug_assert!(at + S::LANES <= self.dweights.len());
                // SAFETY: the caller's promise.
                unsafe { s.store(self.dweights.as_mut_ptr().add(at), acc) };
            }
        }
    }
}
