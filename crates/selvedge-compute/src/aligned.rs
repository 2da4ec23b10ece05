//! [`AlignedVec`]: the buffer of kernels, a slice on the heap that begins on a cache line and, if it is large, lies on
//! huge pages.

use std::alloc::{Layout, alloc, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// Bytes of a cache line, of an AVX-512 register and of a row of an AMX tile.
///
/// Tile loads of rows that are not aligned to it run at a quarter of the speed.
pub const ALIGNMENT: usize = 64;

/// Bytes of a huge page; buffers of at least this size begin on one.
///
/// A pixel of 64 channels fills a page of 4 KiB, and a kernel that slides over three rows of pixels touches more pages
/// than the TLB holds. On huge pages, a training step of a residual network takes 5 to 10 % less time.
const HUGE_PAGE: usize = 2 << 20;

/// Element types of buffers: plain numbers, for which every bit pattern is a value.
pub trait Plain: Copy + Default + Send + Sync + 'static + sealed::Sealed {}

mod sealed {
    /// Restricts [`super::Plain`] to the types of this module.
    pub trait Sealed {}
}

macro_rules! plain {
    ($($t:ty),*) => {$( impl Plain for $t {} impl sealed::Sealed for $t {} )*};
}
plain!(u8, u16, u32, f32, f64, half::bf16);

/// A fixed-length buffer of plain numbers whose first element lies on a 64-byte boundary.
///
/// It dereferences to a slice.
///
/// ```
/// let mut v = selvedge_compute::AlignedVec::<f32>::zeroed(100);
/// v[7] = 1.0;
/// assert_eq!(v.iter().sum::<f32>(), 1.0);
/// assert_eq!(v.as_ptr() as usize % 64, 0);
/// ```
pub struct AlignedVec<T: Plain> {
    start: NonNull<T>,
    len: usize,
}

/// Aligns the address of an empty buffer, so that it too can be viewed as elements of any type.
#[repr(align(64))]
struct Line;

const _: () = assert!(align_of::<Line>() == ALIGNMENT);

impl<T: Plain> AlignedVec<T> {
    /// `len` elements, all zero.
    ///
    /// # Panics
    /// If `len` elements do not fit into the address space.
    pub fn zeroed(len: usize) -> Self {
        if len == 0 {
            return Self { start: NonNull::<Line>::dangling().cast(), len };
        }
        let layout = Self::layout(len);
        // SAFETY: `layout` has a size above zero, because `len > 0` and no `Plain` type is zero-sized. Unless it is
        // null, `alloc` returns that many bytes, and all are written.
        let start = unsafe {
            if layout.align() < HUGE_PAGE {
                alloc_zeroed(layout)
            } else {
                let start = alloc(layout);
                if !start.is_null() {
                    advise_huge_pages(start, layout.size());
                    start.write_bytes(0, layout.size());
                }
                start
            }
        };
        let Some(start) = NonNull::new(start.cast::<T>()) else { handle_alloc_error(layout) };
        Self { start, len }
    }

    /// A copy of `values`.
    pub fn from_slice(values: &[T]) -> Self {
        let mut copy = Self::zeroed(values.len());
        copy.copy_from_slice(values);
        copy
    }

    fn layout(len: usize) -> Layout {
        let bytes = len.checked_mul(size_of::<T>()).expect("a buffer's size in bytes fits into usize");
        let alignment = if bytes < HUGE_PAGE { ALIGNMENT } else { HUGE_PAGE };
        Layout::from_size_align(bytes, alignment).expect("a buffer's size fits into isize")
    }
}

/// Asks the system for huge pages. It may refuse; only speed depends on them.
///
/// # Safety
/// `start` must be page-aligned, and `bytes` bytes must be allocated there.
#[cfg(target_os = "linux")]
unsafe fn advise_huge_pages(start: *mut u8, bytes: usize) {
    // SAFETY: the caller's promise. The advice changes nothing that memory holds.
    unsafe { libc::madvise(start.cast(), bytes, libc::MADV_HUGEPAGE) };
}

#[cfg(not(target_os = "linux"))]
unsafe fn advise_huge_pages(_: *mut u8, _: usize) {}

impl<T: Plain> Drop for AlignedVec<T> {
    fn drop(&mut self) {
        if self.len > 0 {
            // SAFETY: `zeroed` allocated `start` with this same layout, and nothing frees it but this.
            unsafe { dealloc(self.start.as_ptr().cast(), Self::layout(self.len)) }
        }
    }
}

impl<T: Plain> Deref for AlignedVec<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: `start` points to `len` initialised elements that `self` owns (`zeroed`).
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl<T: Plain> DerefMut for AlignedVec<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: `start` points to `len` initialised elements that `self` owns and borrows mutably here.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl<T: Plain> Clone for AlignedVec<T> {
    fn clone(&self) -> Self {
        Self::from_slice(self)
    }
}

impl<T: Plain> Default for AlignedVec<T> {
    fn default() -> Self {
        Self::zeroed(0)
    }
}

impl<T: Plain + fmt::Debug> fmt::Debug for AlignedVec<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

// SAFETY: the buffer is owned by the one `AlignedVec`, and `Plain` types are `Send`.
unsafe impl<T: Plain> Send for AlignedVec<T> {}
// SAFETY: shared access only reads, and `Plain` types are `Sync`.
unsafe impl<T: Plain> Sync for AlignedVec<T> {}

/// Views `bytes` as elements of another plain type, for buffers that hold several types one after another.
///
/// # Panics
/// If `bytes` is not aligned for `T`, or its length is not a multiple of the size of `T`.
pub fn view<T: Plain>(bytes: &[u8]) -> &[T] {
    check_view::<T>(bytes);
    // SAFETY: `check_view` asserted alignment and length, and every bit pattern is a value of a `Plain` type.
    unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len() / size_of::<T>()) }
}

