//! [`SlidingGemm`]: the sums of up to four adjacent output pixels, for kernels with three taps in a row.

use half::bf16;

use super::{Depth, ROW_BYTES, Registers, Tiles, keep_alignment};

/// The sums of up to 4 adjacent pixels, 16 images × 16 channels each: `C(x) = Σ A(x + tap) · B(tap)` over three taps, rows
/// of taps and planes. Distances are in bytes.
///
/// For the 12 products of 4 pixels and 3 taps it loads 3 tiles of B and 6 of A, where blocks of 2 × 2 tiles load 12. A sum
/// reads 3 × 6 pixels of 16 images and one panel of weights: half of what those blocks read, and small enough for L1 up to
/// 64 channels.
///
/// ```text
///              A(x−1) A(x) A(x+1) A(x+2) A(x+3) A(x+4)      three of them in tmm4 to tmm6 at a time,
/// tap 0          C0    C1    C2     C3                      and a tap's B in tmm7
/// tap 1                C0    C1     C2     C3
/// tap 2                      C0     C1     C2     C3
/// ```
///
/// The vector units are idle while tiles multiply. So between the products the kernel applies the epilogue to the sums of
/// the call before ([`DeferredEpilogue`]) and prefetches later rows of the source, a few lines at a time.
///
/// The assembly below reads the fields.
#[repr(C)]
#[derive(Clone, Debug)]
pub(crate) struct SlidingGemm {
    /// The A tile of the first pixel and tap, which is not read if it is `outside`.
    pub a: *const bf16,
    /// The B tile of the first tap.
    pub b: *const bf16,
    /// The first pixel's tile of C, which is overwritten.
    pub c: *mut f32,
    /// From one row of A to the next.
    pub a_row: usize,
    /// From one row of C to the next.
    pub c_row: usize,
    /// From pixel to pixel of A.
    pub a_pixel: usize,
    /// From pixel to pixel of C.
    pub c_pixel: usize,
    /// From tap to tap of B. Rows of B are [`ROW_BYTES`] apart.
    pub b_tap: isize,
    /// Rows of taps, and planes, none of them zero.
    pub count: [usize; 2],
    /// What is added to A's position after a plane, and after a row's last plane.
    pub a_step: [isize; 2],
    /// The same for B.
    pub b_step: [isize; 2],
    /// [`LEFT`] if the first A tile lies left of the image, [`RIGHT`] if the last one lies right of it; the sum leaves them
    /// out.
    pub outside: usize,
    /// Scratch of the assembly: the rows of taps and the planes that remain.
    pub remaining: [usize; 2],
    /// The epilogue of earlier sums.
    pub epilogue: DeferredEpilogue,
    /// Where prefetching begins.
    pub prefetch: *const u8,
    /// Cache lines to prefetch with each plane.
    pub prefetch_lines: usize,
    /// Whether loads of A bypass L1 (`tileloaddt1`), which leaves it to B.
    pub stream_a: bool,
}

/// Adds bias, applies ReLU and rounds to bf16 the sums of up to 4 pixels, `[pixel][16 images][16]`. Distances are in bytes.
#[repr(C)]
#[derive(Clone, Debug)]
pub(crate) struct DeferredEpilogue {
    /// How many pixels, or zero for nothing to do. The assembly counts them down.
    pub pixels: usize,
    pub sums: *const f32,
    pub target: *mut bf16,
    /// Images of each pixel, at least 1 if there are pixels.
    pub images: usize,
    /// From image to image of the target.
    pub target_row: usize,
    /// From the end of the target's last image to the first image of the next pixel.
    pub target_skip: usize,
    /// From the end of the last image's sums to the first image's of the next pixel.
    pub sums_skip: usize,
    /// 16 numbers.
    pub bias: *const f32,
    /// A bit for each channel with ReLU: all 16 or none.
    pub relu: usize,
}

