//! Height, width and channels of an image.

/// Height, width and channels of an image of bytes, stored row by row with its channels last.
///
/// ```
/// use selvedge_augment::ImageShape;
///
/// let shape = ImageShape { height: 24, width: 28, channels: 3 };
/// assert_eq!((shape.pixels(), shape.row_len(), shape.len()), (672, 84, 2016));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ImageShape {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Channels: 1 for grey, 3 for colour.
    pub channels: usize,
}

impl ImageShape {
    /// Bytes of an image.
    pub fn len(self) -> usize {
        self.height * self.width * self.channels
    }

    /// True if an image has no pixels.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Bytes of a row.
    pub fn row_len(self) -> usize {
        self.width * self.channels
    }

    /// Pixels, whatever the number of channels.
    pub fn pixels(self) -> usize {
        self.height * self.width
    }
}
