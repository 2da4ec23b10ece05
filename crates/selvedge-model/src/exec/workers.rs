//! [`Workers`]: an arena for each worker, for what a block needs within a single phase.

use std::sync::{Mutex, TryLockError};

use selvedge_compute::AlignedVec;

/// Arenas that workers take for as long as they have a block.
pub(crate) struct Workers {
    arenas: Vec<Mutex<AlignedVec<u8>>>,
}

impl Workers {
    /// `count` arenas of so many bytes: as many as there are threads or, if there are fewer, blocks.
    ///
    /// With as many blocks as threads, or more, a worker has one block at a time. With fewer, a worker that waits for chunks of
    /// its block may take another block, but there are arenas for all blocks.
    pub(crate) fn new(bytes: usize, count: usize) -> Self {
        Self { arenas: (0..count).map(|_| Mutex::new(AlignedVec::zeroed(bytes))).collect() }
    }

    /// Runs `run` with an arena, whatever its content: the one that this worker had before, if it is free.
    pub(crate) fn with<R>(&self, run: impl FnOnce(&mut [u8]) -> R) -> R {
        let mut number = rayon::current_thread_index().unwrap_or(0);
        loop {
            match self.arenas[number % self.arenas.len()].try_lock() {
                Ok(mut arena) => return run(&mut arena),
                // Any content will do, also that which a panic left.
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
        let workers = Workers::new(64, 2);
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
        let workers = Workers::new(64, 1);
        let panics = || workers.with(|_| panic!("on purpose"));
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(panics)).is_err());
        assert_eq!(workers.with(|arena| arena.len()), 64);
    }
}
