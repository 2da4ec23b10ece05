//! [`ArrayShape`]: a parameter or running statistic, its name and logical shape, and the way between the logical array
//! and the layout of the kernels.

use selvedge_compute::conv::{Conv2dShape, pack};
use selvedge_compute::padded_channels;

use crate::params::ParamKind;

/// A parameter or running statistic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ArrayShape {
    /// The name in files.
    pub(crate) name: String,
    /// The logical shape.
    pub(crate) shape: Vec<usize>,
    layout: Layout,
}

/// How it is stored for the kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    /// Weights in panels. Those of a dense layer are the weights of a convolution whose kernel is the whole image.
    Panels(Conv2dShape),
    /// One number for each channel, padded with zeros.
    Channels,
}

/// A parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ParamShape {
    pub(crate) array: ArrayShape,
    pub(crate) kind: ParamKind,
}

impl ArrayShape {
    /// The weights of a convolution, `[kernel height, kernel width, in, out]`, or of a dense layer, `[in, out]`.
    pub(crate) fn panels(name: String, shape: Vec<usize>, conv: Conv2dShape) -> Self {
        debug_assert_eq!(shape.iter().product::<usize>(), conv.taps() * conv.input.channels * conv.output.channels);
        Self { name, shape, layout: Layout::Panels(conv) }
    }

    /// One number for each of `channels` channels.
    pub(crate) fn channels(name: String, channels: usize) -> Self {
        Self { name, shape: vec![channels], layout: Layout::Channels }
    }

    /// Numbers of the logical array.
    pub(crate) fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Numbers of the stored array, a multiple of 16.
    pub(crate) fn stored_len(&self) -> usize {
        match &self.layout {
            Layout::Panels(conv) => conv.weights_len(),
            Layout::Channels => padded_channels(self.len()),
        }
    }

    /// Stores a logical array; padded lanes become zero.
    ///
    /// # Panics
    /// If a slice is not as long as [`ArrayShape::len`] and [`ArrayShape::stored_len`] say.
    pub(crate) fn store(&self, logical: &[f32], stored: &mut [f32]) {
        match &self.layout {
            Layout::Panels(conv) => pack::to_panels(conv, logical, stored),
            Layout::Channels => {
                let (data, padding) = stored.split_at_mut(self.len());
                data.copy_from_slice(logical);
                padding.fill(0.0);
            }
        }
    }

    /// Reads a stored array back.
    ///
    /// # Panics
    /// If a slice is not as long as [`ArrayShape::len`] and [`ArrayShape::stored_len`] say.
    pub(crate) fn read(&self, stored: &[f32], logical: &mut [f32]) {
        match &self.layout {
            Layout::Panels(conv) => pack::from_panels(conv, stored, logical),
            Layout::Channels => logical.copy_from_slice(&stored[..self.len()]),
        }
    }
}
