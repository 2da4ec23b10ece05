//! Activations of arrays of any shape: [`crate::activation`] without the layout.
//!
//! Elementwise functions need no blocks: the arrays are copied in standard layout where they lie otherwise, and cut into pieces
//! over threads.

use ndarray::{Array, ArrayView, Dimension};
use rayon::prelude::*;

use super::error::{ArrayError, Call};
use crate::Cpu;
use crate::activation::{self, Activation};
use crate::simd::MAX_LANES;

/// Elements of a piece, a multiple of [`MAX_LANES`]: a thread has a quarter of a megabyte to read and to write.
const PIECE: usize = 1 << 15;

/// y = f(x), element by element.
///
/// ```
/// use ndarray::array;
/// use selvedge_compute::{Cpu, activation::Activation, nd};
/// let y = nd::activation::forward(Cpu::detect()?, Activation::Relu, array![[-1.0, 2.0], [3.0, -4.0]].view());
/// assert_eq!(y, array![[0.0, 2.0], [3.0, 0.0]]);
/// # Ok::<(), selvedge_compute::CpuError>(())
/// ```
pub fn forward<D: Dimension>(cpu: Cpu, kind: Activation, x: ArrayView<'_, f32, D>) -> Array<f32, D> {
    let mut y = x.as_standard_layout().into_owned();
    let elements = y.as_slice_mut().expect("the standard layout is one slice");
    elements.par_chunks_mut(PIECE).for_each(|y| {
        let (vectors, rest) = y.split_at_mut(y.len() / MAX_LANES * MAX_LANES);
        activation::forward_in_place(cpu, kind, vectors);
        let mut last = padded(rest);
        activation::forward_in_place(cpu, kind, &mut last);
        rest.copy_from_slice(&last[..rest.len()]);
    });
    y
}

/// dx = dy·f′(x), where `x` is what the function was applied to.
///
/// # Errors
/// [`ArrayError::Shape`] if the shapes differ.
///
/// ```
/// use ndarray::array;
/// use selvedge_compute::{Cpu, activation::Activation, nd};
/// let (x, dy) = (array![-1.0, 2.0], array![0.5, 0.5]);
/// let dx = nd::activation::backward(Cpu::detect()?, Activation::Relu, x.view(), dy.view())?;
/// assert_eq!(dx, array![0.0, 0.5]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn backward<D: Dimension>(
    cpu: Cpu,
    kind: Activation,
    x: ArrayView<'_, f32, D>,
    dy: ArrayView<'_, f32, D>,
) -> Result<Array<f32, D>, ArrayError> {
    Call("nd::activation::backward").shape("dy", dy.shape(), x.shape(), "the shape of x")?;
    let x = x.as_standard_layout();
    let mut dx = dy.as_standard_layout().into_owned();
    let one_slice = "the standard layout is one slice";
    let (x, elements) = (x.as_slice().expect(one_slice), dx.as_slice_mut().expect(one_slice));
    elements.par_chunks_mut(PIECE).zip(x.par_chunks(PIECE)).for_each(|(dx, x)| {
        let whole = x.len() / MAX_LANES * MAX_LANES;
        let ((dx, dx_rest), (x, x_rest)) = (dx.split_at_mut(whole), x.split_at(whole));
        activation::backward_in_place(cpu, kind, x, dx);
        let mut last = padded(dx_rest);
        activation::backward_in_place(cpu, kind, &padded(x_rest), &mut last);
        dx_rest.copy_from_slice(&last[..dx_rest.len()]);
    });
    Ok(dx)
}

/// Fewer numbers than a vector has, and zeros.
fn padded(rest: &[f32]) -> [f32; MAX_LANES] {
    let mut vector = [0.0; MAX_LANES];
    vector[..rest.len()].copy_from_slice(rest);
    vector
}
