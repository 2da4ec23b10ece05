//! The passes over windows without pooling: each of a window's four pixels is written, and each has its gradient.

use std::ops::Range;

use half::bf16;

use super::{packed_len, shape};
use crate::amx::{Depth, ROWS, Registers, with_tiles};
use crate::conv::{Conv2dShape, Epilogue, Part};
use crate::cpu::Cpu;
use crate::layout::{BLOCK, BlockShape};

/// [`crate::conv::forward`] of a first layer in bf16 on AMX; `x` comes from [`super::fill`], `weights` from [`super::pack`].
/// The rows of `part`, and so `y`, are whole windows: they begin and end at even numbers.
///
/// # Panics
/// If the layer's windows leave out pixels ([`super::cover`]), a slice is not as long as the shape says, or `cpu` does not prove
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
    assert!(super::cover(layer), "windows that cover the image are needed, not those of {layer:?}");
    assert!((1..=BLOCK).contains(&images), "{images} images of a block of {BLOCK}");
    assert!(
        rows.start <= rows.end && rows.end <= output.height && [rows.start, rows.end].iter().all(|y| y % 2 == 0),
        "rows {rows:?} are no rows of windows of {output:?}"
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

/// Adds the gradients of the weights, and of the bias, of one block: with `y`, only where that is above zero, as behind a ReLU.
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
    assert!(super::cover(layer), "windows that cover the image are needed, not those of {layer:?}");
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
            let pass = Backward { output, first: output.channel(number * plane), x, y, dy, dweights, dbias };
            // SAFETY: as in `forward_unpooled`.
            unsafe { x86::backward(tiles, pass) };
        }
    });
}

