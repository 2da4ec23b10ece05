//! The subcommand `evaluate`.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use selvedge_compute::Threads;
use selvedge_model::Network;

use super::machine;
use crate::data::{DataError, load_test};
use crate::download::{self, FetchOptions, default_data_dir};
use crate::error::TrainError;
use crate::evaluate::Evaluation;
use crate::observer::Console;
use crate::run_folder::MODEL;
use crate::summary::Summary;

/// Evaluate the network of a finished run on the test set
///
/// Prints accuracy and loss, a table with recall, precision and F1 of each class, and the confusion matrix.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  evaluate runs/2026-11-24T09-00-00Z-seed
  evaluate runs/mine --dataset ../other-clothes    the same network on the test set of another folder")]
pub(super) struct EvaluateArgs {
    /// The run's folder
    run: PathBuf,
    /// Another data set, by name or folder [default: the run's]
    #[arg(long, value_name = "NAME or DIR")]
    dataset: Option<String>,
    /// The folder that holds a folder for each named data set [default: `data` here, or the user's data folder]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Worker threads [default: RAYON_NUM_THREADS, or all that the machine has]
    #[arg(long, value_name = "N", value_parser = machine::parse_threads)]
    threads: Option<usize>,
}

/// Runs the subcommand.
pub(super) fn run(args: &EvaluateArgs) -> anyhow::Result<ExitCode> {
    let summary = Summary::load(&args.run)?;
    let threads = Threads::new(machine::threads(args.threads)?)?;
    let mut network = Network::load(&args.run.join(MODEL), threads)?;
    summary.check_classes(&args.run, network.spec().classes)?;
    let dataset = args.dataset.as_deref().unwrap_or(&summary.dataset);
    let data_dir = args.data_dir.clone().unwrap_or_else(default_data_dir);
    let dir = download::ensure(dataset, &data_dir, &FetchOptions::default(), &mut Console::new())
        .map_err(DataError::from)
        .map_err(TrainError::from)?;
    let input = &network.spec().input;
    let test = load_test(&dir, [input.height, input.width, input.channels], network.spec().classes)?;
    let evaluation = Evaluation::of(&mut network, &test, &summary.class_names);
    write!(io::stdout(), "{evaluation}")?;
    Ok(ExitCode::SUCCESS)
}
