//! [`TileGemm`]: a sum of tile products in up to 2 × 2 tiles, for whatever walk over A and B a caller sets.

use half::bf16;

use super::{Depth, ROW_BYTES, Registers, Tiles, keep_alignment};

/// `C += Σ A · B` for up to 2 × 2 tiles, summed over three nested loops of products. Distances are in bytes.
///
/// Loads of A bypass L1 (`tileloaddt1`), which leaves it to B: the first dense layer of `seed` takes a twentieth less time.
///
/// The assembly below reads the fields.
#[repr(C)]
#[derive(Clone, Debug)]
pub(crate) struct TileGemm {
    /// The first A tile of the first product.
    pub a: *const bf16,
    /// The first B tile of the first product.
    pub b: *const bf16,
    /// The first tile of C.
    pub c: *mut f32,
    /// From one row of A to the next.
    pub a_row: usize,
    /// From the first A tile to the second.
    pub a_second: usize,
    /// From the first B tile to the second. Rows of B are [`ROW_BYTES`] apart.
    pub b_second: usize,
    /// From one row of C to the next.
    pub c_row: usize,
    /// From the C tiles of the first A tile to those of the second.
    pub c_second_a: usize,
    /// From the C tiles of the first B tile to those of the second.
    pub c_second_b: usize,
    /// Whether the products are added to what C holds (1) or to zero (0).
    pub add: usize,
    /// Products in the outer, the middle and the inner loop, none of them zero.
    pub count: [usize; 3],
    /// What is added to A's position after each product, after the inner loop, and after the middle loop.
    pub a_step: [isize; 3],
    /// The same for B.
    pub b_step: [isize; 3],
}

impl TileGemm {
    /// Sets the steps from the distances between products of the outer, middle and inner loop.
    pub(crate) fn set_runs(&mut self, count: [usize; 3], a: [isize; 3], b: [isize; 3]) {
        let steps = |distance: [isize; 3]| {
            let [outer, middle, inner] = distance;
            let (middles, inners) = (count[1] as isize, count[2] as isize);
            // A loop leaves the position one step past its last product; the next level's step makes up for it.
            [inner, middle - inners * inner, outer - middles * middle]
        };
        self.count = count;
        self.a_step = steps(a);
        self.b_step = steps(b);
    }

    /// Computes the sum for A_TILES × B_TILES tiles, each 1 or 2.
    ///
    /// # Safety
    /// All elements that the fields describe must be readable, and those of C writable.
    #[inline(always)]
    pub(crate) unsafe fn run<const A_TILES: usize, const B_TILES: usize>(&self, tiles: &Tiles) {
        tiles.debug_assert_configured(&[Depth::Sixteen, Depth::ThirtyTwo], Registers::Square, 1);
        debug_assert!(self.count.iter().all(|&count| count > 0), "a loop without products: {self:?}");
        debug_assert!(self.add <= 1);
        debug_assert!(keep_alignment(ROW_BYTES / 2, &[self.a_row, self.a_second]), "strides of A: {self:?}");
        let strides = [self.b_second, self.c_row, self.c_second_a, self.c_second_b];
        debug_assert!(keep_alignment(ROW_BYTES, &strides), "strides of B and C: {self:?}");
        // SAFETY: the caller's promise; `Tiles` proves that AMX is there and its tiles are configured.
        unsafe {
            match (A_TILES, B_TILES) {
                (2, 2) => run_2x2(self),
                (2, 1) => run_2x1(self),
                (1, 2) => run_1x2(self),
                _ => run_1x1(self),
            }
        }
    }
}

