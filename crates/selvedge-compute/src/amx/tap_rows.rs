//! [`TapRowGemm`]: the gradient of three taps in a row, summed over rows of pixels.

use half::bf16;

use super::Tiles;
use super::sliding::{LEFT, RIGHT};

/// `C(tap) = Σ A(x + tap) · B(x)`, or added to C, for three taps, summed over the pixels of rows of blocks: A is X,
/// 16 channels × 32 images, B is dY, 16 pairs of images × 16 channels. Distances are in bytes; every tile is 1 KiB in one
/// piece, and the tiles of a row of pixels follow each other.
///
/// For three products, one tile of A and one of B are loaded: A(x − 1) and A(x) were met before. B goes past the first cache
/// (`tileloaddt1`), where the row of A stays for the panels of dY and the rows of taps that it meets next: 7 to 35 % faster.
///
/// The fields are read by the assembly below, at the offsets of their order.
#[repr(C)]
#[derive(Clone, Debug)]
pub(crate) struct TapRowGemm {
    /// The A tile of the first pixel and tap, which is not read if it is outside.
    pub a: *const bf16,
    /// The B tile of the first pixel.
    pub b: *const bf16,
    /// The first tap's tile of C.
    pub c: *mut f32,
    /// From tap to tap of C. Rows of C lie 64 bytes apart.
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
    /// The tile of C that a later sum begins with, which is asked for as far as there are [`points`](Self::points).
    pub next_c: *const f32,
    /// Where the memory that later sums read begins, and how many lines of 64 bytes are asked for at each point.
    pub ahead: *const u8,
    pub lines: usize,
    /// Whether the sum is added to what C holds, or overwrites it: 1 or 0.
    pub add: usize,
    /// Blocks that are left, which the assembly keeps here.
    pub left: usize,
}

impl TapRowGemm {
    /// How often a sum asks for memory: before each row and after three pixels of it.
    pub(crate) fn points(count: [usize; 3], outside: usize) -> usize {
        let [blocks, rows, pixels] = count;
        let apart = [LEFT, RIGHT].iter().filter(|&side| outside & side > 0).count();
        blocks * rows * (1 + (pixels - apart) / 3)
    }

    /// Runs the sum.
    ///
    /// # Safety
    /// All elements that the fields name must be readable, those of C writable, and every tile of 16 rows of 64 bytes.
    #[inline(always)]
    pub(crate) unsafe fn run(&mut self, _: &Tiles) {
        debug_assert!(self.count[0] > 0 && self.count[1] > 0 && self.count[2] > 1);
        debug_assert!(self.outside & !(LEFT | RIGHT) == 0);
        // SAFETY: the caller's promise; `Tiles` proves that AMX is there and its tiles are configured.
        unsafe { run(self) }
    }
}

/// Two lines of each tile of the next C, and some of the memory ahead.
#[cfg(target_arch = "x86_64")]
macro_rules! ask_for_lines {
    () => {
        "lea {n}, [{next} + 2 * {tap}]
        prefetcht1 [{next}]
        prefetcht1 [{next} + 64]
        prefetcht1 [{next} + {tap}]
        prefetcht1 [{next} + {tap} + 64]
        prefetcht1 [{n}]
        prefetcht1 [{n} + 64]
        add {next}, 128
        mov {n}, [{taps} + 112]
        test {n}, {n}
        jz 9f
        8:
        prefetcht1 [{ahead}]
        add {ahead}, 64
        dec {n}
        jnz 8b
        9:"
    };
}

