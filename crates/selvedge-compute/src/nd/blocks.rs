//! [`BlockTensor`]: a batch in the layout that kernels work on, and the ways from arrays to it and back.
//!
//! A row of pixels of a block is packed or unpacked at a time, rows in parallel. Where an image's channels are adjacent in the
//! array, as in NHWC, they are copied as runs; otherwise tiles of 16 pixels by 16 channels are transposed on the stack, so that
//! each cache line of either side is touched once: a block's pixels lie kilobytes apart, often a power of two, and would drive
//! each other out of L1.

use ndarray::{Array4, ArrayView3, ArrayView4, ArrayViewMut3, ArrayViewMut4, Axis};
use rayon::prelude::*;

use super::error::{ArrayError, Call};
use crate::aligned::Plain;
use crate::input::{self, BlockImages};
use crate::layout::{BLOCK, BlockShape};
use crate::simd::Element;
use crate::{AlignedVec, Cpu};

/// Elements that are worth a thread's attention: a quarter of a megabyte of f32 takes some tens of microseconds.
const WORTH_A_THREAD: usize = 1 << 16;

/// Pixels, and channels, that are transposed at a time: a cache line of f32.
const SIDE: usize = 16;

/// Runs shorter than this are not worth a copy each.
const SHORT: usize = 8;

/// A batch of images in blocks of [`BLOCK`], one after the other, each laid out as [`BlockShape`] says.
///
/// The last block may be partial: the images that it lacks are zero, as padded channels are, and stay zero in
/// kernels that map zero to zero.
///
/// ```
/// use ndarray::Array4;
/// use selvedge_compute::activation::{self, Activation};
/// use selvedge_compute::{Cpu, nd::BlockTensor};
///
/// let x = Array4::from_shape_fn((40, 5, 7, 3), |(n, y, x, c)| (n + y + x + c) as f32 - 20.0);
/// let mut blocks = BlockTensor::from_array(x.view())?;
/// assert_eq!((blocks.count(), blocks.valid(0), blocks.valid(1)), (2, 32, 8));
/// assert_eq!((blocks.shape().channels, blocks.shape().channel_stride), (3, 16));
///
/// let cpu = Cpu::detect()?;
/// for block in blocks.iter_mut() {
///     activation::forward_in_place(cpu, Activation::Relu, block);
/// }
/// assert_eq!(blocks.to_array(), x.mapv(|x| x.max(0.0)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct BlockTensor<T: Plain> {
    shape: BlockShape,
    images: usize,
    data: AlignedVec<T>,
}

impl<T: Plain> BlockTensor<T> {
    /// `images` images of zeros in blocks of this shape.
    ///
    /// # Errors
    /// [`ArrayError::TooLarge`] if the blocks do not fit into the address space.
    pub fn zeroed(shape: BlockShape, images: usize) -> Result<Self, ArrayError> {
        Self::allocate(Call("BlockTensor::zeroed"), shape, images)
    }

    pub(super) fn allocate(call: Call, shape: BlockShape, images: usize) -> Result<Self, ArrayError> {
        let found = [images, shape.height, shape.width, shape.channels];
        let padded = [images.div_ceil(BLOCK), BLOCK, shape.height, shape.width, shape.channel_stride];
        call.fits("a batch", &found, &padded, size_of::<T>())?;
        Ok(Self { shape, images, data: AlignedVec::zeroed(images.div_ceil(BLOCK) * shape.len()) })
    }

    /// Packs `x`, `[image, row, column, channel]`, with channels padded to a multiple of 16, as all kernels read them.
    ///
    /// The strides may be any: pass NCHW as `x.permuted_axes([0, 2, 3, 1])`.
    ///
    /// # Errors
    /// [`ArrayError::TooLarge`] if the blocks do not fit into the address space.
    pub fn from_array(x: ArrayView4<'_, T>) -> Result<Self, ArrayError> {
        Self::packed(Call("BlockTensor::from_array"), x, BlockShape::new)
    }

    /// [`from_array`](Self::from_array) without padding: what the convolution next to a network's input reads
    /// ([`BlockShape::input`]), to which one or three channels are not worth 16.
    ///
    /// # Errors
    /// As [`from_array`](Self::from_array).
    pub fn from_input(x: ArrayView4<'_, T>) -> Result<Self, ArrayError> {
        Self::packed(Call("BlockTensor::from_input"), x, BlockShape::input)
    }

    pub(super) fn packed(
        call: Call,
        x: ArrayView4<'_, T>,
        shape: impl Fn(usize, usize, usize) -> BlockShape,
    ) -> Result<Self, ArrayError> {
        let (images, height, width, channels) = x.dim();
        let mut blocks = Self::allocate(call, shape(height, width, channels), images)?;
        let shape = blocks.shape;
        if shape.is_empty() {
            return Ok(blocks);
        }
        let views: Vec<ArrayView3<'_, T>> =
            x.axis_chunks_iter(Axis(0), BLOCK).flat_map(|images| rows(images, height)).collect();
        let to = blocks.data.par_chunks_exact_mut(shape.row());
        to.zip(views).with_min_len(at_once(&shape)).for_each(|(to, from)| pack_row(&shape, from, to));
        Ok(blocks)
    }

