//! [`Workers`]: an arena for each worker, for what a block needs within one phase alone.

use std::sync::{Mutex, TryLockError};

use selvedge_compute::AlignedVec;

/// Arenas that workers take for as long as they have a block.
pub(crate) struct Workers {
    arenas: Vec<Mutex<AlignedVec<u8>>>,
}

impl Workers {
    /// Arenas of so many bytes, enough for `blocks` blocks on a pool of `threads`.
    ///
    /// With as many blocks as threads, or more, a worker has one block at a time. With fewer, a worker that waits for parts of
    /// its block may take another one, but there are arenas for all blocks.
    pub(crate) fn new(bytes: usize, [blocks, threads]: [usize; 2]) -> Self {
        Self { arenas: (0..blocks.min(threads)).map(|_| Mutex::new(AlignedVec::zeroed(bytes))).collect() }
    }

    /// Runs `run` with an arena of any content: the one that this worker had before, if it is free.
    pub(crate) fn with<R>(&self, run: impl FnOnce(&mut [u8]) -> R) -> R {
        let mut number = rayon::current_thread_index().unwrap_or(0);
        loop {
            match self.arenas[number % self.arenas.len()].try_lock() {
                Ok(mut arena) => return run(&mut arena),
                // The content of an arena that a panic left behind is as good as any other.
                Err(TryLockError::Poisoned(error)) => return run(&mut error.into_inner()),
                Err(TryLockError::WouldBlock) => number += 1,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arena_is_one_worker_s_at_a_time() {
        let workers = Workers::new(64, [3, 2]);
        let place = |arena: &mut [u8]| arena.as_ptr() as usize;
        let first = workers.with(place);
        assert_eq!(workers.with(place), first, "the same again");
        workers.with(|outer| {
            outer.fill(1);
            workers.with(|inner| inner.fill(2));
            assert!(outer.iter().all(|&byte| byte == 1));
        });
    }

    #[test]
    fn an_arena_is_free_again_after_a_panic() {
        let workers = Workers::new(64, [1, 1]);
        let panics = || workers.with(|_| panic!("on purpose"));
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(panics)).is_err());
        assert_eq!(workers.with(|arena| arena.len()), 64);
    }
}
