//! Measures how long a data set takes to load: `cargo run --release -p selvedge-idx --example load_time -- DIR`.
//!
//! Prints the first, the fastest and the median of several loads in seconds, and on Linux the peak memory.

use std::env;
use std::error::Error;
use std::fs;
use std::hint::black_box;
use std::time::Instant;

use selvedge_idx::{Dataset, Part, Split};

const REPEATS: usize = 9;

fn main() -> Result<(), Box<dyn Error>> {
    let dir = env::args().nth(1).unwrap_or_else(|| "data/fashion-mnist".to_owned());
    time("Dataset::load", || Dataset::load(&dir).map(|dataset| dataset.train.len()))?;
    time("Split::load, train", || Split::load(&dir, Part::Train).map(|split| split.len()))?;
    time("Split::load, test", || Split::load(&dir, Part::Test).map(|split| split.len()))?;
    if let Ok(status) = fs::read_to_string("/proc/self/status") {
        let peak = status.lines().find(|line| line.starts_with("VmHWM"));
        println!("peak memory of the process: {}", peak.unwrap_or("unknown"));
    }
    Ok(())
}

fn time<E: Error + 'static>(what: &str, mut load: impl FnMut() -> Result<usize, E>) -> Result<(), Box<dyn Error>> {
    let mut seconds = Vec::new();
    for _ in 0..REPEATS {
        let start = Instant::now();
        black_box(load()?);
        seconds.push(start.elapsed().as_secs_f64());
    }
    let first = seconds[0];
    seconds.sort_by(f64::total_cmp);
    println!("{what}: first {first:.3} s, fastest {:.3} s, median {:.3} s", seconds[0], seconds[REPEATS / 2]);
    Ok(())
}
