//! The subcommand `profile`.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use selvedge_compute::{Cpu, Precision, Threads};
use selvedge_model::Operands;

use crate::observer::Silent;
use crate::options::{DEFAULT_RECIPE, DataDirOption, RecipeChanges, ThreadsOption, parse_precision, recipe_help};
use crate::profile::{
    Machine, OperationOptions, OperationShape, Peaks, ProfileError, ProfiledOperation, Report, TimedRecipe, flamegraph,
    measure_operation, roofline,
};
use crate::recipe::{LoadedRecipe, PrecisionChoice, RecipeError};

/// Images that operations are measured on without --batch.
const BATCH: usize = 128;

/// Measure each operation against the hardware's limits
///
/// First come the machine's peaks: arithmetic in f32 and bf16, reading and copying in the caches and beyond. Then
/// operations, each on common shapes or on yours: time, operations and bytes per second, and the share of the limit that
/// bounds it. Then the training steps of a recipe, layer by layer: forward, backward, update, and the time that is left.
/// Without --op and --recipe it measures all operations and the recipe `fast`, in less than a minute.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  profile                                        everything
  profile --op conv --shape 14x14x64-128         one convolution, 14x14 pixels, 64 to 128 channels, kernel 3x3
  profile --op conv --shape 28x28x16-32k5 --precision f32 --threads 1
  profile --recipe seed --batch 256 --svg roofline.svg --json profile.json
  profile --recipe my.toml --flamegraph steps.svg")]
pub(super) struct ProfileArgs {
    #[arg(long, value_name = "NAME", help = format!("Only this operation: {}", ProfiledOperation::names()))]
    op: Option<String>,
    /// Its shape: HxWxC-OUT for conv (HxWxC-OUTkK for a kernel of KxK) and dense, HxWxC for others [default: common ones]
    #[arg(long, value_name = "SHAPE", requires = "op")]
    shape: Option<String>,
    #[arg(long, value_name = "NAME or FILE",
        help = recipe_help("Only the steps of this recipe (with --op, in addition to the operation): ", ""))]
    recipe: Option<String>,
    /// A data set for the recipe, by name or folder [default: the recipe's]
    #[arg(long, value_name = "NAME or DIR")]
    dataset: Option<String>,
    #[command(flatten)]
    data_dir: DataDirOption,
    /// Images of a batch [default: the recipe's; 128 for operations]
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    #[command(flatten)]
    threads: ThreadsOption,
    /// auto: the recipe in its own precision, operations in f32 and, if the processor has matrix units for it, bf16
    #[arg(long, value_name = "auto, f32 or bf16", value_parser = parse_precision, default_value = "auto")]
    precision: PrecisionChoice,
    /// The operands of convolutions and dense layers measured alone: dense, or post-ReLU, where half are zero. Zeros make
    /// matrix units up to a fifth faster
    #[arg(long, value_name = "dense or relu", value_parser = parse_operands, default_value = "dense")]
    operands: Operands,
    /// Write all measurements as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw the roofline plot of the operations, or of the recipe's layers if no operation was measured
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Sample the recipe's steps with `perf` and draw a flame graph
    #[arg(long, value_name = "FILE")]
    flamegraph: Option<PathBuf>,
}

impl ProfileArgs {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        // Everything that can be refused is refused before anything is measured.
        let cpu = Cpu::detect()?;
        let threads = &Threads::new(self.threads.count()?)?;
        let precisions = precisions(self.precision, cpu)?;
        let batch = self.batch.unwrap_or(BATCH);
        let options = OperationOptions { batch, operands: self.operands, precisions };
        let operations = self.operations()?;
        operations.iter().try_for_each(|(operation, shapes)| operation.check_batch(shapes, batch))?;
        let recipe = self.recipe()?;
        if self.flamegraph.is_some() {
            flamegraph::check()?;
        }
        let data_dir = self.data_dir.path();
        let mut recipe =
            recipe.map(|recipe| TimedRecipe::prepare(&recipe, &data_dir, threads, &mut Silent)).transpose()?;

        let mut report = Report::new(cpu, threads, Peaks::measure(cpu, threads));
        for (operation, shapes) in operations {
            let machine = Machine { cpu, threads, peaks: &report.peaks };
            let rows = measure_operation(&operation, &shapes, machine, &options)?;
            report.operations.extend(rows);
        }
        report.recipe = recipe.as_mut().map(|recipe| recipe.profile(&report.peaks));
        io::stdout().write_all(report.table().as_bytes())?;
        if let Some(path) = &self.json {
            write(path, &(serde_json::to_string_pretty(&report)? + "\n"))?;
        }
        if let Some(path) = &self.svg {
            write(path, &roofline::draw(&report))?;
        }
        if let (Some(path), Some(recipe)) = (&self.flamegraph, &mut recipe) {
            flamegraph::write(recipe, path)?;
        }
        Ok(ExitCode::SUCCESS)
    }

    /// The operations to measure with their shapes: all, one, or none if only a recipe was named.
    fn operations(&self) -> Result<Vec<(ProfiledOperation, Vec<OperationShape>)>, ProfileError> {
        let operations = match (&self.op, &self.recipe) {
            (Some(name), _) => vec![ProfiledOperation::find(name)?],
            (None, Some(_)) => vec![],
            (None, None) => ProfiledOperation::all().collect(),
        };
        let shapes = |operation: &ProfiledOperation| match &self.shape {
            Some(shape) => operation.shape(shape).map(|shape| vec![shape]),
            None => operation.usual_shapes(),
        };
        operations.into_iter().map(|operation| Ok((operation, shapes(&operation)?))).collect()
    }

    /// The recipe to measure; `None` if only an operation was named.
    fn recipe(&self) -> Result<Option<LoadedRecipe>, RecipeError> {
        if self.recipe.is_none() && self.op.is_some() && self.flamegraph.is_none() {
            return Ok(None);
        }
        let changes = RecipeChanges {
            dataset: self.dataset.as_deref(),
            // A number that TOML cannot hold is out of range, and is refused as such.
            batch: self.batch.map(|batch| i64::try_from(batch).unwrap_or(-1)),
            precision: (self.precision != PrecisionChoice::Auto).then_some(self.precision),
            ..RecipeChanges::default()
        };
        changes.load(self.recipe.as_deref().unwrap_or(DEFAULT_RECIPE)).map(Some)
    }
}

fn parse_operands(text: &str) -> Result<Operands, String> {
    let all = [Operands::Dense, Operands::Relu];
    all.into_iter().find(|operands| operands.name() == text).ok_or_else(|| "expected dense or relu".to_owned())
}

/// The precisions to measure operations in.
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

fn write(path: &Path, text: &str) -> Result<(), ProfileError> {
    fs::write(path, text).map_err(|source| ProfileError::Write { path: path.to_owned(), source })
}
