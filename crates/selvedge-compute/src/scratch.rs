//! A scratch buffer per thread for intermediate results of kernels, allocated when a kernel first needs it and then
//! kept.

use std::cell::Cell;

use crate::AlignedVec;
use crate::aligned::{Plain, view_mut};

thread_local! {
    static BUFFER: Cell<AlignedVec<u8>> = Cell::new(AlignedVec::default());
}

/// Runs `f` with `len` numbers of unspecified content, aligned to a cache line. Nested calls get a buffer of their own.
///
/// # Panics
/// If the buffer does not fit into the address space.
///
/// ```
/// use selvedge_compute::scratch;
/// let sum = scratch::with(4, |numbers: &mut [f32]| {
///     numbers.fill(0.5);
///     numbers.iter().sum::<f32>()
/// });
/// assert_eq!(sum, 2.0);
/// ```
pub fn with<T: Plain, R>(len: usize, f: impl FnOnce(&mut [T]) -> R) -> R {
    let bytes = len * size_of::<T>();
    reserve(bytes);
    let mut buffer = BUFFER.take();
    let result = f(view_mut(&mut buffer[..bytes]));
    BUFFER.set(buffer);
    result
}

/// Grows this thread's buffer to at least `bytes`; kernels that need no more then allocate nothing.
///
/// ```
/// let threads = selvedge_compute::Threads::new(2)?;
/// threads.install(|| rayon::broadcast(|_| selvedge_compute::scratch::reserve(16384)));
/// # Ok::<(), selvedge_compute::ThreadsError>(())
/// ```
pub fn reserve(bytes: usize) {
    let buffer = BUFFER.take();
    BUFFER.set(if buffer.len() < bytes { AlignedVec::zeroed(bytes) } else { buffer });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_grow_and_stay() {
        reserve(64);
        let first = with(16, |buffer: &mut [f32]| {
            buffer.fill(1.0);
            buffer.as_ptr()
        });
        assert_eq!(with(8, |buffer: &mut [f32]| (buffer.len(), buffer.as_ptr())), (8, first));
        assert_eq!(with(64, |buffer: &mut [f32]| buffer.len()), 64);
        // A nested use gets another buffer.
        with(64, |outer: &mut [f32]| with(64, |inner: &mut [f32]| assert_ne!(inner.as_ptr(), outer.as_ptr())));
    }
}
