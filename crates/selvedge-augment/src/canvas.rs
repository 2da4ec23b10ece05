//! The image that operations work on: its pixels, a second buffer for the next state, and scratch memory.

use crate::convolve::Convolver;
use crate::resample::{Border, Interpolation, Resampler};
use crate::shape::ImageShape;
use crate::vectors::{GROUP, Group, Vectors};

/// Buffers that operations use while they work. Each operation sizes what it needs, and a buffer never shrinks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scratch {
    pub(crate) vectors: Vectors,
    pub(crate) resampler: Resampler,
    pub(crate) convolver: Convolver,
    /// The first of two planes of displacements, while the second is in the convolver.
    pub(crate) displacements: Vec<Group<f32>>,
    /// Source coordinates of columns and rows.
    pub(crate) positions: Vec<f32>,
}

/// An image and the buffers that operations need to change it. Kept from image to image, it allocates nothing after
/// the first.
///
/// ```
/// use selvedge_augment::{Canvas, ImageShape};
///
/// let mut canvas = Canvas::new(ImageShape { height: 1, width: 3, channels: 1 });
/// canvas.load(&[1, 2, 3]);
/// canvas.redraw(|old, new| new.iter_mut().zip(old.iter().rev()).for_each(|(to, from)| *to = *from));
/// assert_eq!(canvas.image(), [3, 2, 1]);
/// ```
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

    /// Copies an image of the same shape onto the canvas.
    ///
    /// # Panics
    /// If the length differs from [`ImageShape::len`].
    pub fn load(&mut self, image: &[u8]) {
        assert_eq!(image.len(), self.front.len(), "an image of {:?} was expected", self.shape);
        self.front.copy_from_slice(image);
    }

    /// Replaces the image by what `write(old, new)` writes; `new` holds arbitrary bytes at first.
    #[inline]
    pub fn redraw(&mut self, write: impl FnOnce(&[u8], &mut [u8])) {
        self.redraw_with(|old, new, _| write(old, new));
    }

    #[inline]
    pub(crate) fn redraw_with(&mut self, write: impl FnOnce(&[u8], &mut [u8], &mut Scratch)) {
        write(&self.front, &mut self.back, &mut self.scratch);
        std::mem::swap(&mut self.front, &mut self.back);
    }

    /// Moves the pixels: `positions(y, x, xs, ys)` writes the positions in the image that the pixels of row `y` from
    /// column `x` on show. For columns beyond the last it may write anything. It must be `#[inline(always)]`, see
    /// [`Vectors::run`].
    #[inline]
    pub(crate) fn warp(
        &mut self,
        border: Border,
        interpolation: Interpolation,
        positions: impl Fn(usize, usize, &mut [f32; GROUP], &mut [f32; GROUP]),
    ) {
        let shape = self.shape;
        self.redraw_with(|old, new, Scratch { vectors, resampler, .. }| {
            let sampler = resampler.prepare(shape, border, interpolation);
            vectors.run(
                #[inline(always)]
                move || sampler.run(old, positions, new),
            );
        });
    }

    pub(crate) fn scratch_mut(&mut self) -> &mut Scratch {
        &mut self.scratch
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parameter::Padding;

    /// The definition, in f64, with the border looked up pixel by pixel.
    fn reference(image: &[u8], shape: ImageShape, border: Border, (x, y): (f32, f32), channel: usize) -> f64 {
        let (x, y) = (f64::from(x), f64::from(y));
        let (left, top) = (x.floor(), y.floor());
        let value = |dx: f64, dy: f64| {
            let column = border.padding.source((left + dx) as isize, shape.width);
            let row = border.padding.source((top + dy) as isize, shape.height);
            column.zip(row).map_or(f64::from(border.fill), |(x, y)| {
                f64::from(image[(y * shape.width + x) * shape.channels + channel])
            })
        };
        let (fx, fy) = (x - left, y - top);
        (value(0.0, 0.0) * (1.0 - fx) + value(1.0, 0.0) * fx) * (1.0 - fy)
            + (value(0.0, 1.0) * (1.0 - fx) + value(1.0, 1.0) * fx) * fy
    }

    #[test]
    fn warping_equals_exact_interpolation_within_one() {
        for (height, width, channels) in [(1, 1, 1), (5, 9, 1), (7, 4, 3), (28, 28, 1)] {
            let shape = ImageShape { height, width, channels };
            let mut canvas = Canvas::new(shape);
            let image: Vec<u8> = (0..shape.len()).map(|i| (i * 97 % 256) as u8).collect();
            for padding in [Padding::Zero, Padding::Edge, Padding::Reflect, Padding::Symmetric] {
                let border = Border { padding, fill: 40 };
                let position = |row: usize, column: usize| {
                    let (x, y) = (column as f32, row as f32);
                    (1.37 * x - 0.71 * y - 2.3, 0.93 * y + 0.55 * x - 3.1)
                };
                canvas.load(&image);
                canvas.warp(border, Interpolation::Bilinear, |row, column, xs, ys| {
                    for (i, (x, y)) in xs.iter_mut().zip(ys).enumerate() {
                        (*x, *y) = position(row, column + i);
                    }
                });
                for (i, &found) in canvas.image().iter().enumerate() {
                    let position = position(i / channels / width, i / channels % width);
                    let exact = reference(&image, shape, border, position, i % channels);
                    // 1/256 of a pixel in each direction, times the steepest slope, and the rounding.
                    assert!(
                        (f64::from(found) - exact).abs() <= 1.5,
                        "{shape:?} {padding:?} at {position:?}: {found}, exact {exact}"
                    );
                }
            }
        }
    }

    #[test]
    fn whole_positions_are_exact_and_far_ones_show_the_fill() {
        let mut canvas = Canvas::new(ImageShape { height: 2, width: 3, channels: 1 });
        canvas.load(&[1, 2, 3, 4, 5, 255]);
        let border = Border { padding: Padding::Zero, fill: 9 };
        canvas.warp(border, Interpolation::Bilinear, |row, _, xs, ys| {
            xs[..3].copy_from_slice(&[2.0, -1e30, f32::INFINITY]);
            ys.fill(1.0 - row as f32);
        });
        assert_eq!(canvas.image(), [255, 9, 9, 3, 9, 9]);
    }

    #[test]
    fn the_nearest_pixel_is_taken_whole() {
        let mut canvas = Canvas::new(ImageShape { height: 1, width: 4, channels: 1 });
        canvas.load(&[10, 20, 30, 40]);
        canvas.warp(Border::default(), Interpolation::Nearest, |_, _, xs, ys| {
            xs[..4].copy_from_slice(&[0.4, 0.6, 3.4, 3.6]);
            ys.fill(0.0);
        });
        assert_eq!(canvas.image(), [10, 20, 40, 0]);
    }
}