#[cfg(target_arch = "x86_64")]
#[inline(never)]
unsafe fn run(taps: &mut TapRowGemm) {
    // SAFETY: the caller of `TapRowGemm::run` promises that everything the taps name may be accessed, and `Tiles` that tiles are
    // configured; the registers used are outputs or clobbers.
    unsafe {
        std::arch::asm!(
            "mov {s64}, 64",
            "mov {c}, [{taps} + 16]",
            "mov {tap}, [{taps} + 24]",
            "cmp qword ptr [{taps} + 120], 0",
            "je 23f",
            "tileloadd tmm0, [{c} + {s64}]",
            "add {c}, {tap}",
            "tileloadd tmm1, [{c} + {s64}]",
            "add {c}, {tap}",
            "tileloadd tmm2, [{c} + {s64}]",
            "jmp 24f",
            "23:",
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "lea {c}, [{c} + 2 * {tap}]",
            "24:",
            "mov {a}, [{taps}]",
            "mov {b}, [{taps} + 8]",
            "mov {next}, [{taps} + 96]",
            "mov {ahead}, [{taps} + 104]",
            "mov {n}, [{taps} + 32]",
            "mov [{taps} + 128], {n}",
            "2:",
            "mov {y}, [{taps} + 40]",
            // A row: A(x − 1) and A(x) in tmm4 and tmm5.
            "3:",
            ask_for_lines!(),
            "mov {x}, [{taps} + 48]",
            "mov {at}, {a}",
            "mov {bt}, {b}",
            "test byte ptr [{taps} + 88], 1",
            "jz 4f",
            // The first pixel, whose left tap is outside.
            "add {at}, 1024",
            "tileloaddt1 tmm7, [{bt} + {s64}]",
            "tileloadd tmm4, [{at} + {s64}]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "add {at}, 1024",
            "tileloadd tmm5, [{at} + {s64}]",
            "tdpbf16ps tmm2, tmm5, tmm7",
            "add {bt}, 1024",
            "dec {x}",
            "jmp 5f",
            "4:",
            "tileloadd tmm4, [{at} + {s64}]",
            "add {at}, 1024",
            "tileloadd tmm5, [{at} + {s64}]",
            "5:",
            // The last pixel is apart if its right tap is outside.
            "bt dword ptr [{taps} + 88], 1",
            "sbb {x}, 0",
            "jz 20f",
            // Three pixels, after which the registers' turns begin again.
            "6:",
            "add {at}, 1024",
            "tileloaddt1 tmm7, [{bt} + {s64}]",
            "tdpbf16ps tmm0, tmm4, tmm7",
            "tdpbf16ps tmm1, tmm5, tmm7",
            "tileloadd tmm6, [{at} + {s64}]",
            "tdpbf16ps tmm2, tmm6, tmm7",
            "add {bt}, 1024",
            "dec {x}",
            "jz 21f",
            "add {at}, 1024",
            "tileloaddt1 tmm7, [{bt} + {s64}]",
            "tdpbf16ps tmm0, tmm5, tmm7",
            "tdpbf16ps tmm1, tmm6, tmm7",
            "tileloadd tmm4, [{at} + {s64}]",
            "tdpbf16ps tmm2, tmm4, tmm7",
            "add {bt}, 1024",
            "dec {x}",
            "jz 22f",
            "add {at}, 1024",
            "tileloaddt1 tmm7, [{bt} + {s64}]",
            "tdpbf16ps tmm0, tmm6, tmm7",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{at} + {s64}]",
            "tdpbf16ps tmm2, tmm5, tmm7",
            "add {bt}, 1024",
            ask_for_lines!(),
            "dec {x}",
            "jnz 6b",
            // The last pixel, by whose turn it is.
            "20:",
            "test byte ptr [{taps} + 88], 2",
            "jz 7f",
            "tileloaddt1 tmm7, [{bt} + {s64}]",
            "tdpbf16ps tmm0, tmm4, tmm7",
            "tdpbf16ps tmm1, tmm5, tmm7",
            "jmp 7f",
            "21:",
            "test byte ptr [{taps} + 88], 2",
            "jz 7f",
            "tileloaddt1 tmm7, [{bt} + {s64}]",
            "tdpbf16ps tmm0, tmm5, tmm7",
            "tdpbf16ps tmm1, tmm6, tmm7",
            "jmp 7f",
            "22:",
            "test byte ptr [{taps} + 88], 2",
            "jz 7f",
            "tileloaddt1 tmm7, [{bt} + {s64}]",
            "tdpbf16ps tmm0, tmm6, tmm7",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "7:",
            "add {a}, [{taps} + 56]",
            "add {b}, [{taps} + 72]",
            "dec {y}",
            "jnz 3b",
            "add {a}, [{taps} + 64]",
            "add {b}, [{taps} + 80]",
            "dec qword ptr [{taps} + 128]",
            "jnz 2b",
            "tilestored [{c} + {s64}], tmm2",
            "sub {c}, {tap}",
            "tilestored [{c} + {s64}], tmm1",
            "sub {c}, {tap}",
            "tilestored [{c} + {s64}], tmm0",
            taps = in(reg) std::ptr::from_mut(taps),
            a = out(reg) _, b = out(reg) _, c = out(reg) _, at = out(reg) _, bt = out(reg) _, s64 = out(reg) _,
            tap = out(reg) _, y = out(reg) _, x = out(reg) _,
            n = out(reg) _, next = out(reg) _, ahead = out(reg) _,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}

#[cfg(not(target_arch = "x86_64"))]
unsafe fn run(_: &mut TapRowGemm) {
    unreachable!("no Tiles exist without AMX")
}
