//! Repacks operands for AMX tiles, so that each tile is contiguous: weights, and activations for the gradient of the weights.
//!
//! A tile product needs two steps of the sum side by side in B. In the forward and the data pass the sum runs over channels, so
//! weights are packed in pairs of input (or output) channels. In the gradient of the weights it runs over images: dY is repacked
//! in pairs of images ([`pair_images`]), and X is transposed ([`transpose_images`]), once per step and not once per tap.

use half::bf16;

use crate::conv::panel::assert_padded;
use crate::conv::{Conv2dShape, PANEL};
use crate::cpu::Cpu;
use crate::layout::BlockShape;

/// Rounds weights in panels to bf16 for [`super::forward`]: `[out/16][ky][kx][in/2][16][2]`.
///
/// Each pair of rows is packed independently, so the work can be partitioned at multiples of 32.
///
/// # Panics
/// If the lengths differ or are not multiples of 32, or `cpu` does not prove AMX.
pub fn to_bf16(cpu: Cpu, panels: &[f32], packed: &mut [bf16]) {
    assert_amx(cpu);
    assert_eq!(panels.len(), packed.len(), "the lengths of the panels and the packed weights");
    assert!(panels.len().is_multiple_of(2 * PANEL), "{} weights are not whole pairs of rows of {PANEL}", panels.len());
    // SAFETY: `assert_amx`: AMX is reported only beside AVX-512 with bf16 (`cpu::detect`).
    unsafe { x86::round_all(panels, packed) }
}

/// Writes panel `panel` (of `shape.input.channel_stride / 16`) of the transposed weights in bf16 for [`super::backward_data`]:
/// `[ky][kx][out/2][16][2]`.
///
/// # Panics
/// If a slice is not as long as the shape says, the input's channels are not padded, or `cpu` does not prove AMX.
pub fn transpose_to_bf16(cpu: Cpu, shape: &Conv2dShape, panels: &[f32], panel: usize, packed: &mut [bf16]) {
    assert_amx(cpu);
    let (inputs, outputs, taps) = (shape.input.channel_stride, shape.output.channel_stride, shape.taps());
    assert_padded(inputs);
    assert!(panel < inputs / PANEL, "panel {panel} of {}", inputs / PANEL);
    assert_eq!(panels.len(), shape.weights_len(), "the panels' length and that of shape {shape:?}");
    assert_eq!(packed.len(), taps * outputs * PANEL, "the packed panel's length");
    // SAFETY: as in `to_bf16`.
    unsafe { x86::transpose_weights(shape, panels, panel, packed) }
}

/// Repacks a block of dY for the gradient of the weights: `[channels/16][pixel][image pair][16][2]`.
///
/// # Panics
/// If a slice is not as long as the shape says, its channels are not padded, or `cpu` does not prove AMX.
pub fn pair_images(cpu: Cpu, shape: &BlockShape, from: &[bf16], to: &mut [bf16]) {
    assert_eq!(from.len(), shape.len(), "the source's length and that of {shape:?}");
    pair_pixels(cpu, shape, from, to);
}

/// Repacks a block of X for the gradient of the weights: `[channels/16][pixel][16][image]`.
///
/// # Panics
/// As [`pair_images`].
pub fn transpose_images(cpu: Cpu, shape: &BlockShape, from: &[bf16], to: &mut [bf16]) {
    assert_eq!(from.len(), shape.len(), "the source's length and that of {shape:?}");
    transpose_pixels(cpu, shape, from, to);
}

/// [`pair_images`] of some pixels of a block.
pub(in crate::conv) fn pair_pixels(cpu: Cpu, shape: &BlockShape, from: &[bf16], to: &mut [bf16]) {
    check_pixels(cpu, shape, from, to);
    // SAFETY: as in `to_bf16`.
    unsafe { x86::repack::<false>(shape, from, to) }
}

/// [`transpose_images`] of some pixels of a block.
pub(in crate::conv) fn transpose_pixels(cpu: Cpu, shape: &BlockShape, from: &[bf16], to: &mut [bf16]) {
    check_pixels(cpu, shape, from, to);
    // SAFETY: as in `to_bf16`.
    unsafe { x86::repack::<true>(shape, from, to) }
}

fn check_pixels(cpu: Cpu, shape: &BlockShape, from: &[bf16], to: &[bf16]) {
    assert_amx(cpu);
    assert_padded(shape.channel_stride);
    assert_eq!(from.len(), to.len(), "the lengths of source and target");
    assert!(from.len().is_multiple_of(shape.pixel()), "{} elements are not whole pixels of {shape:?}", from.len());
}