    /// The batch as an array `[image, row, column, channel]`, in standard layout.
    pub fn to_array(&self) -> Array4<T> {
        let BlockShape { height, width, channels, .. } = self.shape;
        let mut array = Array4::from_elem((self.images, height, width, channels), T::default());
        self.unpack(array.view_mut());
        array
    }

    /// Writes the batch into an array of any strides.
    ///
    /// # Errors
    /// [`ArrayError::Shape`] if `to` is not `[images, height, width, channels]`.
    pub fn copy_to(&self, to: ArrayViewMut4<'_, T>) -> Result<(), ArrayError> {
        let BlockShape { height, width, channels, .. } = self.shape;
        let expected = [self.images, height, width, channels];
        Call("BlockTensor::copy_to").shape("the array", to.shape(), &expected, "the batch's shape")?;
        self.unpack(to);
        Ok(())
    }

    fn unpack(&self, mut to: ArrayViewMut4<'_, T>) {
        let shape = self.shape;
        if shape.is_empty() {
            return;
        }
        let views: Vec<ArrayViewMut3<'_, T>> = to
            .axis_chunks_iter_mut(Axis(0), BLOCK)
            .flat_map(|mut images| {
                // Rows of a block, each a view of its own, which the iterator of a local view cannot give.
                let mut rows = Vec::with_capacity(shape.height);
                for _ in 0..shape.height {
                    let (row, rest) = images.split_at(Axis(1), 1);
                    rows.push(row.index_axis_move(Axis(1), 0));
                    images = rest;
                }
                rows
            })
            .collect();
        let from = self.data.par_chunks_exact(shape.row());
        from.zip(views).with_min_len(at_once(&shape)).for_each(|(from, to)| unpack_row(&shape, from, to));
    }

    /// The shape of each block.
    pub fn shape(&self) -> BlockShape {
        self.shape
    }

    /// Images of the batch.
    pub fn images(&self) -> usize {
        self.images
    }

    /// Blocks of the batch.
    pub fn count(&self) -> usize {
        self.images.div_ceil(BLOCK)
    }

    /// Images of block `block`, its first ones, that belong to the batch.
    pub fn valid(&self, block: usize) -> usize {
        self.images.saturating_sub(block * BLOCK).min(BLOCK)
    }

    /// Block `block`.
    ///
    /// # Panics
    /// If there are not so many.
    pub fn block(&self, block: usize) -> &[T] {
        &self.data[block * self.shape.len()..][..self.shape.len()]
    }

    /// The blocks, one after the other.
    pub fn as_slice(&self) -> &[T] {
        &self.data
    }

    /// The blocks, one after the other.
    pub fn as_mut_slice(&mut self) -> &mut [T] {
        &mut self.data
    }

    /// Each block.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[T]> {
        self.data.chunks_exact(self.shape.len().max(1))
    }

    /// Each block.
    pub fn iter_mut(&mut self) -> impl ExactSizeIterator<Item = &mut [T]> {
        self.data.chunks_exact_mut(self.shape.len().max(1))
    }
}

impl<E: Element> BlockTensor<E> {
    /// Packs images of bytes, `[image, row, column, channel]`, as [`input::fill_block`] does: each becomes byte·`scale` +
    /// `shift`, and channels are not padded.
    ///
    /// ```
    /// use ndarray::Array4;
    /// use selvedge_compute::{Cpu, nd::BlockTensor};
    /// let images = Array4::from_elem((3, 28, 28, 1), 51u8);
    /// let blocks = BlockTensor::<f32>::from_bytes(Cpu::detect()?, images.view(), 0.5, -1.0)?;
    /// assert_eq!(blocks.to_array(), Array4::from_elem((3, 28, 28, 1), 24.5));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`ArrayError::TooLarge`] if the blocks do not fit into the address space.
    pub fn from_bytes(cpu: Cpu, images: ArrayView4<'_, u8>, scale: f32, shift: f32) -> Result<Self, ArrayError> {
        let (count, height, width, channels) = images.dim();
        let call = Call("BlockTensor::from_bytes");
        let mut blocks = Self::allocate(call, BlockShape::input(height, width, channels), count)?;
        let shape = blocks.shape;
        if shape.is_empty() {
            return Ok(blocks);
        }
        let images = images.as_standard_layout();
        let bytes = images.as_slice().expect("the standard layout is one slice");
        let image = height * width * channels;
        let blocks_of_bytes = bytes.par_chunks(BLOCK * image);
        blocks.data.par_chunks_exact_mut(shape.len()).zip(blocks_of_bytes).for_each(|(block, bytes)| {
            let images = BlockImages { pixels: bytes, valid: bytes.len() / image, scale, shift };
            input::fill_block(cpu, shape, images, block);
        });
        Ok(blocks)
    }
}