/// Bits of [`DeferredEpilogue::relu`].
const ALL_CHANNELS: usize = 0xffff;

/// The first pixel's first tap falls on the padding.
pub(crate) const LEFT: usize = 1;
/// The last pixel's last tap falls on the padding.
pub(crate) const RIGHT: usize = 2;

/// Which of the columns `first` and `last` lie outside a tensor of width `width`: [`LEFT`], [`RIGHT`], both or none.
pub(crate) fn outside(first: isize, last: isize, width: usize) -> usize {
    let left = if first < 0 { LEFT } else { 0 };
    let right = if last >= width as isize { RIGHT } else { 0 };
    left | right
}

/// Pixels of a [`SlidingGemm`], at most.
pub(crate) const PIXELS: usize = 4;

impl SlidingGemm {
    /// Computes the sums of `pixels` pixels, from 2 to [`PIXELS`].
    ///
    /// # Safety
    /// All elements that the fields describe must be readable, and those of C and of the epilogue's target writable. C must
    /// not overlap the sums of the epilogue.
    #[inline(always)]
    pub(crate) unsafe fn run(&mut self, pixels: usize, tiles: &Tiles) {
        tiles.debug_assert_configured(&[Depth::Sixteen, Depth::ThirtyTwo], Registers::SlidingGemm, 1);
        debug_assert!(self.count.iter().all(|&count| count > 0), "a loop without products: {self:?}");
        debug_assert!(self.outside & !(LEFT | RIGHT) == 0, "sides {:#b}", self.outside);
        debug_assert!(keep_alignment(ROW_BYTES / 2, &[self.a_row]), "rows of A: {self:?}");
        let strides = [self.a_pixel, self.b_tap as usize, self.c_row, self.c_pixel];
        debug_assert!(keep_alignment(ROW_BYTES, &strides), "strides of A, B and C: {self:?}");
        debug_assert!((self.epilogue.sums as usize).is_multiple_of(ROW_BYTES), "sums at {:?}", self.epilogue.sums);
        debug_assert!(self.epilogue.pixels <= PIXELS && [0, ALL_CHANNELS].contains(&self.epilogue.relu));
        debug_assert!(self.epilogue.pixels == 0 || self.epilogue.images > 0);
        debug_assert!(
            self.epilogue.pixels == 0 || !std::ptr::eq(self.c, self.epilogue.sums),
            "C is the epilogue's sums"
        );
        // SAFETY: the caller's promise; `Tiles` proves that AMX is there, and AVX-512 with bf16 beside it
        // (`cpu::detect`), and that its tiles are configured.
        unsafe {
            match (pixels, self.stream_a) {
                (4, false) => sliding_4(self),
                (3, false) => sliding_3(self),
                (2, false) => sliding_2(self),
                (4, true) => streamed_4(self),
                (3, true) => streamed_3(self),
                (2, true) => streamed_2(self),
                _ => unreachable!("a sliding product of {pixels} pixels"),
            }
        }
    }
}

/// Applies the epilogue to the images of one pixel: bias, ReLU, rounding.
#[cfg(target_arch = "x86_64")]
macro_rules! epilogue_of_pixel {
    () => {
        "mov {n}, [{gemm} + {IMAGES}]
        6:
        vaddps zmm0, zmm1, [{sums}]
        vmaxps zmm0 {{k1}}, zmm0, zmm2
        vcvtneps2bf16 ymm0, zmm0
        vmovdqu [{target}], ymm0
        add {sums}, {ROW_BYTES}
        add {target}, [{gemm} + {TARGET_ROW}]
        dec {n}
        jnz 6b
        add {target}, [{gemm} + {TARGET_SKIP}]
        add {sums}, [{gemm} + {SUMS_SKIP}]
        dec qword ptr [{gemm} + {EPILOGUE_PIXELS}]"
    };
}

