//! The subcommand `profile`.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use selvedge_compute::{Cpu, Precision, Threads};
use selvedge_model::Operands;

use super::machine;
use super::train::parse_precision;
use crate::download::default_data_dir;
use crate::observer::Silent;
use crate::profile::{
    OperationKind, OperationOptions, OperationShape, Peaks, ProfileError, Report, TimedRecipe, check_batch, flamegraph,
    measure_operations, roofline,
};
use crate::recipe::{Override, PrecisionChoice, RecipeSource};
use crate::setup::option_overrides;

/// The batch that operations are measured on, unless there is --batch.
const BATCH: usize = 128;

/// Say how near each operation, and each layer of a recipe, is to what the hardware can do
///
/// First the machine's peaks are measured: arithmetic in f32 and bf16, reading and copying in the caches and beyond.
/// Then operations, each on the usual shapes or one of your own: time, operations and bytes a second, and the share of
/// the peak that bounds it. Then the steps of a recipe, layer by layer, forward, backward and update, with what is left
/// over. Without --op and --recipe all operations and the recipe `seed` are measured, in less than a minute.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  profile                                        everything
  profile --op conv --shape 14x14x64-128         one convolution, 14x14 pixels, 64 to 128 channels, kernel 3x3
  profile --op conv --shape 28x28x16-32k5 --precision f32 --threads 1
  profile --recipe seed --batch 256 --svg roofline.svg --json profile.json
  profile --recipe my.toml --flamegraph steps.svg")]
pub(super) struct ProfileArgs {
    /// Only this operation: conv, dense, pool, average_pool, relu, gelu, silu, norm, norm_pool, dropout, add, input, loss,
    /// sgd, adam
    #[arg(long, value_name = "NAME")]
    op: Option<String>,
    /// Its shape: HxWxC-OUT for conv (HxWxC-OUTkK for a kernel of KxK) and dense, HxWxC for others [default: usual ones]
    #[arg(long, value_name = "SHAPE", requires = "op")]
    shape: Option<String>,
    /// Only the steps of this recipe (with --op: beside the operation): a built-in one (seed), or a TOML file
    #[arg(long, value_name = "NAME or FILE")]
    recipe: Option<String>,
    /// A data set for the recipe, by name or folder [default: the recipe's]
    #[arg(long, value_name = "NAME or DIR")]
    dataset: Option<String>,
    /// The folder that holds a folder for each named data set [default: `data` here, or the user's data folder]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Images of a batch [default: the recipe's; 128 for operations]
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    /// Worker threads [default: RAYON_NUM_THREADS, or all that the machine has]
    #[arg(long, value_name = "N", value_parser = machine::parse_threads)]
    threads: Option<usize>,
    /// auto: operations in both f32 and, where the processor has matrix units for it, bf16; the recipe in its own
    #[arg(long, value_name = "auto, f32 or bf16", value_parser = parse_precision, default_value = "auto")]
    precision: PrecisionChoice,
    /// What convolutions and dense layers read when they are measured alone: dense numbers, or as behind a ReLU, half zeros,
    /// with which matrix units are up to a fifth faster
    #[arg(long, value_name = "dense or relu", value_parser = parse_operands, default_value = "dense")]
    operands: Operands,
    /// Write everything measured as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw the roofline with all operations, or the recipe's layers if no operation was measured
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Sample the recipe's steps by `perf` and draw a flame graph
    #[arg(long, value_name = "FILE")]
    flamegraph: Option<PathBuf>,
}