/// The rows of pixels of up to [`BLOCK`] images, each `[image, column, channel]`.
fn rows<T>(images: ArrayView4<'_, T>, height: usize) -> impl Iterator<Item = ArrayView3<'_, T>> {
    (0..height).map(move |row| images.index_axis_move(Axis(1), row))
}

/// Rows of pixels that a thread takes at least.
fn at_once(shape: &BlockShape) -> usize {
    WORTH_A_THREAD.div_ceil(shape.row())
}

/// Some pixels of an image and some of their channels, in a row of pixels of a block and in the array.
struct Tile {
    /// The first element's place in the row of the block.
    block: usize,
    /// Its place in the array, from the array's first element.
    array: isize,
    pixels: usize,
    channels: usize,
}

/// Calls `each` with tiles of a row of pixels of a block, whose array has this shape and these strides: each element is in one
/// tile. Tiles are a pixel and a plane of channels where these are adjacent in the array, else up to [`SIDE`] of each.
#[inline(always)]
fn for_each_tile(shape: &BlockShape, dim: (usize, usize, usize), strides: &[isize], mut each: impl FnMut(Tile)) {
    let (images, width, channels) = dim;
    let plane = shape.plane();
    let [pixels_at_once, channels_at_once] =
        if is_adjacent(strides, plane) { [1, plane] } else { [SIDE, SIDE.min(plane)] };
    for x in (0..width).step_by(pixels_at_once) {
        let pixels = pixels_at_once.min(width - x);
        for plane_start in (0..channels).step_by(plane) {
            let plane_end = channels.min(plane_start + plane);
            for image in 0..images {
                for c in (plane_start..plane_end).step_by(channels_at_once) {
                    each(Tile {
                        block: x * shape.pixel() + shape.channel(c) + image * plane,
                        array: image as isize * strides[0] + x as isize * strides[1] + c as isize * strides[2],
                        pixels,
                        channels: channels_at_once.min(plane_end - c),
                    });
                }
            }
        }
    }
}

/// Whether runs of adjacent channels are copied.
fn is_adjacent(strides: &[isize], plane: usize) -> bool {
    strides[2] == 1 && plane >= SHORT
}

fn assert_row(shape: &BlockShape, len: usize, (images, width, channels): (usize, usize, usize)) {
    let fits = len == shape.row() && images <= BLOCK && (width, channels) == (shape.width, shape.channels);
    assert!(fits, "{len} elements for {images} images of {width}x{channels} in a row of {shape:?}");
}

fn pack_row<T: Plain>(shape: &BlockShape, from: ArrayView3<'_, T>, to: &mut [T]) {
    assert_row(shape, to.len(), from.dim());
    let (strides, start, to) = (from.strides(), from.as_ptr(), to.as_mut_ptr());
    let adjacent = is_adjacent(strides, shape.plane());
    for_each_tile(shape, from.dim(), strides, |Tile { block, array, pixels, channels }| {
        // SAFETY: the tiles' elements are those of the view, by its own dimensions and strides, and have their places in `to`,
        // a row of the block that is as wide (`assert_row`); the two do not overlap.
        unsafe {
            let (from, to) = (start.offset(array), to.add(block));
            if adjacent {
                return copy_run(from, to, channels);
            }
            let mut tile = [[T::default(); SIDE]; SIDE];
            (0..channels).for_each(|c| {
                let from = from.offset(c as isize * strides[2]);
                (0..pixels).for_each(|x| tile[x][c] = *from.offset(x as isize * strides[1]));
            });
            for (x, tile) in tile.iter().enumerate().take(pixels) {
                copy_run(tile.as_ptr(), to.add(x * shape.pixel()), channels);
            }
        }
    });
}

fn unpack_row<T: Plain>(shape: &BlockShape, from: &[T], mut to: ArrayViewMut3<'_, T>) {
    assert_row(shape, from.len(), to.dim());
    let (dim, strides) = (to.dim(), to.strides().to_vec());
    let (from, start) = (from.as_ptr(), to.as_mut_ptr());
    let adjacent = is_adjacent(&strides, shape.plane());
    for_each_tile(shape, dim, &strides, |Tile { block, array, pixels, channels }| {
        // SAFETY: as in `pack_row`, with the sides exchanged.
        unsafe {
            let (from, to) = (from.add(block), start.offset(array));
            if adjacent {
                return copy_run(from, to, channels);
            }
            let mut tile = [[T::default(); SIDE]; SIDE];
            for (x, tile) in tile.iter_mut().enumerate().take(pixels) {
                copy_run(from.add(x * shape.pixel()), tile.as_mut_ptr(), channels);
            }
            (0..channels).for_each(|c| {
                let to = to.offset(c as isize * strides[2]);
                (0..pixels).for_each(|x| *to.offset(x as isize * strides[1]) = tile[x][c]);
            });
        }
    });
}

/// Copies `count` adjacent elements.
///
/// # Safety
/// They must be readable and writable, and not overlap.
#[inline(always)]
unsafe fn copy_run<T: Plain>(from: *const T, to: *mut T, count: usize) {
    // SAFETY: the caller's promise. The usual counts are constants, which makes copies of a few vectors of them.
    unsafe {
        match count {
            16 => to.copy_from_nonoverlapping(from, 16),
            32 => to.copy_from_nonoverlapping(from, 32),
            _ => to.copy_from_nonoverlapping(from, count),
        }
    }
}
