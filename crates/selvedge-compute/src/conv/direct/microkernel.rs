//! The f32 microkernel: it keeps a tile of the output in registers, and reads each operand that is added to it once.
//!
//! Each instruction set has a tile that suits its registers ([`Simd::in_tile`]).

use crate::simd::{Element, Simd};

use crate::conv::panel::{PANEL, column};

/// How a tile walks over A and B: three nested runs of matrix products of `depth` steps.
///
/// Strides are in elements. Those of A may be negative: the data pass reads pixels in descending order.
#[derive(Clone, Copy)]
pub(in crate::conv) struct Walk {
    /// Products in the outer, the middle and the inner run.
    pub count: [usize; 3],
    /// From the A of one product to the next in each run.
    pub a_step: [isize; 3],
    /// From the B of one product to the next in each run.
    pub b_step: [usize; 3],
    /// Steps of each product: channels of a plane, or images.
    pub depth: usize,
    /// From one row of A to the next.
    pub a_row: usize,
    /// From one panel of B to the next. Steps of B are [`PANEL`] apart.
    pub b_panel: usize,
}

/// Steps whose addresses differ by constants. One step at a time, the address arithmetic of 8 rows competes with the FMAs for
/// ports, and all passes are a twentieth to a tenth slower.
const UNROLL: usize = 4;

/// `acc[row][vector] += Σ A[row][step] · B[step][vector]` over the whole walk.
///
/// Steps of A are adjacent if the sum runs over the channels of an image. With ROWS_ADJACENT, it runs over images: steps are
/// [`PANEL`] apart and rows are adjacent.
///
/// # Safety
/// Every element of A and B that the walk visits must be readable: rows 0..ROWS, vectors 0..VECTORS.
#[inline(always)]
pub(in crate::conv) unsafe fn accumulate<
    S: Simd,
    B: Element,
    const ROWS_ADJACENT: bool,
    const ROWS: usize,
    const VECTORS: usize,
>(
    s: S,
    walk: &Walk,
    a: *const f32,
    b: *const B,
    acc: &mut [[S::V; VECTORS]; ROWS],
) {
    let Walk { count, a_step, b_step, depth, a_row, b_panel } = *walk;
    let (a_row, a_depth) = if ROWS_ADJACENT { (1, PANEL) } else { (a_row, 1) };
    let mut sums = *acc;
    let (mut a_outer, mut b_outer) = (a, b);
    for _ in 0..count[0] {
        let (mut a_middle, mut b_middle) = (a_outer, b_outer);
        for _ in 0..count[1] {
            let (mut a_inner, mut b_inner) = (a_middle, b_middle);
            for _ in 0..count[2] {
                // A pointer for every 4 rows: the other three lie one, two and three strides of a register after it.
                let mut rows: [*const f32; ROWS] = std::array::from_fn(|group| a_inner.wrapping_add(4 * group * a_row));
                let mut columns: [*const B; VECTORS] =
                    std::array::from_fn(|v| b_inner.wrapping_add(column::<S>(v, b_panel)));
                for _ in 0..depth / UNROLL {
                    for step in 0..UNROLL {
                        // SAFETY: the caller promises that every element of the walk is readable.
                        unsafe { add_step(s, &rows, a_row, step * a_depth, &columns, step * PANEL, &mut sums) };
                    }
                    rows = rows.map(|row| row.wrapping_add(UNROLL * a_depth));
                    columns = columns.map(|b| b.wrapping_add(UNROLL * PANEL));
                }
                for step in 0..depth % UNROLL {
                    // SAFETY: as above.
                    unsafe { add_step(s, &rows, a_row, step * a_depth, &columns, step * PANEL, &mut sums) };
                }
                a_inner = a_inner.wrapping_offset(a_step[2]);
                b_inner = b_inner.wrapping_add(b_step[2]);
            }
            a_middle = a_middle.wrapping_offset(a_step[1]);
            b_middle = b_middle.wrapping_add(b_step[1]);
        }
        a_outer = a_outer.wrapping_offset(a_step[0]);
        b_outer = b_outer.wrapping_add(b_step[0]);
    }
    *acc = sums;
}

/// One step of the sum, `a_at` and `b_at` elements after the pointers; `groups` has a pointer for every 4 rows.
///
/// # Safety
/// As for [`accumulate`].
#[inline(always)]
unsafe fn add_step<S: Simd, B: Element, const ROWS: usize, const VECTORS: usize>(
    s: S,
    groups: &[*const f32; ROWS],
    a_row: usize,
    a_at: usize,
    columns: &[*const B; VECTORS],
    b_at: usize,
    sums: &mut [[S::V; VECTORS]; ROWS],
) {
    // SAFETY: the caller's promise.
    unsafe {
        let columns = columns.map(|b| B::load(s, b.add(b_at)));
        for (row, sums) in sums.iter_mut().enumerate() {
            let x = s.splat(*groups[row / 4].add(row % 4 * a_row + a_at));
            for (sum, column) in sums.iter_mut().zip(columns) {
                *sum = s.mul_add(x, column, *sum);
            }
        }
    }
}

/// `acc[row][vector] += Σ a[row][step · a_depth] · B[step][vector]`, where each row has its own pointer. `b_steps` are the strides
/// of B from one step to the next, and from one panel to the next.
///
/// # Safety
/// Every element visited must be readable: `depth` steps of each row, and of B.
#[inline(always)]
pub(in crate::conv) unsafe fn accumulate_rows<S: Simd, B: Element, const ROWS: usize, const VECTORS: usize>(
    s: S,
    a: [*const f32; ROWS],
    a_depth: usize,
    b: *const B,
    b_steps: [usize; 2],
    depth: usize,
    acc: &mut [[S::V; VECTORS]; ROWS],
) {
    let mut sums = *acc;
    for step in 0..depth {
        // SAFETY: the caller promises that every step's elements are readable.
        unsafe {
            let mut columns = [s.zero(); VECTORS];
            for (v, c) in columns.iter_mut().enumerate() {
                *c = B::load(s, b.add(step * b_steps[0] + column::<S>(v, b_steps[1])));
            }
            for (row, sums) in sums.iter_mut().enumerate() {
                let x = s.splat(*a[row].add(step * a_depth));
                for v in 0..VECTORS {
                    sums[v] = s.mul_add(x, columns[v], sums[v]);
                }
            }
        }
    }
    *acc = sums;
}
