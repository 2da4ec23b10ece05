//! [`CountingAllocator`]: for tests that assert how often code allocates.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The system's allocator, which also counts the allocations of all threads.
///
/// A test that a training step allocates nothing makes it its global allocator. Allocations of other tests in the same
/// program count too, so such a test belongs in a program of its own.
///
/// ```
/// use selvedge_compute::CountingAllocator;
///
/// #[global_allocator]
/// static ALLOCATOR: CountingAllocator = CountingAllocator::new();
///
/// let before = ALLOCATOR.allocations();
/// let numbers = vec![1, 2, 3];
/// assert_eq!(ALLOCATOR.allocations() - before, 1);
/// # drop(numbers);
/// ```
#[derive(Debug, Default)]
pub struct CountingAllocator {
    allocations: AtomicUsize,
}

impl CountingAllocator {
    /// An allocator that has counted nothing yet.
    pub const fn new() -> Self {
        Self { allocations: AtomicUsize::new(0) }
    }

    /// The number of allocations so far. Each growth of a buffer counts, deallocations do not.
    pub fn allocations(&self) -> usize {
        self.allocations.load(Ordering::SeqCst)
    }

    fn count(&self) {
        self.allocations.fetch_add(1, Ordering::SeqCst);
    }
}

// SAFETY: every call is forwarded unchanged to the system's allocator, which keeps the trait's promises; counting
// increments an atomic number and neither allocates nor panics.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.count();
        // SAFETY: the caller makes the promise about `layout` that `System` requires.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        self.count();
        // SAFETY: as in `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        self.count();
        // SAFETY: the caller promises that this allocator, and so the system's, returned `block` for `layout`, and that
        // `new_size` is valid.
        unsafe { System.realloc(block, layout, new_size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as in `realloc`.
        unsafe { System.dealloc(block, layout) }
    }
}
