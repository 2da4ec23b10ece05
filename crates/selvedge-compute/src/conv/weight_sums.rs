//! What the weights pass is in either precision: sums over pixels and images, one tap after the other, of operands that are
//! regrouped before so that they are read in one piece.
//!
//! [`TapSum`] is the sum of one tap: f32 vectors ([`super::backward_weights`]) or bf16 tiles
//! ([`super::backward_weights_bf16`]).

use std::ops::Range;

use super::{Conv2dShape, PANEL};

/// Several blocks of one tensor, as they lie in the memory of a network: one every `stride` elements.
#[derive(Clone, Copy)]
pub struct Blocks<'a, E> {
    /// From the first block's first element to at least the last block's last.
    pub data: &'a [E],
    /// Elements from the beginning of one block to that of the next.
    pub stride: usize,
    /// How many blocks.
    pub count: usize,
}

impl<'a, E> Blocks<'a, E> {
    /// One block.
    pub fn one(data: &'a [E]) -> Self {
        Self { data, stride: data.len(), count: 1 }
    }

    fn check(&self, len: usize, name: &str) {
        let needed = if self.count == 0 { 0 } else { (self.count - 1) * self.stride + len };
        assert!(self.data.len() >= needed, "{name}: {} elements, {} blocks need {needed}", self.data.len(), self.count);
    }
}

/// What a gradient is added to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Onto {
    /// What the slice holds.
    Content,
    /// Nothing: the slice is overwritten.
    Nothing,
}

/// Compares the lengths of blocks of regrouped tensors, and of the gradient of `panels`, with the shape.
pub(super) fn check_blocks<E>(
    shape: &Conv2dShape,
    x: &Blocks<'_, E>,
    dy: &Blocks<'_, E>,
    panels: &Range<usize>,
    dweights: &[f32],
) {
    check_padded(shape);
    x.check(shape.input.len(), "x");
    dy.check(shape.output.len(), "dy");
    assert_eq!(x.count, dy.count, "blocks of x and of dy");
    assert!(panels.start <= panels.end && panels.end <= shape.panels(), "panels {panels:?} of {}", shape.panels());
    assert_eq!(dweights.len(), panels.len() * shape.panel_len(), "the gradient's length and that of panels {panels:?}");
}

/// Compares the lengths of one block's tensors, of the buffers of their rows, and of the gradient with the shape.
pub(super) fn check_block(shape: &Conv2dShape, [x, dy]: [usize; 2], [x_rows, dy_row]: [usize; 2], dweights: &[f32]) {
    assert_eq!(x, shape.input.len(), "x's length and that of {:?}", shape.input);
    assert_eq!(dy, shape.output.len(), "dy's length and that of {:?}", shape.output);
    assert_eq!([x_rows, dy_row], row_buffers(shape), "the buffers' lengths and those of {shape:?}");
    assert_eq!(dweights.len(), shape.weights_len(), "the gradient's length and that of {shape:?}");
}

pub(super) fn check_padded(shape: &Conv2dShape) {
    let stride = shape.input.channel_stride;
    assert!(stride.is_multiple_of(PANEL), "a channel stride of {stride}: this kernel needs multiples of {PANEL}");
}

/// The elements of the two buffers in which one block is regrouped row by row: the rows of X that a row of dY meets, and
/// that row of dY. None for an input whose channels are not padded: it is read as it lies.
pub fn row_buffers(shape: &Conv2dShape) -> [usize; 2] {
    if shape.input.channel_stride.is_multiple_of(PANEL) {
        [ring(shape) * shape.input.row(), shape.output.row()]
    } else {
        [0; 2]
    }
}

/// Rows of X that are kept at a time.
fn ring(shape: &Conv2dShape) -> usize {
    shape.kernel[0].min(shape.input.height)
}

/// Rows of pixels of blocks, of which `ring` are kept, each at its number modulo `ring`.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a, E> {
    pub blocks: Blocks<'a, E>,
    pub ring: usize,
}

/// Output pixels `columns` of row `y`, seen through tap (`ky`, `kx`), and the first panel and input channel of a tile of
/// the gradient.
pub(super) struct Tap {
    pub y: usize,
    pub columns: Range<usize>,
    pub ky: usize,
    pub kx: usize,
    pub panel: usize,
    pub channel: usize,
}

/// Adds up one tap for a tile of the gradient.
pub(super) trait TapSum {
    /// What it reads.
    type Element: Copy;

