//! [`ParamLayout`]: the way between a logical array and the layout of the kernels.

use selvedge_compute::conv::{Conv2dShape, pack};
use selvedge_compute::padded_channels;

/// How an array is stored for the kernels. Numbers beyond the logical array are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParamLayout {
    /// The weights of this convolution, in panels. Those of a dense layer are the weights of a convolution whose kernel
    /// covers the image.
    Panels(Conv2dShape),
    /// This many channels, one number each, padded with zeros.
    Channels(usize),
}

impl ParamLayout {
    /// Numbers of the stored array, a multiple of 16.
    pub fn stored_len(&self) -> usize {
        match self {
            Self::Panels(conv) => conv.weights_len(),
            Self::Channels(channels) => padded_channels(*channels),
        }
    }

    /// Stores a logical array; padded lanes become zero.
    ///
    /// # Panics
    /// If a slice does not have the logical or stored length.
    pub fn pack(&self, logical: &[f32], stored: &mut [f32]) {
        match self {
            Self::Panels(conv) => pack::to_panels(conv, logical, stored),
            Self::Channels(channels) => {
                self.check(stored.len());
                let (data, padding) = stored.split_at_mut(*channels);
                data.copy_from_slice(logical);
                padding.fill(0.0);
            }
        }
    }

    /// Reads a stored array back.
    ///
    /// # Panics
    /// If a slice does not have the logical or stored length.
    pub fn unpack(&self, stored: &[f32], logical: &mut [f32]) {
        match self {
            Self::Panels(conv) => pack::from_panels(conv, stored, logical),
            Self::Channels(channels) => {
                self.check(stored.len());
                logical.copy_from_slice(&stored[..*channels]);
            }
        }
    }

    #[track_caller]
    fn check(&self, stored: usize) {
        assert_eq!(stored, self.stored_len(), "the length of the stored array and that of {self:?}");
    }
}