/// Views `bytes` as mutable elements of another plain type.
///
/// # Panics
/// As [`view`].
pub fn view_mut<T: Plain>(bytes: &mut [u8]) -> &mut [T] {
    check_view::<T>(bytes);
    // SAFETY: as in `view`; the exclusive borrow of `bytes` passes to the result.
    unsafe { std::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast(), bytes.len() / size_of::<T>()) }
}

/// The bytes of plain elements, the inverse of [`view`].
///
/// ```
/// use selvedge_compute::aligned::{bytes, view};
/// let numbers = [1.5f32, -2.0];
/// assert_eq!(view::<f32>(bytes(&numbers)), numbers);
/// ```
pub fn bytes<T: Plain>(elements: &[T]) -> &[u8] {
    // SAFETY: `Plain` types have no padding, so every byte of the slice is initialised, and bytes need no alignment.
    unsafe { std::slice::from_raw_parts(elements.as_ptr().cast(), size_of_val(elements)) }
}

/// The bytes of mutable plain elements.
pub fn bytes_mut<T: Plain>(elements: &mut [T]) -> &mut [u8] {
    // SAFETY: as in `bytes`; every bit pattern is a value of a `Plain` type, and the exclusive borrow passes to the
    // result.
    unsafe { std::slice::from_raw_parts_mut(elements.as_mut_ptr().cast(), size_of_val(elements)) }
}

fn check_view<T: Plain>(bytes: &[u8]) {
    let (at, align, size) = (bytes.as_ptr() as usize, align_of::<T>(), size_of::<T>());
    assert!(at.is_multiple_of(align), "a view of elements aligned to {align} begins at address {at:#x}");
    assert!(bytes.len().is_multiple_of(size), "a view of elements of {size} bytes has {} bytes", bytes.len());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_buffer_is_aligned() {
        let mut empty = AlignedVec::<u8>::zeroed(0);
        assert_eq!((empty.as_ptr() as usize % ALIGNMENT, view_mut::<f32>(&mut empty).len()), (0, 0));
        assert!(view::<f64>(&AlignedVec::default()).is_empty());
    }

    #[test]
    fn views_share_the_bytes() {
        let mut bytes = AlignedVec::<u8>::zeroed(64);
        view_mut::<f32>(&mut bytes[16..32])[1] = 1.0;
        assert_eq!(bytes[20..24], 1.0f32.to_ne_bytes());
        assert_eq!(view::<f32>(&bytes[20..24]), [1.0]);
    }

    #[test]
    #[should_panic(expected = "6 bytes")]
    fn a_view_of_part_of_an_element_is_refused() {
        view::<f32>(&AlignedVec::<u8>::zeroed(64)[..6]);
    }

    #[test]
    #[should_panic(expected = "aligned to 4")]
    fn a_misaligned_view_is_refused() {
        view::<f32>(&AlignedVec::<u8>::zeroed(64)[2..6]);
    }

    #[test]
    fn is_aligned_zeroed_and_independent() {
        for len in [0, 1, 15, 16, 17, 100_000, 1_000_003] {
            let mut v = AlignedVec::<f32>::zeroed(len);
            assert_eq!(v.len(), len);
            assert!(v.iter().all(|&x| x == 0.0));
            if len > 0 {
                assert_eq!(v.as_ptr() as usize % ALIGNMENT, 0);
                let copy = v.clone();
                v[len - 1] = 3.0;
                assert_eq!(copy[len - 1], 0.0);
            }
        }
    }
}
