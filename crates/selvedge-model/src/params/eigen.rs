//! [`eigenpairs`]: eigenvalues and eigenvectors of a small symmetric matrix, by Jacobi rotations.
//!
//! Cyclic Jacobi (Golub and Van Loan, Matrix Computations, section 8.5): a rotation in the plane of two coordinates makes the
//! element that they share zero; going over all pairs again and again, what is left beside the diagonal falls quadratically. It
//! takes a few times n³ operations, exact to rounding also for small eigenvalues, and needs nothing but the four operations and
//! square roots, which are rounded alike on every machine.

/// An eigenvalue with its eigenvector of length 1.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Eigenpair {
    pub value: f64,
    /// Its component of largest magnitude is positive.
    pub vector: Vec<f64>,
}

/// Sweeps over all pairs at most; matrices of a thousand rows take about ten.
const MAX_SWEEPS: usize = 50;

/// The eigenpairs of a symmetric matrix of `n` rows, given row after row; the largest eigenvalue first. Those of a matrix with NaN
/// or infinity mean nothing.
pub(crate) fn eigenpairs(mut matrix: Vec<f64>, n: usize) -> Vec<Eigenpair> {
    assert_eq!(matrix.len(), n * n, "numbers of a matrix of {n} rows");
    // Rows are the eigenvectors in the end.
    let mut vectors: Vec<Vec<f64>> = (0..n).map(|i| (0..n).map(|j| f64::from(u8::from(i == j))).collect()).collect();
    for _ in 0..MAX_SWEEPS {
        let mut rotated = false;
        for p in 0..n {
            for q in p + 1..n {
                let [diagonal_p, diagonal_q, shared] = [matrix[p * n + p], matrix[q * n + q], matrix[p * n + q]];
                // Beyond this it changes no bit of the eigenvalues.
                if shared.abs() > f64::EPSILON * f64::EPSILON * (diagonal_p.abs() + diagonal_q.abs()) {
                    let rotation = Rotation::that_clears(shared, diagonal_p, diagonal_q);
                    rotation.apply(&mut matrix, n, [p, q]);
                    let (before, after) = vectors.split_at_mut(q);
                    before[p].iter_mut().zip(&mut after[0]).for_each(|(x, y)| rotation.turn(x, y));
                    rotated = true;
                }
            }
        }
        if !rotated {
            break;
        }
    }
    let value = |(i, vector)| Eigenpair { value: matrix[i * n + i], vector: with_sign(vector) };
    let mut pairs: Vec<Eigenpair> = vectors.into_iter().enumerate().map(value).collect();
    pairs.sort_by(|a, b| b.value.total_cmp(&a.value));
    pairs
}

/// A rotation in the plane of two coordinates.
#[derive(Clone, Copy)]
struct Rotation {
    cosine: f64,
    sine: f64,
}

impl Rotation {
    /// The smaller of the two rotations that make the element `shared` of p and q zero.
    fn that_clears(shared: f64, diagonal_p: f64, diagonal_q: f64) -> Self {
        let cotangent = (diagonal_q - diagonal_p) / (2.0 * shared);
        let tangent = cotangent.signum() / (cotangent.abs() + (cotangent * cotangent + 1.0).sqrt());
        let cosine = 1.0 / (tangent * tangent + 1.0).sqrt();
        Self { cosine, sine: tangent * cosine }
    }

    fn turn(self, x: &mut f64, y: &mut f64) {
        (*x, *y) = (self.cosine * *x - self.sine * *y, self.sine * *x + self.cosine * *y);
    }

    /// Rotates the columns, then the rows, p and q of the matrix.
    fn apply(self, matrix: &mut [f64], n: usize, [p, q]: [usize; 2]) {
        for row in matrix.chunks_exact_mut(n) {
            let (before, after) = row.split_at_mut(q);
            self.turn(&mut before[p], &mut after[0]);
        }
        let (before, after) = matrix.split_at_mut(q * n);
        before[p * n..][..n].iter_mut().zip(&mut after[..n]).for_each(|(x, y)| self.turn(x, y));
        matrix[p * n + q] = 0.0;
        matrix[q * n + p] = 0.0;
    }
}

/// The vector with its component of largest magnitude, the first of equal ones, made positive.
fn with_sign(mut vector: Vec<f64>) -> Vec<f64> {
    let largest = vector.iter().fold(0.0f64, |largest, x| if x.abs() > largest.abs() { *x } else { largest });
    if largest < 0.0 {
        vector.iter_mut().for_each(|x| *x = -*x);
    }
    vector
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn pairs_satisfy_their_definition(n in 1usize..12, numbers in proptest::collection::vec(-1.0f64..1.0, 144), rank in 1usize..12) {
            // X Xᵀ has at most the rank of X; then zero is an eigenvalue.
            let x = |i: usize, k: usize| numbers[i * 12 + k];
            let matrix: Vec<f64> = (0..n * n).map(|at| (0..rank).map(|k| x(at / n, k) * x(at % n, k)).sum()).collect();
            let pairs = eigenpairs(matrix.clone(), n);
            let norm = matrix.iter().map(|x| x * x).sum::<f64>().sqrt();
            for (number, Eigenpair { value, vector }) in pairs.iter().enumerate() {
                for (row, component) in matrix.chunks(n).zip(vector) {
                    let product: f64 = row.iter().zip(vector).map(|(a, b)| a * b).sum();
                    prop_assert!((product - value * component).abs() < 1e-14 * norm.max(1.0), "{} {}", product, value * component);
                }
                for (other, pair) in pairs.iter().enumerate() {
                    let product: f64 = vector.iter().zip(&pair.vector).map(|(a, b)| a * b).sum();
                    prop_assert!((product - f64::from(u8::from(number == other))).abs() < 1e-14);
                }
                let largest = vector.iter().copied().fold(0.0f64, |a, b| if b.abs() > a.abs() { b } else { a });
                prop_assert!(largest > 0.0);
            }
            prop_assert!(pairs.is_sorted_by(|a, b| a.value >= b.value));
        }
    }

    #[test]
    fn numbers_that_are_not_finite_end() {
        assert!(eigenpairs(vec![f64::NAN; 9], 3).iter().any(|pair| pair.value.is_nan()));
        assert_eq!(eigenpairs(vec![f64::INFINITY; 4], 2).len(), 2);
    }

    #[test]
    fn a_matrix_by_hand() {
        // 2 1 / 1 2 has the eigenvalues 3 and 1, of (1, 1) and (1, -1).
        let pairs = eigenpairs(vec![2.0, 1.0, 1.0, 2.0], 2);
        let half = 0.5f64.sqrt();
        for (pair, (value, vector)) in pairs.iter().zip([(3.0, [half, half]), (1.0, [half, -half])]) {
            assert!((pair.value - value).abs() < 1e-15);
            assert!(pair.vector.iter().zip(vector).all(|(a, b)| (a.abs() - b.abs()).abs() < 1e-15), "{pair:?}");
        }
        assert_eq!(eigenpairs(vec![0.0; 9], 3)[0].value, 0.0);
    }
}
