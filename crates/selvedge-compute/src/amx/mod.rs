//! The AMX microkernel: products of bf16 tiles, accumulated in f32, from stable Rust.
//!
//! A tile register holds 16 rows of 64 bytes. `tdpbf16ps C, A, B` adds to C (16 × 16 f32) the product of A (16 rows × 32
//! bf16) and B (16 pairs of rows × 16 columns, the two numbers of a pair side by side). It takes 16 cycles, and the loads
//! of an A and a B tile 8 each, so four products for two A and two B tiles keep the unit busy, as below
//! ([`TileGemm`]); kernels with three taps in a row load less ([`SlidingGemm`], [`TapRowGemm`]):
//!
//! ```text
//!              B0 (tmm6)   B1 (tmm7)
//! A0 (tmm4)    C  tmm0     C  tmm1
//! A1 (tmm5)    C  tmm2     C  tmm3
//! ```
//!
//! The intrinsics are not stable; `asm!` is. The whole sum of a block of tiles is one `asm!` that names the tile
//! registers as clobbered, and tiles are configured only within [`with_tiles`], which clears them at its end: other code
//! on the thread never meets them.

pub(crate) mod patches;
#[cfg(target_arch = "x86_64")]
pub(crate) mod shuffle;
mod sliding;
mod tap_rows;
mod tile_gemm;

pub(crate) use sliding::{Finish, PIXELS, SlidingGemm, outside};
pub(crate) use tap_rows::TapRowGemm;
pub(crate) use tile_gemm::TileGemm;

use crate::cpu::{Cpu, Isa};

/// Rows of a tile.
pub(crate) const ROWS: usize = 16;

/// What `ldtilecfg` reads.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// Steps of a sum that one product takes: 32, or 16 for tensors whose channels are no multiple of 32.
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

    /// The number of steps.
    pub(crate) fn steps(self) -> usize {
        match self {
            Self::Sixteen => 16,
            Self::ThirtyTwo => 32,
        }
    }
}

/// What the tile registers hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Registers {
    /// For [`TileGemm`]: C in 0 to 3, A in 4 and 5, B in 6 and 7.
    Square,
    /// For [`SlidingGemm`]: C in 0 to 3, A in 4 to 6, B in 7.
    SlidingGemm,
    /// For [`windows::forward`]: C in 0 to 2, A in 3, B in 4 to 7.
    Windows,
}

/// Proof that tiles are configured on this thread: [`TileGemm::run`] asks for it.
pub(crate) struct Tiles(());

/// Runs `f` with tiles for products of `depth` steps and `rows` rows of A and C, up to 16.
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
    assert!(cpu.isa() >= Isa::Amx, "bf16 kernels need amx, and this is {}", cpu.isa());
    let a_bytes = (depth.steps() * 2) as u16;
    let b_rows = (depth.steps() / 2) as u8;
    let mut config = Config { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
    let rows = rows.clamp(1, ROWS) as u8;
    let (first_a, first_b) = match registers {
        Registers::Square => (4, 6),
        Registers::SlidingGemm => (4, 7),
        Registers::Windows => (3, 4),
    };
    config.row_bytes[..8].fill(64);
    config.row_bytes[first_a..first_b].fill(a_bytes);
    config.rows[..first_b].fill(rows);
    config.rows[first_b..8].fill(b_rows);
    /// Clears the tiles also when `f` panics.
    struct Release;
    impl Drop for Release {
        fn drop(&mut self) {
            // SAFETY: `with_tiles` asserted that the processor has AMX.
            unsafe { release() }
        }
    }
    // SAFETY: the assertion above: the processor has AMX and the system gave permission (`cpu::detect`). `config` is a
    // valid configuration of 64 bytes.
    unsafe { configure(&config) };
    let _release = Release;
    f(&Tiles(()))
}

#[cfg(target_arch = "x86_64")]
unsafe fn configure(config: &Config) {
    // SAFETY: the caller's promise; the instruction reads the 64 bytes of `config`.
    unsafe { std::arch::asm!("ldtilecfg [{0}]", in(reg) config, options(nostack, readonly)) }
}

#[cfg(target_arch = "x86_64")]
unsafe fn release() {
    // SAFETY: the caller's promise.
    unsafe { std::arch::asm!("tilerelease", options(nostack, nomem)) }
}

#[cfg(not(target_arch = "x86_64"))]
unsafe fn configure(_: &Config) {}

#[cfg(not(target_arch = "x86_64"))]
unsafe fn release() {}
