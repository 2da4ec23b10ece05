//! [`PassTimes`]: what a training pass spends its threads' time on, if times are recorded.
//!
//! A pass consists of tasks that one thread does without waiting: a block's operation, a panel's gradient, a chunk of the
//! weights to pack. Each worker reads the clock between tasks ([`Lap`]) and adds the time to the account of the operation.
//! Where no times are recorded, a lap is one comparison for a task of microseconds. Nothing is
//! allocated in a pass.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::plan::phases::Step;

/// Time that threads spent in training passes, summed over the threads: on two threads, a pass of a millisecond has two
/// milliseconds to spend. The rest is waiting: for other threads at the ends of phases, and for tasks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PassTimes {
    /// Forward and backward time of each of [`crate::Network::operations`].
    pub operations: Vec<[Duration; 2]>,
    /// Bringing changed weights into the forms that passes read.
    pub packing: Duration,
    /// Normalising the images into the network's input.
    pub input: Duration,
    /// The loss and its gradient.
    pub loss: Duration,
    /// Clearing and adding up the partial sums of weights' gradients.
    pub gradient_sums: Duration,
}

impl PassTimes {
    /// All of it.
    pub fn total(&self) -> Duration {
        let operations: Duration = self.operations.iter().flatten().sum();
        operations + self.packing + self.input + self.loss + self.gradient_sums
    }
}

/// The account of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Account {
    Forward(usize),
    Backward(usize),
    Packing,
    Input,
    Loss,
    GradientSums,
}

impl From<Step> for Account {
    fn from(step: Step) -> Self {
        match step {
            Step::Input => Self::Input,
            Step::Forward(op) | Step::Moments(op) => Self::Forward(op),
            Step::Loss => Self::Loss,
            Step::GradientSums(op) | Step::Backward(op) => Self::Backward(op),
        }
    }
}

/// Accounts besides those of operations.
const OTHERS: usize = 4;

/// Nanoseconds on each account, added to by all threads.
#[derive(Debug)]
pub(crate) struct Timing {
    /// [`OTHERS`], then two for each operation.
    nanoseconds: Vec<AtomicU64>,
}

impl Timing {
    pub(crate) fn new(operations: usize) -> Self {
        Self { nanoseconds: (0..OTHERS + 2 * operations).map(|_| AtomicU64::new(0)).collect() }
    }

    pub(crate) fn times(&self) -> PassTimes {
        let read = |at: usize| Duration::from_nanos(self.nanoseconds[at].load(Relaxed));
        PassTimes {
            operations: (OTHERS..self.nanoseconds.len()).step_by(2).map(|at| [read(at), read(at + 1)]).collect(),
            packing: read(0),
            input: read(1),
            loss: read(2),
            gradient_sums: read(3),
        }
    }

    fn add(&self, account: Account, time: Duration) {
        let at = match account {
            Account::Packing => 0,
            Account::Input => 1,
            Account::Loss => 2,
            Account::GradientSums => 3,
            Account::Forward(op) => OTHERS + 2 * op,
            Account::Backward(op) => OTHERS + 2 * op + 1,
        };
        // A u64 of nanoseconds lasts for centuries.
        self.nanoseconds[at].fetch_add(time.as_nanos() as u64, Relaxed);
    }
}

/// A thread's watch over tasks that follow each other.
pub(crate) struct Lap<'a> {
    running: Option<(&'a Timing, Instant)>,
}

impl<'a> Lap<'a> {
    /// Starts the watch, if times are wanted.
    pub(crate) fn start(timing: Option<&'a Timing>) -> Self {
        Self { running: timing.map(|timing| (timing, Instant::now())) }
    }

    /// Puts the time since the start or the last end on an account.
    pub(crate) fn end(&mut self, account: impl Into<Account>) {
        if let Some((timing, started)) = &mut self.running {
            let now = Instant::now();
            timing.add(account.into(), now - *started);
            *started = now;
        }
    }
}

/// Does `work` and puts its time on an account, if times are wanted.
pub(crate) fn timed<R>(timing: Option<&Timing>, account: Account, work: impl FnOnce() -> R) -> R {
    let mut lap = Lap::start(timing);
    let result = work();
    lap.end(account);
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_account_is_read_back_where_it_belongs() {
        let timing = Timing::new(2);
        let accounts = [
            Account::Packing,
            Account::Input,
            Account::Loss,
            Account::GradientSums,
            Account::Forward(0),
            Account::Backward(0),
            Account::Forward(1),
            Account::Backward(1),
        ];
        for (i, account) in accounts.into_iter().enumerate() {
            timing.add(account, Duration::from_nanos(1 << i));
            timing.add(account, Duration::from_nanos(1 << i));
        }
        let nanoseconds = |i: u32| Duration::from_nanos(2 << i);
        let times = timing.times();
        assert_eq!(
            times,
            PassTimes {
                operations: vec![[nanoseconds(4), nanoseconds(5)], [nanoseconds(6), nanoseconds(7)]],
                packing: nanoseconds(0),
                input: nanoseconds(1),
                loss: nanoseconds(2),
                gradient_sums: nanoseconds(3),
            }
        );
        assert_eq!(times.total(), Duration::from_nanos(2 * 255));
    }

    #[test]
    fn no_account_no_clock() {
        assert_eq!(timed(None, Account::Loss, || 7), 7);
        assert!(Lap::start(None).running.is_none());
    }
}
