//! The layouts of weights, and conversions between them.
//!
//! | layout | used by |
//! |---|---|
//! | logical `[ky][kx][in][out]` | Keras, files, initialisation |
//! | panels `[out/16][ky][kx][in][16]` | master weights, their gradients, optimizer states; the direct forward pass |
//! | transposed `[in/16][ky][kx][out][16]` | the direct data pass; converted from the panels once per step |
//!
//! In the packed layouts, channels are padded like those of the tensors, and the padding is zero.

use std::ops::Range;

use super::panel::assert_padded;
use super::{Conv2dShape, PANEL};

/// Converts logical weights `[ky][kx][in][out]` to panels; the padding becomes zero.
///
/// # Panics
/// If a slice is not as long as the shape says.
pub fn to_panels(shape: &Conv2dShape, logical: &[f32], panels: &mut [f32]) {
    check_logical(shape, logical.len(), panels.len());
    panels.fill(0.0);
    for_each_row(shape, |logical_row, panel_row| panels[panel_row].copy_from_slice(&logical[logical_row]));
}

/// Converts panels to logical weights `[ky][kx][in][out]`.
///
/// # Panics
/// If a slice is not as long as the shape says.
pub fn from_panels(shape: &Conv2dShape, panels: &[f32], logical: &mut [f32]) {
    check_logical(shape, logical.len(), panels.len());
    for_each_row(shape, |logical_row, panel_row| logical[logical_row].copy_from_slice(&panels[panel_row]));
}

/// Writes panel `panel` (of `shape.input.channel_stride / 16`) of the transposed layout, `[ky][kx][out][16]`.
///
/// # Panics
/// If a slice is not as long as the shape says, or the input's channels are not padded.
pub fn transpose_panel(shape: &Conv2dShape, panels: &[f32], panel: usize, transposed: &mut [f32]) {
    let (inputs, outputs, taps) = (shape.input.channel_stride, shape.output.channel_stride, shape.taps());
    assert_padded(inputs);
    assert_eq!(panels.len(), shape.weights_len(), "the panels' length and that of shape {shape:?}");
    assert_eq!(transposed.len(), taps * outputs * PANEL, "the transposed panel's length");
    for (tap, to) in transposed.chunks_exact_mut(outputs * PANEL).enumerate() {
        for (out_panel, to) in to.chunks_exact_mut(PANEL * PANEL).enumerate() {
            let from = &panels[((out_panel * taps + tap) * inputs + panel * PANEL) * PANEL..][..PANEL * PANEL];
            for (out, to) in to.chunks_exact_mut(PANEL).enumerate() {
                for (input, to) in to.iter_mut().enumerate() {
                    *to = from[input * PANEL + out];
                }
            }
        }
    }
}

fn check_logical(shape: &Conv2dShape, logical: usize, panels: usize) {
    let expected = shape.taps() * shape.input.channels * shape.output.channels;
    assert_eq!(logical, expected, "the logical weights' length and that of shape {shape:?}");
    assert_eq!(panels, shape.weights_len(), "the panels' length and that of shape {shape:?}");
}

/// Calls `f` for each tap, input and panel with the ranges of its weights in the logical weights and in the panels.
fn for_each_row(shape: &Conv2dShape, mut f: impl FnMut(Range<usize>, Range<usize>)) {
    let (inputs, outputs) = (shape.input.channels, shape.output.channels);
    for tap in 0..shape.taps() {
        for input in 0..inputs {
            for output in (0..outputs).step_by(PANEL) {
                let count = PANEL.min(outputs - output);
                let at_logical = (tap * inputs + input) * outputs + output;
                let row = (output / PANEL * shape.taps() + tap) * shape.input.channel_stride + input;
                f(at_logical..at_logical + count, row * PANEL..row * PANEL + count);
            }
        }
    }
}
