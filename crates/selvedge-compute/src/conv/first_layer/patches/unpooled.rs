//! The passes over 4×4 patches without pooling: each of the four pixels of a window is written and has its own gradient.

use std::ops::Range;

use half::bf16;

use super::{packed_len, shape};
use crate::amx::{Depth, ROWS, Registers, with_tiles};
use crate::conv::{Conv2dShape, Epilogue, Part};
use crate::cpu::Cpu;
use crate::layout::{BLOCK, BlockShape};

/// [`crate::conv::direct::forward`] for a first layer in bf16 on AMX; `x` comes from [`super::fill`], `weights` from
/// [`super::pack`]. The rows of `part`, and so `y`, are whole windows: they begin and end at even numbers.
///
/// # Panics
/// If 2x2 windows do not cover the image ([`super::cover`]), a slice is not as long as the shape says, or `cpu` does not prove
/// AMX.
pub fn forward_unpooled(
    cpu: Cpu,
    layer: &Conv2dShape,
    x: &[bf16],
    weights: &[bf16],
    epilogue: Epilogue<'_>,
    part: impl Into<Part>,
    y: &mut [bf16],
) {
    let Part { rows, images } = part.into();
    let output = &layer.output;
    assert!(super::cover(layer), "2x2 windows must cover the image of {layer:?}");
    assert!((1..=BLOCK).contains(&images), "{images} images of a block of {BLOCK}");
    assert!(
        rows.start <= rows.end && rows.end <= output.height && [rows.start, rows.end].iter().all(|y| y % 2 == 0),
        "rows {rows:?} of {output:?} are not whole 2x2 windows"
    );
    assert_eq!(x.len(), shape(layer).len(), "the length of x and that of {layer:?}");
    assert_eq!(weights.len(), packed_len(layer), "the weights' length and that of {layer:?}");
    assert_eq!(y.len(), rows.len() * output.row(), "the target's length and that of rows {rows:?} of {output:?}");
    if let Some(bias) = epilogue.bias {
        assert_eq!(bias.len(), output.channel_stride, "the bias's length and the channel stride");
    }
    let pass = Forward { output, x, weights, epilogue, rows, images, y };
    with_tiles(cpu, Depth::Sixteen, Registers::Patches, images, |tiles| {
        // SAFETY: the assertions above compared every length with the layer; AMX, which `with_tiles` asserted, is reported only
        // beside AVX-512 with bf16 (`cpu::detect`).
        unsafe { x86::forward(tiles, pass) };
    });
}

#[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "only code for AMX reads them"))]
struct Forward<'a> {
    output: &'a BlockShape,
    x: &'a [bf16],
    weights: &'a [bf16],
    epilogue: Epilogue<'a>,
    rows: Range<usize>,
    images: usize,
    y: &'a mut [bf16],
}

/// Adds the gradients of weights and bias over one block. With `y`, the output of a ReLU, dY counts only where y is positive.
///
/// `x` comes from [`super::fill`]; `dy` and `y` have the shape of the output.
///
/// # Panics
/// As [`forward_unpooled`].
pub fn backward_unpooled(
    cpu: Cpu,
    layer: &Conv2dShape,
    x: &[bf16],
    y: Option<&[bf16]>,
    dy: &[bf16],
    dweights: &mut [f32],
    dbias: &mut [f32],
) {
    let output = &layer.output;
    assert!(super::cover(layer), "2x2 windows must cover the image of {layer:?}");
    assert_eq!(x.len(), shape(layer).len(), "the length of x and that of {layer:?}");
    assert_eq!(dy.len(), output.len(), "the length of dy and that of {output:?}");
    if let Some(y) = y {
        assert_eq!(y.len(), output.len(), "the length of y and that of {output:?}");
    }
    assert_eq!(dweights.len(), layer.weights_len(), "the gradient's length and that of {layer:?}");
    assert_eq!(dbias.len(), output.channel_stride, "the length of dbias and the channel stride");
    with_tiles(cpu, Depth::ThirtyTwo, Registers::Square, ROWS, |tiles| {
        let plane = output.plane();
        let planes = dweights.chunks_exact_mut(layer.panel_len() * plane / super::PANEL);
        for (number, (dweights, dbias)) in planes.zip(dbias.chunks_exact_mut(plane)).enumerate() {
            let pass = Backward { output, channel: output.channel(number * plane), x, y, dy, dweights, dbias };
            // SAFETY: as in `forward_unpooled`.
            unsafe { x86::backward(tiles, pass) };
        }
    });
}

