//! Sums over the patches of 3x3 pixels in windows: products of the numbers of a window with each other.

use half::bf16;

use super::{SEEN, shape, tap};
use crate::amx::{Depth, ROWS, Registers, with_tiles};
use crate::conv::Conv2dShape;
use crate::conv::first_layer::batch_norm;
use crate::cpu::Cpu;

/// Sums over windows: of each number, and of each product of two.
struct Seen {
    first: [f64; SEEN],
    second: [[f64; SEEN]; SEEN],
}

/// [`batch_norm::patch_sums`] in bf16 on AMX; `x` comes from [`super::fill`].
///
/// # Panics
/// As [`batch_norm::patch_sums`], if the layer's windows leave out pixels ([`super::cover`]), or if `cpu` does not prove AMX.
pub fn patch_sums(cpu: Cpu, layer: &Conv2dShape, x: &[bf16], sums: &mut [f64]) {
    assert!(super::cover(layer), "windows that cover the image are needed, not those of {layer:?}");
    let windows = shape(layer);
    assert_eq!(x.len(), windows.len(), "the length of x and that of {layer:?}");
    assert_eq!(sums.len(), batch_norm::PATCH_SUMS, "the length of the sums");
    let mut seen = Seen { first: [0.0; SEEN], second: [[0.0; SEEN]; SEEN] };
    with_tiles(cpu, Depth::ThirtyTwo, Registers::Square, ROWS, |tiles| {
        // SAFETY: the assertions above; AMX, which `with_tiles` asserted, is reported only beside AVX-512 with bf16
        // (`cpu::detect`).
        unsafe { x86::sums(tiles, windows.height * windows.width, x, &mut seen) };
    });
    sums.fill(0.0);
    let (first, second) = sums.split_at_mut(batch_norm::TAPS);
    for pixel in 0..super::PIXELS {
        for a in 0..SEEN {
            let Some(row) = tap(pixel, a) else { continue };
            first[row] += seen.first[a];
            for b in 0..SEEN {
                if let Some(column) = tap(pixel, b) {
                    second[row * batch_norm::TAPS + column] += seen.second[a][b];
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::mem::{MaybeUninit, transmute};

    use half::bf16;

    use super::{ROWS, SEEN, Seen};
    use crate::amx::patches::TILE;
    use crate::amx::shuffle::{interleave, transpose};
    use crate::amx::{TileGemm, Tiles};
    use crate::layout::BLOCK;

    /// Windows whose products are one sum, short enough for f32. Their tiles are 28 KiB.
    const AT_ONCE: usize = 14;

    /// Of each window the transposed one and the one in pairs of images. They are written and read through pointers alone.
    #[repr(align(64))]
    struct Operands {
        _tiles: [bf16; AT_ONCE * 4 * TILE],
    }

    /// Adds up `count` windows.
    ///
    /// # Safety
    /// `x` must hold as many.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(super) unsafe fn sums(tiles: &Tiles, count: usize, x: &[bf16], seen: &mut Seen) {
        #[repr(align(64))]
        struct Sums([[f32; SEEN]; SEEN]);
        let mut operands = MaybeUninit::<Operands>::uninit();
        let a = operands.as_mut_ptr().cast::<bf16>();
        let ones = _mm512_set1_epi16(bf16::ONE.to_bits() as i16);
        for start in (0..count).step_by(AT_ONCE) {
            let windows = AT_ONCE.min(count - start);
            let mut first = _mm512_setzero_ps();
            for window in 0..windows {
                let mut pairs = [_mm512_setzero_si512(); ROWS];
                for (pair, words) in pairs.iter_mut().enumerate() {
                    let at = ((start + window) * BLOCK + 2 * pair) * SEEN;
                    // SAFETY: the caller's promise: a window is BLOCK times SEEN numbers. Both types of the sum are 512 bits for
                    // which every pattern is a value.
                    unsafe {
                        *words = interleave(_mm512_loadu_si512(x.as_ptr().add(at).cast()));
                        let (words, ones) =
                            (transmute::<__m512i, __m512bh>(*words), transmute::<__m512i, __m512bh>(ones));
                        first = _mm512_dpbf16_ps(first, words, ones);
                    }
                }
                // SAFETY: `Operands` has room for two tiles of AT_ONCE windows.
                unsafe {
                    let to = a.add(window * 4 * TILE);
                    for (row, words) in transpose(pairs).into_iter().enumerate() {
                        _mm512_storeu_si512(to.add(row * BLOCK).cast(), words);
                    }
                    for (row, words) in pairs.into_iter().enumerate() {
                        _mm512_storeu_si512(to.add(2 * TILE + row * BLOCK).cast(), words);
                    }
                }
            }
            let mut sums = Sums([[0.0; SEEN]; SEEN]);
            const BYTES: usize = size_of::<bf16>();
            let mut gemm = TileGemm {
                a,
                b: a.wrapping_add(2 * TILE),
                c: sums.0.as_mut_ptr().cast(),
                a_row: BLOCK * BYTES,
                a_second: 0,
                b_second: 0,
                c_row: SEEN * size_of::<f32>(),
                c_second_a: 0,
                c_second_b: 0,
                add: 0,
                count: [0; 3],
                a_step: [0; 3],
                b_step: [0; 3],
            };
            let step = [0, 0, (4 * TILE * BYTES) as isize];
            gemm.set_runs([1, 1, windows], step, step);
            let mut of_numbers = [0.0f32; SEEN];
            // SAFETY: the loop above wrote the tiles of `windows` windows; C is 16 rows of 16 numbers, as are those of a vector.
            unsafe {
                gemm.run::<1, 1>(tiles);
                _mm512_storeu_ps(of_numbers.as_mut_ptr(), first);
            }
            for (sum, &part) in seen.first.iter_mut().zip(&of_numbers) {
                *sum += f64::from(part);
            }
            for (sum, &part) in seen.second.as_flattened_mut().iter_mut().zip(sums.0.as_flattened()) {
                *sum += f64::from(part);
            }
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod x86 {
    //! No `Tiles` exist here.
    use half::bf16;

    use super::Seen;
    use crate::amx::Tiles;

    pub(super) unsafe fn sums(_: &Tiles, _: usize, _: &[bf16], _: &mut Seen) {}
}
