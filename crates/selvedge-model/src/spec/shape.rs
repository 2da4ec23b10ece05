//! [`Shape`]: what one image has become between two layers, and [`TensorShape`], which adds how it lies in memory.

use std::fmt;

use selvedge_compute::BlockShape;

/// The shape of one image's tensor between two layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shape {
    /// An image.
    Image {
        /// Rows of pixels.
        height: usize,
        /// Pixels of a row.
        width: usize,
        /// Numbers of a pixel.
        channels: usize,
    },
    /// A vector of this many features.
    Features(usize),
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Shape::Image { height, width, channels } => write!(f, "an image of {height}x{width}x{channels}"),
            Shape::Features(1) => f.write_str("1 feature"),
            Shape::Features(count) => write!(f, "{count} features"),
        }
    }
}

/// A tensor between two layers: its logical shape and its layout in memory. After `flatten` the two differ, because nothing
/// is moved: the features lie in the blocks of the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TensorShape {
    pub(crate) logical: Shape,
    pub(crate) block: BlockShape,
}

impl TensorShape {
    pub(crate) fn image(block: BlockShape) -> Self {
        let BlockShape { height, width, channels, .. } = block;
        Self { logical: Shape::Image { height, width, channels }, block }
    }

    pub(crate) fn features(block: BlockShape) -> Self {
        Self { logical: Shape::Features(block.height * block.width * block.channels), block }
    }

    /// Whether each feature lies in a channel of its own.
    pub(crate) fn is_one_pixel(&self) -> bool {
        self.block.height == 1 && self.block.width == 1
    }
}
