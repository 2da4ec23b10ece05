//! [`forward`] and [`add`]: the products of the layer next to the input, whose A are windows of 4x4 pixels.
//!
//! Four tiles of B share one of A: those of a window's four pixels.

use half::bf16;

use super::{ROWS, Tiles};

/// Pixels that are pooled into one, each with a tile of B and of C.
pub(crate) const PIXELS: usize = 4;
/// Elements of a C tile.
pub(crate) const TILE: usize = ROWS * ROWS;

/// `C(pixel) = A · B(pixel)` for four pixels and `halves` times 16 images: A is one window, 16 numbers of one image after the
/// other, B four tiles of 8 pairs of these numbers × 16 channels, C `[half][pixel]`, tiles of images × 16 channels. All lie in
/// one piece.
///
/// To keep B in registers takes a tenth less than to load it for each half: what tiles cost here is the number of instructions.
///
/// # Safety
/// `halves`, at least one, times 16 rows of A and the four tiles of B must be readable, C writable. The tiles are configured with
/// a depth of 16 steps in tmm3 as A and tmm4 to tmm7 as B.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) unsafe fn forward(_: &Tiles, halves: usize, a: *const bf16, b: *const bf16, c: *mut f32) {
    debug_assert!(halves > 0);
    // SAFETY: the caller's promise; `Tiles` proves that AMX is there and its tiles are configured.
    unsafe {
        std::arch::asm!(
            "tileloadd tmm4, [{b} + {s64}]",
            "tileloadd tmm5, [{b} + {s64} + 512]",
            "tileloadd tmm6, [{b} + {s64} + 1024]",
            "tileloadd tmm7, [{b} + {s64} + 1536]",
            "2:",
            "tileloadd tmm3, [{a} + {s32}]",
            "tilezero tmm0",
            "tdpbf16ps tmm0, tmm3, tmm4",
            "tilezero tmm1",
            "tdpbf16ps tmm1, tmm3, tmm5",
            "tilezero tmm2",
            "tdpbf16ps tmm2, tmm3, tmm6",
            "tilestored [{c} + {s64}], tmm0",
            "tilezero tmm0",
            "tdpbf16ps tmm0, tmm3, tmm7",
            "tilestored [{c} + {s64} + 1024], tmm1",
            "tilestored [{c} + {s64} + 2048], tmm2",
            "tilestored [{c} + {s64} + 3072], tmm0",
            "add {a}, 512",
            "add {c}, 4096",
            "dec {n}",
            "jnz 2b",
            a = inout(reg) a => _, c = inout(reg) c => _, n = inout(reg) halves => _, b = in(reg) b,
            s32 = in(reg) 32usize, s64 = in(reg) 64usize,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}

/// `C(pixel) += Σ A · B(pixel)` over `windows` windows: A has the 16 numbers of a window × 32 images, B for each of the
/// window's four pixels 16 pairs of images × 16 channels. Both lie in one piece, as do the four tiles of C.
///
/// # Safety
/// `windows`, at least one, tiles of A and four times as many of B must be readable, and C writable. The tiles are configured
/// with a depth of 32 steps.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) unsafe fn add(_: &Tiles, windows: usize, a: *const bf16, b: *const bf16, c: *mut f32) {
    debug_assert!(windows > 0);
    // SAFETY: the caller's promise; `Tiles` proves that AMX is there and its tiles are configured.
    unsafe {
        std::arch::asm!(
            "tileloadd tmm0, [{c} + {s64}]",
            "tileloadd tmm1, [{c} + {s64} + 1024]",
            "tileloadd tmm2, [{c} + {s64} + 2048]",
            "tileloadd tmm3, [{c} + {s64} + 3072]",
            "2:",
            "tileloadd tmm4, [{a} + {s64}]",
            "tileloadd tmm6, [{b} + {s64}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{b} + {s64} + 1024]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm6, [{b} + {s64} + 2048]",
            "tdpbf16ps tmm2, tmm4, tmm6",
            "tileloadd tmm7, [{b} + {s64} + 3072]",
            "tdpbf16ps tmm3, tmm4, tmm7",
            "add {a}, 1024",
            "add {b}, 4096",
            "dec {n}",
            "jnz 2b",
            "tilestored [{c} + {s64}], tmm0",
            "tilestored [{c} + {s64} + 1024], tmm1",
            "tilestored [{c} + {s64} + 2048], tmm2",
            "tilestored [{c} + {s64} + 3072], tmm3",
            a = inout(reg) a => _, b = inout(reg) b => _, n = inout(reg) windows => _, c = in(reg) c, s64 = in(reg) 64usize,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}

#[cfg(not(target_arch = "x86_64"))]
pub(crate) unsafe fn forward(_: &Tiles, _: usize, _: *const bf16, _: *const bf16, _: *mut f32) {
    unreachable!("no Tiles exist without AMX")
}

#[cfg(not(target_arch = "x86_64"))]
pub(crate) unsafe fn add(_: &Tiles, _: usize, _: *const bf16, _: *const bf16, _: *mut f32) {
    unreachable!("no Tiles exist without AMX")
}