/// Defines the sum for a number of pixels: how C is zeroed, the products of a row of taps in a plane, and how C is stored.
macro_rules! sliding_gemm {
    ($name:ident, [$($zero:literal),*], [$($product:expr),*], [$($store:literal),*]) => {
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
        #[inline(never)]
        unsafe fn $name(gemm: &mut SlidingGemm) {
            use std::mem::offset_of;

            use super::element;

            // SAFETY: the caller of `SlidingGemm::run` promises that everything the fields describe may be accessed, and
            // `Tiles` that tiles are configured; registers that are written are outputs or clobbers.
            unsafe {
                std::arch::asm!(
                    $($zero,)*
                    "mov {a}, [{gemm} + {A}]",
                    "mov {b}, [{gemm} + {B}]",
                    "mov {row}, [{gemm} + {A_ROW}]",
                    "mov {b_row}, {ROW_BYTES}",
                    "mov {n}, [{gemm} + {TAP_ROWS}]",
                    "mov [{gemm} + {TAP_ROWS_REMAINING}], {n}",
                    "mov {n}, [{gemm} + {BIAS}]",
                    "vmovups zmm1, [{n}]",
                    "vpxord zmm2, zmm2, zmm2",
                    "mov {n}, [{gemm} + {RELU}]",
                    "kmovd k1, {n:e}",
                    "mov {sums}, [{gemm} + {SUMS}]",
                    "mov {target}, [{gemm} + {TARGET}]",
                    "mov {prefetch}, [{gemm} + {PREFETCH}]",
                    "2:",
                    "mov {n}, [{gemm} + {PLANES}]",
                    "mov [{gemm} + {PLANES_REMAINING}], {n}",
                    "3:",
                    "mov {at}, {a}",
                    "mov {bt}, {b}",
                    "tileloadd tmm7, [{bt} + {b_row}]",
                    $($product,)*
                    "add {a}, [{gemm} + {A_PLANE}]",
                    "add {b}, [{gemm} + {B_PLANE}]",
                    // Prefetches.
                    "mov {n}, [{gemm} + {PREFETCH_LINES}]",
                    "test {n}, {n}",
                    "jz 5f",
                    "4:",
                    "prefetcht1 [{prefetch}]",
                    "add {prefetch}, {ROW_BYTES}",
                    "dec {n}",
                    "jnz 4b",
                    "5:",
                    // The epilogue of one pixel.
                    "cmp qword ptr [{gemm} + {EPILOGUE_PIXELS}], 0",
                    "je 7f",
                    epilogue_of_pixel!(),
                    "7:",
                    "dec qword ptr [{gemm} + {PLANES_REMAINING}]",
                    "jnz 3b",
                    "add {a}, [{gemm} + {A_TAP_ROW}]",
                    "add {b}, [{gemm} + {B_TAP_ROW}]",
                    "dec qword ptr [{gemm} + {TAP_ROWS_REMAINING}]",
                    "jnz 2b",
                    // The rest of the epilogue, if it has more pixels than this sum has planes.
                    "8:",
                    "cmp qword ptr [{gemm} + {EPILOGUE_PIXELS}], 0",
                    "je 9f",
                    epilogue_of_pixel!(),
                    "jmp 8b",
                    "9:",
                    "mov {at}, [{gemm} + {C}]",
                    "mov {row}, [{gemm} + {C_ROW}]",
                    $($store,)*
                    gemm = in(reg) std::ptr::from_mut(gemm),
                    a = out(reg) _, b = out(reg) _, at = out(reg) _, bt = out(reg) _, row = out(reg) _,
                    b_row = out(reg) _, n = out(reg) _, sums = out(reg) _, target = out(reg) _, prefetch = out(reg) _,
                    out("zmm0") _, out("zmm1") _, out("zmm2") _, out("k1") _,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    ROW_BYTES = const ROW_BYTES,
                    LEFT = const LEFT,
                    RIGHT = const RIGHT,
                    A = const offset_of!(SlidingGemm, a),
                    B = const offset_of!(SlidingGemm, b),
                    C = const offset_of!(SlidingGemm, c),
                    A_ROW = const offset_of!(SlidingGemm, a_row),
                    C_ROW = const offset_of!(SlidingGemm, c_row),
                    A_PIXEL = const offset_of!(SlidingGemm, a_pixel),
                    C_PIXEL = const offset_of!(SlidingGemm, c_pixel),
                    B_TAP = const offset_of!(SlidingGemm, b_tap),
                    TAP_ROWS = const element(offset_of!(SlidingGemm, count), 0),
                    PLANES = const element(offset_of!(SlidingGemm, count), 1),
                    A_PLANE = const element(offset_of!(SlidingGemm, a_step), 0),
                    A_TAP_ROW = const element(offset_of!(SlidingGemm, a_step), 1),
                    B_PLANE = const element(offset_of!(SlidingGemm, b_step), 0),
                    B_TAP_ROW = const element(offset_of!(SlidingGemm, b_step), 1),
                    OUTSIDE = const offset_of!(SlidingGemm, outside),
                    TAP_ROWS_REMAINING = const element(offset_of!(SlidingGemm, remaining), 0),
                    PLANES_REMAINING = const element(offset_of!(SlidingGemm, remaining), 1),
                    EPILOGUE_PIXELS = const offset_of!(SlidingGemm, epilogue.pixels),
                    SUMS = const offset_of!(SlidingGemm, epilogue.sums),
                    TARGET = const offset_of!(SlidingGemm, epilogue.target),
                    IMAGES = const offset_of!(SlidingGemm, epilogue.images),
                    TARGET_ROW = const offset_of!(SlidingGemm, epilogue.target_row),
                    TARGET_SKIP = const offset_of!(SlidingGemm, epilogue.target_skip),
                    SUMS_SKIP = const offset_of!(SlidingGemm, epilogue.sums_skip),
                    BIAS = const offset_of!(SlidingGemm, epilogue.bias),
                    RELU = const offset_of!(SlidingGemm, epilogue.relu),
                    PREFETCH = const offset_of!(SlidingGemm, prefetch),
                    PREFETCH_LINES = const offset_of!(SlidingGemm, prefetch_lines),
                    options(nostack),
                );
            }
        }

        #[cfg(not(target_arch = "x86_64"))]
        unsafe fn $name(_: &mut SlidingGemm) {
            unreachable!("no Tiles exist without AMX")
        }
    };
}