/// Defines the sum for a block of tiles: how C is zeroed or loaded, the products of a step, and how C is stored.
macro_rules! sum_of_products {
    ($name:ident, [$($zero:literal),*], [$($load:literal),*], [$($product:literal),*], [$($store:literal),*]) => {
        #[cfg(target_arch = "x86_64")]
        #[inline(always)]
        unsafe fn $name(gemm: &TileGemm) {
            use std::mem::offset_of;

            use super::element;

            // SAFETY: the caller of `TileGemm::run` promises that everything the fields describe may be accessed, and
            // `Tiles` that tiles are configured; registers that are written are outputs or clobbers.
            unsafe {
                std::arch::asm!(
                    "mov {c}, [{gemm} + {C}]",
                    "mov {row}, [{gemm} + {C_ROW}]",
                    "mov {tmp}, [{gemm} + {C_SECOND_B}]",
                    "cmp qword ptr [{gemm} + {ADD}], 0",
                    "jne 2f",
                    $($zero,)*
                    "jmp 3f",
                    "2:",
                    $($load,)*
                    "3:",
                    "mov {a}, [{gemm} + {A}]",
                    "mov {b}, [{gemm} + {B}]",
                    "mov {row}, [{gemm} + {A_ROW}]",
                    "mov {a2}, [{gemm} + {A_SECOND}]",
                    "mov {b2}, [{gemm} + {B_SECOND}]",
                    "mov {b_row}, {ROW_BYTES}",
                    "mov {outer}, [{gemm} + {OUTER}]",
                    "4:",
                    "mov {middle}, [{gemm} + {MIDDLE}]",
                    "5:",
                    "mov {inner}, [{gemm} + {INNER}]",
                    "6:",
                    $($product,)*
                    "add {a}, [{gemm} + {A_INNER}]",
                    "add {b}, [{gemm} + {B_INNER}]",
                    "dec {inner}",
                    "jnz 6b",
                    "add {a}, [{gemm} + {A_MIDDLE}]",
                    "add {b}, [{gemm} + {B_MIDDLE}]",
                    "dec {middle}",
                    "jnz 5b",
                    "add {a}, [{gemm} + {A_OUTER}]",
                    "add {b}, [{gemm} + {B_OUTER}]",
                    "dec {outer}",
                    "jnz 4b",
                    "mov {c}, [{gemm} + {C}]",
                    "mov {row}, [{gemm} + {C_ROW}]",
                    "mov {tmp}, [{gemm} + {C_SECOND_B}]",
                    $($store,)*
                    // `asm!` refuses an operand that no line names, and with one A tile no other line names this one.
                    "/* {C_SECOND_A} */",
                    gemm = in(reg) gemm,
                    a = out(reg) _, b = out(reg) _, c = out(reg) _, row = out(reg) _, a2 = out(reg) _, b2 = out(reg) _,
                    b_row = out(reg) _, tmp = out(reg) _, outer = out(reg) _, middle = out(reg) _, inner = out(reg) _,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    ROW_BYTES = const ROW_BYTES,
                    A = const offset_of!(TileGemm, a),
                    B = const offset_of!(TileGemm, b),
                    C = const offset_of!(TileGemm, c),
                    A_ROW = const offset_of!(TileGemm, a_row),
                    A_SECOND = const offset_of!(TileGemm, a_second),
                    B_SECOND = const offset_of!(TileGemm, b_second),
                    C_ROW = const offset_of!(TileGemm, c_row),
                    C_SECOND_A = const offset_of!(TileGemm, c_second_a),
                    C_SECOND_B = const offset_of!(TileGemm, c_second_b),
                    ADD = const offset_of!(TileGemm, add),
                    OUTER = const element(offset_of!(TileGemm, count), 0),
                    MIDDLE = const element(offset_of!(TileGemm, count), 1),
                    INNER = const element(offset_of!(TileGemm, count), 2),
                    A_INNER = const element(offset_of!(TileGemm, a_step), 0),
                    A_MIDDLE = const element(offset_of!(TileGemm, a_step), 1),
                    A_OUTER = const element(offset_of!(TileGemm, a_step), 2),
                    B_INNER = const element(offset_of!(TileGemm, b_step), 0),
                    B_MIDDLE = const element(offset_of!(TileGemm, b_step), 1),
                    B_OUTER = const element(offset_of!(TileGemm, b_step), 2),
                    options(nostack),
                );
            }
        }

        #[cfg(not(target_arch = "x86_64"))]
        unsafe fn $name(_: &TileGemm) {
            unreachable!("no Tiles exist without AMX")
        }
    };
}

sum_of_products!(
    run_2x2,
    ["tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3"],
    [
        "tileloadd tmm0, [{c} + {row}]",
        "add {c}, {tmp}",
        "tileloadd tmm1, [{c} + {row}]",
        "sub {c}, {tmp}",
        "add {c}, [{gemm} + {C_SECOND_A}]",
        "tileloadd tmm2, [{c} + {row}]",
        "add {c}, {tmp}",
        "tileloadd tmm3, [{c} + {row}]"
    ],
    [
        "tileloaddt1 tmm4, [{a} + {row}]",
        "tileloadd tmm6, [{b} + {b_row}]",
        "tdpbf16ps tmm0, tmm4, tmm6",
        "lea {tmp}, [{b} + {b2}]",
        "tileloadd tmm7, [{tmp} + {b_row}]",
        "tdpbf16ps tmm1, tmm4, tmm7",
        "lea {tmp}, [{a} + {a2}]",
        "tileloaddt1 tmm5, [{tmp} + {row}]",
        "tdpbf16ps tmm2, tmm5, tmm6",
        "tdpbf16ps tmm3, tmm5, tmm7"
    ],
    [
        "tilestored [{c} + {row}], tmm0",
        "add {c}, {tmp}",
        "tilestored [{c} + {row}], tmm1",
        "sub {c}, {tmp}",
        "add {c}, [{gemm} + {C_SECOND_A}]",
        "tilestored [{c} + {row}], tmm2",
        "add {c}, {tmp}",
        "tilestored [{c} + {row}], tmm3"
    ]
);

