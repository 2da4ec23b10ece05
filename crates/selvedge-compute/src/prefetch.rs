//! [`prefetch`]: fetches cache lines before they are read.

use crate::aligned::ALIGNMENT;
use crate::simd::Simd;

/// Starts to fetch `data` into L1 without waiting for it. Use it for scattered data, whose addresses the hardware
/// prefetcher cannot predict.
///
/// It affects only speed. On processors other than x86-64 and aarch64 it does nothing.
///
/// ```
/// let images = vec![0u8; 10 * 784];
/// for i in [7, 2, 9] {
///     selvedge_compute::prefetch(&images[i * 784..][..784]);
/// }
/// ```
#[inline]
pub fn prefetch<T>(data: &[T]) {
    let first = data.as_ptr().cast::<i8>();
    for line in (0..size_of_val(data)).step_by(ALIGNMENT) {
        prefetch_line(first.wrapping_add(line));
    }
}

/// Starts to fetch the line of `at` into L1.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn prefetch_line(at: *const i8) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: every x86-64 processor has the instruction, and it reads nothing that the program can observe.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(at) }
}

/// Starts to fetch the line of `at` into L1.
#[cfg(target_arch = "aarch64")]
#[inline(always)]
fn prefetch_line(at: *const i8) {
    // SAFETY: every aarch64 processor has the instruction, and it reads nothing that the program can observe.
    unsafe { std::arch::asm!("prfm pldl1keep, [{0}]", in(reg) at.addr(), options(nomem, nostack, preserves_flags)) }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
#[inline(always)]
fn prefetch_line(_: *const i8) {}

/// Prefetches into L2 the line two pages of bf16 after element `at`, if a line begins there. For passes over tensors
/// larger than L2: the hardware prefetcher stops at the end of each page.
///
/// Normalisation passes that write a tensor take 5 to 15 % less time if its lines are prefetched too, and so do sums of
/// tensors; moments, which read a single stream, take a quarter less. Gradient sums of a normalisation and SGD gain
/// nothing. Normalisation with pooling prefetches in its own order (`norm/pooled.rs`).
#[inline(always)]
pub(crate) fn prefetch_ahead<S: Simd, E>(s: S, data: &[E], at: usize) {
    const ELEMENTS: usize = 4096;
    if begins_line::<E>(at) {
        s.prefetch(data.as_ptr().wrapping_add(at + ELEMENTS));
    }
}

/// Whether element `at` begins a cache line, in memory that itself begins on one.
#[inline(always)]
pub(crate) fn begins_line<E>(at: usize) -> bool {
    (at * size_of::<E>()).is_multiple_of(ALIGNMENT)
}
