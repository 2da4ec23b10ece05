//! Dropout of arrays: [`crate::dropout`] on a batch `[image, row, column, channel]`.

use ndarray::{Array4, ArrayView4};
use rayon::prelude::*;

use super::blocks::BlockTensor;
use super::error::{ArrayError, Call};
use crate::Cpu;
use crate::dropout::{self, DropoutMask};
use crate::layout::{BLOCK, BlockShape};

/// y = x / (1 − `rate`) where an element is kept, with probability 1 − `rate`, else 0.
///
/// Which elements are kept is a function of `key`, the image's number and the element's place in it, so no mask is stored: call
/// it with dy and the same key for the backward pass, and with a key of its own for each layer and step.
///
/// # Errors
/// If `rate` is not at least 0 and below 1.
///
/// ```
/// use ndarray::Array4;
/// use selvedge_compute::{Cpu, nd::dropout};
/// let (cpu, x) = (Cpu::detect()?, Array4::ones((3, 4, 4, 5)));
/// let y = dropout::apply(cpu, x.view(), 0.5, 7)?;
/// assert!(y.iter().all(|&y| y == 0.0 || y == 2.0));
/// assert_eq!(dropout::apply(cpu, x.view(), 0.5, 7)?, y);
/// assert_ne!(dropout::apply(cpu, x.view(), 0.5, 8)?, y);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn apply(cpu: Cpu, x: ArrayView4<'_, f32>, rate: f32, key: u32) -> Result<Array4<f32>, ArrayError> {
    let call = Call("nd::dropout::apply");
    call.value("rate", rate, (0.0..1.0).contains(&rate), "at least 0 and below 1")?;
    let mut blocks = BlockTensor::packed(call, x, BlockShape::new)?;
    let shape = blocks.shape();
    if !shape.is_empty() {
        blocks.as_mut_slice().par_chunks_mut(shape.len()).enumerate().for_each(|(block, x)| {
            let mask = DropoutMask { key, first_image: (block * BLOCK) as u64, rate };
            dropout::apply_in_place(cpu, &shape, 0..shape.height, &mask, x);
        });
    }
    Ok(blocks.to_array())
}
