//! [`Params`]: all parameters of a network in one contiguous arena, with their gradients beside them.

pub(crate) mod array;
pub(crate) mod file;
pub(crate) mod init;
pub(crate) mod snapshot;
pub(crate) mod state;
pub(crate) mod weights;

use std::ops::Range;

use selvedge_compute::AlignedVec;

use crate::params::array::{ArrayShape, ParamShape};

/// All parameters of a network, so that an optimizer step is one parallel pass over two slices.
#[derive(Clone, Debug, Default)]
pub struct Params {
    /// The values, one parameter after another, in the layout of the kernels.
    pub values: AlignedVec<f32>,
    /// The gradients that the last training pass left, laid out as `values`.
    pub grads: AlignedVec<f32>,
    /// What lies where, in ascending ranges that cover everything.
    pub entries: Vec<ParamEntry>,
}

/// One parameter tensor in [`Params`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParamEntry {
    /// The name it has in files, such as `0.conv2d.weight`.
    pub name: String,
    /// Where it lies in [`Params::values`] and [`Params::grads`]: both ends are multiples of 16. Lanes that the layout
    /// pads with are zero, and stay zero under any elementwise update that leaves zeros with zero gradients alone.
    pub range: Range<usize>,
    /// The logical shape: `[kernel height, kernel width, in, out]`, `[in, out]` or `[channels]`.
    pub shape: Vec<usize>,
    /// What it does.
    pub kind: ParamKind,
}

/// What a parameter does in its layer: optimizers treat kinds differently, weight decay for example.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ParamKind {
    /// The weights of a convolution or a dense layer.
    Weight,
    /// The bias of a convolution or a dense layer.
    Bias,
    /// The factor after a normalisation.
    Gamma,
    /// The summand after a normalisation.
    Beta,
}

impl Params {
    /// Parameters and gradients of these shapes, all zero.
    pub(crate) fn zeroed(shapes: &[ParamShape]) -> Self {
        let ranges = ranges(shapes.iter().map(|param| &param.array));
        let len = ranges.last().map_or(0, |last| last.end);
        let entries = shapes.iter().zip(ranges).map(|(ParamShape { array, kind }, range)| ParamEntry {
            name: array.name.clone(),
            range,
            shape: array.shape.clone(),
            kind: *kind,
        });
        Self { values: AlignedVec::zeroed(len), grads: AlignedVec::zeroed(len), entries: entries.collect() }
    }
}

/// Where arrays lie that are stored one after another.
pub(crate) fn ranges<'a>(arrays: impl Iterator<Item = &'a ArrayShape>) -> Vec<Range<usize>> {
    let mut end = 0;
    arrays
        .map(|array| {
            let start = end;
            end += array.stored_len();
            start..end
        })
        .collect()
}
