//! Affine maps of the plane, and warping an image by one.

use crate::canvas::Canvas;
use crate::resample::{Border, Interpolation};

/// An affine map from (x, y) to (a x + b y + c, d x + e y + f). Coordinates are in pixels; the centre of the top left
/// pixel is (0, 0).
///
/// ```
/// use selvedge_augment::warp::Matrix;
///
/// let map = Matrix::translation(1.0, 0.0).after(Matrix::scale(2.0, 2.0));
/// assert_eq!(map, Matrix([[2.0, 0.0, 1.0], [0.0, 2.0, 0.0]]));
/// assert_eq!(map.after(map.inverse()), Matrix([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]));
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Matrix(
    /// The rows `[a, b, c]` and `[d, e, f]`.
    pub [[f64; 3]; 2],
);

impl Matrix {
    /// A shift by `x` to the right and `y` down.
    pub fn translation(x: f64, y: f64) -> Matrix {
        Matrix([[1.0, 0.0, x], [0.0, 1.0, y]])
    }

    /// A scaling by a factor along each axis.
    pub fn scale(x: f64, y: f64) -> Matrix {
        Matrix([[x, 0.0, 0.0], [0.0, y, 0.0]])
    }

    /// A rotation by an angle in degrees, counter-clockwise as seen on the screen (y grows downwards).
    pub fn rotation(degrees: f64) -> Matrix {
        let (sin, cos) = degrees.to_radians().sin_cos();
        Matrix([[cos, sin, 0.0], [-sin, cos, 0.0]])
    }

    /// A shear: x grows by `x` for each unit of y, and y by `y` for each unit of x.
    pub fn shear(x: f64, y: f64) -> Matrix {
        Matrix([[1.0, x, 0.0], [y, 1.0, 0.0]])
    }

    /// The composition that applies `first`, then this map.
    pub fn after(self, first: Matrix) -> Matrix {
        let (Matrix(m), Matrix(n)) = (self, first);
        let row = |r: [f64; 3]| {
            [r[0] * n[0][0] + r[1] * n[1][0], r[0] * n[0][1] + r[1] * n[1][1], r[0] * n[0][2] + r[1] * n[1][2] + r[2]]
        };
        Matrix([row(m[0]), row(m[1])])
    }

    /// This map with (x, y) in the place of the origin.
    pub fn about(self, x: f64, y: f64) -> Matrix {
        Matrix::translation(x, y).after(self).after(Matrix::translation(-x, -y))
    }

    /// The inverse map. If there is none, its coefficients are infinite or NaN.
    pub fn inverse(self) -> Matrix {
        let [[a, b, c], [d, e, f]] = self.0;
        let determinant = a * e - b * d;
        let (a, b, d, e) = (e / determinant, -b / determinant, -d / determinant, a / determinant);
        Matrix([[a, b, -(a * c + b * f)], [d, e, -(d * c + e * f)]])
    }
}

/// Warps the image by the map: each pixel of the result shows the position that the inverse map gives.
pub(crate) fn warp_affine(canvas: &mut Canvas, map: Matrix, border: Border, interpolation: Interpolation) {
    let [[a, b, c], [d, e, f]] = map.inverse().0;
    let (a, d) = (a as f32, d as f32);
    canvas.warp(
        border,
        interpolation,
        #[inline(always)]
        move |row, first, xs, ys| {
            let (x, y) = ((b * row as f64 + c) as f32, (e * row as f64 + f) as f32);
            for (i, (to_x, to_y)) in xs.iter_mut().zip(ys).enumerate() {
                let column = (first + i) as i32 as f32;
                *to_x = a * column + x;
                *to_y = d * column + y;
            }
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::ImageShape;

    #[test]
    fn an_inverse_undoes_the_map() {
        let map = Matrix::shear(0.3, -0.2).after(Matrix::rotation(25.0)).about(3.0, -2.0);
        let Matrix(identity) = map.after(map.inverse());
        for (row, expected) in identity.iter().zip([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]) {
            assert!(row.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12), "{identity:?}");
        }
    }

    #[test]
    fn a_rotation_by_90_degrees_is_exact_and_counter_clockwise() {
        let shape = ImageShape { height: 2, width: 2, channels: 1 };
        let mut canvas = Canvas::new(shape);
        canvas.load(b"abcd");
        let map = Matrix::rotation(90.0).about(0.5, 0.5);
        warp_affine(&mut canvas, map, Border::default(), Interpolation::Bilinear);
        assert_eq!(canvas.image(), b"bdac");
    }
}
