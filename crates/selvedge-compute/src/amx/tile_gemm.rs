//! [`TileGemm`]: one block of tiles and the sum that goes into it.

use half::bf16;

use super::Tiles;

/// `C += Σ A · B` for up to 2 × 2 tiles, summed over three nested runs of products. Distances are in bytes.
///
/// A is loaded past the first cache (`tileloaddt1`), which leaves it to B: the first dense layer of `seed` takes a twentieth less.
///
/// The fields are read by the assembly below, at the offsets of their order.
#[repr(C)]
#[derive(Clone, Debug)]
pub(crate) struct TileGemm {
    /// The first A tile of the first product.
    pub a: *const bf16,
    /// The first B tile of the first product.
    pub b: *const bf16,
    /// The first tile of C.
    pub c: *mut f32,
    /// From a row of A to the next.
    pub a_row: usize,
    /// From the first A tile to the second.
    pub a_second: usize,
    /// From the first B tile to the second. Rows of B lie 64 bytes apart.
    pub b_second: usize,
    /// From a row of C to the next.
    pub c_row: usize,
    /// From the C tiles of the first A tile to those of the second.
    pub c_second_a: usize,
    /// From the C tiles of the first B tile to those of the second.
    pub c_second_b: usize,
    /// Whether C holds a sum to be added to; if not, it starts at zero.
    pub add: usize,
    /// Products in the outer, the middle and the inner run, none of them zero.
    pub count: [usize; 3],
    /// What is added to A's position after each product, after the inner run, and after the middle run.
    pub a_step: [isize; 3],
    /// The same for B.
    pub b_step: [isize; 3],
}

impl TileGemm {
    /// Sets the steps from the distances between products of the outer, middle and inner run.
    pub(crate) fn set_runs(&mut self, count: [usize; 3], a: [isize; 3], b: [isize; 3]) {
        let steps = |distance: [isize; 3]| {
            let [outer, middle, inner] = distance;
            let (middles, inners) = (count[1] as isize, count[2] as isize);
            // Each run ends where its last product's step leads; the next level's step makes up for it.
            [inner, middle - inners * inner, outer - middles * middle]
        };
        self.count = count;
        self.a_step = steps(a);
        self.b_step = steps(b);
    }

