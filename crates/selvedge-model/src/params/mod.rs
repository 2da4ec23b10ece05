//! [`Params`]: all parameters of a network in one contiguous arena, with their gradients beside them.

mod eigen;
pub(crate) mod entry;
pub(crate) mod init;
pub(crate) mod snapshot;
pub(crate) mod state;
pub(crate) mod whitening;

use std::ops::Range;

use selvedge_compute::AlignedVec;

use crate::params::entry::ParamEntry;
use crate::spec::array::{ArrayShape, ParamShape};

/// All parameters of a network, so that an elementwise optimizer's step is one parallel pass over two slices.
#[derive(Clone, Debug, Default)]
pub struct Params {
    /// The values, one parameter after another, in the layout of the kernels.
    pub values: AlignedVec<f32>,
    /// The gradients that the last training pass left, laid out as `values`.
    pub grads: AlignedVec<f32>,
    /// The parameters, in ascending ranges that cover everything.
    pub entries: Vec<ParamEntry>,
}

impl Params {
    /// Parameters and gradients of these shapes, all zero.
    pub(crate) fn zeroed(shapes: &[ParamShape]) -> Self {
        let entries = Self::entries_of(shapes);
        let len = Self::len_of(&entries);
        Self { values: AlignedVec::zeroed(len), grads: AlignedVec::zeroed(len), entries }
    }

    /// Where parameters of these shapes lie.
    pub(crate) fn entries_of(shapes: &[ParamShape]) -> Vec<ParamEntry> {
        let ranges = ranges(shapes.iter().map(|param| &param.array));
        shapes.iter().zip(ranges).map(|(shape, range)| ParamEntry::new(shape, range.start)).collect()
    }

    /// The numbers of all these parameters, padding included.
    pub(crate) fn len_of(entries: &[ParamEntry]) -> usize {
        entries.last().map_or(0, |last| last.range.end)
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
