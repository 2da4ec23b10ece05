//! [`forward`] and [`add`]: the products of the first layer, whose A tiles are 4×4 patches of the image.
//!
//! A patch covers the four pixels that one pooling window takes the maximum of, so four tiles of B share each tile of A.

use half::bf16;

#[cfg(target_arch = "x86_64")]
use super::{Depth, ROW_BYTES, Registers, TILE_BYTES};
use super::{ROWS, Tiles};

/// Pixels of a pooling window, each with a tile of B and of C.
pub(crate) const PIXELS: usize = 4;
/// Elements of a C tile.
pub(crate) const TILE: usize = ROWS * ROWS;
/// Bytes of a row of an A tile of [`Depth::Sixteen`].
#[cfg(target_arch = "x86_64")]
const HALF_ROW_BYTES: usize = ROW_BYTES / 2;

// The assembly unrolls a window's pixels.
const _: () = assert!(PIXELS == 4 && TILE * size_of::<f32>() == super::TILE_BYTES);

/// `C(pixel) = A · B(pixel)` for four pixels and `halves` times 16 images: A is one patch, 16 numbers of each image, B four
/// tiles of 8 pairs of these numbers × 16 channels, C `[half][pixel]`, tiles of images × 16 channels. All three are
/// contiguous.
///
/// B stays in registers, which takes a tenth less time than loading it for each half: the number of tile instructions
/// limits this kernel.
///
/// # Safety
/// `halves` must not be zero. 16 rows of A for each half and the four tiles of B must be readable, C writable. The tiles
/// must be configured as [`Registers::Patches`] with [`Depth::Sixteen`].
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) unsafe fn forward(tiles: &Tiles, halves: usize, a: *const bf16, b: *const bf16, c: *mut f32) {
    tiles.debug_assert_configured(&[Depth::Sixteen], Registers::Patches, 1);
    debug_assert!(halves > 0);
    debug_assert!((c as usize).is_multiple_of(ROW_BYTES), "C at {c:?}");
    // SAFETY: the caller's promise; `Tiles` proves that AMX is there and its tiles are configured; registers that are
    // written are outputs or clobbers.
    unsafe {
        std::arch::asm!(
            "tileloadd tmm4, [{b} + {row}]",
            "tileloadd tmm5, [{b} + {row} + {B_TILE}]",
            "tileloadd tmm6, [{b} + {row} + 2 * {B_TILE}]",
            "tileloadd tmm7, [{b} + {row} + 3 * {B_TILE}]",
            "2:",
            "tileloadd tmm3, [{a} + {a_row}]",
            "tilezero tmm0",
            "tdpbf16ps tmm0, tmm3, tmm4",
            "tilezero tmm1",
            "tdpbf16ps tmm1, tmm3, tmm5",
            "tilezero tmm2",
            "tdpbf16ps tmm2, tmm3, tmm6",
            "tilestored [{c} + {row}], tmm0",
            "tilezero tmm0",
            "tdpbf16ps tmm0, tmm3, tmm7",
            "tilestored [{c} + {row} + {C_TILE}], tmm1",
            "tilestored [{c} + {row} + 2 * {C_TILE}], tmm2",
            "tilestored [{c} + {row} + 3 * {C_TILE}], tmm0",
            "add {a}, {A_TILE}",
            "add {c}, 4 * {C_TILE}",
            "dec {n}",
            "jnz 2b",
            a = inout(reg) a => _, c = inout(reg) c => _, n = inout(reg) halves => _, b = in(reg) b,
            a_row = in(reg) HALF_ROW_BYTES, row = in(reg) ROW_BYTES,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            A_TILE = const ROWS * HALF_ROW_BYTES,
            B_TILE = const ROWS / 2 * ROW_BYTES,
            C_TILE = const TILE_BYTES,
            options(nostack),
        );
    }
}

/// `C(pixel) += Σ A · B(pixel)` over `patches` patches: A has the 16 numbers of a patch × 32 images, B for each of the
/// window's four pixels 16 pairs of images × 16 channels. Both are contiguous, as are the four tiles of C.
///
/// # Safety
/// `patches` must not be zero. As many tiles of A and four times as many of B must be readable, and C writable. The tiles
/// must be configured as [`Registers::Square`] with [`Depth::ThirtyTwo`].
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) unsafe fn add(tiles: &Tiles, patches: usize, a: *const bf16, b: *const bf16, c: *mut f32) {
    tiles.debug_assert_configured(&[Depth::ThirtyTwo], Registers::Square, ROWS);
    debug_assert!(patches > 0);
    debug_assert!(
        [a as usize, b as usize, c as usize].iter().all(|at| at.is_multiple_of(ROW_BYTES)),
        "{a:?} {b:?} {c:?}"
    );
    // SAFETY: the caller's promise; `Tiles` proves that AMX is there and its tiles are configured; registers that are
    // written are outputs or clobbers.
    unsafe {
        std::arch::asm!(
            "tileloadd tmm0, [{c} + {row}]",
            "tileloadd tmm1, [{c} + {row} + {TILE}]",
            "tileloadd tmm2, [{c} + {row} + 2 * {TILE}]",
            "tileloadd tmm3, [{c} + {row} + 3 * {TILE}]",
            "2:",
            "tileloadd tmm4, [{a} + {row}]",
            "tileloadd tmm6, [{b} + {row}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{b} + {row} + {TILE}]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm6, [{b} + {row} + 2 * {TILE}]",
            "tdpbf16ps tmm2, tmm4, tmm6",
            "tileloadd tmm7, [{b} + {row} + 3 * {TILE}]",
            "tdpbf16ps tmm3, tmm4, tmm7",
            "add {a}, {TILE}",
            "add {b}, 4 * {TILE}",
            "dec {n}",
            "jnz 2b",
            "tilestored [{c} + {row}], tmm0",
            "tilestored [{c} + {row} + {TILE}], tmm1",
            "tilestored [{c} + {row} + 2 * {TILE}], tmm2",
            "tilestored [{c} + {row} + 3 * {TILE}], tmm3",
            a = inout(reg) a => _, b = inout(reg) b => _, n = inout(reg) patches => _, c = in(reg) c,
            row = in(reg) ROW_BYTES,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            TILE = const TILE_BYTES,
            options(nostack),
        );
    }
}

#[cfg(not(target_arch = "x86_64"))]
pub(crate) unsafe fn forward(_: &Tiles, _: usize, _: *const bf16, _: *const bf16, _: *mut f32) {
    unreachable!("no Tiles exist without AMX")
}
