//! Products of bf16 tiles on AMX, accumulated in f32, from stable Rust: the tile configuration and the four kernels.
//!
//! | file | kernel | what it computes |
//! |---|---|---|
//! | `tile_gemm` | [`TileGemm`] | any sum of products, in blocks of up to 2 × 2 tiles: dense layers, 1x1 kernels, strides |
//! | `sliding` | [`SlidingGemm`] | forward and data passes with three taps in a row |
//! | `tap_rows` | [`TapRowGemm`] | the gradient of the weights for three taps in a row |
//! | `patches` | [`patches::forward`], [`patches::add`] | the first layer, whose A tiles are 4×4 patches of the image |
//!
//! A tile register holds 16 rows of 64 bytes. `tdpbf16ps C, A, B` adds to C (16 × 16 f32) the product of A (16 rows × 32
//! bf16) and B (16 pairs of rows × 16 columns, the two numbers of a pair side by side). A product takes 16 cycles and a tile
//! load 8, so two A and two B tiles, loaded for four products, keep the unit busy:
//!
//! ```text
//!              B0 (tmm6)   B1 (tmm7)
//! A0 (tmm4)    C  tmm0     C  tmm1
//! A1 (tmm5)    C  tmm2     C  tmm3
//! ```
//!
//! The intrinsics are not stable; `asm!` is. One `asm!` computes the whole sum of a block of tiles and names every tile
//! register as clobbered. Tiles are configured only within [`with_tiles`], which releases them at its end, so no other code
//! on the thread meets them.
//!
//! # How the assembly is written
//! A kernel reads its arguments from a `#[repr(C)]` struct through one register, because they outnumber the registers. In a
//! template, lower-case names are registers and upper-case names constants: `[{gemm} + {C_ROW}]` is the field `c_row`, whose
//! offset is the operand `C_ROW = const offset_of!(TileGemm, c_row)`. No template holds an offset as a number, so fields may
//! be added or reordered. Every register that a template writes is an output or a clobber; the flags are clobbered by
//! default, as no block has `preserves_flags`; none uses the stack, so all have `nostack`.

pub(crate) mod patches;
#[cfg(target_arch = "x86_64")]
pub(crate) mod shuffle;
mod sliding;
mod tap_rows;
mod tile_gemm;

pub(crate) use sliding::{DeferredEpilogue, PIXELS, SlidingGemm, outside};
pub(crate) use tap_rows::TapRowGemm;
pub(crate) use tile_gemm::TileGemm;

use std::mem::offset_of;

use half::bf16;

use crate::aligned::ALIGNMENT;
use crate::cpu::Cpu;

/// Rows of a tile.
pub(crate) const ROWS: usize = 16;
/// Bytes of a row of a full tile: 16 f32 of C, 16 pairs of bf16 of B, or 32 bf16 of A.
const ROW_BYTES: usize = 64;
/// Bytes of a full tile.
const TILE_BYTES: usize = ROWS * ROW_BYTES;

/// Tile registers that palette 1 offers.
const REGISTERS: usize = 8;

/// The operand of `ldtilecfg`. Entries of `row_bytes` and `rows` from [`REGISTERS`] on must be zero.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

// The layout that Intel's manual gives for `ldtilecfg`.
const _: () = {
    assert!(size_of::<Config>() == 64 && align_of::<Config>() == 64);
    assert!(offset_of!(Config, palette) == 0 && offset_of!(Config, start_row) == 1);
    assert!(offset_of!(Config, row_bytes) == 16 && offset_of!(Config, rows) == 48);
};

// A row of a tile is a cache line: prefetches step by it, and aligned rows touch one line each.
const _: () = assert!(ROW_BYTES == ALIGNMENT);

// The kernels load and compare fields of usize and pointers as 64 bits.
#[cfg(target_arch = "x86_64")]
const _: () = assert!(size_of::<usize>() == 8 && size_of::<*const u8>() == 8);

/// The offset of element `index` of an array of usize or isize that lies at `offset` in a struct.
#[cfg(target_arch = "x86_64")]
const fn element(offset: usize, index: usize) -> usize {
    offset + index * size_of::<usize>()
}

/// Whether steps of `distances` bytes keep an address that is aligned to `bytes` aligned to them.
///
/// Kernels assert it of their strides: rows of an aligned tensor are then aligned, too. Where a tensor begins is the
/// caller's choice; if that is off a cache line, loads are slower and results the same.
fn keep_alignment(bytes: usize, distances: &[usize]) -> bool {
    distances.iter().all(|distance| distance.is_multiple_of(bytes))
}

/// Elements of the sum that one product covers: 32, or 16 for tensors whose channels are not a multiple of 32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Depth {
    Sixteen,
    ThirtyTwo,
}

