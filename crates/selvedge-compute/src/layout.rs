//! [`BlockShape`]: how activations lie in memory.
//!
//! Activations are kept in blocks of [`BLOCK`] images, each block `[height][width][image][channel]` with the channel
//! innermost. At one pixel the images are the rows of a matrix and the channels its columns, so a convolution is a sum
//! of small matrix products read in place, for any width and height: no im2col, no packing, and a tap that falls on the
//! padding is left out. Everything elementwise is a plain loop over adjacent vectors.

use crate::simd::MAX_LANES;

/// Images of a block: two rows of AMX tiles, four of the f32 microkernel's.
pub const BLOCK: usize = 32;

/// The channel stride of a tensor of `channels` channels that a kernel writes: the next multiple of [`MAX_LANES`].
///
/// The lanes between are zero in every tensor. Only a network's input has a channel stride that is its channel count.
pub const fn padded_channels(channels: usize) -> usize {
    channels.next_multiple_of(MAX_LANES)
}

/// The shape of one block of activations, `[height][width][images][channel_stride]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlockShape {
    /// Rows of pixels.
    pub height: usize,
    /// Pixels of a row.
    pub width: usize,
    /// Channels that carry data.
    pub channels: usize,
    /// Elements from one image's channels to the next image's, at least `channels`.
    pub channel_stride: usize,
}

impl BlockShape {
    /// The shape of a tensor that kernels write: the channel stride is padded.
    pub const fn new(height: usize, width: usize, channels: usize) -> Self {
        Self { height, width, channels, channel_stride: padded_channels(channels) }
    }

    /// The shape of a network's input: the channels are not padded.
    pub const fn input(height: usize, width: usize, channels: usize) -> Self {
        Self { height, width, channels, channel_stride: channels }
    }

    /// Elements of one pixel: all images' channels.
    pub const fn pixel(&self) -> usize {
        BLOCK * self.channel_stride
    }

    /// Elements of a row of pixels.
    pub const fn row(&self) -> usize {
        self.width * self.pixel()
    }

    /// Elements of the block.
    pub const fn len(&self) -> usize {
        self.height * self.row()
    }

    /// Whether the block has no element.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where channel 0 of `image` at pixel (`y`, `x`) lies.
    pub const fn offset(&self, y: usize, x: usize, image: usize) -> usize {
        (y * self.width + x) * self.pixel() + image * self.channel_stride
    }
}
