//! [`BlockShape`]: how activations lie in memory.
//!
//! Activations are kept in blocks of [`BLOCK`] images, each block `[height][width][plane][image][channel]` with up to
//! [`PLANE`] channels in a plane. At one pixel the images are the rows of a matrix and the channels its columns, so a
//! convolution is a sum of small matrix products read in place, for any width and height: no im2col, no packing, and a
//! tap that falls on the padding is left out. A plane is one piece of memory: in bf16 a row of it is a cache line, and the
//! 16 lines of a tile follow each other, which the second cache delivers a third faster than lines with gaps between.
//! Everything elementwise is a plain loop over adjacent vectors.

use crate::simd::MAX_LANES;

/// Images of a block: two rows of AMX tiles, four of the f32 microkernel's.
pub const BLOCK: usize = 32;

/// Channels of a plane, as many bf16 numbers as fill a cache line, where a tensor's channels are a multiple of them.
pub const PLANE: usize = 32;

/// The channel stride of a tensor of `channels` channels that a kernel writes: the next multiple of [`MAX_LANES`].
///
/// The lanes between are zero in every tensor. Only a network's input has a channel stride that is its channel count.
pub const fn padded_channels(channels: usize) -> usize {
    channels.next_multiple_of(MAX_LANES)
}

/// The shape of one block of activations, `[height][width][channel_stride / plane][images][plane]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlockShape {
    /// Rows of pixels.
    pub height: usize,
    /// Pixels of a row.
    pub width: usize,
    /// Channels that carry data.
    pub channels: usize,
    /// Channels that an image has in memory, at least `channels`.
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

    /// Channels of a plane, which are also the elements from one image to the next: [`PLANE`], or 16 if the channel stride
    /// is a multiple of that alone, or all channels of an input.
    pub const fn plane(&self) -> usize {
        if self.channel_stride.is_multiple_of(PLANE) {
            PLANE
        } else if self.channel_stride.is_multiple_of(MAX_LANES) {
            MAX_LANES
        } else {
            self.channel_stride
        }
    }

    /// Elements of a plane.
    pub const fn plane_len(&self) -> usize {
        BLOCK * self.plane()
    }

    /// Where pixel (`y`, `x`) begins.
    pub const fn offset(&self, y: usize, x: usize) -> usize {
        (y * self.width + x) * self.pixel()
    }

    /// Where `channel` of the first image lies behind a pixel's beginning; the next image's is [`plane`](Self::plane)
    /// elements further.
    pub const fn channel(&self, channel: usize) -> usize {
        let plane = self.plane();
        channel / plane * self.plane_len() + channel % plane
    }

    /// Which image and channel element `at` of a block, or of a pixel, belongs to.
    pub const fn image_and_channel(&self, at: usize) -> (usize, usize) {
        let (plane, at) = (self.plane(), at % self.pixel());
        (at % self.plane_len() / plane, at / self.plane_len() * plane + at % plane)
    }
}