impl Depth {
    /// For sums over `channels`, a multiple of 16.
    pub(crate) fn of(channels: usize) -> Self {
        if channels.is_multiple_of(32) { Self::ThirtyTwo } else { Self::Sixteen }
    }

    /// The number of elements.
    pub(crate) fn steps(self) -> usize {
        match self {
            Self::Sixteen => 16,
            Self::ThirtyTwo => 32,
        }
    }
}
/// Which tile registers hold C, A and B: it decides the shape that each is configured with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Registers {
    /// For [`TileGemm`] and [`patches::add`]: C in 0 to 3, A in 4 and 5, B in 6 and 7. For [`TapRowGemm`], too, which uses
    /// tmm6 as A: at [`Depth::ThirtyTwo`] and 16 rows all tiles are alike.
    Square,
    /// For [`SlidingGemm`]: C in 0 to 3, A in 4 to 6, B in 7.
    SlidingGemm,
    /// For [`patches::forward`]: C in 0 to 2, A in 3, B in 4 to 7.
    Patches,
}

/// Proof that tiles are configured on this thread, which every kernel asks for.
pub(crate) struct Tiles {
    #[cfg(debug_assertions)]
    configured: (Depth, Registers, usize),
}

impl Tiles {
    /// In builds with debug assertions, fails unless the tiles have one of `depths`, the shapes of `registers`, and A and C
    /// at least `least_rows` rows.
    #[inline(always)]
    #[cfg_attr(not(debug_assertions), expect(unused_variables))]
    fn debug_assert_configured(&self, depths: &[Depth], registers: Registers, least_rows: usize) {
        #[cfg(debug_assertions)]
        {
            let (depth, configured, rows) = self.configured;
            assert_eq!(configured, registers, "the tile registers' shapes");
            assert!(depths.contains(&depth), "tiles of depth {depth:?}, expected one of {depths:?}");
            assert!(rows >= least_rows, "tiles of {rows} rows, expected {least_rows} or more");
        }
    }
}

/// Runs `f` with tiles for products of `depth` elements and `rows` rows of A and C, up to 16.
///
/// # Panics
/// If `cpu` does not prove AMX.
#[inline]
pub(crate) fn with_tiles<R>(
    cpu: Cpu,
    depth: Depth,
    registers: Registers,
    rows: usize,
    f: impl FnOnce(&Tiles) -> R,
) -> R {
    assert!(cpu.isa().has_tiles(), "bf16 kernels need amx, and this is {}", cpu.isa());
    let a_bytes = (depth.steps() * size_of::<bf16>()) as u16;
    let b_rows = (depth.steps() / 2) as u8;
    let mut config = Config { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
    let tile_rows = rows.clamp(1, ROWS) as u8;
    // C lies before A, and A before B.
    let (first_a, first_b) = match registers {
        Registers::Square => (4, 6),
        Registers::SlidingGemm => (4, 7),
        Registers::Patches => (3, 4),
    };
    config.row_bytes[..REGISTERS].fill(ROW_BYTES as u16);
    config.row_bytes[first_a..first_b].fill(a_bytes);
    config.rows[..first_b].fill(tile_rows);
    config.rows[first_b..REGISTERS].fill(b_rows);
    /// Releases the tiles even if `f` panics.
    struct Release;
    impl Drop for Release {
        fn drop(&mut self) {
            // SAFETY: `with_tiles` asserted that the processor has AMX.
            unsafe { release() }
        }
    }
    // SAFETY: the assertion above: the processor has AMX and the system gave permission (`cpu::detect`). `config` has no
    // more rows or bytes than a tile, and zeros where the manual wants them.
    unsafe { configure(&config) };
    let _release = Release;
    f(&Tiles {
        #[cfg(debug_assertions)]
        configured: (depth, registers, rows),
    })
}

#[cfg(target_arch = "x86_64")]
unsafe fn configure(config: &Config) {
    // SAFETY: the caller's promise. The instruction reads the 64 bytes of `config` and sets every tile to zero.
    unsafe {
        std::arch::asm!(
            "ldtilecfg [{config}]",
            config = in(reg) config,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack, readonly),
        );
    }
}

#[cfg(target_arch = "x86_64")]
unsafe fn release() {
    // SAFETY: the caller's promise. The instruction touches the tiles alone.
    unsafe {
        std::arch::asm!(
            "tilerelease",
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack, nomem),
        );
    }
}

#[cfg(not(target_arch = "x86_64"))]
unsafe fn configure(_: &Config) {}

#[cfg(not(target_arch = "x86_64"))]
unsafe fn release() {}
