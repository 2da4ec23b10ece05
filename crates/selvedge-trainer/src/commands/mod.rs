//! The command line: a file for each command, with its options, help and action, and the list of commands here.
//!
//! To add a command, write a file like `evaluate.rs` and name it where this file names `evaluate`: the module, the variant and
//! the arm. Options that several commands share are in `options.rs`.

mod download;
mod evaluate;
mod predict;
mod preview;
mod profile;
mod search;
mod signals;
mod train;

use std::error::Error;
use std::io;
use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, Subcommand};
use selvedge_compute::Isa;

use crate::download::tell;

/// Train convolutional networks on the CPU, on Fashion-MNIST or any data set of its form
///
/// `selvedge train` needs no options: it trains and writes a folder with the weights and a summary below `runs`.
/// `selvedge COMMAND --help` shows the options of a command, with examples.
#[derive(Debug, Parser)]
#[command(
    name = "selvedge",
    version,
    after_help = after_help()
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

fn after_help() -> String {
    format!(
        "\
Exit codes: 0 done, 1 failed, 2 wrong usage, 70 a bug, 130 and 143 interrupted.
Environment: SELVEDGE_ISA ({}) caps the instruction set; RAYON_NUM_THREADS sets
the number of threads; SELVEDGE_DATA is the folder of the data sets; NO_COLOR is honoured.",
        Isa::ALL.map(Isa::name).join(", ")
    )
}

#[derive(Debug, Subcommand)]
enum Command {
    Train(Box<train::TrainArgs>),
    Evaluate(evaluate::EvaluateArgs),
    Predict(predict::PredictArgs),
    Preview(preview::PreviewArgs),
    Profile(Box<profile::ProfileArgs>),
    Search(search::SearchArgs),
    Download(download::DownloadArgs),
}

/// Parses the command line, runs the command and returns the exit code. `started` is when the process started.
pub fn main(started: Instant) -> ExitCode {
    let result = match Cli::parse().command {
        Command::Train(args) => args.run(started),
        Command::Evaluate(args) => args.run(),
        Command::Predict(args) => args.run(),
        Command::Preview(args) => args.run(),
        Command::Profile(args) => args.run(),
        Command::Search(args) => args.run(),
        Command::Download(args) => args.run(),
    };
    result.unwrap_or_else(|error| {
        // A reader that stops early, as in `selvedge predict … | head`, is not a failure.
        let is_closed_pipe = |cause: &(dyn Error + 'static)| {
            cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
        };
        if error.chain().any(is_closed_pipe) {
            return ExitCode::SUCCESS;
        }
        tell(&format!("error: {}", message(&error)));
        ExitCode::FAILURE
    })
}

/// The error and its causes in one line, without a cause that the text already ends with.
fn message(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |told, cause| match told.as_str() {
        "" => cause,
        known if known.ends_with(&cause) => told,
        known => format!("{known}: {cause}"),
    })
}
