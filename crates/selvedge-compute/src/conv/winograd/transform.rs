//! The transforms of Winograd's convolutions F(m × m, 3 × 3), one dimension at a time.
//!
//! The m results of a correlation with three weights are coefficients of a product of polynomials, which is determined by its
//! values at m + 1 points and at infinity (Winograd, 1980; Lavin and Gray, 2016, "Fast Algorithms for Convolutional Neural
//! Networks"):
//!
//! ```text
//! y = Aᵀ [ (G g) ⊙ (Bᵀ d) ]     d: m + 2 numbers of the input, g: three weights, y: m results
//! ```
//!
//! With p(x) = Π (x − t) over the points t, row t of Bᵀ holds the coefficients of p(x) / (x − t), the row of infinity those of
//! p(x); row t of G is (1, t, t²) / p′(t); column t of Aᵀ is (1, t, t² …).
//!
//! The points are 0, ±1/√2, ±√2 for m = 4 and 0, ±1/√2, √2 for m = 3. Their products are 1 or close to it, so values neither grow
//! nor cancel much. Measured on 64 channels of post-ReLU input, the root mean square of the error is 6.7e-7 of that of the
//! results for either m. With the usual points 0, ±1, ±2 it is 1.4e-6 for m = 4; a sum without transforms has 3.1e-7.

use std::f32::consts::{FRAC_1_SQRT_2, SQRT_2};

use crate::simd::Simd;

/// The point a = 1/√2.
pub(super) const A: f32 = FRAC_1_SQRT_2;
/// The point b = √2 = 1/a.
pub(super) const B: f32 = SQRT_2;

/// The matrices of F(M, 3), with N = M + 2 points. The gradient of a transform is its transpose.
pub(super) trait Transform<const M: usize, const N: usize> {
    /// Bᵀ
    type Input: Linear<N, N>;
    /// Aᵀ
    type Output: Linear<N, M>;
    /// A
    type OutputGradient: Linear<M, N>;
    /// G
    type Weights: Linear<3, N>;
    /// Gᵀ
    type WeightsGradient: Linear<N, 3>;
}

/// A matrix of TO rows and FROM columns.
pub(super) trait Linear<const FROM: usize, const TO: usize> {
    /// The product of the matrix with `x`; mark the implementation `#[inline(always)]`.
    fn times<S: Simd>(s: S, x: [S::V; FROM]) -> [S::V; TO];
}

/// The vectors of a square tile, in memory.
pub(super) trait Tile {
    /// Loads the vector in `row` and `column`; mark the implementation `#[inline(always)]`.
    ///
    /// # Safety
    /// It must be readable.
    unsafe fn load<S: Simd>(&self, s: S, row: usize, column: usize) -> S::V;
}

/// Vectors at constant strides: `steps` are the elements from row to row and from column to column.
#[derive(Clone, Copy)]
pub(super) struct Strided {
    pub first: *const f32,
    pub steps: [isize; 2],
}

impl Strided {
    /// The tile `elements` elements after this one.
    pub(super) fn offset_by(self, elements: usize) -> Self {
        Self { first: self.first.wrapping_add(elements), ..self }
    }
}

impl Tile for Strided {
    #[inline(always)]
    unsafe fn load<S: Simd>(&self, s: S, row: usize, column: usize) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { s.load(self.first.offset(row as isize * self.steps[0] + column as isize * self.steps[1])) }
    }
}

/// L X Lᵀ of a tile X. The columns are transformed first, each as it is loaded.
///
/// # Safety
/// FROM × FROM vectors of the tile must be readable.
#[inline(always)]
pub(super) unsafe fn both<S: Simd, L: Linear<FROM, TO>, const FROM: usize, const TO: usize>(
    s: S,
    tile: &impl Tile,
) -> [[S::V; TO]; TO] {
    // No closures: the compiler inlines vector operations only into functions marked `#[inline(always)]`.
    let mut columns = [[s.zero(); TO]; FROM];
    for (column, transformed) in columns.iter_mut().enumerate() {
        let mut x = [s.zero(); FROM];
        for (row, x) in x.iter_mut().enumerate() {
            // SAFETY: the caller's promise.
            *x = unsafe { tile.load(s, row, column) };
        }
        *transformed = L::times(s, x);
    }
    let mut both = [[s.zero(); TO]; TO];
    for (row, both) in both.iter_mut().enumerate() {
        let mut x = [s.zero(); FROM];
        for (x, column) in x.iter_mut().zip(&columns) {
            *x = column[row];
        }
        *both = L::times(s, x);
    }
    both
}

/// (x + y, x − y)
#[inline(always)]
pub(super) fn sum_and_difference<S: Simd>(s: S, x: S::V, y: S::V) -> (S::V, S::V) {
    (s.add(x, y), s.sub(x, y))
}

/// c · x
#[inline(always)]
pub(super) fn scaled<S: Simd>(s: S, c: f32, x: S::V) -> S::V {
    s.mul(s.splat(c), x)
}

/// c · x + y
#[inline(always)]
pub(super) fn scaled_plus<S: Simd>(s: S, c: f32, x: S::V, y: S::V) -> S::V {
    s.mul_add(s.splat(c), x, y)
}

/// even ± c · odd: the values at two points that differ in sign.
#[inline(always)]
pub(super) fn plus_and_minus<S: Simd>(s: S, c: f32, odd: S::V, even: S::V) -> [S::V; 2] {
    [scaled_plus(s, c, odd, even), scaled_plus(s, -c, odd, even)]
}
