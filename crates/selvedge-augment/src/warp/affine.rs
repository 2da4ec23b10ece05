//! Affine maps of the plane, and images moved by them.

use crate::Canvas;
use crate::warp::sample::{Border, Interpolation, warp};

/// An affine map: (x, y) goes to (a x + b y + c, d x + e y + f), in pixels, the middle of the top left
/// pixel at (0, 0).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Matrix(
    /// The rows `[a, b, c]` and `[d, e, f]`.
    pub [[f64; 3]; 2],
);

impl Matrix {
    /// A shift.
    pub fn translation(x: f64, y: f64) -> Matrix {
        Matrix([[1.0, 0.0, x], [0.0, 1.0, y]])
    }

    /// Factors along the axes.
    pub fn scale(x: f64, y: f64) -> Matrix {
        Matrix([[x, 0.0, 0.0], [0.0, y, 0.0]])
    }

    /// A rotation of the image by an angle in degrees, counter-clockwise as it is seen (rows are counted
    /// downwards).
    pub fn rotation(degrees: f64) -> Matrix {
        let (sin, cos) = degrees.to_radians().sin_cos();
        Matrix([[cos, sin, 0.0], [-sin, cos, 0.0]])
    }

    /// A shear: x grows by `x` for each unit of y, and y by `y` for each unit of x.
    pub fn shear(x: f64, y: f64) -> Matrix {
        Matrix([[1.0, x, 0.0], [y, 1.0, 0.0]])
    }

    /// This map after the other.
    pub fn after(self, first: Matrix) -> Matrix {
        let (Matrix(m), Matrix(n)) = (self, first);
        let row = |r: [f64; 3]| {
            [r[0] * n[0][0] + r[1] * n[1][0], r[0] * n[0][1] + r[1] * n[1][1], r[0] * n[0][2] + r[1] * n[1][2] + r[2]]
        };
        Matrix([row(m[0]), row(m[1])])
    }

    /// This map about another fixed point than (0, 0).
    pub fn about(self, x: f64, y: f64) -> Matrix {
        Matrix::translation(x, y).after(self).after(Matrix::translation(-x, -y))
    }

    /// The map back; all positions become infinite or not numbers where there is none.
    pub fn inverse(self) -> Matrix {
        let [[a, b, c], [d, e, f]] = self.0;
        let determinant = a * e - b * d;
        let (a, b, d, e) = (e / determinant, -b / determinant, -d / determinant, a / determinant);
        Matrix([[a, b, -(a * c + b * f)], [d, e, -(d * c + e * f)]])
    }
}

/// Moves the image by the map: each pixel of the result is taken from where the inverse map says.
pub(crate) fn warp_affine(canvas: &mut Canvas, map: Matrix, border: Border, interpolation: Interpolation) {
    let [[a, b, c], [d, e, f]] = map.inverse().0;
    let (a, d) = (a as f32, d as f32);
    warp(
        canvas,
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
    use crate::ImageShape;

    #[test]
    fn an_inverse_undoes_the_map() {
        let map = Matrix::shear(0.3, -0.2).after(Matrix::rotation(25.0)).about(3.0, -2.0);
        let Matrix(identity) = map.after(map.inverse());
        for (row, expected) in identity.iter().zip([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]) {
            assert!(row.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12), "{identity:?}");
        }
    }

    #[test]
    fn a_rotation_by_a_right_angle_is_the_quarter_turn_counter_clockwise() {
        let shape = ImageShape { height: 2, width: 2, channels: 1 };
        let mut canvas = Canvas::new(shape);
        canvas.load(b"abcd");
        let map = Matrix::rotation(90.0).about(0.5, 0.5);
        warp_affine(&mut canvas, map, Border::default(), Interpolation::Bilinear);
        assert_eq!(canvas.image(), b"bdac");
    }
}
