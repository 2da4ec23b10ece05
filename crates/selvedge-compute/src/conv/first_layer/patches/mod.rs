//! The first layer in bf16 on AMX by 4×4 patches: a 3x3 convolution of one channel ([`is_first_layer`]) with 2x2 max
//! pooling, or with batch norm instead of pooling ([`crate::conv::first_layer::batch_norm`]).
//!
//! One channel would fill a sixteenth of a tile. But the four pixels that are pooled into one read a patch of 4x4 pixels of the
//! input. With its 16 elements side by side, the convolution at each of the four pixels is a product of 16 steps, whose weights
//! are the nine weights and zeros.
//!
//! ```text
//! X: [patch][image][16]         made from the bytes of images ([`fill`])
//! W: [4 pixels][16][channel]    the weights of pixel (py, px) at (py + ky, px + kx), zero elsewhere ([`pack`])
//!
//! forward    C(pixel)[image][channel] = X[image][16] · W(pixel)                        then the maximum of the four
//! backward   dW(pixel)[16][channel]   = Σ over patches  Xᵀ[16][image] · dY(pixel)      dY where the pixel is the argmax, else 0
//! ```
//!
//! Without pooling, all four results are written, and each pixel has its own dY.
//!
//! Four products compute 16 images forward, and 32 backward. Compared with the vectors of [`crate::conv::first_layer`], the
//! passes take 0.67 and 0.37 of the time in a step of `seed`.

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
pub use fill::{fill, fill_f32};
pub use forward::forward;
pub use moments::patch_sums;
pub use unpooled::{backward_unpooled, forward_unpooled};

/// Height and width of a patch.
const SIDE: usize = 4;
/// Elements of a patch.
const PATCH: usize = SIDE * SIDE;
/// Elements of the packed weights of a panel.
const PANEL_LEN: usize = PIXELS * PATCH * PANEL;

/// The shape of the input as patches: a pixel for each pooling window, the 16 elements of its patch as channels.
///
/// # Panics
/// If the layer is not of this form.
pub fn shape(layer: &Conv2dShape) -> BlockShape {
    assert!(is_first_layer(layer, WINDOW), "a first layer is needed, not {layer:?}");
    let BlockShape { height, width, .. } = pooled_shape(layer, WINDOW);
    BlockShape::new(height, width, PATCH)
}

/// Whether a layer is of this form and its windows cover the image: height and width are even. The passes without pooling need
/// this.
pub fn cover(layer: &Conv2dShape) -> bool {
    let BlockShape { height, width, .. } = layer.output;
    is_first_layer(layer, WINDOW) && height.is_multiple_of(WINDOW[0]) && width.is_multiple_of(WINDOW[1])
}

/// Elements of the packed weights.
pub fn packed_len(layer: &Conv2dShape) -> usize {
    layer.panels() * PANEL_LEN
}

/// Rounds weights in panels to bf16 and packs them, `[out/16][4 pixels][pair of elements][16][2]`.
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
            let (pixel, pair) = (number / (PATCH / 2), number % (PATCH / 2));
            for (side, element) in [2 * pair, 2 * pair + 1].into_iter().enumerate() {
                let weights = tap(pixel, element).map(|tap| &taps[tap]);
                for channel in 0..PANEL {
                    to[2 * channel + side] = weights.map_or(bf16::ZERO, |weights| bf16::from_f32(weights[channel]));
                }
            }
        }
    }
}

/// The tap of pixel `pixel` of a window that falls on element `element` of its patch.
fn tap(pixel: usize, element: usize) -> Option<usize> {
    let (ky, kx) = ((element / SIDE).wrapping_sub(pixel / 2), (element % SIDE).wrapping_sub(pixel % 2));
    (ky < 3 && kx < 3).then(|| 3 * ky + kx)
}

fn assert_amx(cpu: Cpu) {
    assert!(cpu.isa().has_tiles(), "4x4 patches need amx, and this is {}", cpu.isa());
}