/// Loads the A tile of the next pixel.
#[cfg(target_arch = "x86_64")]
macro_rules! next_a {
    ($load:literal, $a:literal) => {
        concat!("add {at}, [{gemm} + {A_PIXEL}]\n", $load, " ", $a, ", [{at} + {row}]")
    };
}

/// Loads the A tile of the first pixel and adds its product, if it does not lie left of the image.
#[cfg(target_arch = "x86_64")]
macro_rules! first_a {
    ($load:literal, $a:literal, $c:literal) => {
        concat!(
            "test byte ptr [{gemm} + {OUTSIDE}], {LEFT}\njnz 4f\n",
            $load,
            " ",
            $a,
            ", [{at} + {row}]\n",
            "tdpbf16ps ",
            $c,
            ", ",
            $a,
            ", tmm7\n4:"
        )
    };
}

/// Loads the A tile of the last pixel and adds its product, if it does not lie right of the image.
#[cfg(target_arch = "x86_64")]
macro_rules! last_a {
    ($load:literal, $a:literal, $c:literal) => {
        concat!(
            "test byte ptr [{gemm} + {OUTSIDE}], {RIGHT}\njnz 4f\n",
            next_a!($load, $a),
            "\ntdpbf16ps ",
            $c,
            ", ",
            $a,
            ", tmm7\n4:"
        )
    };
}

