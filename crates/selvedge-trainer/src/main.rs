//! The program `selvedge`.
#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::Instant;

fn main() -> ExitCode {
    selvedge_trainer::report_panics(|| {
        // The time to the first step counts from here: what the system does before is a millisecond.
        let started = Instant::now();
        selvedge_trainer::commands::main(started)
    })
}
