//! The subcommand `train`.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use clap::Args;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use super::machine;
use crate::download::{default_data_dir, tell};
use crate::observer::Console;
use crate::recipe::{Override, PrecisionChoice, RecipeSource};
use crate::run_folder::Destination;
use crate::setup::{Run, TrainOptions, option_overrides};
use crate::summary::Summary;
use crate::train::{Outcome, train};

/// Train a network by a recipe and evaluate it on the test set
///
/// The results are written into a new folder: recipe.toml (with every default filled in: training from it repeats the
/// run), history.jsonl, summary.json, model.safetensors and checkpoints. The weights depend on the recipe and its seed,
/// not on the number of threads. Ctrl-C saves and ends; --resume goes on from there, bit for bit as if nothing had
/// happened.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  train                                            the recipe `seed` on Fashion-MNIST
  train --epochs 5 --threads 2 --out runs/short    a short run into a folder of your choice
  train --dataset mnist --seed 7                   another data set, downloaded at its first use
  train --set optimizer.learning_rate=5e-4 --set validation=6000
  train --recipe seed --print-recipe > my.toml     a recipe to change, then: train --recipe my.toml
  train --resume runs/short                        go on with an interrupted run")]
pub(super) struct TrainArgs {
    /// A built-in recipe (seed), or a TOML file
    #[arg(long, value_name = "NAME or FILE", default_value = "seed")]
    recipe: String,
    /// A data set by name (fashion-mnist, mnist, kmnist), or a folder with its four files [default: the recipe's]
    #[arg(long, value_name = "NAME or DIR")]
    dataset: Option<String>,
    /// The folder that holds a folder for each named data set [default: `data` here, or the user's data folder]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Passes over the training images
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(0..))]
    epochs: Option<i64>,
    /// What initial weights, validation split, order, augmentation and dropout are drawn from
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(0..))]
    seed: Option<i64>,
    /// Worker threads [default: RAYON_NUM_THREADS, or all that the machine has]
    #[arg(long, value_name = "N", value_parser = machine::parse_threads)]
    threads: Option<usize>,
    /// auto: bf16 where the processor has matrix units for it, else f32
    #[arg(long, value_name = "auto, f32 or bf16", value_parser = parse_precision)]
    precision: Option<PrecisionChoice>,
    /// The folder for the results; it must not exist, or be empty [default: runs/<date-time>-<recipe>]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Go on with the run in this folder from its last checkpoint
    #[arg(long, value_name = "DIR", conflicts_with_all =
        ["recipe", "dataset", "epochs", "seed", "precision", "out", "set", "print_recipe"])]
    resume: Option<PathBuf>,
    /// Change a value of the recipe: a dotted path and a TOML value; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Print the recipe with every default and change filled in, and do nothing else
    #[arg(long)]
    print_recipe: bool,
}

/// Parses `--precision`.
pub(super) fn parse_precision(text: &str) -> Result<PrecisionChoice, String> {
    [PrecisionChoice::Auto, PrecisionChoice::F32, PrecisionChoice::Bf16]
        .into_iter()
        .find(|choice| choice.name() == text)
        .ok_or_else(|| "auto, f32 and bf16 are possible".to_owned())
}

/// Runs the subcommand.
pub(super) fn run(args: &TrainArgs, started: Instant) -> anyhow::Result<ExitCode> {
    let run = match &args.resume {
        Some(folder) => Run::Resume(folder.clone()),
        None => {
            let mut overrides: Vec<Override> =
                args.set.iter().map(|text| Override::parse(text)).collect::<Result<_, _>>()?;
            overrides.extend(option_overrides(args.dataset.as_deref(), args.epochs, args.seed, args.precision));
            let recipe = RecipeSource::find(&args.recipe)?.load(&overrides)?;
            if args.print_recipe {
                io::stdout().write_all(recipe.to_toml().as_bytes())?;
                return Ok(ExitCode::SUCCESS);
            }
            let destination = match &args.out {
                Some(folder) => Destination::Folder(folder.clone()),
                None => Destination::Below(PathBuf::from("runs")),
            };
            Run::New { recipe: Box::new(recipe), destination }
        }
    };
    let data_dir = args.data_dir.clone().unwrap_or_else(default_data_dir);
    let options = TrainOptions { started, ..TrainOptions::new(run, data_dir, machine::threads(args.threads)?) };
    watch_signals(&options).context("cannot watch for Ctrl-C")?;
    let mut console = Console::new();
    let outcome = train(&options, &mut console);
    // With it goes the bar of an epoch that was cut short: it must not take the last words with it.
    drop(console);
    match outcome? {
        Outcome::Finished { folder, summary } => {
            writeln!(io::stdout(), "{}\nresults in {}", figures(&summary), folder.display())?;
            Ok(ExitCode::SUCCESS)
        }
        Outcome::Stopped { folder, reason } => {
            let folder = folder.display();
            tell(&format!("interrupted; the run is saved. Go on with: selvedge train --resume {folder}"));
            Ok(ExitCode::from(128 + u8::try_from(reason).unwrap_or(0)))
        }
    }
}

/// Asks the run to stop at the first signal. A second one, or one before the run has begun, ends the process at once.
fn watch_signals(options: &TrainOptions) -> io::Result<()> {
    for signal in [SIGINT, SIGTERM] {
        let at_once = Arc::clone(&options.stop_unheeded);
        flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&at_once))?;
        flag::register(signal, at_once)?;
        flag::register_usize(signal, Arc::clone(&options.stop), signal as usize)?;
    }
    Ok(())
}

fn figures(summary: &Summary) -> String {
    let validation = summary.validation_accuracy.map(|accuracy| format!("  validation {:.2} %", 100.0 * accuracy));
    format!(
        "test accuracy {:.2} %  loss {:.4}{}\n{} epoch{}, {:.1} s of training, {:.0} images/s ({}, {}, {} threads); \
         first step after {:.2} s, peak memory {}",
        100.0 * summary.test_accuracy,
        summary.test_loss,
        validation.unwrap_or_default(),
        summary.epochs,
        if summary.epochs == 1 { "" } else { "s" },
        summary.train_seconds,
        summary.images_per_second,
        summary.isa,
        summary.precision,
        summary.threads,
        summary.seconds_to_first_step,
        summary.peak_memory_bytes.map_or("unknown".to_owned(), |bytes| format!("{} MB", bytes / 1_000_000)),
    )
}
