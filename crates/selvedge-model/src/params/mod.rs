//! [`Params`]: all parameters of a network in one contiguous arena, with their gradients beside them.

pub(crate) mod array;
pub(crate) mod file;
pub(crate) mod init;
pub(crate) mod layout;
pub(crate) mod snapshot;
pub(crate) mod state;
pub(crate) mod weights;

use std::ops::Range;

use selvedge_compute::AlignedVec;

use crate::params::array::{ArrayShape, ParamShape};
use crate::params::layout::ParamLayout;

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
    /// The way between the logical array and the stored one, for optimizers that work on whole weights.
    pub layout: ParamLayout,
}

impl ParamEntry {
    /// Rows and columns of the logical array as a row-major matrix: a column for each output, a row for each of the inputs
    /// that an output is a weighted sum of. One number per channel makes a single row.
    ///
    /// ```
    /// use selvedge_compute::{BlockShape, conv::Conv2dShape};
    /// use selvedge_model::{ParamEntry, ParamKind, ParamLayout};
    ///
    /// let conv = Conv2dShape::same(BlockShape::new(8, 8, 3), 5, [3, 3], 1);
    /// let layout = ParamLayout::Panels(conv);
    /// let entry = ParamEntry {
    ///     name: "0.conv2d.weight".to_owned(),
    ///     range: 0..layout.stored_len(),
    ///     shape: vec![3, 3, 3, 5],
    ///     kind: ParamKind::Weight,
    ///     layout,
    /// };
    /// let [rows, columns] = entry.matrix_shape();
    /// assert_eq!([rows, columns], [27, 5]);
    ///
    /// // Scales the weights of the last output, as an optimizer of whole weights would.
    /// let mut stored = vec![0.0; layout.stored_len()];
    /// layout.pack(&vec![1.0; rows * columns], &mut stored);
    /// let mut weight = vec![0.0; rows * columns];
    /// layout.unpack(&stored, &mut weight);
    /// weight.chunks_exact_mut(columns).for_each(|row| row[4] *= 2.0);
    /// layout.pack(&weight, &mut stored);
    /// assert_eq!(stored.iter().sum::<f32>(), 27.0 * 6.0);
    /// ```
    pub fn matrix_shape(&self) -> [usize; 2] {
        match self.shape.split_last() {
            Some((&columns, rows)) => [rows.iter().product(), columns],
            None => [0, 0],
        }
    }
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
            layout: array.layout,
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
            end += array.layout.stored_len();
            start..end
        })
        .collect()
}
