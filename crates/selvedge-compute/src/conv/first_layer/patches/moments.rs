//! [`patch_sums`]: the sums over 3x3 patches for a folded batch norm, from the 4×4 patches that contain them: products of the
//! elements of each patch with each other.

use half::bf16;

use super::{PATCH, shape, tap};
use crate::amx::{Depth, ROWS, Registers, with_tiles};
use crate::conv::Conv2dShape;
use crate::conv::first_layer::batch_norm;
use crate::cpu::Cpu;

/// Sums over 4×4 patches: of each element, and of each product of two.
struct PatchSums {
    first: [f64; PATCH],
    second: [[f64; PATCH]; PATCH],
}

/// [`batch_norm::patch_sums`] in bf16 on AMX; `x` comes from [`super::fill`].
///
/// # Panics
/// As [`batch_norm::patch_sums`], if 2x2 windows do not cover the image ([`super::cover`]), or if `cpu` does not prove AMX.
pub fn patch_sums(cpu: Cpu, layer: &Conv2dShape, x: &[bf16], sums: &mut [f64]) {
    assert!(super::cover(layer), "2x2 windows must cover the image of {layer:?}");
    let patches = shape(layer);
    assert_eq!(x.len(), patches.len(), "the length of x and that of {layer:?}");
    assert_eq!(sums.len(), batch_norm::PATCH_SUMS, "the length of the sums");
    let mut of_patches = PatchSums { first: [0.0; PATCH], second: [[0.0; PATCH]; PATCH] };
    with_tiles(cpu, Depth::ThirtyTwo, Registers::Square, ROWS, |tiles| {
        // SAFETY: the assertions above; AMX, which `with_tiles` asserted, is reported only beside AVX-512 with bf16
        // (`cpu::detect`).
        unsafe { x86::sums(tiles, patches.height * patches.width, x, &mut of_patches) };
    });
    sums.fill(0.0);
    let (first, second) = sums.split_at_mut(batch_norm::TAPS);
    for pixel in 0..super::PIXELS {
        for a in 0..PATCH {
            let Some(row) = tap(pixel, a) else { continue };
            first[row] += of_patches.first[a];
            for b in 0..PATCH {
                if let Some(column) = tap(pixel, b) {
                    second[row * batch_norm::TAPS + column] += of_patches.second[a][b];
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

    use super::{PATCH, ROWS};
    use crate::amx::patches::TILE;
    use crate::amx::shuffle::{interleave, transpose};
    use crate::amx::{TileGemm, Tiles};
    use crate::layout::BLOCK;

    /// Patches whose products are one sum, short enough for f32. Their tiles are 28 KiB.
    const PATCHES_PER_SUM: usize = 14;

    /// For each patch, the transposed tile and the one in pairs of images. Only accessed through pointers.
    #[repr(align(64))]
    struct Operands {
        _tiles: [bf16; PATCHES_PER_SUM * 4 * TILE],
    }

    /// Adds the sums over `count` patches to `to`.
    ///
    /// # Safety
    /// `x` must hold as many.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(super) unsafe fn sums(tiles: &Tiles, count: usize, x: &[bf16], to: &mut super::PatchSums) {
        #[repr(align(64))]
        struct Products([[f32; PATCH]; PATCH]);
        let mut operands = MaybeUninit::<Operands>::uninit();
        let a = operands.as_mut_ptr().cast::<bf16>();
        let ones = _mm512_set1_epi16(bf16::ONE.to_bits() as i16);
        for start in (0..count).step_by(PATCHES_PER_SUM) {
            let patches = PATCHES_PER_SUM.min(count - start);
            let mut first = _mm512_setzero_ps();
            for patch in 0..patches {
                let mut pairs = [_mm512_setzero_si512(); ROWS];
                for (pair, words) in pairs.iter_mut().enumerate() {
                    let at = ((start + patch) * BLOCK + 2 * pair) * PATCH;
                    // SAFETY: the caller's promise: a patch is BLOCK times PATCH elements. Both types of the sum are 512 bits
                    // for which every pattern is a value.
                    unsafe {
                        *words = interleave(_mm512_loadu_si512(x.as_ptr().add(at).cast()));
                        let (words, ones) =
                            (transmute::<__m512i, __m512bh>(*words), transmute::<__m512i, __m512bh>(ones));
                        first = _mm512_dpbf16_ps(first, words, ones);
                    }
                }
                // SAFETY: `Operands` has room for two tiles of PATCHES_PER_SUM patches.
                unsafe {
                    let tiles_of_patch = a.add(patch * 4 * TILE);
                    for (row, words) in transpose(pairs).into_iter().enumerate() {
                        _mm512_storeu_si512(tiles_of_patch.add(row * BLOCK).cast(), words);
                    }
                    for (row, words) in pairs.into_iter().enumerate() {
                        _mm512_storeu_si512(tiles_of_patch.add(2 * TILE + row * BLOCK).cast(), words);
                    }
                }
            }
            let mut products = Products([[0.0; PATCH]; PATCH]);
            const BYTES: usize = size_of::<bf16>();
            let mut gemm = TileGemm {
                a,
                b: a.wrapping_add(2 * TILE),
                c: products.0.as_mut_ptr().cast(),
                a_row: BLOCK * BYTES,
                a_second: 0,
                b_second: 0,
                c_row: PATCH * size_of::<f32>(),
                c_second_a: 0,
                c_second_b: 0,
                add: 0,
                count: [0; 3],
                a_step: [0; 3],
                b_step: [0; 3],
            };
            let step = [0, 0, (4 * TILE * BYTES) as isize];
            gemm.set_runs([1, 1, patches], step, step);
            let mut of_elements = [0.0f32; PATCH];
            // SAFETY: the loop above wrote the tiles of `patches` patches; C is 16 rows of 16 f32, and a vector is 16 f32.
            unsafe {
                gemm.run::<1, 1>(tiles);
                _mm512_storeu_ps(of_elements.as_mut_ptr(), first);
            }
            for (sum, &part) in to.first.iter_mut().zip(&of_elements) {
                *sum += f64::from(part);
            }
            for (sum, &part) in to.second.as_flattened_mut().iter_mut().zip(products.0.as_flattened()) {
                *sum += f64::from(part);
            }
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod x86 {
    //! Never called: there are no `Tiles` here.
    use half::bf16;

    use super::PatchSums;
    use crate::amx::Tiles;

    pub(super) unsafe fn sums(_: &Tiles, _: usize, _: &[bf16], _: &mut PatchSums) {}
}
