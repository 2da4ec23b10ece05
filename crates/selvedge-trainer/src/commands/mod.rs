//! The command line: one file for each subcommand.

mod evaluate;
mod machine;
mod predict;
mod preview;
mod train;

use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, Subcommand};

use crate::download;

/// Train convolutional networks on Fashion-MNIST, and on any data set of its form, on the CPU
///
/// `selvedge train` trains, with no options at all, and writes a folder with the weights and a summary below `runs`.
/// `selvedge COMMAND --help` tells the options of a command, with examples.
#[derive(Debug, Parser)]
#[command(
    name = "selvedge",
    version,
    max_term_width = 100,
    after_help = "\
Exit codes: 0 done, 1 failed, 2 wrong usage, 130 and 143 interrupted.
Environment: SELVEDGE_ISA (portable, avx2, avx512, amx) caps the instruction set; RAYON_NUM_THREADS sets the
threads; SELVEDGE_DATA is the folder of the data sets; NO_COLOR is honoured."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Train(Box<train::TrainArgs>),
    Evaluate(evaluate::EvaluateArgs),
    Predict(predict::PredictArgs),
    Preview(preview::PreviewArgs),
    Download(download::DownloadArgs),
}

/// Parses the command line, does what it says and tells the exit code. `started` is when the process started.
pub fn main(started: Instant) -> ExitCode {
    let result = match Cli::parse().command {
        Command::Train(args) => train::run(&args, started),
        Command::Evaluate(args) => evaluate::run(&args),
        Command::Predict(args) => predict::run(&args),
        Command::Preview(args) => preview::run(&args),
        Command::Download(args) => download::run(&args).map(|()| ExitCode::SUCCESS).map_err(anyhow::Error::from),
    };
    result.unwrap_or_else(|error| {
        // A reader that has read enough is no failure: `selvedge predict … | head`.
        if error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe) {
            return ExitCode::SUCCESS;
        }
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
