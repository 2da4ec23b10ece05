//! [`NewtonSchulz`]: pushes the singular values of a matrix towards 1 by products alone.
//!
//! The matrix G is divided by its Frobenius norm, so that no singular value is above 1. Then each iteration replaces X by
//! `a·X + (b·S + c·S²)·X` with S = X·Xᵀ (or the same from the right where that S is smaller), which maps each singular value
//! σ to `a·σ + b·σ³ + c·σ⁵` and leaves the singular vectors alone. With the coefficients of Jordan (Muon, 2024), chosen for a
//! steep slope at 0 and not for convergence, five iterations bring singular values of a hundredth of the norm and more to
//! between .68 and 1.14.

use ndarray::Array2;
use ndarray::linalg::general_mat_mul;

const A: f32 = 3.4445;
const B: f32 = -4.7750;
const C: f32 = 2.0315;
/// Added to the Frobenius norm, so that a matrix of zeros stays one.
const EPSILON: f64 = 1e-7;

/// A matrix and the memory to orthogonalise it in, kept from step to step.
#[derive(Clone, Debug)]
pub(super) struct NewtonSchulz {
    /// The matrix: filled in before [`NewtonSchulz::run`], orthogonalised after it. In standard order.
    pub(super) matrix: Array2<f32>,
    /// Memory of the same shape, in standard order. Its content does not matter before a run and is lost in it.
    pub(super) spare: Array2<f32>,
    /// S: the products of all pairs of rows, or of columns if these are fewer.
    gram: Array2<f32>,
    /// b·S + c·S².
    polynomial: Array2<f32>,
}

impl NewtonSchulz {
    /// For a matrix of so many rows and columns.
    pub(super) fn new([rows, columns]: [usize; 2]) -> Self {
        let smaller = rows.min(columns);
        Self {
            matrix: Array2::zeros((rows, columns)),
            spare: Array2::zeros((rows, columns)),
            gram: Array2::zeros((smaller, smaller)),
            polynomial: Array2::zeros((smaller, smaller)),
        }
    }

    /// Orthogonalises the matrix, on one thread. Its products are those of the package matrixmultiply, which chooses its
    /// kernels by the processor; it allocates a buffer for packed operands in each of them.
    pub(super) fn run(&mut self, iterations: u32) {
        let Self { matrix, spare, gram, polynomial } = self;
        let factor = (1.0 / (frobenius(matrix) + EPSILON)) as f32;
        matrix.mapv_inplace(|x| x * factor);
        let is_tall = matrix.nrows() > matrix.ncols();
        for _ in 0..iterations {
            if is_tall {
                general_mat_mul(1.0, &matrix.t(), matrix, 0.0, gram);
            } else {
                general_mat_mul(1.0, matrix, &matrix.t(), 0.0, gram);
            }
            polynomial.assign(gram);
            general_mat_mul(C, gram, gram, B, polynomial);
            spare.assign(matrix);
            if is_tall {
                general_mat_mul(1.0, matrix, polynomial, A, spare);
            } else {
                general_mat_mul(1.0, polynomial, matrix, A, spare);
            }
            std::mem::swap(matrix, spare);
        }
    }

    /// The operations of a run, counting a multiply-add as two.
    pub(super) fn flops([rows, columns]: [usize; 2], iterations: u32) -> u64 {
        let (smaller, larger) = (rows.min(columns) as u64, rows.max(columns) as u64);
        u64::from(iterations) * 2 * smaller * smaller * (2 * larger + smaller)
    }
}

