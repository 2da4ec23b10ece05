//! [`BlockShape`]: the memory layout of activations.
//!
//! Activations are kept in blocks of [`BLOCK`] images, each `[height][width][plane][image][channel]` with up to
//! [`PLANE`] channels in a plane. At each pixel, the images are the rows of a matrix and the channels its columns. A
//! convolution is thus a sum of small matrix products that read their operands in place, for any width and height:
//! without im2col or packing, and taps on the padding are skipped. A plane is contiguous: in bf16 each of its rows is a
//! cache line, and the 16 lines of a tile follow each other; L2 delivers such lines a third faster than lines with gaps
//! between them. Elementwise operations are plain loops over adjacent vectors.

use crate::simd::MAX_LANES;

/// Images of a block: the rows of two AMX tiles, or of four tiles of the f32 microkernel.
pub const BLOCK: usize = 32;

/// Channels of a plane, where a tensor's channel stride is a multiple of it: as many bf16 numbers as a cache line
/// holds.
pub const PLANE: usize = 32;

/// The channel stride of a tensor of `channels` channels that a kernel writes: the next multiple of [`MAX_LANES`].
///
/// Padded channels are zero in every tensor. Only a network's input is not padded.
///
/// ```
/// assert_eq!(selvedge_compute::padded_channels(10), 16);
/// ```
pub const fn padded_channels(channels: usize) -> usize {
    channels.next_multiple_of(MAX_LANES)
}

/// The shape of one block of activations, `[height][width][channel_stride / plane][image][plane]`.
///
/// ```
/// use selvedge_compute::BlockShape;
/// let shape = BlockShape::new(28, 28, 40); // padded to 48 channels: three planes of 16
/// assert_eq!((shape.channel_stride, shape.plane(), shape.len()), (48, 16, 28 * 28 * 48 * 32));
/// // Channel 20 of image 5 at pixel (2, 3):
/// let at = shape.offset(2, 3) + shape.channel(20) + 5 * shape.plane();
/// assert_eq!(shape.image_and_channel(at), (5, 20));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlockShape {
    /// Rows of pixels.
    pub height: usize,
    /// Pixels of a row.
    pub width: usize,
    /// Channels that carry data.
    pub channels: usize,
    /// Channels of an image in memory, padded ones included.
    pub channel_stride: usize,
}

impl BlockShape {
    /// The shape of a tensor that kernels write, with padded channels.
    pub const fn new(height: usize, width: usize, channels: usize) -> Self {
        Self { height, width, channels, channel_stride: padded_channels(channels) }
    }

    /// The shape of a network's input, whose channels are not padded.
    pub const fn input(height: usize, width: usize, channels: usize) -> Self {
        Self { height, width, channels, channel_stride: channels }
    }

    /// Elements of one pixel: the channels of all images.
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

    /// Channels of a plane, and so the distance in elements from one image to the next: [`PLANE`] if the channel stride
    /// is a multiple of it, else 16 if it is a multiple of that, else, for an input, all channels.
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

    /// The index of the first element of pixel (`y`, `x`).
    pub const fn offset(&self, y: usize, x: usize) -> usize {
        (y * self.width + x) * self.pixel()
    }

    /// The offset of the first image's `channel` within a pixel; the next image's is [`plane`](Self::plane) elements
    /// further.
    pub const fn channel(&self, channel: usize) -> usize {
        let plane = self.plane();
        channel / plane * self.plane_len() + channel % plane
    }

    /// The image and channel of element `at` of a block, or of a pixel.
    pub const fn image_and_channel(&self, at: usize) -> (usize, usize) {
        let (plane, at) = (self.plane(), at % self.pixel());
        (at % self.plane_len() / plane, at / self.plane_len() * plane + at % plane)
    }
}
