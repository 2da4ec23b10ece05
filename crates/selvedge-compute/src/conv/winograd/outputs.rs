//! What becomes of a tile of results: rows of the tensor, or maxima over windows.

use std::ops::Range;

use super::super::gather::Epilogue;
use super::super::pooled::{Training, check, largest, pooled_shape, store};
use super::super::{Conv2dShape, MAX_WINDOW, PANEL};
use super::transform::{Linear, Strided, both};
use crate::dropout::Draws;
use crate::layout::BlockShape;
use crate::simd::{Element, Simd, math};

/// Which results: a vector of channels of a tile.
pub(super) struct Place {
    /// Row and column of the tile's first result.
    pub first: [usize; 2],
    pub channel: usize,
    pub images: usize,
}

/// Where results go.
pub(super) trait Outputs {
    /// The rows of results that are wanted.
    fn rows(&self) -> Range<usize>;

    /// How many results of a row are wanted.
    fn columns(&self) -> usize;

    /// The draws of a dropout behind the results.
    fn draws<S: Simd>(&self, s: S) -> Option<Draws<S>>;

    /// Writes what is wanted of a tile, whose results L makes of the products; those of an image lie 16 elements behind those
    /// of the one before.
    ///
    /// # Safety
    /// The channels must lie within the tensor's stride, and the products of all images be readable.
    unsafe fn write<S: Simd, L: Linear<N, M>, const M: usize, const N: usize>(
        &mut self,
        s: S,
        place: &Place,
        draws: &Option<Draws<S>>,
        products: Strided,
    );
}

/// Rows `rows` of a tensor.
pub(super) struct Rows<'a, Y> {
    shape: &'a BlockShape,
    epilogue: Epilogue<'a>,
    rows: Range<usize>,
    y: &'a mut [Y],
}

impl<'a, Y: Element> Rows<'a, Y> {
    /// Compares every length with the shape.
    #[track_caller]
    pub(super) fn new(shape: &'a BlockShape, epilogue: Epilogue<'a>, rows: Range<usize>, y: &'a mut [Y]) -> Self {
        assert!(rows.start <= rows.end && rows.end <= shape.height, "rows {rows:?} of {shape:?}");
        assert_eq!(y.len(), rows.len() * shape.row(), "the target's length and that of rows {rows:?} of {shape:?}");
        if let Some(bias) = epilogue.bias {
            assert_eq!(bias.len(), shape.channel_stride, "the bias' length and the channel stride");
        }
        Self { shape, epilogue, rows, y }
    }
}

impl<Y: Element> Outputs for Rows<'_, Y> {
    fn rows(&self) -> Range<usize> {
        self.rows.clone()
    }

    fn columns(&self) -> usize {
        self.shape.width
    }

    #[inline(always)]
    fn draws<S: Simd>(&self, _: S) -> Option<Draws<S>> {
        None
    }

    #[inline(always)]
    unsafe fn write<S: Simd, L: Linear<N, M>, const M: usize, const N: usize>(
        &mut self,
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
            let results = unsafe { both::<S, L, N, M>(s, &products.behind(image * PANEL)) };
            for (i, results) in results.into_iter().enumerate() {
                let row = first_row + i;
                if !self.rows.contains(&row) {
                    continue;
                }
                for (j, sum) in results.into_iter().enumerate() {
                    let column = first_column + j;
                    if column < self.shape.width {
                        let at = self.shape.offset(row - self.rows.start, column) + in_pixel;
                        debug_assert!(at + S::LANES <= self.y.len());
                        // SAFETY: `new` made sure that `y` has the rows, in which the pixel lies.
                        unsafe { Y::store(s, self.y.as_mut_ptr().add(at), self.epilogue.apply(s, sum, bias)) };
                    }
                }
            }
        }
    }
}

/// Rows `rows` of the maxima over windows, of which each lies within a tile.
pub(super) struct Pooled<'a, Y> {
    window: [usize; 2],
    shape: BlockShape,
    bias: Option<&'a [f32]>,
    rows: Range<usize>,
    y: &'a mut [Y],
    training: Option<Training<'a>>,
}

impl<'a, Y: Element> Pooled<'a, Y> {
    /// Compares every length with the shape.
    #[track_caller]
    pub(super) fn new(
        conv: &Conv2dShape,
        window: [usize; 2],
        bias: Option<&'a [f32]>,
        rows: Range<usize>,
        y: &'a mut [Y],
        training: Option<Training<'a>>,
    ) -> Self {
        let shape = pooled_shape(conv, window);
        check(&shape, &rows, bias, y, &training);
        Self { window, shape, bias, rows, y, training }
    }
}

impl<Y: Element> Outputs for Pooled<'_, Y> {
    fn rows(&self) -> Range<usize> {
        self.rows.start * self.window[0]..self.rows.end * self.window[0]
    }

    fn columns(&self) -> usize {
        self.shape.width * self.window[1]
    }

    #[inline(always)]
    fn draws<S: Simd>(&self, s: S) -> Option<Draws<S>> {
        Training::draws(&self.training, s)
    }

    #[inline(always)]
    unsafe fn write<S: Simd, L: Linear<N, M>, const M: usize, const N: usize>(
        &mut self,
        s: S,
        place: &Place,
        draws: &Option<Draws<S>>,
        products: Strided,
    ) {
        let ([height, width], BlockShape { channels, .. }) = (self.window, self.shape);
        let first = [place.first[0] / height, place.first[1] / width];
        let rows = self.rows.start.max(first[0])..self.rows.end.min(first[0] + M / height);
        let columns = first[1]..self.shape.width.min(first[1] + M / width);
        let bias = Epilogue { bias: self.bias, relu: false };
        // SAFETY: `new` compared the bias with the channel stride, within which the channels lie.
        let bias = unsafe { bias.bias_at(s, place.channel) };
        let mut of_pair = [[[s.splat_u(0); 2]; M]; M];
        for image in 0..place.images {
            // SAFETY: the caller's promise.
            let results = unsafe { both::<S, L, N, M>(s, &products.behind(image * PANEL)) };
            for row in rows.clone() {
                for column in columns.clone() {
                    let [i, j] = [row - first[0], column - first[1]];
                    if let (Some(draws), 0) = (draws, image % 2) {
                        let number = row * self.shape.width + column;
                        let positions = math::positions(s, (number * channels + place.channel) as u32);
                        of_pair[i][j] = draws.of_pair(s, image / 2, positions);
                    }
                    let value = |pixel: usize| results[i * height + pixel / width][j * width + pixel % width];
                    let (largest, winner) = largest(s, height * width, value);
                    let pixel = self.shape.offset(row - self.rows.start, column);
                    let to = pixel + self.shape.channel(place.channel) + image * self.shape.plane();
                    debug_assert!(to + S::LANES <= self.y.len() && height * width <= MAX_WINDOW);
                    let draw = of_pair[i][j][image % 2];
                    // SAFETY: `new` made sure that `y` and the winners have the rows, in which the pixel lies.
                    unsafe { store(s, self.y, &mut self.training, to, s.add(largest, bias), winner, draws, draw) };
                }
            }
        }
    }
}
