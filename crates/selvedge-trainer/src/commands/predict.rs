//! The subcommand `predict`.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use ndarray::ArrayView1;
use selvedge_compute::Threads;
use selvedge_model::Network;

use super::machine;
use crate::predict::{list_pictures, read_picture};
use crate::run_folder::MODEL;
use crate::summary::Summary;

/// Classify PNG files by the network of a finished run
///
/// A picture must have the size that the network was trained on (28 x 28 for Fashion-MNIST) and its look: there, a
/// white thing on black. Colours become grey. A line for each picture: its name, and the likeliest classes with their
/// probabilities. If any picture cannot be read, nothing is printed but the error.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  predict runs/mine shoe.png shirt.png
  predict runs/mine pictures/ --top 1")]
pub(super) struct PredictArgs {
    /// The run's folder
    run: PathBuf,
    /// PNG files, or folders of them
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,
    /// How many classes to print for each picture
    #[arg(long, value_name = "N", default_value = "3")]
    top: NonZeroUsize,
    /// Worker threads [default: RAYON_NUM_THREADS, or all that the machine has]
    #[arg(long, value_name = "N", value_parser = machine::parse_threads)]
    threads: Option<usize>,
}

/// Runs the subcommand.
pub(super) fn run(args: &PredictArgs) -> anyhow::Result<ExitCode> {
    let summary = Summary::load(&args.run)?;
    let threads = Threads::new(machine::threads(args.threads)?)?;
    let mut network = Network::load(&args.run.join(MODEL), threads)?;
    summary.check_classes(&args.run, network.spec().classes)?;
    let input = &network.spec().input;
    let shape = [input.height, input.width, input.channels];
    let paths = list_pictures(&args.images)?;
    let mut pixels = Vec::with_capacity(paths.len() * shape.iter().product::<usize>());
    for path in &paths {
        pixels.extend(read_picture(path, shape)?);
    }
    let mut text = String::new();
    for (path, probabilities) in paths.iter().zip(network.predict(&pixels).rows()) {
        text.push_str(&path.display().to_string());
        for (class, probability) in likeliest(probabilities, args.top.get()) {
            // Writing to a String cannot fail.
            let _ = write!(text, "  {} {:.2} %", summary.class_names[class], 100.0 * probability);
        }
        text.push('\n');
    }
    io::stdout().write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// The `count` likeliest classes with their probabilities, the likeliest first, the first of equals first.
fn likeliest(probabilities: ArrayView1<'_, f32>, count: usize) -> Vec<(usize, f32)> {
    let mut classes: Vec<(usize, f32)> = probabilities.iter().copied().enumerate().collect();
    classes.sort_by(|a, b| b.1.total_cmp(&a.1));
    classes.truncate(count);
    classes
}
