//! [`Snapshot`]: everything a network has learnt, independent of the layout of the kernels.

use crate::spec::array::ArrayShape;
use crate::spec::inference::NetworkShape;

/// Everything a network has learnt, as plain arrays in logical order: weights are `[kernel height, kernel width, in,
/// out]` or `[in, out]`, without padding, array after array. [`Network::arrays`](crate::Network::arrays) tells them apart.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// The trained parameters, in the order of [`Params::entries`](crate::Params::entries).
    pub params: Vec<f32>,
    /// The running statistics of the batch norms: mean, then variance, layer after layer.
    pub buffers: Vec<f32>,
}

/// One array of a [`Snapshot`]: what a file format writes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NamedArray<'a> {
    /// The place of its layer and what it is there, such as `0.conv2d.weight` or `1.batch_norm.running_mean`.
    pub name: &'a str,
    /// The logical shape: `[kernel height, kernel width, in, out]`, `[in, out]` or `[channels]`.
    pub shape: &'a [usize],
    /// The numbers, the last dimension contiguous.
    pub values: &'a [f32],
}

/// The arrays of a snapshot: parameters, then running statistics.
///
/// # Panics
/// If the snapshot is not of a network of `shape`.
pub(crate) fn arrays<'a>(
    shape: &'a NetworkShape,
    snapshot: &'a Snapshot,
) -> impl Iterator<Item = NamedArray<'a>> + Clone {
    check(shape, snapshot);
    named(shape.param_arrays(), &snapshot.params).chain(named(shape.buffers.iter(), &snapshot.buffers))
}

/// Arrays with their parts of `values`, which holds one after another.
fn named<'a>(
    arrays: impl Iterator<Item = &'a ArrayShape> + Clone,
    values: &'a [f32],
) -> impl Iterator<Item = NamedArray<'a>> + Clone {
    arrays.scan(values, |rest, array| {
        let (values, after) = rest.split_at(array.len());
        *rest = after;
        Some(NamedArray { name: &array.name, shape: &array.shape, values })
    })
}

/// Refuses a snapshot of another network.
///
/// # Panics
/// If the snapshot is not of a network of `shape`.
#[track_caller]
pub(crate) fn check(shape: &NetworkShape, snapshot: &Snapshot) {
    assert_eq!(snapshot.params.len(), shape.param_count(), "the snapshot's parameters and the network's");
    assert_eq!(snapshot.buffers.len(), shape.buffer_count(), "the snapshot's running statistics and the network's");
}