/// Loads the B tile of the next tap.
#[cfg(target_arch = "x86_64")]
macro_rules! next_b {
    () => {
        "add {bt}, [{gemm} + {B_TAP}]
        tileloadd tmm7, [{bt} + {b_row}]"
    };
}

/// Defines the sums of 4, 3 and 2 pixels that load tiles of A with the instruction `$load`.
macro_rules! sliding_gemms {
    ($load:literal, $four:ident, $three:ident, $two:ident) => {
        sliding_gemm!(
            $four,
            ["tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3"],
            [
                first_a!($load, "tmm4", "tmm0"),
                next_a!($load, "tmm5"),
                "tdpbf16ps tmm1, tmm5, tmm7",
                next_a!($load, "tmm6"),
                "tdpbf16ps tmm2, tmm6, tmm7",
                next_a!($load, "tmm4"),
                "tdpbf16ps tmm3, tmm4, tmm7",
                next_b!(),
                "tdpbf16ps tmm0, tmm5, tmm7",
                "tdpbf16ps tmm1, tmm6, tmm7",
                "tdpbf16ps tmm2, tmm4, tmm7",
                next_a!($load, "tmm5"),
                "tdpbf16ps tmm3, tmm5, tmm7",
                next_b!(),
                "tdpbf16ps tmm0, tmm6, tmm7",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm7",
                last_a!($load, "tmm6", "tmm3")
            ],
            [
                "tilestored [{at} + {row}], tmm0",
                "add {at}, [{gemm} + {C_PIXEL}]",
                "tilestored [{at} + {row}], tmm1",
                "add {at}, [{gemm} + {C_PIXEL}]",
                "tilestored [{at} + {row}], tmm2",
                "add {at}, [{gemm} + {C_PIXEL}]",
                "tilestored [{at} + {row}], tmm3"
            ]
        );

        sliding_gemm!(
            $three,
            ["tilezero tmm0", "tilezero tmm1", "tilezero tmm2"],
            [
                first_a!($load, "tmm4", "tmm0"),
                next_a!($load, "tmm5"),
                "tdpbf16ps tmm1, tmm5, tmm7",
                next_a!($load, "tmm6"),
                "tdpbf16ps tmm2, tmm6, tmm7",
                next_b!(),
                "tdpbf16ps tmm0, tmm5, tmm7",
                "tdpbf16ps tmm1, tmm6, tmm7",
                next_a!($load, "tmm4"),
                "tdpbf16ps tmm2, tmm4, tmm7",
                next_b!(),
                "tdpbf16ps tmm0, tmm6, tmm7",
                "tdpbf16ps tmm1, tmm4, tmm7",
                last_a!($load, "tmm5", "tmm2")
            ],
            [
                "tilestored [{at} + {row}], tmm0",
                "add {at}, [{gemm} + {C_PIXEL}]",
                "tilestored [{at} + {row}], tmm1",
                "add {at}, [{gemm} + {C_PIXEL}]",
                "tilestored [{at} + {row}], tmm2"
            ]
        );

        sliding_gemm!(
            $two,
            ["tilezero tmm0", "tilezero tmm1"],
            [
                first_a!($load, "tmm4", "tmm0"),
                next_a!($load, "tmm5"),
                "tdpbf16ps tmm1, tmm5, tmm7",
                next_b!(),
                "tdpbf16ps tmm0, tmm5, tmm7",
                next_a!($load, "tmm6"),
                "tdpbf16ps tmm1, tmm6, tmm7",
                next_b!(),
                "tdpbf16ps tmm0, tmm6, tmm7",
                last_a!($load, "tmm4", "tmm1")
            ],
            ["tilestored [{at} + {row}], tmm0", "add {at}, [{gemm} + {C_PIXEL}]", "tilestored [{at} + {row}], tmm1"]
        );
    };
}

sliding_gemms!("tileloadd", sliding_4, sliding_3, sliding_2);
sliding_gemms!("tileloaddt1", streamed_4, streamed_3, streamed_2);
