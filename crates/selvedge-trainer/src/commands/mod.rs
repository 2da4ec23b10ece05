//! The command line: one file for each subcommand.

mod evaluate;
mod machine;
mod predict;
mod preview;
mod profile;
mod train;

use std::error::Error;
use std::io;
use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, Subcommand};
use selvedge_compute::Isa;

use crate::download;

/// Train convolutional networks on Fashion-MNIST, and on any data set of its form, on the CPU
///
/// `selvedge train` trains, with no options at all, and writes a folder with the weights and a summary below `runs`.
/// `selvedge COMMAND --help` tells the options of a command, with examples.
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
Exit codes: 0 done, 1 failed, 2 wrong usage, 130 and 143 interrupted.
Environment: SELVEDGE_ISA ({}) caps the instruction set; RAYON_NUM_THREADS sets
the threads; SELVEDGE_DATA is the folder of the data sets; NO_COLOR is honoured.",
        Isa::ALL.map(Isa::name).join(", ")
    )
}

#[derive(Debug, Subcommand)]
enum Command {
    Train(Box<train::TrainArgs>),
    Evaluate(evaluate::EvaluateArgs),
    Predict(predict::PredictArgs),
    Preview(preview::PreviewArgs),
    Profile(profile::ProfileArgs),
    Download(download::DownloadArgs),
}

/// Parses the command line, does what it says and tells the exit code. `started` is when the process started.
pub fn main(started: Instant) -> ExitCode {
    let result = match Cli::parse().command {
        Command::Train(args) => train::run(&args, started),
        Command::Evaluate(args) => evaluate::run(&args),
        Command::Predict(args) => predict::run(&args),
        Command::Preview(args) => preview::run(&args),
        Command::Profile(args) => profile::run(&args),
        Command::Download(args) => download::run(&args).map(|()| ExitCode::SUCCESS).map_err(anyhow::Error::from),
    };
    result.unwrap_or_else(|error| {
        // A reader that has read enough is no failure: `selvedge predict … | head`.
        let is_closed_pipe = |cause: &(dyn Error + 'static)| {
            cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
        };
        if error.chain().any(is_closed_pipe) {
            return ExitCode::SUCCESS;
        }
        download::tell(&format!("error: {}", message(&error)));
        ExitCode::FAILURE
    })
}

/// The error and its causes in one line; a cause that the error already ends with is not said twice.
fn message(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |told, cause| match told.as_str() {
        "" => cause,
        known if known.ends_with(&cause) => told,
        known => format!("{known}: {cause}"),
    })
}
