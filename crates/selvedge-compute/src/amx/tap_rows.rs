//! [`TapRowGemm`]: the gradient of three taps in a row, summed over rows of pixels.

use half::bf16;

use super::sliding::{LEFT, RIGHT};
use super::{Depth, ROW_BYTES, ROWS, Registers, TILE_BYTES, Tiles, keep_alignment};

/// `C(tap) = Σ A(x + tap) · B(x)`, or added to C, for three taps, summed over the pixels of rows of blocks: A is X,
/// 16 channels × 32 images, B is dY, 16 pairs of images × 16 channels. Distances are in bytes; every tile of A and B is one
/// contiguous KiB, and the tiles of a row of pixels follow each other.
///
/// Three products load one tile of A and one of B: A(x − 1) and A(x) are in registers already. Loads of B bypass L1
/// (`tileloaddt1`), where the row of A stays for the next panels of dY and rows of taps: 7 to 35 % faster.
///
/// The assembly below reads the fields.
#[repr(C)]
#[derive(Clone, Debug)]
pub(crate) struct TapRowGemm {
    /// The A tile of the first pixel and tap, which is not read if it is `outside`.
    pub a: *const bf16,
    /// The B tile of the first pixel.
    pub b: *const bf16,
    /// The first tap's tile of C.
    pub c: *mut f32,
    /// From tap to tap of C. Rows of C are [`ROW_BYTES`] apart.
    pub c_tap: usize,
    /// Blocks, rows of pixels, and pixels of a row: the last at least 2, the others at least 1.
    pub count: [usize; 3],
    /// What is added to A's position after a row, and after a block's last row.
    pub a_step: [isize; 2],
    /// The same for B.
    pub b_step: [isize; 2],
    /// [`LEFT`] if the first pixel's first tap lies left of the image, [`RIGHT`] if the last one's last tap lies right of
    /// it; the sum leaves them out.
    pub outside: usize,
    /// The tile of C that a later sum begins with, prefetched two rows at each of the
    /// [`prefetch_points`](Self::prefetch_points).
    pub next_c: *const f32,
    /// Where the prefetching of what later sums read begins.
    pub prefetch: *const u8,
    /// Cache lines to prefetch at each point.
    pub prefetch_lines: usize,
    /// Whether the products are added to what C holds (1) or to zero (0).
    pub add: usize,
    /// Scratch of the assembly: the blocks that remain.
    pub remaining: usize,
}

impl TapRowGemm {
    /// How often a sum prefetches: before each row, and after each group of three pixels that have all taps on the image.
    pub(crate) fn prefetch_points(count: [usize; 3], outside: usize) -> usize {
        let [blocks, rows, pixels] = count;
        let apart = [LEFT, RIGHT].iter().filter(|&side| outside & side > 0).count();
        blocks * rows * (1 + (pixels - apart) / 3)
    }

    /// Computes the sum.
    ///
    /// # Safety
    /// All elements that the fields describe must be readable, and those of C writable.
    #[inline(always)]
    pub(crate) unsafe fn run(&mut self, tiles: &Tiles) {
        tiles.debug_assert_configured(&[Depth::ThirtyTwo], Registers::Square, ROWS);
        debug_assert!(self.count[0] > 0 && self.count[1] > 0 && self.count[2] > 1, "blocks, rows, pixels: {self:?}");
        debug_assert!(self.outside & !(LEFT | RIGHT) == 0, "sides {:#b}", self.outside);
        debug_assert!(self.add <= 1);
        debug_assert!(keep_alignment(ROW_BYTES, &[self.c_tap]), "taps of C: {self:?}");
        let row_steps = [self.a_step[0] as usize, self.b_step[0] as usize];
        debug_assert!(keep_alignment(TILE_BYTES, &row_steps), "rows of A and B: {self:?}");
        // SAFETY: the caller's promise; `Tiles` proves that AMX is there and its tiles are configured.
        unsafe { run(self) }
    }
}

/// Prefetches two rows of each of the next three tiles of C, and `prefetch_lines` lines.
#[cfg(target_arch = "x86_64")]
macro_rules! prefetch_some {
    () => {
        "lea {n}, [{next} + 2 * {tap}]
        prefetcht1 [{next}]
        prefetcht1 [{next} + {ROW_BYTES}]
        prefetcht1 [{next} + {tap}]
        prefetcht1 [{next} + {tap} + {ROW_BYTES}]
        prefetcht1 [{n}]
        prefetcht1 [{n} + {ROW_BYTES}]
        add {next}, 2 * {ROW_BYTES}
        mov {n}, [{gemm} + {PREFETCH_LINES}]
        test {n}, {n}
        jz 9f
        8:
        prefetcht1 [{prefetch}]
        add {prefetch}, {ROW_BYTES}
        dec {n}
        jnz 8b
        9:"
    };
}

