//! Ctrl-C and SIGTERM, for commands that train.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use anyhow::Context;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// The first signal stores its number in `stop`. The second, or one while `exit_at_once` is true, ends the process at once.
/// Windows has both signals too: Ctrl-C is SIGINT.
pub(super) fn watch(stop: &Arc<AtomicUsize>, exit_at_once: &Arc<AtomicBool>) -> anyhow::Result<()> {
    let watch = |signal: i32| -> io::Result<()> {
        flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(exit_at_once))?;
        flag::register(signal, Arc::clone(exit_at_once))?;
        flag::register_usize(signal, Arc::clone(stop), signal as usize)?;
        Ok(())
    };
    [SIGINT, SIGTERM].into_iter().try_for_each(watch).context("cannot watch for Ctrl-C")
}
