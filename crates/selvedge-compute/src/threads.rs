//! [`Threads`]: the worker threads that kernels are cut over, with denormals flushed in each.

use std::sync::Arc;

use thiserror::Error;

use crate::cpu::flush_denormals;

/// A thread pool for kernels.
///
/// Every worker sets flush-to-zero and denormals-are-zero: arithmetic on denormal numbers is 20 to 50 times slower,
/// and weights that decay towards zero pass through them. Cloning shares the pool.
///
/// ```
/// let threads = selvedge_compute::Threads::new(2)?;
/// assert_eq!(threads.install(|| rayon::current_num_threads()), 2);
/// # Ok::<(), selvedge_compute::ThreadsError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Threads {
    pool: Arc<rayon::ThreadPool>,
}

/// Why a pool could not be made.
#[derive(Debug, Error)]
pub enum ThreadsError {
    /// Zero threads, or more than [`Threads::MAX`].
    #[error("{asked} threads asked for: between 1 and {max} are possible, and this machine runs {available} at a time", max = Threads::MAX)]
    Count {
        /// The number asked for.
        asked: usize,
        /// What the machine runs in parallel.
        available: usize,
    },
    /// The system refused to start the threads.
    #[error("the system could not start {asked} threads: {source}")]
    Start {
        /// The number asked for.
        asked: usize,
        /// The system's reason.
        source: rayon::ThreadPoolBuildError,
    },
}

impl Threads {
    /// The most threads a pool may have.
    pub const MAX: usize = 1024;

    /// A pool of `count` workers.
    ///
    /// # Errors
    /// [`ThreadsError::Count`] for zero or more than [`Threads::MAX`], [`ThreadsError::Start`] if the system refuses.
    pub fn new(count: usize) -> Result<Self, ThreadsError> {
        if count == 0 || count > Self::MAX {
            return Err(ThreadsError::Count { asked: count, available: Self::available() });
        }
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(count)
            .thread_name(|i| format!("selvedge-{i}"))
            .start_handler(|_| flush_denormals())
            .build()
            .map_err(|source| ThreadsError::Start { asked: count, source })?;
        Ok(Self { pool: Arc::new(pool) })
    }

    /// How many threads the machine runs at a time, as the system tells.
    pub fn available() -> usize {
        std::thread::available_parallelism().map_or(1, |n| n.get())
    }

    /// The number of workers.
    pub fn count(&self) -> usize {
        self.pool.current_num_threads()
    }

    /// Runs `f` on a worker of the pool; rayon calls inside it use this pool.
    ///
    /// From a worker of the same pool it is a plain call, so a training loop inside one `install` pays nothing for
    /// those further in.
    pub fn install<R: Send>(&self, f: impl FnOnce() -> R + Send) -> R {
        self.pool.install(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_counts_out_of_range() {
        for count in [0, Threads::MAX + 1] {
            let message = Threads::new(count).unwrap_err().to_string();
            assert!(message.contains(&count.to_string()) && message.contains("between 1 and 1024"), "{message}");
        }
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn workers_flush_denormals() {
        let denormal = std::hint::black_box(1e-40f32);
        let sum = Threads::new(2).unwrap().install(|| std::hint::black_box(denormal) * std::hint::black_box(1.0));
        assert_eq!(sum, 0.0);
    }
}