/// The gradients of a plane of channels.
#[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "only code for AMX reads them"))]
struct Backward<'a> {
    output: &'a BlockShape,
    /// Where the plane begins in a pixel.
    first: usize,
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

    use super::super::backward::transpose_window;
    use super::super::{PANEL, PANEL_LEN, SEEN, tap};
    use super::{BLOCK, Backward, BlockShape, Forward, ROWS};
    use crate::amx::Tiles;
    use crate::amx::patches::{self, PIXELS, TILE};
    use crate::amx::shuffle::round_row;
    use crate::conv::first_layer::batch_norm::TAPS;
    use crate::layout::PLANE;

    /// Elements, 8 KiB or two pages, that are asked for before they are read or written: see `prefetch.rs`.
    const AHEAD: usize = 4096;

    /// Sums of a window's pixels for the panels of a plane. They are written and read through pointers alone.
    #[repr(align(64))]
    struct Sums {
        _numbers: [f32; PLANE / PANEL * 2 * PIXELS * TILE],
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
        let least = _mm512_set1_ps(if epilogue.relu { 0.0 } else { f32::NEG_INFINITY });
        for (window_y, window_x) in window_places(output, rows.start / 2..rows.end / 2) {
            let number = window_y * (output.width / 2) + window_x;
            for channel in (0..output.channel_stride).step_by(plane) {
                for panel in 0..plane / PANEL {
                    // SAFETY: the caller's promise: a window of x has 16 numbers of BLOCK images, a panel PANEL_LEN weights.
                    // `Sums` has room for the panels of a plane.
                    unsafe {
                        let a = x.as_ptr().add(number * BLOCK * SEEN);
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
                                _mm512_max_ps(_mm512_add_ps(_mm512_loadu_ps(sum), bias), least)
                            };
                            let low = finish(sums.add(from), low_bias);
                            let to = y.as_mut_ptr().add(to);
                            _mm_prefetch::<_MM_HINT_ET0>(to.wrapping_add(AHEAD).cast());
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
    const AT_ONCE: usize = 4;

    /// Tiles of some windows: A, and for the even and the odd channels of a plane those of B. They are written and read through
    /// pointers alone.
    #[repr(align(64))]
    struct Operands {
        _a: [bf16; AT_ONCE * 2 * TILE],
        _b: [[bf16; AT_ONCE * PIXELS * 2 * TILE]; 2],
    }

    /// # Safety
    /// The slices of `pass` must have the lengths that `backward_unpooled` asserts.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(super) unsafe fn backward(tiles: &Tiles, pass: Backward<'_>) {
        #[repr(align(64))]
        struct Sums([[[[f32; PANEL]; SEEN]; PIXELS]; 2]);
        let Backward { output, first, x, y, dy, dweights, dbias } = pass;
        let mut sums = Sums([[[[0.0; PANEL]; SEEN]; PIXELS]; 2]);
        let mut operands = MaybeUninit::<Operands>::uninit();
        let a = operands.as_mut_ptr().cast::<bf16>();
        let b = [0, 1].map(|parity| a.wrapping_add(AT_ONCE * (1 + parity * PIXELS) * 2 * TILE));
        let mut bias = [_mm512_setzero_ps(); 2];
        let mut filled = 0;
        let all = output.height / 2 * (output.width / 2);
        for (number, (window_y, window_x)) in window_places(output, 0..output.height / 2).enumerate() {
            // SAFETY: the caller's promise; `Operands` has room for AT_ONCE windows.
            unsafe {
                transpose_window(x.as_ptr().add(number * BLOCK * SEEN), a.add(filled * 2 * TILE));
                for pixel in 0..PIXELS {
                    let at = output.offset(2 * window_y + pixel / 2, 2 * window_x + pixel % 2) + first;
                    let to = b.map(|b| b.add((filled * PIXELS + pixel) * 2 * TILE));
                    let y = y.map(|y| y.as_ptr().add(at));
                    bias = by_parity(output.plane(), dy.as_ptr().add(at), y, to, bias);
                }
            }
            filled += 1;
            if filled == AT_ONCE || number + 1 == all {
                for (b, sums) in b.into_iter().zip(&mut sums.0) {
                    // SAFETY: the tiles of `filled` windows have been written.
                    unsafe { patches::add(tiles, filled, a, b, sums.as_mut_ptr().cast()) };
                }
                filled = 0;
            }
        }
        for (parity, sums) in sums.0.iter().enumerate() {
            let of_bias: [f32; PANEL] = {
                // SAFETY: both types are 16 numbers.
                unsafe { transmute::<__m512, [f32; PANEL]>(bias[parity]) }
            };
            for lane in 0..output.plane() / 2 {
                let channel = 2 * lane + parity;
                dbias[channel] += of_bias[lane];
                for (pixel, sums) in sums.iter().enumerate() {
                    for (seen, sums) in sums.iter().enumerate() {
                        if let Some(tap) = tap(pixel, seen) {
                            let panel = channel / PANEL * TAPS;
                            dweights[(panel + tap) * PANEL + channel % PANEL] += sums[lane];
                        }
                    }
                }
            }
        }
    }

    /// dY of one pixel in pairs of images, where `y` is above zero if there is one: the even channels of a plane to one tile, the
    /// odd ones to another, and the sums of either added to `bias`.
    ///
    /// Even and odd channels of two images are paired by shifts and blends, where halves of a plane would take shuffles.
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
        // The channels that a plane has: its other columns stay zero.
        let channels = if plane == PLANE { u32::MAX } else { u32::from(u16::MAX) };
        for pair in 0..BLOCK / 2 {
            let load = |image: usize| {
                // SAFETY: the caller's promise; the mask has the plane's channels alone.
                unsafe {
                    let dy = dy.add(image * plane);
                    _mm_prefetch::<_MM_HINT_T1>(dy.wrapping_add(AHEAD).cast());
                    let Some(y) = y else { return _mm512_maskz_loadu_epi16(channels, dy.cast()) };
                    let y = y.add(image * plane);
                    _mm_prefetch::<_MM_HINT_T1>(y.wrapping_add(AHEAD).cast());
                    // Behind a ReLU nothing is below zero.
                    let y = _mm512_maskz_loadu_epi16(channels, y.cast());
                    _mm512_maskz_loadu_epi16(_mm512_test_epi16_mask(y, y), dy.cast())
                }
            };
            let (one, other) = (load(2 * pair), load(2 * pair + 1));
            const ODD: u32 = 0xaaaa_aaaa;
            let even = _mm512_mask_blend_epi16(ODD, one, _mm512_slli_epi32::<16>(other));
            let odd = _mm512_mask_blend_epi16(ODD, _mm512_srli_epi32::<16>(one), other);
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

    /// Row and column of each window of some rows of windows.
    fn window_places(
        output: &BlockShape,
        rows: std::ops::Range<usize>,
    ) -> impl Iterator<Item = (usize, usize)> + use<> {
        let width = output.width / 2;
        rows.flat_map(move |y| (0..width).map(move |x| (y, x)))
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod x86 {
    //! No `Tiles` exist here.
    use super::{Backward, Forward};
    use crate::amx::Tiles;

    pub(super) unsafe fn forward(_: &Tiles, _: Forward<'_>) {}
    pub(super) unsafe fn backward(_: &Tiles, _: Backward<'_>) {}
}
