//! The layouts of weights, and the ways between them.
//!
//! | layout | where |
//! |---|---|
//! | logical `[ky][kx][in][out]` | Keras, files, initialisation |
//! | panels `[out/16][ky][kx][in][16]` | master weights, their gradients, optimizer states; what [`super::forward`] reads |
//! | transposed `[in/16][ky][kx][out][16]` | what [`super::backward_data`] reads, made from the panels once a step |
//!
//! In the packed layouts channels are padded as the tensors' are, and the padded weights are zero.

use std::ops::Range;

use super::{Conv2dShape, PANEL};

/// Writes logical weights `[ky][kx][in][out]` into panels; padded weights become zero.
///
/// # Panics
/// If a slice is not as long as the shape says.
pub fn to_panels(shape: &Conv2dShape, logical: &[f32], panels: &mut [f32]) {
    check_logical(shape, logical.len(), panels.len());
    panels.fill(0.0);
    for_each_row(shape, |logical_row, panel_row| panels[panel_row].copy_from_slice(&logical[logical_row]));
}

/// Reads logical weights `[ky][kx][in][out]` out of panels.
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
    assert!(inputs.is_multiple_of(PANEL), "the input's channel stride {inputs} is padded to {PANEL}");
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

/// Calls `f` with the places of each panel's weights of one tap and input, in the logical weights and in the panels.
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
