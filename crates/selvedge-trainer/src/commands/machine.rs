//! How many threads: `--threads`, RAYON_NUM_THREADS, or as many as the machine runs at a time.

use std::env;

use anyhow::bail;
use selvedge_compute::Threads;

/// Parses `--threads`.
pub(super) fn parse_threads(text: &str) -> Result<usize, String> {
    let allowed = || {
        let (available, max) = (Threads::available(), Threads::MAX);
        format!("a number from 1 to {max} is needed; this machine runs {available} threads at a time")
    };
    text.parse().ok().filter(|count| (1..=Threads::MAX).contains(count)).ok_or_else(allowed)
}

/// The number of worker threads.
pub(super) fn threads(asked: Option<usize>) -> anyhow::Result<usize> {
    if let Some(count) = asked {
        return Ok(count);
    }
    match env::var("RAYON_NUM_THREADS") {
        // rayon itself takes 0 for "as many as there are".
        Ok(text) if !text.is_empty() && text != "0" => match parse_threads(&text) {
            Ok(count) => Ok(count),
            Err(problem) => bail!("RAYON_NUM_THREADS={text}: {problem}"),
        },
        _ => Ok(Threads::available()),
    }
}
