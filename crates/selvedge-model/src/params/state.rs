//! [`State`]: what a network has learnt, in the layout of the kernels.

use std::ops::Range;

use selvedge_compute::AlignedVec;

use crate::params::snapshot::{self, Snapshot};
use crate::params::{Params, ranges};
use crate::spec::array::ArrayShape;
use crate::spec::inference::NetworkShape;

/// Parameters, gradients and running statistics of a network.
pub(crate) struct State {
    pub(crate) params: Params,
    /// The running statistics, each padded with zeros to a multiple of 16.
    pub(crate) buffers: AlignedVec<f32>,
    /// Where each of [`NetworkShape::buffers`] lies in `buffers`.
    pub(crate) buffer_ranges: Vec<Range<usize>>,
}

impl State {
    /// The state of a network of `shape` with everything zero.
    pub(crate) fn zeroed(shape: &NetworkShape) -> Self {
        let buffer_ranges = ranges(shape.buffers.iter());
        let buffers = AlignedVec::zeroed(buffer_ranges.last().map_or(0, |last| last.end));
        Self { params: Params::zeroed(&shape.params), buffers, buffer_ranges }
    }

    /// The logical arrays.
    pub(crate) fn snapshot(&self, shape: &NetworkShape) -> Snapshot {
        let mut snapshot =
            Snapshot { params: vec![0.0; shape.param_count()], buffers: vec![0.0; shape.buffer_count()] };
        let param_ranges = self.params.entries.iter().map(|entry| &entry.range);
        read_all(shape.param_arrays(), param_ranges, &self.params.values, &mut snapshot.params);
        read_all(shape.buffers.iter(), self.buffer_ranges.iter(), &self.buffers, &mut snapshot.buffers);
        snapshot
    }

    /// Takes over the logical arrays. Gradients stay as they are.
    ///
    /// # Panics
    /// If the snapshot is not of a network of `shape`, before anything is changed.
    pub(crate) fn restore(&mut self, shape: &NetworkShape, snapshot: &Snapshot) {
        snapshot::check(shape, snapshot);
        let Params { values, entries, .. } = &mut self.params;
        store_all(shape.param_arrays(), entries.iter().map(|entry| &entry.range), &snapshot.params, values);
        store_all(shape.buffers.iter(), self.buffer_ranges.iter(), &snapshot.buffers, &mut self.buffers);
    }
}

fn read_all<'a>(
    arrays: impl Iterator<Item = &'a ArrayShape>,
    ranges: impl Iterator<Item = &'a Range<usize>>,
    stored: &[f32],
    mut logical: &mut [f32],
) {
    for (array, range) in arrays.zip(ranges) {
        let (to, rest) = logical.split_at_mut(array.len());
        array.layout.unpack(&stored[range.clone()], to);
        logical = rest;
    }
}

fn store_all<'a>(
    arrays: impl Iterator<Item = &'a ArrayShape>,
    ranges: impl Iterator<Item = &'a Range<usize>>,
    mut logical: &[f32],
    stored: &mut [f32],
) {
    for (array, range) in arrays.zip(ranges) {
        let (from, rest) = logical.split_at(array.len());
        array.layout.pack(from, &mut stored[range.clone()]);
        logical = rest;
    }
}

#[cfg(test)]
mod tests;