/// The root of the sum of squares, added up in standard order.
pub(super) fn frobenius(matrix: &Array2<f32>) -> f64 {
    matrix.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn orthogonalised(matrix: Array2<f32>, iterations: u32) -> Array2<f32> {
        let mut run = NewtonSchulz::new([matrix.nrows(), matrix.ncols()]);
        run.matrix.assign(&matrix);
        run.run(iterations);
        run.matrix
    }

    /// ```python
    /// import torch
    /// def orthogonalise(g, steps, eps=1e-7):  # airbench94_muon.py, in f64 instead of bf16
    ///     a, b, c = 3.4445, -4.7750, 2.0315
    ///     x = g / (g.norm() + eps)
    ///     if g.size(0) > g.size(1): x = x.T
    ///     for _ in range(steps):
    ///         s = x @ x.T
    ///         x = a * x + (b * s + c * s @ s) @ x
    ///     return x.T if g.size(0) > g.size(1) else x
    /// g = (torch.arange(24, dtype=torch.float64) * 7 % 11 - 5).reshape(4, 6)
    /// print(orthogonalise(g, 3).flatten().tolist())
    /// ```
    #[test]
    fn it_is_the_iteration_of_airbench() {
        let expected = [
            -0.702_152_88,
            0.131_307_45,
            -0.073_073_44,
            0.777_225_90,
            -0.083_998_70,
            -0.288_379_59,
            0.551_803_43,
            -0.078_647_08,
            -0.395_693_98,
            0.406_820_06,
            -0.240_469_46,
            -0.557_516_36,
            0.264_319_73,
            -0.116_210_66,
            0.594_525_32,
            0.425_082_22,
            -0.296_641_63,
            0.414_094_36,
            -0.182_349_58,
            -0.555_248_60,
            0.214_907_04,
            -0.038_836_64,
            -0.727_385_92,
            0.042_769_72,
        ];
        let wide = Array2::from_shape_fn((4, 6), |(i, j)| ((6 * i + j) * 7 % 11) as f32 - 5.0);
        for (found, name) in [
            (orthogonalised(wide.clone(), 3), "wide"),
            (orthogonalised(wide.t().as_standard_layout().into_owned(), 3).t().to_owned(), "tall"),
        ] {
            for (found, expected) in found.iter().zip(expected) {
                assert!((f64::from(*found) - expected).abs() < 2e-6, "{name}: {found}, expected {expected}");
            }
        }
    }

    #[test]
    fn zeros_stay_zeros() {
        assert!(orthogonalised(Array2::zeros((3, 5)), 5).iter().all(|&x| x == 0.0));
    }

    /// Five iterations take singular values from a hundredth of the norm to the norm into .68 to 1.13 (the curve of the five
    /// quintics on a grid of a million values), and those of random matrices, not near square, are that large.
    #[test]
    fn singular_values_of_random_matrices_come_near_one() {
        for (seed, [rows, columns]) in [[1, 1], [2, 9], [12, 40], [9, 2], [40, 12], [16, 144]].into_iter().enumerate() {
            let normal = |(i, j)| normal(seed as u64, (i * columns + j) as u64);
            let x = orthogonalised(Array2::from_shape_fn((rows, columns), normal), 5).mapv(f64::from);
            let gram = if rows > columns { x.t().dot(&x) } else { x.dot(&x.t()) };
            for value in eigenvalues(gram) {
                let singular = value.max(0.0).sqrt();
                assert!((0.68..=1.14).contains(&singular), "{rows} x {columns}: {singular}");
            }
        }
    }

    /// About normally distributed: the sum of twelve uniform numbers.
    fn normal(seed: u64, at: u64) -> f32 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ at.wrapping_mul(0xd134_2543_de82_ef95);
        let mut uniform = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 24) as f32
        };
        uniform();
        (0..12).map(|_| uniform()).sum::<f32>() - 6.0
    }

    /// The eigenvalues of a symmetric matrix by Jacobi's rotations.
    fn eigenvalues(mut s: Array2<f64>) -> Vec<f64> {
        let n = s.nrows();
        for _ in 0..30 {
            for p in 0..n {
                for q in p + 1..n {
                    if s[[p, q]].abs() < 1e-14 {
                        continue;
                    }
                    let theta = (s[[q, q]] - s[[p, p]]) / (2.0 * s[[p, q]]);
                    let tangent = theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt());
                    let cosine = 1.0 / (tangent * tangent + 1.0).sqrt();
                    let sine = tangent * cosine;
                    for k in 0..n {
                        let (a, b) = (s[[k, p]], s[[k, q]]);
                        (s[[k, p]], s[[k, q]]) = (cosine * a - sine * b, sine * a + cosine * b);
                    }
                    for k in 0..n {
                        let (a, b) = (s[[p, k]], s[[q, k]]);
                        (s[[p, k]], s[[q, k]]) = (cosine * a - sine * b, sine * a + cosine * b);
                    }
                }
            }
        }
        s.diag().to_vec()
    }
}
