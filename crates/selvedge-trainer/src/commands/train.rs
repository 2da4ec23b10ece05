//! The subcommand `train`.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{anyhow, bail};
use clap::Args;

use super::signals;
use crate::download::tell;
use crate::evaluate::standard_error;
use crate::observer::{Console, Observer};
use crate::options::{DEFAULT_RECIPE, DataDirOption, RecipeChanges, ThreadsOption, parse_precision, recipe_help};
use crate::recipe::{LoadedRecipe, PrecisionChoice, RecipeError};
use crate::run_folder::Destination;
use crate::seeds::{SeedChoice, SeedFigures, SeedsFolder, SeedsObserver, SeedsOutcome, Turn, train_seeds};
use crate::setup::{Run, TrainOptions};
use crate::summary::Summary;
use crate::train::{Outcome, train};

/// Train a network by a recipe and evaluate it on the test set
///
/// Writes the results into a new folder: recipe.toml (every default filled in; training from it repeats the run),
/// history.jsonl, summary.json, model.safetensors and checkpoints. The weights depend on the recipe and its seed, not on
/// the number of threads. Ctrl-C saves and stops; --resume continues, and ends with the same bits as a run that was never
/// interrupted.
///
/// --seeds trains several seeds into one folder, each as a run of its own in seed-N; seeds.json there has their figures, mean,
/// deviation and standard error. --resume continues such a folder, too.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  train                                            the recipe `fast` on Fashion-MNIST
  train --epochs 5 --threads 2 --out runs/short    a short run into a folder of your choice
  train --dataset mnist --seed 7                   another data set, downloaded on first use
  train --recipe seed --set optimizer.learning_rate=5e-4 --set validation=6000
  train --seeds 5 --recipe quick                   seeds 1 to 5, one after another, and their mean and deviation
  train --print-recipe > my.toml                   a recipe to edit, then: train --recipe my.toml
  train --resume runs/short                        continue an interrupted run")]
pub(super) struct TrainArgs {
    #[arg(long, value_name = "NAME or FILE", default_value = DEFAULT_RECIPE, help = recipe_help("The recipe: ", ""))]
    recipe: String,
    /// A data set by name (fashion-mnist, mnist, kmnist), or a folder with its four files [default: the recipe's]
    #[arg(long, value_name = "NAME or DIR")]
    dataset: Option<String>,
    #[command(flatten)]
    data_dir: DataDirOption,
    /// Passes over the training images
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(0..))]
    epochs: Option<i64>,
    /// Seed of the initial weights, the validation split, the order, the augmentation and dropout
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(0..))]
    seed: Option<i64>,
    /// Train several seeds, one after another: a number of them, counted from --seed or 1, or a list such as 1,4,7. With
    /// --resume of such a folder: seeds to add to it
    #[arg(long, value_name = "N or LIST", conflicts_with = "print_recipe")]
    seeds: Option<SeedChoice>,
    #[command(flatten)]
    threads: ThreadsOption,
    /// auto: bf16 if the processor has matrix units for it, else f32
    #[arg(long, value_name = "auto, f32 or bf16", value_parser = parse_precision)]
    precision: Option<PrecisionChoice>,
    /// The folder for the results; it must be empty or not exist [default: runs/<date-time>-<recipe>, with -seeds after it
    /// for several]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Continue the run in this folder from its last checkpoint, or the seeds in a folder of --seeds
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

impl TrainArgs {
    /// Trains. `started` is when the process started.
    pub(super) fn run(self, started: Instant) -> anyhow::Result<ExitCode> {
        let destination = match &self.out {
            Some(folder) => Destination::Folder(folder.clone()),
            None => Destination::Below(PathBuf::from("runs")),
        };
        let run = match (&self.resume, &self.seeds) {
            (Some(folder), seeds) if seeds.is_some() || SeedsFolder::is_one(folder) => {
                return self.train_seeds(SeedsFolder::open(folder, seeds.as_ref())?, started);
            }
            (Some(folder), _) => Run::Resume(folder.clone()),
            (None, Some(seeds)) => {
                let first = self.seed.map_or(1, i64::unsigned_abs);
                if let (SeedChoice::List(_), Some(seed)) = (seeds, self.seed) {
                    bail!("--seeds names the seeds: leave out --seed {seed}");
                }
                let seeds = seeds.seeds(first).map_err(|problem| anyhow!("--seeds: {problem}"))?;
                return self.train_seeds(SeedsFolder::create(&destination, self.recipe()?, seeds)?, started);
            }
            (None, None) => {
                let recipe = self.recipe()?;
                if self.print_recipe {
                    io::stdout().write_all(recipe.to_toml().as_bytes())?;
                    return Ok(ExitCode::SUCCESS);
                }
                Run::New { recipe: Box::new(recipe), destination }
            }
        };
        let options = TrainOptions { started, ..TrainOptions::new(run, self.data_dir.path(), self.threads.count()?) };
        signals::watch(&options.stop, &options.exit_at_once)?;
        let mut console = Console::new();
        let outcome = train(&options, &mut console);
        // This removes the progress bar of an interrupted epoch, which would erase the last line.
        drop(console);
        match outcome? {
            Outcome::Finished { folder, summary } => {
                writeln!(io::stdout(), "{}\nresults in {}", figures(&summary), folder.display())?;
                Ok(ExitCode::SUCCESS)
            }
            Outcome::Stopped { folder, reason } => Ok(interrupted("the run is saved", &folder, reason)),
        }
    }

