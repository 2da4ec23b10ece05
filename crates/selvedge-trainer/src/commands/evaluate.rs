//! The subcommand `evaluate`.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use selvedge_idx::Part;

use crate::class_order::ClassOrder;
use crate::data::{DataError, load_test};
use crate::download::{self, FetchOptions, Progress};
use crate::error::TrainError;
use crate::evaluate::Evaluation;
use crate::observer::Console;
use crate::options::{DataDirOption, TestTimeAveragingOption, ThreadsOption};
use crate::trained::TrainedRun;

/// Evaluate the network of a finished run on the test set
///
/// In the precision of the run, if the processor has it. Prints accuracy with its standard error and loss, a table with recall,
/// precision and F1 of each class, and the confusion matrix. With test-time averaging, which the run's recipe or --tta decides, accuracy and loss are printed both without and
/// with it, and the tables are those with it.
///
/// The data set needs only its two test files. A classes.txt in it must name the run's classes in their order.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  evaluate runs/2026-11-24T09-00-00Z-seed
  evaluate runs/mine --tta mirror+shift            averaged over mirror images and shifted copies
  evaluate runs/mine --dataset ../other-clothes    the same network on the test set of another folder")]
pub(super) struct EvaluateArgs {
    /// The run's folder
    run: PathBuf,
    /// Another data set, by name or folder [default: the run's]
    #[arg(long, value_name = "NAME or DIR")]
    dataset: Option<String>,
    /// Go by the names in the data set's classes.txt where their order is another than the run's
    #[arg(long)]
    map_classes: bool,
    #[command(flatten)]
    averaging: TestTimeAveragingOption,
    #[command(flatten)]
    data_dir: DataDirOption,
    #[command(flatten)]
    threads: ThreadsOption,
}

impl EvaluateArgs {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let mut console = Console::new();
        let TrainedRun { summary, mut network } = TrainedRun::load(&self.run, self.threads.count()?, &mut console)?;
        let dataset = self.dataset.as_deref().unwrap_or(&summary.dataset);
        let fetch = FetchOptions { part: Some(Part::Test), ..FetchOptions::default() };
        let dir = download::ensure(dataset, &self.data_dir.path(), &fetch, &mut console)
            .map_err(DataError::from)
            .map_err(TrainError::from)?;
        let order = ClassOrder::of(&dir, &summary.class_names, self.map_classes).map_err(TrainError::from)?;
        order.note.iter().for_each(|note| console.note(note));
        let input = &network.spec().input;
        let mut test = load_test(&dir, [input.height, input.width, input.channels], order.classes)?;
        test.labels.mapv_inplace(|label| order.class_of(label));
        let averaging = self.averaging.or(summary.test_time_averaging);
        let evaluation = Evaluation::of(&mut network, &test, &summary.class_names, averaging);
        write!(io::stdout(), "{evaluation}")?;
        Ok(ExitCode::SUCCESS)
    }
}
