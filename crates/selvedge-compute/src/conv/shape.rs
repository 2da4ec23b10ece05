//! [`Conv2dShape`]: sizes, kernel, stride and padding of a convolution, and which taps fall on the image ([`TapSpan`]).

use std::ops::Range;

use super::PANEL;
use crate::layout::{BlockShape, padded_channels};

/// The shape of a convolution on one block.
///
/// The receptive field of output pixel (y, x) starts at row y·stride − padding and column x·stride − padding of the input. Pixels
/// outside of the input are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Conv2dShape {
    /// The input block.
    pub input: BlockShape,
    /// The output block.
    pub output: BlockShape,
    /// Height and width of the kernel.
    pub kernel: [usize; 2],
    /// The stride in both directions.
    pub stride: usize,
    /// Rows of zeros above and columns of zeros left of the input.
    pub padding: [usize; 2],
}

impl Conv2dShape {
    /// A convolution with the same padding on opposite sides: the output has
    /// `(size + 2·padding − kernel) / stride + 1` pixels in each direction.
    ///
    /// # Panics
    /// If the kernel is empty or larger than the padded input, or the stride is 0.
    ///
    /// ```
    /// use selvedge_compute::{BlockShape, conv::Conv2dShape};
    /// let shape = Conv2dShape::new(BlockShape::input(28, 28, 1), 16, [3, 3], 1, [1, 1]);
    /// assert_eq!(shape.output, BlockShape::new(28, 28, 16));
    /// assert_eq!(shape.multiply_adds(), 28 * 28 * 9 * 16);
    /// ```
    pub fn new(input: BlockShape, filters: usize, kernel: [usize; 2], stride: usize, padding: [usize; 2]) -> Self {
        let size = |length: usize, d: usize| {
            let padded = length + 2 * padding[d];
            assert!(
                stride > 0 && kernel[d] > 0 && kernel[d] <= padded,
                "kernel {kernel:?}, stride {stride}, padded size {padded}"
            );
            (padded - kernel[d]) / stride + 1
        };
        let output = BlockShape::new(size(input.height, 0), size(input.width, 1), filters);
        Self { input, output, kernel, stride, padding }
    }

    /// Keras' padding "same": the output has ⌈size / stride⌉ pixels. If the number of rows of zeros is odd, the larger half is
    /// below; likewise for columns, where it is on the right.
    ///
    /// # Panics
    /// If the kernel is empty or the stride is 0.
    pub fn same(input: BlockShape, filters: usize, kernel: [usize; 2], stride: usize) -> Self {
        assert!(stride > 0 && kernel[0] > 0 && kernel[1] > 0, "kernel {kernel:?}, stride {stride}");
        let (height, width) = (input.height.div_ceil(stride), input.width.div_ceil(stride));
        let before = |length: usize, out: usize, d: usize| ((out - 1) * stride + kernel[d]).saturating_sub(length) / 2;
        let padding = [before(input.height, height, 0), before(input.width, width, 1)];
        Self { input, output: BlockShape::new(height, width, filters), kernel, stride, padding }
    }

    /// A dense layer over whole images: the kernel is the whole input, the output is one pixel.
    ///
    /// The order of its weights is that of Keras' `Flatten`: rows, columns, channels.
    pub fn dense(input: BlockShape, units: usize) -> Self {
        Self::new(input, units, [input.height, input.width], 1, [0, 0])
    }

    /// Taps: positions of the kernel.
    pub fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// Panels of the packed weights.
    pub fn panels(&self) -> usize {
        self.output.channel_stride / PANEL
    }

    /// Elements of a panel of the packed weights, `[ky][kx][in][16]`.
    pub fn panel_len(&self) -> usize {
        self.taps() * self.input.channel_stride * PANEL
    }

    /// Elements of the packed weights and of their gradient, padding included.
    pub fn weights_len(&self) -> usize {
        self.panels() * self.panel_len()
    }

    /// Elements of the transposed weights that the data pass reads, `[in/16][ky][kx][out][16]`.
    pub fn transposed_len(&self) -> usize {
        padded_channels(self.input.channel_stride) * self.taps() * self.output.channel_stride
    }