#[cfg(target_arch = "x86_64")]
#[inline(never)]
unsafe fn run(gemm: &mut TapRowGemm) {
    use std::mem::offset_of;

    use super::element;

    // SAFETY: the caller of `TapRowGemm::run` promises that everything the fields describe may be accessed, and `Tiles` that
    // tiles are configured; registers that are written are outputs or clobbers.
    unsafe {
        std::arch::asm!(
            "mov {row}, {ROW_BYTES}",
            "mov {c}, [{gemm} + {C}]",
            "mov {tap}, [{gemm} + {C_TAP}]",
            "cmp qword ptr [{gemm} + {ADD}], 0",
            "je 23f",
            "tileloadd tmm0, [{c} + {row}]",
            "add {c}, {tap}",
            "tileloadd tmm1, [{c} + {row}]",
            "add {c}, {tap}",
            "tileloadd tmm2, [{c} + {row}]",
            "jmp 24f",
            "23:",
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "lea {c}, [{c} + 2 * {tap}]",
            "24:",
            "mov {a}, [{gemm} + {A}]",
            "mov {b}, [{gemm} + {B}]",
            "mov {next}, [{gemm} + {NEXT_C}]",
            "mov {prefetch}, [{gemm} + {PREFETCH}]",
            "mov {n}, [{gemm} + {BLOCKS}]",
            "mov [{gemm} + {BLOCKS_REMAINING}], {n}",
            "2:",
            "mov {y}, [{gemm} + {ROWS}]",
            // A row of pixels: A(x − 1) and A(x) in tmm4 and tmm5.
            "3:",
            prefetch_some!(),
            "mov {x}, [{gemm} + {PIXELS}]",
            "mov {at}, {a}",
            "mov {bt}, {b}",
            "test byte ptr [{gemm} + {OUTSIDE}], {LEFT}",
            "jz 4f",
            // The first pixel, whose left tap lies outside.
            "add {at}, {TILE_BYTES}",
            "tileloaddt1 tmm7, [{bt} + {row}]",
            "tileloadd tmm4, [{at} + {row}]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "add {at}, {TILE_BYTES}",
            "tileloadd tmm5, [{at} + {row}]",
            "tdpbf16ps tmm2, tmm5, tmm7",
            "add {bt}, {TILE_BYTES}",
            "dec {x}",
            "jmp 5f",
            "4:",
            "tileloadd tmm4, [{at} + {row}]",
            "add {at}, {TILE_BYTES}",
            "tileloadd tmm5, [{at} + {row}]",
            "5:",
            // The loop leaves out the last pixel if its right tap lies outside.
            "bt dword ptr [{gemm} + {OUTSIDE}], {RIGHT_BIT}",
            "sbb {x}, 0",
            "jz 20f",
            // Three pixels, after which A(x − 1) and A(x) are in tmm4 and tmm5 again.
            "6:",
            "add {at}, {TILE_BYTES}",
            "tileloaddt1 tmm7, [{bt} + {row}]",
            "tdpbf16ps tmm0, tmm4, tmm7",
            "tdpbf16ps tmm1, tmm5, tmm7",
            "tileloadd tmm6, [{at} + {row}]",
            "tdpbf16ps tmm2, tmm6, tmm7",
            "add {bt}, {TILE_BYTES}",
            "dec {x}",
            "jz 21f",
            "add {at}, {TILE_BYTES}",
            "tileloaddt1 tmm7, [{bt} + {row}]",
            "tdpbf16ps tmm0, tmm5, tmm7",
            "tdpbf16ps tmm1, tmm6, tmm7",
            "tileloadd tmm4, [{at} + {row}]",
            "tdpbf16ps tmm2, tmm4, tmm7",
            "add {bt}, {TILE_BYTES}",
            "dec {x}",
            "jz 22f",
            "add {at}, {TILE_BYTES}",
            "tileloaddt1 tmm7, [{bt} + {row}]",
            "tdpbf16ps tmm0, tmm6, tmm7",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{at} + {row}]",
            "tdpbf16ps tmm2, tmm5, tmm7",
            "add {bt}, {TILE_BYTES}",
            prefetch_some!(),
            "dec {x}",
            "jnz 6b",
            // The last pixel without its right tap, for each of the registers that can hold its A.
            "20:",
            "test byte ptr [{gemm} + {OUTSIDE}], {RIGHT}",
            "jz 7f",
            "tileloaddt1 tmm7, [{bt} + {row}]",
            "tdpbf16ps tmm0, tmm4, tmm7",
            "tdpbf16ps tmm1, tmm5, tmm7",
            "jmp 7f",
            "21:",
            "test byte ptr [{gemm} + {OUTSIDE}], {RIGHT}",
            "jz 7f",
            "tileloaddt1 tmm7, [{bt} + {row}]",
            "tdpbf16ps tmm0, tmm5, tmm7",
            "tdpbf16ps tmm1, tmm6, tmm7",
            "jmp 7f",
            "22:",
            "test byte ptr [{gemm} + {OUTSIDE}], {RIGHT}",
            "jz 7f",
            "tileloaddt1 tmm7, [{bt} + {row}]",
            "tdpbf16ps tmm0, tmm6, tmm7",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "7:",
            "add {a}, [{gemm} + {A_ROW_STEP}]",
            "add {b}, [{gemm} + {B_ROW_STEP}]",
            "dec {y}",
            "jnz 3b",
            "add {a}, [{gemm} + {A_BLOCK_STEP}]",
            "add {b}, [{gemm} + {B_BLOCK_STEP}]",
            "dec qword ptr [{gemm} + {BLOCKS_REMAINING}]",
            "jnz 2b",
            "tilestored [{c} + {row}], tmm2",
            "sub {c}, {tap}",
            "tilestored [{c} + {row}], tmm1",
            "sub {c}, {tap}",
            "tilestored [{c} + {row}], tmm0",
            gemm = in(reg) std::ptr::from_mut(gemm),
            a = out(reg) _, b = out(reg) _, c = out(reg) _, at = out(reg) _, bt = out(reg) _, row = out(reg) _,
            tap = out(reg) _, y = out(reg) _, x = out(reg) _,
            n = out(reg) _, next = out(reg) _, prefetch = out(reg) _,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            ROW_BYTES = const ROW_BYTES,
            TILE_BYTES = const TILE_BYTES,
            LEFT = const LEFT,
            RIGHT = const RIGHT,
            RIGHT_BIT = const RIGHT.trailing_zeros(),
            A = const offset_of!(TapRowGemm, a),
            B = const offset_of!(TapRowGemm, b),
            C = const offset_of!(TapRowGemm, c),
            C_TAP = const offset_of!(TapRowGemm, c_tap),
            BLOCKS = const element(offset_of!(TapRowGemm, count), 0),
            ROWS = const element(offset_of!(TapRowGemm, count), 1),
            PIXELS = const element(offset_of!(TapRowGemm, count), 2),
            A_ROW_STEP = const element(offset_of!(TapRowGemm, a_step), 0),
            A_BLOCK_STEP = const element(offset_of!(TapRowGemm, a_step), 1),
            B_ROW_STEP = const element(offset_of!(TapRowGemm, b_step), 0),
            B_BLOCK_STEP = const element(offset_of!(TapRowGemm, b_step), 1),
            OUTSIDE = const offset_of!(TapRowGemm, outside),
            NEXT_C = const offset_of!(TapRowGemm, next_c),
            PREFETCH = const offset_of!(TapRowGemm, prefetch),
            PREFETCH_LINES = const offset_of!(TapRowGemm, prefetch_lines),
            ADD = const offset_of!(TapRowGemm, add),
            BLOCKS_REMAINING = const offset_of!(TapRowGemm, remaining),
            options(nostack),
        );
    }
}

