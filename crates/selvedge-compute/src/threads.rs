//! [`Threads`]: the worker threads that kernels are cut over, with denormals flushed in each.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use thiserror::Error;

use crate::cpu::flush_denormals;

/// Bytes of a worker's stack. Built without optimisation, which gives every inlined function its own part of the frame, the passes
/// of [`crate::nd`] need between 3 and 4 MB.
const STACK: usize = 8 << 20;

/// A thread pool for kernels.
///
/// Every worker takes denormal numbers for zero, on x86-64 and aarch64: arithmetic on them is 20 to 50 times slower on many
/// processors, and weights that decay towards zero pass through them. Cloning shares the pool.
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
    #[error(
        "the system started {started} of the {asked} threads asked for: {source}. \
         Ask for fewer, or raise the limit on processes (ulimit -u, or the container's)"
    )]
    Start {
        /// The number asked for.
        asked: usize,
        /// How many the system started; they have ended.
        started: usize,
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
        let mut started = 0;
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(count)
            .start_handler(|_| flush_denormals())
            .spawn_handler(|worker| {
                let name = format!("selvedge-{}", worker.index());
                std::thread::Builder::new().name(name).stack_size(STACK).spawn(|| worker.run())?;
                started += 1;
                Ok(())
            })
            .build();
        match pool {
            Ok(pool) => Ok(Self { pool: Arc::new(pool) }),
            Err(source) => Err(ThreadsError::Start { asked: count, started, source }),
        }
    }

    /// How many threads the system lets this process run at a time: its processors, fewer where the process is bound to some
    /// of them (`taskset`, a cpuset) or, on Linux, where a control group grants it less time than that (`cpu.max`, or
    /// `cpu.cfs_quota_us` of version 1), rounded down to at least one. The standard library asks for all of these.
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

    /// Runs `f`, which is called inside [`install`](Self::install), while the pool's other workers stay awake: without work they
    /// look for some, and leave the core to others that want it, instead of sleeping until they are woken.
    ///
    /// To wake a thread takes some tens of microseconds, which a step of a small network has to wait for several times: on two
    /// threads `seed` trains 5 to 7 % faster in bf16. A worker that has found nothing for [`Threads::AWAKE`] sleeps after all.
    /// Outside of the pool, and where there are more workers than the machine runs at a time, this is a plain call.
    ///
    /// ```
    /// let threads = selvedge_compute::Threads::new(2)?;
    /// let sum = threads.install(|| threads.keep_awake(|| rayon::join(|| 1, || 2)));
    /// assert_eq!(sum, (1, 2));
    /// # Ok::<(), selvedge_compute::ThreadsError>(())
    /// ```
    pub fn keep_awake<R>(&self, f: impl FnOnce() -> R) -> R {
        let Some(caller) = self.pool.current_thread_index().filter(|_| self.count() <= Self::available()) else {
            return f();
        };
        /// Lets the workers sleep also when `f` panics.
        struct Done<'a>(&'a AtomicBool);
        impl Drop for Done<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let done = AtomicBool::new(false);
        self.pool.in_place_scope(|scope| {
            scope.spawn_broadcast(|_, context| {
                // The caller may come here while it waits for a part of `f`, which does not go on before it returns.
                if context.index() != caller {
                    stay_awake(&done);
                }
            });
            let _done = Done(&done);
            f()
        })
    }

    /// How long a worker looks for work in [`keep_awake`](Self::keep_awake).
    pub const AWAKE: Duration = Duration::from_millis(10);
}

/// Runs what the pool's other threads leave to do, until all is done or there has been nothing for too long.
fn stay_awake(done: &AtomicBool) {
    let mut last = Instant::now();
    while !done.load(Ordering::Relaxed) && last.elapsed() < Threads::AWAKE {
        match rayon::yield_now() {
            Some(rayon::Yield::Executed) => last = Instant::now(),
            _ => std::thread::yield_now(),
        }
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

    /// The sum of the numbers, halved over the pool.
    fn sum(range: std::ops::Range<u64>) -> u64 {
        if range.end - range.start < 8 {
            return range.sum();
        }
        let middle = range.start.midpoint(range.end);
        let (a, b) = rayon::join(|| sum(range.start..middle), || sum(middle..range.end));
        a + b
    }

    #[test]
    fn awake_workers_do_what_is_left_to_them() {
        for count in 1..=4 {
            let threads = Threads::new(count).unwrap();
            let of_pool = || threads.keep_awake(|| (0..100).map(|_| sum(0..1000)).sum::<u64>());
            assert_eq!(threads.install(of_pool), 100 * 499_500, "{count} threads");
            assert_eq!(of_pool(), 100 * 499_500, "outside of a pool of {count} threads");
        }
    }

    #[test]
    fn workers_may_sleep_and_work_again_after_a_panic_and_after_a_pause() {
        let threads = Threads::new(2).unwrap();
        let panics = || threads.install(|| threads.keep_awake(|| -> () { panic!("on purpose") }));
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(panics)).is_err());
        let pauses = || {
            std::thread::sleep(3 * Threads::AWAKE);
            sum(0..1000)
        };
        assert_eq!(threads.install(|| threads.keep_awake(pauses)), 499_500);
    }

    #[test]
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    fn workers_flush_denormals() {
        let denormal = std::hint::black_box(1e-40f32);
        let threads = Threads::new(2).unwrap();
        let of_each = threads.pool.broadcast(|_| std::hint::black_box(denormal) * std::hint::black_box(1.0));
        assert_eq!(of_each, [0.0; 2], "a denormal operand");
        let of_each = threads.pool.broadcast(|_| std::hint::black_box(1e-30f32) * std::hint::black_box(1e-10));
        assert_eq!(of_each, [0.0; 2], "a denormal result");
    }
}