/// The gradients of a plane of channels.
#[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "only code for AMX reads them"))]
struct Backward<'a> {
    output: &'a BlockShape,
    /// Offset of the plane in a pixel.
    channel: usize,
    x: &'a [bf16],
    y: Option<&'a [bf16]>,
    dy: &'a [bf16],
    dweights: &'a mut [f32],
    dbias: &'a mut [f32],
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::mem::{MaybeUninit, transmute};

    use half::bf16;

    use super::super::backward::transpose_patch;
    use super::super::{PANEL, PANEL_LEN, PATCH, tap};
    use super::{BLOCK, Backward, BlockShape, Forward, ROWS};
    use crate::amx::Tiles;
    use crate::amx::patches::{self, PIXELS, TILE};
    use crate::amx::shuffle::round_row;
    use crate::conv::first_layer::batch_norm::TAPS;
    use crate::layout::PLANE;

    /// Elements, 8 KiB or two pages, by which memory is prefetched before it is read or written: see `prefetch.rs`.
    const PREFETCH_DISTANCE: usize = 4096;

    /// Sums of a window's pixels for the panels of a plane. Only accessed through pointers.
    #[repr(align(64))]
    struct Sums {
        _values: [f32; PLANE / PANEL * 2 * PIXELS * TILE],
    }

    /// # Safety
    /// The slices of `pass` must have the lengths that `forward_unpooled` asserts.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(super) unsafe fn forward(tiles: &Tiles, pass: Forward<'_>) {
        let Forward { output, x, weights, epilogue, rows, images, y } = pass;
        let mut sums = MaybeUninit::<Sums>::uninit();
        let sums = sums.as_mut_ptr().cast::<f32>();
        let (plane, halves) = (output.plane(), images.div_ceil(ROWS));
        let wide = plane == PLANE;
        let lower_bound = _mm512_set1_ps(if epilogue.relu { 0.0 } else { f32::NEG_INFINITY });
        for (window_y, window_x) in windows(output, rows.start / 2..rows.end / 2) {
            let number = window_y * (output.width / 2) + window_x;
            for channel in (0..output.channel_stride).step_by(plane) {
                for panel in 0..plane / PANEL {
                    // SAFETY: the caller's promise: a patch has 16 elements of BLOCK images, a panel PANEL_LEN weights. `Sums`
                    // has room for the panels of a plane.
                    unsafe {
                        let a = x.as_ptr().add(number * BLOCK * PATCH);
                        let b = weights.as_ptr().add((channel / PANEL + panel) * PANEL_LEN);
                        patches::forward(tiles, halves, a, b, sums.add(panel * 2 * PIXELS * TILE));
                    }
                }
                let bias = |channel: usize| match epilogue.bias {
                    // SAFETY: the caller's promise: a bias has the channel stride, a multiple of PANEL.
                    Some(bias) => unsafe { _mm512_loadu_ps(bias.as_ptr().add(channel)) },
                    None => _mm512_setzero_ps(),
                };
                let (low_bias, high_bias) = (bias(channel), bias(if wide { channel + PANEL } else { channel }));
                for pixel in 0..PIXELS {
                    let (py, px) = (2 * window_y + pixel / 2 - rows.start, 2 * window_x + pixel % 2);
                    let first = output.offset(py, px) + output.channel(channel);
                    for image in 0..images {
                        let from = (image / ROWS * PIXELS + pixel) * TILE + image % ROWS * PANEL;
                        let to = first + image * plane;
                        debug_assert!(to + plane <= y.len());
                        // SAFETY: the products above wrote the sums of these images; the pixel lies in the rows that `y` holds.
                        unsafe {
                            let finish = |sum: *const f32, bias: __m512| {
                                _mm512_max_ps(_mm512_add_ps(_mm512_loadu_ps(sum), bias), lower_bound)
                            };
                            let low = finish(sums.add(from), low_bias);
                            let to = y.as_mut_ptr().add(to);
                            _mm_prefetch::<_MM_HINT_ET0>(to.wrapping_add(PREFETCH_DISTANCE).cast());
                            if wide {
                                let high = finish(sums.add(2 * PIXELS * TILE + from), high_bias);
                                _mm512_storeu_si512(to.cast(), round_row(low, high));
                            } else {
                                let row = _mm512_castsi512_si256(round_row(low, low));
                                _mm256_storeu_si256(to.cast(), row);
                            }
                        }
                    }
                }
            }
        }
    }

    /// Windows whose products are one sum: their tiles are 36 KiB. Two take 1.2 of the time, six 1.03.
    const WINDOWS_PER_SUM: usize = 4;

    /// Tiles of some windows: A, and those of B for the even and the odd channels of a plane. Only accessed through pointers.
    #[repr(align(64))]
    struct Operands {
        _a: [bf16; WINDOWS_PER_SUM * 2 * TILE],
        _b: [[bf16; WINDOWS_PER_SUM * PIXELS * 2 * TILE]; 2],
    }

    /// # Safety
    /// The slices of `pass` must have the lengths that `backward_unpooled` asserts.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(super) unsafe fn backward(tiles: &Tiles, pass: Backward<'_>) {
        #[repr(align(64))]
        struct Sums([[[[f32; PANEL]; PATCH]; PIXELS]; 2]);
        let Backward { output, channel, x, y, dy, dweights, dbias } = pass;
        let mut sums = Sums([[[[0.0; PANEL]; PATCH]; PIXELS]; 2]);
        let mut operands = MaybeUninit::<Operands>::uninit();
        let a = operands.as_mut_ptr().cast::<bf16>();
        let b = [0, 1].map(|parity| a.wrapping_add(WINDOWS_PER_SUM * (1 + parity * PIXELS) * 2 * TILE));
        let mut bias = [_mm512_setzero_ps(); 2];
        let mut filled = 0;
        let all = output.height / 2 * (output.width / 2);
        for (number, (window_y, window_x)) in windows(output, 0..output.height / 2).enumerate() {
            // SAFETY: the caller's promise; `Operands` has room for WINDOWS_PER_SUM windows.
            unsafe {
                transpose_patch(x.as_ptr().add(number * BLOCK * PATCH), a.add(filled * 2 * TILE));
                for pixel in 0..PIXELS {
                    let at = output.offset(2 * window_y + pixel / 2, 2 * window_x + pixel % 2) + channel;
                    let to = b.map(|b| b.add((filled * PIXELS + pixel) * 2 * TILE));
                    let y = y.map(|y| y.as_ptr().add(at));
                    bias = by_parity(output.plane(), dy.as_ptr().add(at), y, to, bias);
                }
            }
            filled += 1;
            if filled == WINDOWS_PER_SUM || number + 1 == all {
                for (b, sums) in b.into_iter().zip(&mut sums.0) {
                    // SAFETY: the tiles of `filled` windows have been written.
                    unsafe { patches::add(tiles, filled, a, b, sums.as_mut_ptr().cast()) };
                }
                filled = 0;
            }
        }
        for (parity, sums) in sums.0.iter().enumerate() {
            let bias_sums: [f32; PANEL] = {
                // SAFETY: both types are 16 f32.
                unsafe { transmute::<__m512, [f32; PANEL]>(bias[parity]) }
            };
            for lane in 0..output.plane() / 2 {
                let channel = 2 * lane + parity;
                dbias[channel] += bias_sums[lane];
                for (pixel, sums) in sums.iter().enumerate() {
                    for (element, sums) in sums.iter().enumerate() {
                        if let Some(tap) = tap(pixel, element) {
                            let panel = channel / PANEL * TAPS;
                            dweights[(panel + tap) * PANEL + channel % PANEL] += sums[lane];
                        }
                    }
                }
            }
        }
    }

    /// dY of one pixel in pairs of images, zero where there is a `y` that is not positive: the even channels of a plane go to one
    /// tile, the odd ones to another, and the sums of either are added to `bias`.
    ///
    /// Shifts and blends pair the even or the odd channels of two images; the halves of a plane would take shuffles.
    ///
    /// # Safety
    /// `dy` and `y` must be a plane of `plane` channels, and each of `to` a tile.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn by_parity(
        plane: usize,
        dy: *const bf16,
        y: Option<*const bf16>,
        to: [*mut bf16; 2],
        mut bias: [__m512; 2],
    ) -> [__m512; 2] {
        let ones = _mm512_set1_epi16(bf16::ONE.to_bits() as i16);
        // The channels of the plane; other columns stay zero.
        let channels = if plane == PLANE { u32::MAX } else { u32::from(u16::MAX) };
        for pair in 0..BLOCK / 2 {
            let load = |image: usize| {
                // SAFETY: the caller's promise; the mask has only the plane's channels.
                unsafe {
                    let dy = dy.add(image * plane);
                    _mm_prefetch::<_MM_HINT_T1>(dy.wrapping_add(PREFETCH_DISTANCE).cast());
                    let Some(y) = y else { return _mm512_maskz_loadu_epi16(channels, dy.cast()) };
                    let y = y.add(image * plane);
                    _mm_prefetch::<_MM_HINT_T1>(y.wrapping_add(PREFETCH_DISTANCE).cast());
                    // The output of a ReLU is never negative, so any set bit means positive.
                    let y = _mm512_maskz_loadu_epi16(channels, y.cast());
                    _mm512_maskz_loadu_epi16(_mm512_test_epi16_mask(y, y), dy.cast())
                }
            };
            let (first, second) = (load(2 * pair), load(2 * pair + 1));
            const ODD: u32 = 0xaaaa_aaaa;
            let even = _mm512_mask_blend_epi16(ODD, first, _mm512_slli_epi32::<16>(second));
            let odd = _mm512_mask_blend_epi16(ODD, _mm512_srli_epi32::<16>(first), second);
            for (parity, words) in [even, odd].into_iter().enumerate() {
                // SAFETY: the caller's promise. Both types of the sum are 512 bits for which every pattern is a value.
                unsafe {
                    _mm512_storeu_si512(to[parity].add(pair * 2 * PANEL).cast(), words);
                    let (words, ones) = (transmute::<__m512i, __m512bh>(words), transmute::<__m512i, __m512bh>(ones));
                    bias[parity] = _mm512_dpbf16_ps(bias[parity], words, ones);
                }
            }
        }
        bias
    }

    /// Row and column of each window in `rows` rows of windows.
    fn windows(output: &BlockShape, rows: std::ops::Range<usize>) -> impl Iterator<Item = (usize, usize)> + use<> {
        let width = output.width / 2;
        rows.flat_map(move |y| (0..width).map(move |x| (y, x)))
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod x86 {
    //! Never called: there are no `Tiles` here.
    use super::{Backward, Forward};
    use crate::amx::Tiles;

    pub(super) unsafe fn forward(_: &Tiles, _: Forward<'_>) {}
    pub(super) unsafe fn backward(_: &Tiles, _: Backward<'_>) {}
}
