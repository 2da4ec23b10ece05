//! Repacks activations for the f32 gradient of the weights: planes of 16 channels, one cache line from image to image.

use crate::conv::PANEL;
use crate::conv::panel::assert_padded;
use crate::cpu::Cpu;
use crate::layout::{BLOCK, BlockShape};
use crate::simd::{Element, Kernel, Simd, dispatch};

/// Repacks a block of X or dY for [`super::backward_weights`]: `[channels/16][pixel][image][16]` in f32.
///
/// # Panics
/// If a slice is not as long as the shape says, or its channels are not padded.
pub fn to_planes<E: Element>(cpu: Cpu, shape: &BlockShape, from: &[E], to: &mut [f32]) {
    assert_padded(shape.channel_stride);
    assert_eq!(from.len(), shape.len(), "the source's length and that of {shape:?}");
    assert_eq!(to.len(), shape.len(), "the target's length and that of {shape:?}");
    dispatch(cpu, Planes { shape, from, to });
}

struct Planes<'a, E> {
    shape: &'a BlockShape,
    from: &'a [E],
    to: &'a mut [f32],
}

impl<E: Element> Kernel for Planes<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        store_planes(s, self.shape, self.from, self.to);
    }
}

/// [`to_planes`] of some pixels of a block whose channels are padded.
#[inline(always)]
pub(in crate::conv) fn store_planes<S: Simd, E: Element>(s: S, shape: &BlockShape, from: &[E], to: &mut [f32]) {
    let panel_len = to.len() / (shape.channel_stride / PANEL);
    for (pixel, from) in from.chunks_exact(shape.pixel()).enumerate() {
        for plane in 0..shape.channel_stride / PANEL {
            let to = &mut to[plane * panel_len + pixel * BLOCK * PANEL..][..BLOCK * PANEL];
            for (image, to) in to.chunks_exact_mut(PANEL).enumerate() {
                let from = &from[shape.channel(plane * PANEL) + image * shape.plane()..][..PANEL];
                for lane in (0..PANEL).step_by(S::LANES) {
                    // SAFETY: both slices are PANEL elements, a multiple of the lanes.
                    unsafe { s.store(to.as_mut_ptr().add(lane), E::load(s, from.as_ptr().add(lane))) };
                }
            }
        }
    }
}