#[cfg(not(target_arch = "x86_64"))]
unsafe fn run(_: &mut TapRowGemm) {
    unreachable!("no Tiles exist without AMX")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the assembly does with a row of pixels, registers and jumps alike.
    struct Walk {
        /// Of each product the column of A, the pixel of B and the tap of C.
        products: Vec<(isize, isize, isize)>,
        prefetches: usize,
    }

    fn walk(pixels: usize, outside: usize) -> Walk {
        let mut walk = Walk { products: vec![], prefetches: 1 };
        // The columns that tmm4 to tmm6 hold, and the pixel whose B is in tmm7.
        let (mut a, mut b, mut at, mut remaining) = ([isize::MIN; 3], 0, -1, pixels);
        if outside & LEFT > 0 {
            a[..2].copy_from_slice(&[at + 1, at + 2]);
            walk.products.extend([(a[0], b, 1), (a[1], b, 2)]);
            (at, b, remaining) = (at + 2, b + 1, remaining - 1);
        } else {
            a[..2].copy_from_slice(&[at, at + 1]);
            at += 1;
        }
        remaining -= usize::from(outside & RIGHT > 0);
        let mut turn = 0;
        while remaining > 0 {
            at += 1;
            let [first, second, third] = [turn, (turn + 1) % 3, (turn + 2) % 3];
            a[third] = at;
            walk.products.extend([(a[first], b, 0), (a[second], b, 1), (a[third], b, 2)]);
            (turn, b, remaining) = (second, b + 1, remaining - 1);
            walk.prefetches += usize::from(turn == 0);
        }
        if outside & RIGHT > 0 {
            walk.products.extend([(a[turn], b, 0), (a[(turn + 1) % 3], b, 1)]);
        }
        walk
    }

    #[test]
    fn rows_meet_every_tap_on_the_image_and_prefetch_at_every_point() {
        for pixels in 2..12 {
            for outside in [0, LEFT, RIGHT, LEFT | RIGHT] {
                let columns = if outside & LEFT > 0 { 0 } else { -1 }..=if outside & RIGHT > 0 {
                    pixels as isize - 1
                } else {
                    pixels as isize
                };
                let expected: Vec<_> = (0..pixels as isize)
                    .flat_map(|x| [0, 1, 2].map(|tap| (x + tap - 1, x, tap)))
                    .filter(|(column, ..)| columns.contains(column))
                    .collect();
                let walk = walk(pixels, outside);
                assert_eq!(walk.products, expected, "{pixels} pixels, sides {outside:#b}");
                assert_eq!(2 * 3 * walk.prefetches, TapRowGemm::prefetch_points([2, 3, pixels], outside));
            }
        }
    }
}