/// Runs the subcommand.
pub(super) fn run(args: &ProfileArgs) -> anyhow::Result<ExitCode> {
    // Everything that can be refused is refused before anything is measured.
    let cpu = Cpu::detect()?;
    let threads = Threads::new(machine::threads(args.threads)?)?;
    let precisions = precisions(args.precision, cpu)?;
    let batch = args.batch.unwrap_or(BATCH);
    let options = OperationOptions { batch, operands: args.operands, precisions };
    let operations = operations(args)?;
    operations.iter().try_for_each(|(kind, shapes)| check_batch(*kind, shapes, batch))?;
    let overrides = overrides(args)?;
    let recipe = match &args.recipe {
        None if args.op.is_some() && args.flamegraph.is_none() => None,
        name => Some(RecipeSource::find(name.as_deref().unwrap_or("seed"))?.load(&overrides)?),
    };
    let data_dir = args.data_dir.clone().unwrap_or_else(default_data_dir);
    if args.flamegraph.is_some() {
        flamegraph::check()?;
    }
    let mut recipe =
        recipe.map(|recipe| TimedRecipe::prepare(&recipe, &data_dir, &threads, &mut Silent)).transpose()?;

    let mut report = Report::new(cpu, &threads, Peaks::measure(cpu, &threads));
    for (kind, shapes) in operations {
        report.operations.extend(measure_operations(cpu, &threads, &report.peaks, kind, &shapes, &options)?);
    }
    report.recipe = recipe.as_mut().map(|recipe| recipe.profile(&report.peaks));
    io::stdout().write_all(report.table().as_bytes())?;
    if let Some(path) = &args.json {
        write(path, &(serde_json::to_string_pretty(&report)? + "\n"))?;
    }
    if let Some(path) = &args.svg {
        write(path, &roofline::draw(&report))?;
    }
    if let (Some(path), Some(recipe)) = (&args.flamegraph, &mut recipe) {
        flamegraph::write(recipe, path)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn parse_operands(text: &str) -> Result<Operands, String> {
    let all = [Operands::Dense, Operands::Relu];
    all.into_iter().find(|operands| operands.name() == text).ok_or_else(|| "dense and relu are possible".to_owned())
}

/// What operations are measured in.
fn precisions(choice: PrecisionChoice, cpu: Cpu) -> Result<Vec<Precision>, ProfileError> {
    let wanted = match choice {
        PrecisionChoice::Auto if cpu.best_precision() == Precision::F32 => vec![Precision::F32],
        PrecisionChoice::Auto => vec![Precision::F32, Precision::Bf16],
        PrecisionChoice::F32 => vec![Precision::F32],
        PrecisionChoice::Bf16 => vec![Precision::Bf16],
    };
    wanted.iter().try_for_each(|&precision| cpu.check(precision))?;
    Ok(wanted)
}

/// Operations with their shapes: all of them, the one asked for, or none if only a recipe was.
fn operations(args: &ProfileArgs) -> Result<Vec<(OperationKind, Vec<OperationShape>)>, ProfileError> {
    let kinds = match (&args.op, &args.recipe) {
        (Some(name), _) => vec![name.parse()?],
        (None, Some(_)) => vec![],
        (None, None) => OperationKind::ALL.to_vec(),
    };
    let shapes = |kind: OperationKind| match &args.shape {
        Some(shape) => OperationShape::parse(kind, shape).map(|shape| vec![shape]),
        None => Ok(kind.shapes()),
    };
    kinds.into_iter().map(|kind| Ok((kind, shapes(kind)?))).collect()
}

/// What the options change of the recipe.
fn overrides(args: &ProfileArgs) -> Result<Vec<Override>, ProfileError> {
    let precision = (args.precision != PrecisionChoice::Auto).then_some(args.precision);
    let mut overrides = option_overrides(args.dataset.as_deref(), None, None, precision);
    if let Some(batch) = args.batch {
        // What does not fit TOML's integers is out of range, and is refused as such.
        overrides.push(Override::new("batch", i64::try_from(batch).unwrap_or(-1), &format!("--batch {batch}")));
    }
    Ok(overrides)
}

fn write(path: &Path, text: &str) -> Result<(), ProfileError> {
    fs::write(path, text).map_err(|source| ProfileError::Write { path: path.to_owned(), source })
}