    /// Pixels, times blocks, that a tile's sum runs over before it is stored.
    const PIXELS: usize;
    /// Input channels of a tile of the gradient.
    const CHANNELS: usize;

    fn shape(&self) -> &Conv2dShape;

    /// The panels that are summed.
    fn panels(&self) -> Range<usize>;

    /// How many panels from `panel` on are summed together: 1 or 2.
    fn panels_at_once(&self, panel: usize) -> usize;

    /// Adds the products of `tap` over all its pixels and all images.
    ///
    /// # Safety
    /// X and dY must have the lengths of the shape, as far as their rings go, and the taps' pixels lie on the input.
    unsafe fn add(&mut self, x: Rows<'_, Self::Element>, dy: Rows<'_, Self::Element>, tap: &Tap);
}

/// Brings pixels of X, and of dY in elements of `D`, into the forms that a [`TapSum`] reads.
pub(super) trait Regroup<D>: TapSum {
    fn regroup_x(&self, from: &[Self::Element], to: &mut [Self::Element]);

    fn regroup_dy(&self, from: &[D], to: &mut [Self::Element]);
}

/// Adds what blocks bring that have been regrouped.
///
/// # Safety
/// [`check_blocks`] must have compared the lengths with the shape.
#[inline(always)]
pub(super) unsafe fn add_blocks<K: TapSum>(sum: &mut K, x: Blocks<'_, K::Element>, dy: Blocks<'_, K::Element>) {
    let (input, output) = (sum.shape().input.height, sum.shape().output.height);
    for y in 0..output {
        // SAFETY: the caller's promise.
        unsafe { add_row(sum, y, Rows { blocks: x, ring: input }, Rows { blocks: dy, ring: output }) };
    }
}

/// Adds what one block brings, whose rows are regrouped in the buffers on the way.
///
/// # Safety
/// [`check_block`] must have compared the lengths with the shape.
#[inline(always)]
pub(super) unsafe fn add_block<D, K: Regroup<D>>(
    sum: &mut K,
    (x, dy): (&[K::Element], &[D]),
    [x_rows, dy_row]: [&mut [K::Element]; 2],
) {
    let shape = *sum.shape();
    let (x_row, dy_len, ring) = (shape.input.row(), shape.output.row(), ring(&shape));
    // The first row of X that is not regrouped yet.
    let mut next = 0;
    for y in 0..shape.output.height {
        let ys = shape.rows_of(y);
        if ys.count == 0 {
            continue;
        }
        let first = y * shape.stride + ys.tap - shape.padding[0];
        for row in first.max(next)..first + ys.count {
            sum.regroup_x(&x[row * x_row..][..x_row], &mut x_rows[row % ring * x_row..][..x_row]);
        }
        next = first + ys.count;
        sum.regroup_dy(&dy[y * dy_len..][..dy_len], dy_row);
        let (x, dy) = (Rows { blocks: Blocks::one(x_rows), ring }, Rows { blocks: Blocks::one(dy_row), ring: 1 });
        // SAFETY: the caller's promise.
        unsafe { add_row(sum, y, x, dy) };
    }
}

/// Adds what output row `y` brings.
///
/// All taps of a tile's channels before the next channels: dY and these channels of X stay in the first cache, which is
/// worth up to a tenth on AMX from 128 channels on.
///
/// # Safety
/// As for [`TapSum::add`].
#[inline(always)]
unsafe fn add_row<K: TapSum>(sum: &mut K, y: usize, x: Rows<'_, K::Element>, dy: Rows<'_, K::Element>) {
    let (shape, panels) = (*sum.shape(), sum.panels());
    let chunk = K::PIXELS.div_ceil(x.blocks.count);
    let ys = shape.rows_of(y);
    for start in (0..shape.output.width).step_by(chunk) {
        let all_columns = start..(start + chunk).min(shape.output.width);
        let mut panel = panels.start;
        while panel < panels.end {
            for channel in (0..shape.input.channel_stride).step_by(K::CHANNELS) {
                for ky in ys.tap..ys.tap + ys.count {
                    for kx in 0..shape.kernel[1] {
                        let columns = shape.columns_seeing(kx, &all_columns);
                        if !columns.is_empty() {
                            // SAFETY: the caller's promise; `rows_of` and `columns_seeing` leave out the padding.
                            unsafe { sum.add(x, dy, &Tap { y, columns, ky, kx, panel, channel }) };
                        }
                    }
                }
            }
            panel += sum.panels_at_once(panel);
        }
    }
}
