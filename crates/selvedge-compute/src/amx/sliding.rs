//! [`SlidingGemm`]: a row of output pixels and the sum that goes into it, for kernels of three taps in a row.

use half::bf16;

use super::Tiles;

/// The sums of up to 4 adjacent pixels, 16 images × 16 channels each: `C(x) += Σ A(x + tap) · B(tap)` over three taps, rows
/// of taps and planes. Distances are in bytes.
///
/// Of 12 products for 4 pixels, 3 tiles of B and 6 of A are loaded, where 2 × 2 tiles take 12; and what a sum reads, 3 × 6
/// pixels of 16 images and one panel, is half of what they read and fits into the first cache up to 64 channels.
///
/// ```text
///              A(x−1) A(x) A(x+1) A(x+2) A(x+3) A(x+4)      three of them in tmm4 to tmm6 at a time,
/// tap 0          C0    C1    C2     C3                      and a tap's B in tmm7
/// tap 1                C0    C1     C2     C3
/// tap 2                      C0     C1     C2     C3
/// ```
///
/// Vectors have nothing to do while tiles multiply. So between the products, the sums of the slide before are finished
/// ([`Finish`]), and the source's later rows are asked for, a few lines at a time.
///
/// The fields are read by the assembly below, at the offsets of their order.
#[repr(C)]
#[derive(Clone, Debug)]
pub(crate) struct SlidingGemm {
    /// The A tile of the first pixel and tap, which is not read if it is `outside`.
    pub a: *const bf16,
    /// The B tile of the first tap.
    pub b: *const bf16,
    /// The first pixel's tile of C. Whatever it holds is overwritten.
    pub c: *mut f32,
    /// From a row of A to the next.
    pub a_row: usize,
    /// From a row of C to the next.
    pub c_row: usize,
    /// From pixel to pixel of A.
    pub a_pixel: usize,
    /// From pixel to pixel of C.
    pub c_pixel: usize,
    /// From tap to tap of B. Rows of B lie 64 bytes apart.
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
    /// Rows of taps and planes that are left, which the assembly keeps here.
    pub left: [usize; 2],
    /// What is finished on the way.
    pub finish: Finish,
    /// Where the memory that later slides read begins, and how many lines of 64 bytes are asked for with each plane.
    pub ahead: *const u8,
    pub lines: usize,
    /// Whether tiles of A are loaded past the first cache (`tileloaddt1`), which is left to B.
    pub stream: bool,
}

/// Sums of up to 4 pixels, `[pixel][16 images][16]`, that get bias and ReLU and are rounded.
#[repr(C)]
#[derive(Clone, Debug)]
pub(crate) struct Finish {
    /// How many pixels, or none. The assembly counts them down.
    pub pixels: usize,
    pub sums: *const f32,
    pub target: *mut bf16,
    /// Images of each pixel, at least 1.
    pub images: usize,
    /// From image to image of the target.
    pub target_row: usize,
    /// From behind the last image of the target to the first of the next pixel.
    pub target_skip: usize,
    /// From behind the last image of the sums to the first of the next pixel.
    pub sums_skip: usize,
    /// 16 numbers.
    pub bias: *const f32,
    /// A bit for each channel of which negative sums become zero: all or none.
    pub relu: usize,
}

/// The first pixel's first tap falls on the padding.
pub(crate) const LEFT: usize = 1;
/// The last pixel's last tap falls on the padding.
pub(crate) const RIGHT: usize = 2;

/// Which of the columns `first` and `last` of a tensor of some `width` lie outside of it.
pub(crate) fn outside(first: isize, last: isize, width: usize) -> usize {
    let left = if first < 0 { LEFT } else { 0 };
    let right = if last >= width as isize { RIGHT } else { 0 };
    left | right
}

/// The most pixels of a slide.
pub(crate) const PIXELS: usize = 4;

impl SlidingGemm {
    /// Runs the sum for `pixels`, from 2 to [`PIXELS`].
    ///
    /// # Safety
    /// All elements that the fields name must be readable, and those of C and of the target that is finished writable. C
    /// must not be the sums that are finished.
    #[inline(always)]
    pub(crate) unsafe fn run(&mut self, pixels: usize, _: &Tiles) {
        // SAFETY: the caller's promise; `Tiles` proves that AMX is there, and AVX-512 with bf16 beside it
        // (`cpu::detect`), and that its tiles are configured.
        unsafe {
            match (pixels, self.stream) {
                (4, false) => slide_4(self),
                (3, false) => slide_3(self),
                (2, false) => slide_2(self),
                (4, true) => streamed_4(self),
                (3, true) => streamed_3(self),
                (2, true) => streamed_2(self),
                _ => unreachable!("a slide of {pixels} pixels"),
            }
        }
    }
}

/// Bias, ReLU and rounding of a pixel's images.
macro_rules! finish_pixel {
    () => {
        "mov {n}, [{slide} + 160]
        6:
        vaddps zmm0, zmm1, [{sums}]
        vmaxps zmm0 {{k1}}, zmm0, zmm2
        vcvtneps2bf16 ymm0, zmm0
        vmovdqu [{target}], ymm0
        add {sums}, 64
        add {target}, [{slide} + 168]
        dec {n}
        jnz 6b
        add {target}, [{slide} + 176]
        add {sums}, [{slide} + 184]
        dec qword ptr [{slide} + 136]"
    };
}

