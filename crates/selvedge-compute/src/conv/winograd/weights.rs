//! The transform of the weights for [`super::Winograd`]: U = G W Gᵀ.

use std::marker::PhantomData;

use super::super::PANEL;
use super::Winograd;
use super::transform::{Strided, Transform, both};
use crate::simd::{Kernel, Simd};

/// Taps of a 3x3 kernel.
const TAPS: usize = 9;

/// Compares the length of panels with `channels` rows per tap with that of the transformed panels.
#[track_caller]
pub(super) fn check(winograd: &Winograd, channels: usize, panels: usize, to: usize) {
    let (panel, transformed) = (TAPS * channels * PANEL, winograd.points() * channels * PANEL);
    assert!(panels.is_multiple_of(panel), "{panels} weights are not whole panels of {panel}");
    assert_eq!(
        to,
        panels / panel * transformed,
        "the transformed panels' length and that of {} panels",
        panels / panel
    );
}

/// Whether the kernel is rotated by 180°, so that the last tap is read first.
#[derive(Clone, Copy)]
pub(super) enum Rotation {
    None,
    HalfTurn,
}

/// Panels `[tap][channel][16]` to `[point][channel][16]`.
pub(super) struct Transformed<'a, T, const M: usize, const N: usize> {
    panels: &'a [f32],
    to: &'a mut [f32],
    channels: usize,
    rotation: Rotation,
    transform: PhantomData<T>,
}

impl<'a, T: Transform<M, N>, const M: usize, const N: usize> Transformed<'a, T, M, N> {
    pub(super) fn new(panels: &'a [f32], to: &'a mut [f32], channels: usize, rotation: Rotation) -> Self {
        Self { panels, to, channels, rotation, transform: PhantomData }
    }
}

impl<T: Transform<M, N>, const M: usize, const N: usize> Kernel for Transformed<'_, T, M, N> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let tap = self.channels * PANEL;
        let panels = self.panels.chunks_exact(TAPS * tap).zip(self.to.chunks_exact_mut(N * N * tap));
        for (panel, to) in panels {
            for at in (0..tap).step_by(S::LANES) {
                // SAFETY: the vector at `at` lies in a tap and in a point; `chunks_exact` gives all nine taps and N × N points.
                unsafe {
                    let (first, step) = match self.rotation {
                        Rotation::None => (0, tap as isize),
                        Rotation::HalfTurn => ((TAPS - 1) * tap, -(tap as isize)),
                    };
                    let weights = Strided { first: panel.as_ptr().add(first + at), steps: [3 * step, step] };
                    let transformed = both::<S, T::Weights, 3, N>(s, &weights);
                    for (row, points) in transformed.into_iter().enumerate() {
                        for (column, u) in points.into_iter().enumerate() {
                            s.store(to.as_mut_ptr().add((row * N + column) * tap + at), u);
                        }
                    }
                }
            }
        }
    }
}
