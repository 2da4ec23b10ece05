//! A buffer of each thread for what kernels keep between their phases, made when a kernel first needs it and kept.

use std::cell::Cell;

use crate::AlignedVec;

thread_local! {
    static BUFFER: Cell<AlignedVec<f32>> = Cell::new(AlignedVec::default());
}

/// Runs `f` with `len` numbers of any content, on a cache line.
pub(crate) fn with<R>(len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    reserve(len);
    let mut buffer = BUFFER.take();
    let result = f(&mut buffer[..len]);
    BUFFER.set(buffer);
    result
}

/// Has this thread's buffer hold at least `len` numbers, so that kernels that need no more allocate nothing.
///
/// ```
/// let threads = selvedge_compute::Threads::new(2)?;
/// threads.install(|| rayon::broadcast(|_| selvedge_compute::scratch::reserve(4096)));
/// # Ok::<(), selvedge_compute::ThreadsError>(())
/// ```
pub fn reserve(len: usize) {
    let buffer = BUFFER.take();
    BUFFER.set(if buffer.len() < len { AlignedVec::zeroed(len) } else { buffer });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_grow_and_stay() {
        reserve(16);
        let first = with(16, |buffer| {
            buffer.fill(1.0);
            buffer.as_ptr()
        });
        assert_eq!(with(8, |buffer| (buffer.len(), buffer.as_ptr())), (8, first));
        assert_eq!(with(64, |buffer| buffer.len()), 64);
        // Inside of another use there is another buffer.
        with(64, |outer| assert_ne!(with(64, |inner| inner.as_ptr()), outer.as_ptr()));
    }
}
