//! [`ParamEntry`]: one parameter of [`Params`](crate::Params): its name, kind and place, and its values as a matrix.

use std::ops::Range;

use crate::spec::array::{ArrayShape, ParamKind, ParamShape};
use crate::spec::layout::ParamLayout;

/// One parameter in [`Params`](crate::Params).
///
/// The values lie in the layout of the kernels. Elementwise optimizers need not know it; one that sees each weight as a matrix
/// unpacks the logical array, whose rows are a layer's inputs and whose columns are its outputs, and packs it again:
///
/// ```
/// use selvedge_model::{BuildOptions, ModelSpec, Network, ParamKind, Params, Precision, Threads};
/// let spec: ModelSpec = toml::from_str(r#"
///     classes = 10
///     input = { height = 6, width = 6 }
///     layers = [{ layer = "conv2d", filters = 8, kernel = 3 }, { layer = "flatten" }, { layer = "dense", units = "classes" }]
/// "#)?;
/// let threads = Threads::new(1)?;
/// let mut network = Network::build(&spec, &BuildOptions { seed: 1, max_batch: 32, precision: Precision::F32, threads })?;
///
/// // Scales the weights of each output to length 1.
/// let Params { values, entries, .. } = network.params_mut();
/// for entry in entries.iter().filter(|entry| entry.kind == ParamKind::Weight) {
///     let [rows, columns] = entry.matrix_shape();
///     let mut matrix = vec![0.0; rows * columns];
///     entry.layout.unpack(&values[entry.range.clone()], &mut matrix);
///     for column in 0..columns {
///         let length = matrix[column..].iter().step_by(columns).map(|w| w * w).sum::<f32>().sqrt();
///         matrix[column..].iter_mut().step_by(columns).for_each(|w| *w /= length);
///     }
///     entry.layout.pack(&matrix, &mut values[entry.range.clone()]);
/// }
///
/// let (conv, dense) = (&network.params().entries[0], &network.params().entries[2]);
/// assert_eq!((conv.name.as_str(), &conv.shape[..], conv.matrix_shape()), ("0.conv2d.weight", &[3, 3, 1, 8][..], [9, 8]));
/// assert_eq!((dense.name.as_str(), &dense.shape[..], dense.matrix_shape()), ("2.dense.weight", &[288, 10][..], [288, 10]));
/// let square: f32 = network.params().values[dense.range.clone()].iter().map(|w| w * w).sum();
/// assert!((square - 10.0).abs() < 1e-4);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParamEntry {
    /// The name it has in files, such as `0.conv2d.weight`.
    pub name: String,
    /// Where it lies in [`Params::values`](crate::Params::values) and [`Params::grads`](crate::Params::grads): both ends are
    /// multiples of 16. Lanes of padding are zero, and stay zero under any elementwise update that leaves zeros with zero
    /// gradients alone.
    pub range: Range<usize>,
    /// The logical shape: `[kernel height, kernel width, in, out]`, `[in, out]` or `[channels]`.
    pub shape: Vec<usize>,
    /// What it does.
    pub kind: ParamKind,
    /// Whether it keeps its value: its gradient is always zero, and an optimizer leaves it alone, weight decay included.
    pub frozen: bool,
    /// The way between the logical array and the stored one.
    pub layout: ParamLayout,
}

impl ParamEntry {
    /// A parameter of a network that begins at `start`.
    pub(crate) fn new(ParamShape { array, kind, frozen, .. }: &ParamShape, start: usize) -> Self {
        let ArrayShape { name, shape, layout } = array.clone();
        Self { name, range: start..start + layout.stored_len(), shape, kind: *kind, frozen: *frozen, layout }
    }

    /// Rows and columns of the logical array as a row-major matrix: a column for each output, a row for each of the inputs
    /// that an output is a weighted sum of. A convolution is `[kernel height · kernel width · in, out]`, a dense layer `[in,
    /// out]`; one number per channel makes a single row.
    pub fn matrix_shape(&self) -> [usize; 2] {
        match self.shape.split_last() {
            Some((&columns, rows)) => [rows.iter().product(), columns],
            None => [0, 0],
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::params::Params;
    use crate::spec::inference::NetworkShape;
    use crate::test_support::small_spec;

    proptest! {
        #[test]
        fn a_packed_matrix_is_the_same_unpacked(spec in small_spec()) {
            for entry in Params::zeroed(&NetworkShape::infer(&spec).unwrap().params).entries {
                let [rows, columns] = entry.matrix_shape();
                prop_assert_eq!(rows * columns, entry.shape.iter().product::<usize>());
                let matrix: Vec<f32> = (0..rows * columns).map(|i| 1.0 + i as f32).collect();
                let (mut stored, mut back) = (vec![9.0; entry.range.len()], vec![0.0; matrix.len()]);
                entry.layout.pack(&matrix, &mut stored);
                entry.layout.unpack(&stored, &mut back);
                prop_assert_eq!(&back, &matrix);
                let zeros = stored.iter().filter(|&&value| value == 0.0).count();
                prop_assert_eq!(zeros, stored.len() - matrix.len(), "padding is zero");
            }
        }
    }

    #[test]
    #[should_panic(expected = "the length of the stored array")]
    fn slices_of_another_length_are_refused() {
        ParamLayout::Channels(10).unpack(&[0.0; 32], &mut [0.0; 10]);
    }
}