    /// Trains the seeds of a folder that are not finished.
    fn train_seeds(&self, folder: SeedsFolder, started: Instant) -> anyhow::Result<ExitCode> {
        let path = folder.path().to_owned();
        let template = TrainOptions::new(Run::Resume(path.clone()), self.data_dir.path(), self.threads.count()?);
        signals::watch(&template.stop, &template.exit_at_once)?;
        // The first run's time to its first step counts from the start of the process.
        let mut started = Some(started);
        let mut options =
            |run| TrainOptions { run, started: started.take().unwrap_or_else(Instant::now), ..template.clone() };
        match train_seeds(folder, &mut options, &mut SeedLines)? {
            SeedsOutcome::Finished(summary) => {
                writeln!(io::stdout(), "\n{summary}results in {}", path.display())?;
                Ok(ExitCode::SUCCESS)
            }
            SeedsOutcome::Stopped { reason } => Ok(interrupted("the runs are saved", &path, reason)),
        }
    }

    fn recipe(&self) -> Result<LoadedRecipe, RecipeError> {
        let changes = RecipeChanges {
            set: &self.set,
            dataset: self.dataset.as_deref(),
            epochs: self.epochs,
            seed: self.seed,
            batch: None,
            precision: self.precision,
        };
        changes.load(&self.recipe)
    }
}

/// Prints a line for each finished seed.
struct SeedLines;

impl SeedsObserver for SeedLines {
    fn begin(&mut self, turn: Turn) -> Box<dyn Observer> {
        Box::new(Console::for_seed(turn))
    }

    fn end(&mut self, run: &SeedFigures) {
        let percent = |name: &str, accuracy: f64| format!("  {name} {:.2} %", 100.0 * accuracy);
        let averaged = run.test_accuracy_tta.map(|accuracy| percent("averaged", accuracy));
        let validation = run.validation_accuracy.map(|accuracy| percent("validation", accuracy));
        // Ignores errors: a closed pipe must not end the training of the other seeds.
        let _ = writeln!(
            io::stdout(),
            "seed {}{}{}{}  {:.1} s of training",
            run.seed,
            percent("test accuracy", run.test_accuracy),
            averaged.unwrap_or_default(),
            validation.unwrap_or_default(),
            run.train_seconds,
        );
    }
}

/// Says how to continue, and returns the exit code of a signal.
fn interrupted(saved: &str, folder: &Path, signal: usize) -> ExitCode {
    tell(&format!("interrupted; {saved}. Continue with: selvedge train --resume {}", folder.display()));
    ExitCode::from(128 + u8::try_from(signal).unwrap_or(0))
}

/// The figures of a run in a few lines, accuracies with their standard errors.
fn figures(summary: &Summary) -> String {
    let percent = |accuracy: f64, images: Option<usize>| {
        let error = images.map(|images| format!(" ± {:.2}", 100.0 * standard_error(accuracy, images)));
        format!("{:.2}{} %", 100.0 * accuracy, error.unwrap_or_default())
    };
    let line = |name: &str, [test, loss]: [f64; 2], validation: Option<f64>| {
        let (test, images) = (percent(test, summary.test_images), summary.validation_images);
        let validation = validation.map(|accuracy| format!("  validation {}", percent(accuracy, images)));
        format!("{name} {test}  loss {loss:.4}{}\n", validation.unwrap_or_default())
    };
    let mut text = line("test accuracy", [summary.test_accuracy, summary.test_loss], summary.validation_accuracy);
    if let (Some(accuracy), Some(loss), Some(averaging)) =
        (summary.test_accuracy_tta, summary.test_loss_tta, summary.test_time_averaging)
    {
        let name = format!("averaged ({averaging})");
        text += &line(&name, [accuracy, loss], summary.validation_accuracy_tta);
    }
    text + &format!(
        "{} epoch{}, {:.1} s of training, {:.0} images/s ({}, {}, {} threads); first step after {:.2} s, peak memory {}",
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