    /// Whether the gradient of the weights, in f32, takes more memory than a block's input and output with elements of `element`
    /// bytes. Such a gradient is better partitioned by panels, each summed over all blocks, than by blocks with partial sums.
    pub fn weights_exceed_activations(&self, element: usize) -> bool {
        self.weights_len() * size_of::<f32>() > (self.input.len() + self.output.len()) * element
    }

    /// Multiply-adds per image in one pass, including taps on the padding.
    pub fn multiply_adds(&self) -> usize {
        self.output.height * self.output.width * self.taps() * self.input.channels * self.output.channels
    }

    /// Taps of all output pixels of an image that fall on the input and not on the padding.
    pub fn taps_on_image(&self) -> usize {
        let rows: usize = (0..self.output.height).map(|y| self.rows_of(y).count).sum();
        let columns: usize = (0..self.output.width).map(|x| self.columns_of(x).count).sum();
        rows * columns
    }

    /// The taps of output row `y` that fall on the image.
    pub(super) fn rows_of(&self, y: usize) -> TapSpan {
        TapSpan::forward(y, self.kernel[0], self.stride, self.padding[0], self.input.height)
    }

    /// Whether all taps of the first output pixel fall on the image.
    pub(super) fn has_all_taps(&self) -> bool {
        self.rows_of(0).count == self.kernel[0] && self.columns_of(0).count == self.kernel[1]
    }

    /// Those of `rows` whose tap row `ky` falls on the image.
    pub(super) fn rows_with_tap(&self, ky: usize, rows: &Range<usize>) -> Range<usize> {
        self.with_tap(0, ky, rows)
    }

    /// Those of `columns` whose tap `kx` falls on the image.
    pub(super) fn columns_with_tap(&self, kx: usize, columns: &Range<usize>) -> Range<usize> {
        self.with_tap(1, kx, columns)
    }

    fn with_tap(&self, d: usize, tap: usize, positions: &Range<usize>) -> Range<usize> {
        let size = [self.input.height, self.input.width][d];
        let lowest = self.padding[d].saturating_sub(tap).div_ceil(self.stride);
        let end = (size + self.padding[d]).saturating_sub(tap).div_ceil(self.stride);
        positions.start.max(lowest)..positions.end.min(end)
    }

    /// The taps of output column `x` that fall on the image.
    pub(super) fn columns_of(&self, x: usize) -> TapSpan {
        TapSpan::forward(x, self.kernel[1], self.stride, self.padding[1], self.input.width)
    }
}

/// The taps of a row or column of pixels that fall on the other tensor, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TapSpan {
    /// The index of the first tap.
    pub tap: usize,
    /// By how much the index grows from one tap to the next.
    pub tap_step: usize,
    /// The row or column that the first tap falls on.
    pub position: usize,
    /// From there to the position of the next tap.
    pub position_step: isize,
    /// How many taps.
    pub count: usize,
}

impl TapSpan {
    /// The taps of output position `o` on the input.
    pub(super) fn forward(o: usize, kernel: usize, stride: usize, padding: usize, input: usize) -> Self {
        let start = o * stride;
        let first = padding.saturating_sub(start);
        let end = kernel.min((input + padding).saturating_sub(start));
        let count = end.saturating_sub(first);
        Self { tap: first, tap_step: 1, position: (start + first).saturating_sub(padding), position_step: 1, count }
    }

    /// The taps by which output positions o read input position `i`: o·stride + tap = i + padding.
    pub(super) fn backward(i: usize, kernel: usize, stride: usize, padding: usize, output: usize) -> Self {
        let at = i + padding;
        let lowest = at.saturating_sub((output - 1) * stride);
        // The first tap from `lowest` on at a whole number of strides.
        let first = lowest + (at - lowest) % stride;
        let end = kernel.min(at + 1);
        let count = if first < end { (end - first).div_ceil(stride) } else { 0 };
        Self { tap: first, tap_step: stride, position: (at - first) / stride, position_step: -1, count }
    }
}