sum_of_products!(
    run_2x1,
    ["tilezero tmm0", "tilezero tmm2"],
    ["tileloadd tmm0, [{c} + {row}]", "add {c}, [{gemm} + {C_SECOND_A}]", "tileloadd tmm2, [{c} + {row}]"],
    [
        "tileloaddt1 tmm4, [{a} + {row}]",
        "tileloadd tmm6, [{b} + {b_row}]",
        "tdpbf16ps tmm0, tmm4, tmm6",
        "lea {tmp}, [{a} + {a2}]",
        "tileloaddt1 tmm5, [{tmp} + {row}]",
        "tdpbf16ps tmm2, tmm5, tmm6"
    ],
    ["tilestored [{c} + {row}], tmm0", "add {c}, [{gemm} + {C_SECOND_A}]", "tilestored [{c} + {row}], tmm2"]
);

sum_of_products!(
    run_1x2,
    ["tilezero tmm0", "tilezero tmm1"],
    ["tileloadd tmm0, [{c} + {row}]", "add {c}, {tmp}", "tileloadd tmm1, [{c} + {row}]"],
    [
        "tileloaddt1 tmm4, [{a} + {row}]",
        "tileloadd tmm6, [{b} + {b_row}]",
        "tdpbf16ps tmm0, tmm4, tmm6",
        "lea {tmp}, [{b} + {b2}]",
        "tileloadd tmm7, [{tmp} + {b_row}]",
        "tdpbf16ps tmm1, tmm4, tmm7"
    ],
    ["tilestored [{c} + {row}], tmm0", "add {c}, {tmp}", "tilestored [{c} + {row}], tmm1"]
);

sum_of_products!(
    run_1x1,
    ["tilezero tmm0"],
    ["tileloadd tmm0, [{c} + {row}]"],
    ["tileloaddt1 tmm4, [{a} + {row}]", "tileloadd tmm6, [{b} + {b_row}]", "tdpbf16ps tmm0, tmm4, tmm6"],
    ["tilestored [{c} + {row}], tmm0"]
);

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes from A's and B's first tiles at which the assembly loads tiles, product by product.
    fn walk(gemm: &TileGemm) -> Vec<(isize, isize)> {
        let (mut a, mut b, mut visited) = (0, 0, vec![]);
        for _ in 0..gemm.count[0] {
            for _ in 0..gemm.count[1] {
                for _ in 0..gemm.count[2] {
                    visited.push((a, b));
                    a += gemm.a_step[0];
                    b += gemm.b_step[0];
                }
                a += gemm.a_step[1];
                b += gemm.b_step[1];
            }
            a += gemm.a_step[2];
            b += gemm.b_step[2];
        }
        visited
    }

    #[test]
    fn steps_visit_every_product_in_order() {
        for (count, a, b) in [
            ([1, 1, 1], [0; 3], [0; 3]),
            ([3, 2, 4], [8192, 1024, 64], [3 * 2048, 512, 128]),
            // B runs backwards, as in the data pass, and A repeats.
            ([2, 3, 1], [-4096, 0, 64], [4096, -1024, 32]),
            ([1, 5, 2], [7, 4096, -64], [0, -64, 1 << 20]),
        ] {
            let mut gemm = TileGemm {
                a: std::ptr::null(),
                b: std::ptr::null(),
                c: std::ptr::null_mut(),
                a_row: 0,
                a_second: 0,
                b_second: 0,
                c_row: 0,
                c_second_a: 0,
                c_second_b: 0,
                add: 0,
                count: [0; 3],
                a_step: [0; 3],
                b_step: [0; 3],
            };
            gemm.set_runs(count, a, b);
            let mut expected = vec![];
            for [outer, middle, inner] in (0..count[0]).flat_map(|outer| {
                (0..count[1]).flat_map(move |middle| (0..count[2]).map(move |inner| [outer, middle, inner]))
            }) {
                let at = |d: [isize; 3]| outer as isize * d[0] + middle as isize * d[1] + inner as isize * d[2];
                expected.push((at(a), at(b)));
            }
            assert_eq!(walk(&gemm), expected, "{count:?}");
        }
    }
}