    /// Runs the job on A_TILES × B_TILES tiles, each 1 or 2.
    ///
    /// # Safety
    /// All elements that the job names must be readable, and those of C writable.
    #[inline(always)]
    pub(crate) unsafe fn run<const A_TILES: usize, const B_TILES: usize>(&self, _: &Tiles) {
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

/// Defines the sum over a block of tiles: what to do with C before and after, and with each product.
macro_rules! sum_of_products {
    ($name:ident, [$($zero:literal),*], [$($load:literal),*], [$($product:literal),*], [$($store:literal),*]) => {
        #[cfg(target_arch = "x86_64")]
        #[inline(always)]
        unsafe fn $name(job: &TileGemm) {
            // SAFETY: the caller of `TileGemm::run` promises that everything the job names may be accessed, and `Tiles`
            // that tiles are configured; the registers used are outputs or clobbers.
            unsafe {
                std::arch::asm!(
                    "mov {c}, [{job} + 16]",
                    "mov {row}, [{job} + 48]",
                    "mov {t}, [{job} + 64]",
                    "cmp qword ptr [{job} + 72], 0",
                    "jne 2f",
                    $($zero,)*
                    "jmp 3f",
                    "2:",
                    $($load,)*
                    "3:",
                    "mov {a}, [{job}]",
                    "mov {b}, [{job} + 8]",
                    "mov {row}, [{job} + 24]",
                    "mov {a2}, [{job} + 32]",
                    "mov {b2}, [{job} + 40]",
                    "mov {s64}, 64",
                    "mov {y}, [{job} + 80]",
                    "4:",
                    "mov {x}, [{job} + 88]",
                    "5:",
                    "mov {k}, [{job} + 96]",
                    "6:",
                    $($product,)*
                    "add {a}, [{job} + 104]",
                    "add {b}, [{job} + 128]",
                    "dec {k}",
                    "jnz 6b",
                    "add {a}, [{job} + 112]",
                    "add {b}, [{job} + 136]",
                    "dec {x}",
                    "jnz 5b",
                    "add {a}, [{job} + 120]",
                    "add {b}, [{job} + 144]",
                    "dec {y}",
                    "jnz 4b",
                    "mov {c}, [{job} + 16]",
                    "mov {row}, [{job} + 48]",
                    "mov {t}, [{job} + 64]",
                    $($store,)*
                    job = in(reg) job,
                    a = out(reg) _, b = out(reg) _, c = out(reg) _, row = out(reg) _, a2 = out(reg) _, b2 = out(reg) _,
                    s64 = out(reg) _, t = out(reg) _, y = out(reg) _, x = out(reg) _, k = out(reg) _,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
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
        "add {c}, {t}",
        "tileloadd tmm1, [{c} + {row}]",
        "sub {c}, {t}",
        "add {c}, [{job} + 56]",
        "tileloadd tmm2, [{c} + {row}]",
        "add {c}, {t}",
        "tileloadd tmm3, [{c} + {row}]"
    ],
    [
        "tileloaddt1 tmm4, [{a} + {row}]",
        "tileloadd tmm6, [{b} + {s64}]",
        "tdpbf16ps tmm0, tmm4, tmm6",
        "lea {t}, [{b} + {b2}]",
        "tileloadd tmm7, [{t} + {s64}]",
        "tdpbf16ps tmm1, tmm4, tmm7",
        "lea {t}, [{a} + {a2}]",
        "tileloaddt1 tmm5, [{t} + {row}]",
        "tdpbf16ps tmm2, tmm5, tmm6",
        "tdpbf16ps tmm3, tmm5, tmm7"
    ],
    [
        "tilestored [{c} + {row}], tmm0",
        "add {c}, {t}",
        "tilestored [{c} + {row}], tmm1",
        "sub {c}, {t}",
        "add {c}, [{job} + 56]",
        "tilestored [{c} + {row}], tmm2",
        "add {c}, {t}",
        "tilestored [{c} + {row}], tmm3"
    ]
);

sum_of_products!(
    run_2x1,
    ["tilezero tmm0", "tilezero tmm2"],
    ["tileloadd tmm0, [{c} + {row}]", "add {c}, [{job} + 56]", "tileloadd tmm2, [{c} + {row}]"],
    [
        "tileloaddt1 tmm4, [{a} + {row}]",
        "tileloadd tmm6, [{b} + {s64}]",
        "tdpbf16ps tmm0, tmm4, tmm6",
        "lea {t}, [{a} + {a2}]",
        "tileloaddt1 tmm5, [{t} + {row}]",
        "tdpbf16ps tmm2, tmm5, tmm6"
    ],
    ["tilestored [{c} + {row}], tmm0", "add {c}, [{job} + 56]", "tilestored [{c} + {row}], tmm2"]
);

sum_of_products!(
    run_1x2,
    ["tilezero tmm0", "tilezero tmm1"],
    ["tileloadd tmm0, [{c} + {row}]", "add {c}, {t}", "tileloadd tmm1, [{c} + {row}]"],
    [
        "tileloaddt1 tmm4, [{a} + {row}]",
        "tileloadd tmm6, [{b} + {s64}]",
        "tdpbf16ps tmm0, tmm4, tmm6",
        "lea {t}, [{b} + {b2}]",
        "tileloadd tmm7, [{t} + {s64}]",
        "tdpbf16ps tmm1, tmm4, tmm7"
    ],
    ["tilestored [{c} + {row}], tmm0", "add {c}, {t}", "tilestored [{c} + {row}], tmm1"]
);

sum_of_products!(
    run_1x1,
    ["tilezero tmm0"],
    ["tileloadd tmm0, [{c} + {row}]"],
    ["tileloaddt1 tmm4, [{a} + {row}]", "tileloadd tmm6, [{b} + {s64}]", "tdpbf16ps tmm0, tmm4, tmm6"],
    ["tilestored [{c} + {row}], tmm0"]
);
