//! Where the tiles of results go: to the pixels of a tensor, or, as maxima, to those of the pooled tensor.

use std::marker::PhantomData;

use super::super::{Conv2dShape, MAX_WINDOW, PANEL};
use super::transform::{Linear, Strided, both};
use crate::conv::Epilogue;
use crate::conv::pooled::{Maxima, PooledOutput, Training, floor, pooled_shape, store};
use crate::dropout::{Draws, DropoutMask};
use crate::layout::BlockShape;
use crate::simd::{Element, Simd, math};

/// A vector of channels of the results of a tile.
pub(super) struct Place {
    /// Row and column of the tile's first result.
    pub first: [usize; 2],
    /// The first channel.
    pub channel: usize,
    pub images: usize,
}

/// A tensor that several threads write concurrently, each its own part.
struct Shared<'a, Y> {
    first: *mut Y,
    len: usize,
    tensor: PhantomData<&'a mut [Y]>,
}

// SAFETY: it stands for a slice, whose disjoint parts `part` hands out: its callers promise that nobody else uses them.
unsafe impl<Y: Send> Send for Shared<'_, Y> {}
// SAFETY: as above.
unsafe impl<Y: Send> Sync for Shared<'_, Y> {}

impl<Y> Clone for Shared<'_, Y> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<Y> Copy for Shared<'_, Y> {}

impl<'a, Y> Shared<'a, Y> {
    fn new(tensor: &'a mut [Y]) -> Self {
        Self { first: tensor.as_mut_ptr(), len: tensor.len(), tensor: PhantomData }
    }

    /// The `len` elements from `at` on.
    ///
    /// # Safety
    /// The tensor must have these elements, and nobody else may use them while the part lives.
    #[inline(always)]
    unsafe fn part(&self, at: usize, len: usize) -> &'a mut [Y] {
        debug_assert!(at + len <= self.len);
        // SAFETY: the caller's promise; `new` borrowed the tensor for as long as the part lives.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(at), len) }
    }
}

/// Writes results: those of different tiles or channels to different elements.
pub(super) trait Outputs: Copy + Sync {
    /// Rows and columns of results that are needed.
    fn pixels(&self) -> [usize; 2];

    /// The random numbers of a dropout after the pooling.
    fn draws<S: Simd>(&self, s: S) -> Option<Draws<S>>;

    /// Transforms the products of a tile by L and writes the results that are needed. The products of an image lie 16 elements
    /// after those of the image before.
    ///
    /// # Safety
    /// The channels must lie within the tensor's stride, and the products of all images must be readable. No other thread may
    /// write these channels of the tile concurrently.
    unsafe fn write<S: Simd, L: Linear<N, M>, const M: usize, const N: usize>(
        &self,
        s: S,
        place: &Place,
        draws: &Option<Draws<S>>,
        products: Strided,
    );
}

/// Every pixel of a tensor, after bias and ReLU.
#[derive(Clone, Copy)]
pub(super) struct Unpooled<'a, Y> {
    shape: &'a BlockShape,
    epilogue: Epilogue<'a>,
    y: Shared<'a, Y>,
}

impl<'a, Y: Element> Unpooled<'a, Y> {
    /// Compares every length with the shape.
    #[track_caller]
    pub(super) fn new(shape: &'a BlockShape, epilogue: Epilogue<'a>, y: &'a mut [Y]) -> Self {
        assert_eq!(y.len(), shape.len(), "the target's length and that of {shape:?}");
        if let Some(bias) = epilogue.bias {
            assert_eq!(bias.len(), shape.channel_stride, "the bias' length and the channel stride");
        }
        Self { shape, epilogue, y: Shared::new(y) }
    }
}

impl<Y: Element> Outputs for Unpooled<'_, Y> {
    fn pixels(&self) -> [usize; 2] {
        [self.shape.height, self.shape.width]
    }

    #[inline(always)]
    fn draws<S: Simd>(&self, _: S) -> Option<Draws<S>> {
        None
    }

    #[inline(always)]
    unsafe fn write<S: Simd, L: Linear<N, M>, const M: usize, const N: usize>(
        &self,
        s: S,
        place: &Place,
        _: &Option<Draws<S>>,
        products: Strided,
    ) {
        let [first_row, first_column] = place.first;
        // SAFETY: `new` compared the bias with the channel stride, within which the channels lie.
        let bias = unsafe { self.epilogue.bias_at(s, place.channel) };
        for image in 0..place.images {
            let in_pixel = self.shape.channel(place.channel) + image * self.shape.plane();
            // SAFETY: the caller's promise.
            let results = unsafe { both::<S, L, N, M>(s, &products.offset_by(image * PANEL)) };
            for (i, results) in results.into_iter().enumerate() {
                let row = first_row + i;
                if row >= self.shape.height {
                    continue;
                }
                for (j, sum) in results.into_iter().enumerate() {
                    let column = first_column + j;
                    if column < self.shape.width {
                        let at = self.shape.offset(row, column) + in_pixel;
                        // SAFETY: `new` compared `y` with the shape, in which the pixel lies; the caller promises that nobody
                        // else writes its channels.
                        unsafe {
                            let y = self.y.part(at, S::LANES);
                            Y::store(s, y.as_mut_ptr(), self.epilogue.apply(s, sum, bias));
                        }
                    }
                }
            }
        }
    }
}

