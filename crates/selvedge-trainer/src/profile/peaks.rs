//! [`Peaks`]: the limits of this machine, measured in a second or two.

use std::hint::black_box;
use std::time::{Duration, Instant};

use selvedge_compute::peak::{self, Caches, STEP};
use selvedge_compute::{AlignedVec, Cpu, Precision, Threads};
use serde::{Deserialize, Serialize};

/// The time of one sample, and the number of samples; the best counts.
const SAMPLE: Duration = Duration::from_millis(15);
const SAMPLES: usize = 4;

/// Bytes that a thread reads to miss its L2, if that is not too much for all threads together.
const BEYOND_BYTES: usize = 64 << 20;
/// The most bytes that all threads together read.
const BEYOND_TOTAL: usize = 1 << 30;

/// Where operands lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// In a core's L1 data cache.
    L1,
    /// In its L2.
    L2,
    /// In a cache that cores share, or in memory.
    Beyond,
}

/// Bytes per second from and to each level.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bandwidths {
    /// L1 data cache.
    pub l1: f64,
    /// L2.
    pub l2: f64,
    /// Beyond L2: a buffer larger than both caches.
    pub beyond: f64,
}

impl Bandwidths {
    fn of(&self, level: Level) -> f64 {
        match level {
            Level::L1 => self.l1,
            Level::L2 => self.l2,
            Level::Beyond => self.beyond,
        }
    }
}

/// The limits of a number of threads together.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// The number of threads.
    pub threads: usize,
    /// f32 operations per second: fused multiply-adds in registers, two operations each.
    pub f32_flops: f64,
    /// bf16 operations per second: products in tile registers; null without AMX.
    pub bf16_flops: Option<f64>,
    /// Bytes read per second.
    pub read: Bandwidths,
    /// Bytes read and written per second by copying.
    pub copy: Bandwidths,
}

impl Limits {
    /// Operations per second in a precision.
    pub fn flops(&self, precision: Precision) -> f64 {
        match precision {
            Precision::Bf16 => self.bf16_flops.unwrap_or(self.f32_flops),
            Precision::F32 => self.f32_flops,
        }
    }

    /// Bytes per second at a level: reading or copying, whichever is more.
    pub fn bandwidth(&self, level: Level) -> f64 {
        self.read.of(level).max(self.copy.of(level))
    }
}

/// The limits of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Peaks {
    /// Bytes of a core's L1 data cache.
    pub l1_bytes: usize,
    /// Bytes of a core's L2.
    pub l2_bytes: usize,
    /// One thread alone.
    pub one_thread: Limits,
    /// All threads of the profile together.
    pub all_threads: Limits,
}

impl Peaks {
    /// Measures one thread and then all of `threads`.
    pub fn measure(cpu: Cpu, threads: &Threads) -> Self {
        let Caches { first, second } = Caches::detect();
        let one = threads.install(|| limits(cpu, 1));
        let all = match threads.count() {
            1 => one,
            count => threads.install(|| limits(cpu, count)),
        };
        Self { l1_bytes: first, l2_bytes: second, one_thread: one, all_threads: all }
    }

    /// Where `bytes` lie that a thread works on repeatedly.
    pub fn level_of(&self, bytes: u64) -> Level {
        match bytes {
            bytes if bytes <= self.l1_bytes as u64 => Level::L1,
            bytes if bytes <= self.l2_bytes as u64 => Level::L2,
            _ => Level::Beyond,
        }
    }
}

fn limits(cpu: Cpu, threads: usize) -> Limits {
    let caches = Caches::detect();
    let beyond = BEYOND_BYTES.max(8 * caches.second).min(BEYOND_TOTAL / threads);
    // A quarter of L1 and half of L2 leave room for other data.
    let places = [caches.first / 4, caches.second / 2, beyond];
    let read = places.map(|bytes| bandwidth(cpu, threads, bytes, false));
    let copy = places.map(|bytes| bandwidth(cpu, threads, bytes, true));
    let bandwidths = |[l1, l2, beyond]: [f64; 3]| Bandwidths { l1, l2, beyond };
    Limits {
        threads,
        f32_flops: rate(threads, || (), |()| peak::multiply_adds(cpu, 20_000)),
        bf16_flops: cpu.isa().has_tiles().then(|| rate(threads, || (), |()| peak::tile_products(cpu, 4_000))),
        read: bandwidths(read),
        copy: bandwidths(copy),
    }
}

/// Bytes per second of buffers of `bytes`, one per thread. A copy counts bytes read and written.
fn bandwidth(cpu: Cpu, threads: usize, bytes: usize, copies: bool) -> f64 {
    let len = (bytes / size_of::<f32>() / 2).next_multiple_of(STEP);
    // Small buffers are read many times between two looks at the clock.
    let times = (1usize << 18).div_ceil(bytes);
    // Written once, so that every page is mapped.
    let filled = || AlignedVec::from_slice(&vec![1.0f32; len]);
    rate(
        threads,
        || [filled(), filled()],
        |[from, to]| {
            for _ in 0..times {
                if copies {
                    peak::copy(cpu, black_box(from), to);
                } else {
                    black_box(peak::read(cpu, black_box(from)) + peak::read(cpu, black_box(to)));
                }
            }
            (times * 2 * len * size_of::<f32>()) as u64
        },
    )
}

/// The most that `threads` workers of the current pool counted per second together, each with its own state.
fn rate<T: Send>(threads: usize, state: impl Fn() -> T + Sync, work: impl Fn(&mut T) -> u64 + Sync) -> f64 {
    // All start together: a worker alone on the machine would be too fast.
    let barrier = std::sync::Barrier::new(threads);
    let run = |_: rayon::BroadcastContext<'_>| {
        let index = rayon::current_thread_index().unwrap_or(0);
        if index >= threads {
            return [0.0; SAMPLES];
        }
        let mut state = state();
        work(&mut state);
        std::array::from_fn(|_| {
            barrier.wait();
            let started = Instant::now();
            let mut count = 0;
            while started.elapsed() < SAMPLE {
                count += work(&mut state);
            }
            count as f64 / started.elapsed().as_secs_f64()
        })
    };
    let counts = rayon::broadcast(run);
    let sample = |i: usize| counts.iter().map(|counts| counts[i]).sum::<f64>();
    (0..SAMPLES).map(sample).fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_follow_the_sizes() {
        let bandwidths = Bandwidths { l1: 3.0, l2: 2.0, beyond: 1.0 };
        let copy = Bandwidths { l1: 4.0, l2: 1.0, beyond: 1.0 };
        let limits = Limits { threads: 1, f32_flops: 1.0, bf16_flops: None, read: bandwidths, copy };
        let peaks = Peaks { l1_bytes: 100, l2_bytes: 1000, one_thread: limits, all_threads: limits };
        assert_eq!([100, 101, 1000, 1001].map(|bytes| peaks.level_of(bytes)), {
            [Level::L1, Level::L2, Level::L2, Level::Beyond]
        });
        assert_eq!((limits.bandwidth(Level::L1), limits.bandwidth(Level::L2)), (4.0, 2.0));
        assert_eq!(limits.flops(Precision::Bf16), 1.0);
    }
}