/// Defines the sum for a number of pixels: C at zero, the products of a row of taps in a plane, and the stores of C.
macro_rules! slide {
    ($name:ident, [$($zero:literal),*], [$($product:expr),*], [$($store:literal),*]) => {
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
        #[inline(never)]
        unsafe fn $name(slide: &mut SlidingGemm) {
            // SAFETY: the caller of `SlidingGemm::run` promises that everything the slide names may be accessed, and `Tiles`
            // that tiles are configured; the registers used are outputs or clobbers.
            unsafe {
                std::arch::asm!(
                    $($zero,)*
                    "mov {a}, [{slide}]",
                    "mov {b}, [{slide} + 8]",
                    "mov {row}, [{slide} + 24]",
                    "mov {s64}, 64",
                    "mov {n}, [{slide} + 64]",
                    "mov [{slide} + 120], {n}",
                    "mov {n}, [{slide} + 192]",
                    "vmovups zmm1, [{n}]",
                    "vpxord zmm2, zmm2, zmm2",
                    "mov {n}, [{slide} + 200]",
                    "kmovd k1, {n:e}",
                    "mov {sums}, [{slide} + 144]",
                    "mov {target}, [{slide} + 152]",
                    "mov {ahead}, [{slide} + 208]",
                    "2:",
                    "mov {n}, [{slide} + 72]",
                    "mov [{slide} + 128], {n}",
                    "3:",
                    "mov {at}, {a}",
                    "mov {bt}, {b}",
                    "tileloadd tmm7, [{bt} + {s64}]",
                    $($product,)*
                    "add {a}, [{slide} + 80]",
                    "add {b}, [{slide} + 96]",
                    // Some lines ahead.
                    "mov {n}, [{slide} + 216]",
                    "test {n}, {n}",
                    "jz 5f",
                    "4:",
                    "prefetcht1 [{ahead}]",
                    "add {ahead}, 64",
                    "dec {n}",
                    "jnz 4b",
                    "5:",
                    // A pixel of the slide before.
                    "cmp qword ptr [{slide} + 136], 0",
                    "je 7f",
                    finish_pixel!(),
                    "7:",
                    "dec qword ptr [{slide} + 128]",
                    "jnz 3b",
                    "add {a}, [{slide} + 88]",
                    "add {b}, [{slide} + 104]",
                    "dec qword ptr [{slide} + 120]",
                    "jnz 2b",
                    // What is left of the slide before, if it had more pixels than this has planes.
                    "8:",
                    "cmp qword ptr [{slide} + 136], 0",
                    "je 9f",
                    finish_pixel!(),
                    "jmp 8b",
                    "9:",
                    "mov {at}, [{slide} + 16]",
                    "mov {row}, [{slide} + 32]",
                    $($store,)*
                    slide = in(reg) std::ptr::from_mut(slide),
                    a = out(reg) _, b = out(reg) _, at = out(reg) _, bt = out(reg) _, row = out(reg) _, s64 = out(reg) _,
                    n = out(reg) _, sums = out(reg) _, target = out(reg) _, ahead = out(reg) _,
                    out("zmm0") _, out("zmm1") _, out("zmm2") _, out("k1") _,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
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
        concat!("add {at}, [{slide} + 40]\n", $load, " ", $a, ", [{at} + {row}]")
    };
}

/// Loads the A tile of the first pixel and adds its product, if it does not lie left of the image.
#[cfg(target_arch = "x86_64")]
macro_rules! first_a {
    ($load:literal, $a:literal, $c:literal) => {
        concat!(
            "test byte ptr [{slide} + 112], 1\njnz 4f\n",
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
            "test byte ptr [{slide} + 112], 2\njnz 4f\n",
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
        "add {bt}, [{slide} + 56]
        tileloadd tmm7, [{bt} + {s64}]"
    };
}

/// Defines the sums of 4, 3 and 2 pixels, whose tiles of A are loaded by the instruction `$load`.
macro_rules! slides {
    ($load:literal, $four:ident, $three:ident, $two:ident) => {
        slide!(
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
                "add {at}, [{slide} + 48]",
                "tilestored [{at} + {row}], tmm1",
                "add {at}, [{slide} + 48]",
                "tilestored [{at} + {row}], tmm2",
                "add {at}, [{slide} + 48]",
                "tilestored [{at} + {row}], tmm3"
            ]
        );

        slide!(
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
                "add {at}, [{slide} + 48]",
                "tilestored [{at} + {row}], tmm1",
                "add {at}, [{slide} + 48]",
                "tilestored [{at} + {row}], tmm2"
            ]
        );

        slide!(
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
            ["tilestored [{at} + {row}], tmm0", "add {at}, [{slide} + 48]", "tilestored [{at} + {row}], tmm1"]
        );
    };
}

slides!("tileloadd", slide_4, slide_3, slide_2);
slides!("tileloaddt1", streamed_4, streamed_3, streamed_2);