/// Rows and columns of the results that are pooled over windows of `window` pixels to the shape `pooled`.
pub(super) fn pooled_pixels(pooled: &BlockShape, window: [usize; 2]) -> [usize; 2] {
    [pooled.height * window[0], pooled.width * window[1]]
}

/// The maxima over windows, each of which lies within one tile.
#[derive(Clone, Copy)]
pub(super) struct Pooled<'a, Y> {
    window: [usize; 2],
    shape: BlockShape,
    bias: Option<&'a [f32]>,
    relu: bool,
    y: Shared<'a, Y>,
    indices: Option<Shared<'a, u16>>,
    dropout: Option<&'a DropoutMask>,
}

impl<'a, Y: Element> Pooled<'a, Y> {
    /// Compares every length with the shape.
    #[track_caller]
    pub(super) fn new(conv: &Conv2dShape, output: PooledOutput<'a, Y>) -> Self {
        let shape = pooled_shape(conv, output.window);
        output.check(&shape, &(0..shape.height));
        let PooledOutput { window, bias, relu, y, training } = output;
        let dropout = training.as_ref().and_then(|training| training.dropout);
        let indices = training.map(|training| Shared::new(training.indices));
        Self { window, shape, bias, relu, y: Shared::new(y), indices, dropout }
    }
}

impl<Y: Element> Outputs for Pooled<'_, Y> {
    fn pixels(&self) -> [usize; 2] {
        pooled_pixels(&self.shape, self.window)
    }

    #[inline(always)]
    fn draws<S: Simd>(&self, s: S) -> Option<Draws<S>> {
        self.dropout.map(|mask| Draws::new(s, mask))
    }

    #[inline(always)]
    unsafe fn write<S: Simd, L: Linear<N, M>, const M: usize, const N: usize>(
        &self,
        s: S,
        place: &Place,
        draws: &Option<Draws<S>>,
        products: Strided,
    ) {
        let ([height, width], BlockShape { channels, .. }) = (self.window, self.shape);
        let first = [place.first[0] / height, place.first[1] / width];
        let rows = first[0]..self.shape.height.min(first[0] + M / height);
        let columns = first[1]..self.shape.width.min(first[1] + M / width);
        let bias = Epilogue { bias: self.bias, relu: false };
        // SAFETY: `new` compared the bias with the channel stride, within which the channels lie.
        let bias = unsafe { bias.bias_at(s, place.channel) };
        let floor = floor(s, self.relu);
        let mut of_pair = [[[s.splat_u(0); 2]; M]; M];
        for image in 0..place.images {
            // SAFETY: the caller's promise.
            let results = unsafe { both::<S, L, N, M>(s, &products.offset_by(image * PANEL)) };
            for row in rows.clone() {
                for column in columns.clone() {
                    let [i, j] = [row - first[0], column - first[1]];
                    if let (Some(draws), 0) = (draws, image % 2) {
                        let number = row * self.shape.width + column;
                        let positions = math::positions(s, (number * channels + place.channel) as u32);
                        of_pair[i][j] = draws.of_pair(s, image / 2, positions);
                    }
                    let value = |pixel: usize| results[i * height + pixel / width][j * width + pixel % width];
                    let maxima = Maxima::of(s, height * width, value);
                    let maxima = maxima.after(s, bias, floor);
                    let pixel = self.shape.offset(row, column);
                    let to = pixel + self.shape.channel(place.channel) + image * self.shape.plane();
                    debug_assert!(height * width <= MAX_WINDOW);
                    let draw = of_pair[i][j][image % 2];
                    // SAFETY: `new` compared `y` and the indices with the shape, in which the pixel lies; the caller promises
                    // that nobody else writes its channels.
                    unsafe {
                        let y = self.y.part(to, S::LANES);
                        let indices = self.indices.as_ref().map(|indices| indices.part(to, S::LANES));
                        let mut training = indices.map(|indices| Training { indices, dropout: self.dropout });
                        store(s, y, &mut training, 0, maxima, draws, draw);
                    }
                }
            }
        }
    }
}