fn assert_amx(cpu: Cpu) {
    assert!(cpu.isa().has_tiles(), "bf16 kernels need amx, and this is {}", cpu.isa());
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use half::bf16;

    use super::{BlockShape, Conv2dShape, PANEL};
    use crate::amx::shuffle::{pair_words, round_pairs, round_row, transpose};
    use crate::conv::weight_gradient::TILE;
    use crate::layout::BLOCK;

    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(in crate::conv) fn round_all(panels: &[f32], packed: &mut [bf16]) {
        for (rows, to) in panels.chunks_exact(2 * PANEL).zip(packed.chunks_exact_mut(2 * PANEL)) {
            // SAFETY: `rows` are two rows of 16 f32, `to` as many bf16.
            unsafe {
                let (even, odd) = (_mm512_loadu_ps(rows.as_ptr()), _mm512_loadu_ps(rows.as_ptr().add(PANEL)));
                _mm512_storeu_si512(to.as_mut_ptr().cast(), round_pairs(even, odd));
            }
        }
    }

    /// Zeros in place of the panel after a last single one.
    static ZEROS: [f32; PANEL * PANEL] = [0.0; PANEL * PANEL];

    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(in crate::conv) fn transpose_weights(shape: &Conv2dShape, panels: &[f32], panel: usize, packed: &mut [bf16]) {
        let (inputs, outputs, taps) = (shape.input.channel_stride, shape.output.channel_stride, shape.taps());
        for (tap, to) in packed.chunks_exact_mut(outputs * PANEL).enumerate() {
            for (out_panel, to) in to.chunks_mut(2 * PANEL * PANEL).enumerate() {
                // 16 rows of the output channels of two panels; a last single panel is paired with zeros.
                let square = |out_panel: usize| {
                    let at = ((out_panel * taps + tap) * inputs + panel * PANEL) * PANEL;
                    panels.get(at..at + PANEL * PANEL)
                };
                let low = square(2 * out_panel).unwrap_or(&ZEROS);
                let high = square(2 * out_panel + 1).unwrap_or(&ZEROS);
                let mut rows = [_mm512_setzero_si512(); 16];
                for (input, row) in rows.iter_mut().enumerate() {
                    // SAFETY: both squares are 16 rows of 16 f32.
                    *row = unsafe {
                        let at = input * PANEL;
                        round_row(_mm512_loadu_ps(low.as_ptr().add(at)), _mm512_loadu_ps(high.as_ptr().add(at)))
                    };
                }
                for (to, row) in to.chunks_exact_mut(2 * PANEL).zip(transpose(rows)) {
                    // SAFETY: `to` is 32 bf16.
                    unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), row) }
                }
            }
        }
    }

    /// Elements, 8 KiB, by which memory is prefetched before it is read: the hardware prefetcher cannot predict the stride from
    /// image to image. Tensors larger than L2 are repacked a third faster.
    const PREFETCH_DISTANCE: usize = 4096;

    /// Prefetches the lines of a tile that is read or written. Stores, too, wait for their lines: with the lines of the next
    /// pixel's tile prefetched, a training step of `resnet9` takes 1 to 2 % less time.
    #[inline(always)]
    fn prefetch_tile(tile: *const bf16) {
        for line in 0..PANEL {
            // SAFETY: every x86-64 processor has the instruction, and it has no effect that a program can observe.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(tile.wrapping_add(line * BLOCK).cast()) }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    pub(in crate::conv) fn repack<const TRANSPOSE: bool>(shape: &BlockShape, from: &[bf16], to: &mut [bf16]) {
        let stride = shape.plane();
        let panel_len = to.len() / (shape.channel_stride / PANEL);
        for (pixel, from) in from.chunks_exact(shape.pixel()).enumerate() {
            for panel in 0..shape.channel_stride / PANEL {
                let to_at = panel * panel_len + pixel * TILE;
                prefetch_tile(to.as_ptr().wrapping_add(to_at + TILE));
                let to = &mut to[to_at..][..TILE];
                let from = &from[shape.channel(panel * PANEL)..];
                // The panels of a plane share its lines: each prefetches half of them.
                let half = panel % (stride / PANEL) * (BLOCK - 1) * PANEL;
                prefetch_tile(from.as_ptr().wrapping_add(PREFETCH_DISTANCE + half));
                // Checked once and not for each image: the gradient of the weights takes a sixteenth less time.
                assert!(from.len() >= (BLOCK - 1) * stride + PANEL, "{} elements are not a whole plane", from.len());
                let mut pairs = [_mm512_setzero_si512(); 16];
                for (pair, words) in pairs.iter_mut().enumerate() {
                    // SAFETY: the assertion above: 16 bf16 of each image.
                    *words = unsafe {
                        let even = from.as_ptr().add(2 * pair * stride);
                        pair_words(_mm256_loadu_si256(even.cast()), _mm256_loadu_si256(even.add(stride).cast()))
                    };
                }
                let rows = if TRANSPOSE { transpose(pairs) } else { pairs };
                for (to, row) in to.chunks_exact_mut(2 * PANEL).zip(rows) {
                    // SAFETY: `to` is 32 bf16.
                    unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), row) }
                }
            }
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod x86 {
    //! Never called: no `Cpu` proves AMX here, so `assert_amx` panics first.
    use super::*;

    pub(in crate::conv) unsafe fn round_all(_: &[f32], _: &mut [bf16]) {}
    pub(in crate::conv) unsafe fn transpose_weights(_: &Conv2dShape, _: &[f32], _: usize, _: &mut [bf16]) {}
    pub(in crate::conv) unsafe fn repack<const TRANSPOSE: bool>(_: &BlockShape, _: &[bf16], _: &mut [bf16]) {}
}
