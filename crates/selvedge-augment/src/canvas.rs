//! The image under work: its pixels, a second buffer to write the next state into, and scratch space.

use selvedge_compute::AlignedVec;

use crate::AugmentError;
use crate::convolve::Kernel;
use crate::vectors::{Group, Vectors};
use crate::warp::sample::Samples;

/// Height, width and channels of an image of bytes, stored row by row with its channels last.
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

    /// True where an image has no pixels.
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

    pub(crate) fn require_square(self, op: &'static str) -> Result<(), AugmentError> {
        if self.height == self.width {
            return Ok(());
        }
        Err(AugmentError::NotSquare { op, height: self.height, width: self.width })
    }
}

/// Buffers that operations use while they work. Each operation sizes what it needs; a buffer that has
/// once grown stays.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scratch {
    pub(crate) vectors: Vectors,
    /// The image with a border around it.
    pub(crate) frame: Vec<u8>,
    /// Source coordinates of some rows.
    pub(crate) x: AlignedVec<f32>,
    pub(crate) y: AlignedVec<f32>,
    pub(crate) samples: Vec<Samples>,
    /// Source coordinates of columns and rows.
    pub(crate) positions: Vec<f32>,
    /// Planes of numbers, each row in a whole number of groups, and what convolving them needs.
    pub(crate) plane: Vec<Group<f32>>,
    pub(crate) second_plane: Vec<Group<f32>>,
    pub(crate) extended: Vec<Group<f32>>,
    pub(crate) lines: Vec<f32>,
    pub(crate) kernel: Kernel,
    pub(crate) beyond: Vec<usize>,
}

/// An image and the buffers that operations need to change it, kept from image to image so that
/// nothing is allocated after the first.
#[derive(Clone, Debug)]
pub struct Canvas {
    shape: ImageShape,
    front: Vec<u8>,
    back: Vec<u8>,
    scratch: Scratch,
}

impl Canvas {
    /// A black image.
    pub fn new(shape: ImageShape) -> Canvas {
        Canvas { shape, front: vec![0; shape.len()], back: vec![0; shape.len()], scratch: Scratch::default() }
    }

    /// The shape of the image.
    pub fn shape(&self) -> ImageShape {
        self.shape
    }

    /// The image, `[height, width, channels]`.
    pub fn image(&self) -> &[u8] {
        &self.front
    }

    /// The image, to be changed in place.
    pub fn image_mut(&mut self) -> &mut [u8] {
        &mut self.front
    }

    /// Puts another image of the same shape on the canvas.
    ///
    /// # Panics
    /// Where the length is not that of the shape.
    pub fn load(&mut self, image: &[u8]) {
        assert_eq!(image.len(), self.front.len(), "an image of {:?} was expected", self.shape);
        self.front.copy_from_slice(image);
    }

    /// Replaces the image by what `write(old, new)` writes; `new` holds arbitrary bytes before.
    #[inline]
    pub fn redraw(&mut self, write: impl FnOnce(&[u8], &mut [u8])) {
        self.redraw_with(|old, new, _| write(old, new));
    }

    #[inline]
    pub(crate) fn redraw_with(&mut self, write: impl FnOnce(&[u8], &mut [u8], &mut Scratch)) {
        write(&self.front, &mut self.back, &mut self.scratch);
        std::mem::swap(&mut self.front, &mut self.back);
    }

    pub(crate) fn scratch_mut(&mut self) -> &mut Scratch {
        &mut self.scratch
    }
}
