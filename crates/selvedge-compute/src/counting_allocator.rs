//! [`CountingAllocator`]: an aid for tests that state how much a piece of code allocates.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The system's allocator, which counts how often memory is asked for, by whichever thread.
///
/// A test program that is to show that a training step allocates nothing makes it its global allocator. Other tests in
/// the same program would count as well, so it is best alone.
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
    /// A counter at 0.
    pub const fn new() -> Self {
        Self { allocations: AtomicUsize::new(0) }
    }

    /// How often memory was asked for so far. A buffer that grows counts each time, memory that is given back does not.
    pub fn allocations(&self) -> usize {
        self.allocations.load(Ordering::SeqCst)
    }

    fn count(&self) {
        self.allocations.fetch_add(1, Ordering::SeqCst);
    }
}

// SAFETY: every call goes to the system's allocator as it came, which keeps the trait's promises; counting touches an
// atomic number and neither allocates nor panics.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.count();
        // SAFETY: the caller's promise about `layout` is the one that is asked for here.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        self.count();
        // SAFETY: as in `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        self.count();
        // SAFETY: the caller promises that this allocator, and so the system's, gave `block` for `layout`, and that
        // `new_size` is possible.
        unsafe { System.realloc(block, layout, new_size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as in `realloc`.
        unsafe { System.dealloc(block, layout) }
    }
}
