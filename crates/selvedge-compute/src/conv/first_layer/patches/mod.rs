//! The layer next to a network's input on AMX, where it is what [`crate::conv::first_layer::is_first_layer`] says: a 3x3 convolution of one
//! channel with ReLU and 2x2 max pooling; or with a normalisation instead of the pooling ([`crate::conv::first_layer::batch_norm`]).
//!
//! One channel would fill a sixteenth of a tile. But the four pixels that are pooled into one see 4x4 pixels of the input,
//! 16 numbers: with these side by side, the convolution at each of the four is a product of 16 steps whose weights are the
//! nine, and zeros.
//!
//! ```text
//! X: [window][image][16]        bytes of images become this ([`fill`]), where other layers' input would be pixels
//! W: [4 pixels][16][channel]    the weights of pixel (py, px) at (py + ky, px + kx), else zero ([`pack`])
//!
//! forward    C(pixel)[image][channel] = X[image][16] · W(pixel)                        then the maximum of the four
//! backward   dW(pixel)[16][channel]   = Σ over windows  Xᵀ[16][image] · dY(pixel)      dY where this pixel won, else zero
//! ```
//!
//! Without pooling the four results are written, and dY is that of each.
//!
//! Four products serve 16 images forward, and 32 backward. Against the broadcasts and multiply-adds of `conv/first.rs` the passes
//! take 0.67 and 0.37 of the time in a step of `seed`.

mod backward;
mod fill;
mod forward;
mod moments;
#[cfg(test)]
mod tests;
mod unpooled;

use half::bf16;

use crate::amx::patches::PIXELS;
use crate::conv::first_layer::is_first_layer;
use crate::conv::first_layer::pooled::WINDOW;
use crate::conv::pooled::pooled_shape;
use crate::conv::{Conv2dShape, PANEL};
use crate::cpu::Cpu;
use crate::layout::BlockShape;

pub use backward::backward;
pub use fill::fill;
pub use forward::forward;
pub use moments::patch_sums;
pub use unpooled::{backward_unpooled, forward_unpooled};

/// Pixels of the input, in a row and in all, that a window sees.
const SIDE: usize = 4;
const SEEN: usize = SIDE * SIDE;
/// Elements of the packed weights of a panel.
const PANEL_LEN: usize = PIXELS * SEEN * PANEL;

/// The shape of the input as windows: one for each pooled pixel, with the 16 numbers it sees as channels.
///
/// # Panics
/// If the layer is not of this form.
pub fn shape(layer: &Conv2dShape) -> BlockShape {
    assert!(is_first_layer(layer, WINDOW), "a first layer is needed, not {layer:?}");
    let BlockShape { height, width, .. } = pooled_shape(layer, WINDOW);
    BlockShape::new(height, width, SEEN)
}

/// Whether a layer is of this form and its windows leave out no pixel of the image, as those of odd sizes do: what the passes
/// without pooling need.
pub fn cover(layer: &Conv2dShape) -> bool {
    let BlockShape { height, width, .. } = layer.output;
    is_first_layer(layer, WINDOW) && height.is_multiple_of(WINDOW[0]) && width.is_multiple_of(WINDOW[1])
}

/// Elements of the packed weights.
pub fn packed_len(layer: &Conv2dShape) -> usize {
    layer.panels() * PANEL_LEN
}

/// Rounds weights in panels to bf16 and packs them, `[out/16][4 pixels][pair of numbers][16][2]`.
///
/// # Panics
/// If the lengths do not fit the layer, or `cpu` does not prove AMX.
pub fn pack(cpu: Cpu, layer: &Conv2dShape, panels: &[f32], packed: &mut [bf16]) {
    assert_amx(cpu);
    assert_eq!(panels.len(), layer.weights_len(), "the panels' length and that of {layer:?}");
    assert_eq!(packed.len(), packed_len(layer), "the packed weights' length and that of {layer:?}");
    for (panel, to) in panels.chunks_exact(layer.panel_len()).zip(packed.chunks_exact_mut(PANEL_LEN)) {
        let (taps, _) = panel.as_chunks::<PANEL>();
        for (number, to) in to.chunks_exact_mut(2 * PANEL).enumerate() {
            let (pixel, pair) = (number / (SEEN / 2), number % (SEEN / 2));
            for (side, seen) in [2 * pair, 2 * pair + 1].into_iter().enumerate() {
                let weights = tap(pixel, seen).map(|tap| &taps[tap]);
                for channel in 0..PANEL {
                    to[2 * channel + side] = weights.map_or(bf16::ZERO, |weights| bf16::from_f32(weights[channel]));
                }
            }
        }
    }
}

/// The tap of a window's pixel that falls on number `seen` of what the window sees.
fn tap(pixel: usize, seen: usize) -> Option<usize> {
    let (ky, kx) = ((seen / SIDE).wrapping_sub(pixel / 2), (seen % SIDE).wrapping_sub(pixel % 2));
    (ky < 3 && kx < 3).then(|| 3 * ky + kx)
}

fn assert_amx(cpu: Cpu) {
    assert!(cpu.isa().has_tiles(), "windows need amx, and this is {}", cpu.isa());
}
