//! The subcommand `search`.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use anyhow::bail;
use clap::Args;
use selvedge_compute::Threads;

use super::signals;
use crate::download::tell;
use crate::observer::Console;
use crate::options::{DataDirOption, ThreadsOption};
use crate::run_folder::Destination;
use crate::search::{Jobs, SearchOptions, SearchOutcome, Task, search};

/// Try values of a recipe's keys and compare them on held-out images
///
/// Trains the recipe with all combinations of lists of values, or with values drawn at random, and prints a table, the most
/// accurate first. The accuracy is that on training images which are held out; the test set is never read. Successive halving
/// trains all combinations briefly and only the best of them for longer.
///
/// The folder of the results has a line for each finished training run in trials.jsonl, and the best recipe in best.toml.
/// Ctrl-C ends the search, and the same command continues it: runs in the records are not repeated, and the records do not
/// depend on where it was interrupted, on the number of threads, or on --jobs.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  search rates.toml                                  into runs/<date-time>-search-rates
  search rates.toml --out runs/rates                 into a folder of your choice; again, to continue
  search --resume runs/rates --jobs auto             continue by the copies in the folder

A file:
  recipe = \"seed\"                # built in, or a file beside this one
  validation = 6000              # training images to hold out, as a number or a share
  seeds = [1, 2]                 # of each trial, in the last rung; 1 by default
  method = \"random\"              # or \"grid\", the default: all combinations of the lists
  trials = 27                    # random only; so is `seed`, 1 by default
  set = { batch = 256 }          # changes that all trials share
  [halving]                      # optional
  rungs = [5, 15, 45]            # epochs; each rung trains from the start, with a shorter schedule
  keep = 0.33                    # the share that goes on; a third by default
  [values]
  optimizer.learning_rate = { min = 1e-4, max = 1e-2, log = true }
  label_smoothing = [0.0, 0.1]

docs/tuning.md in the repository explains the keys and how to choose them.")]
pub(super) struct SearchArgs {
    /// The TOML file of the search
    #[arg(required_unless_present = "resume")]
    file: Option<PathBuf>,
    /// The folder for the results: that of the same search, which is continued, or one that is empty or does not exist
    /// [default: runs/<date-time>-search-<file>]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Continue the search in this folder; with FILE, only if that has not changed
    #[arg(long, value_name = "DIR", conflicts_with = "out")]
    resume: Option<PathBuf>,
    /// How many trials to train at a time, each on its share of the threads. auto: several if the batches are too small to
    /// keep all threads busy
    #[arg(long, value_name = "N or auto", default_value = "1", value_parser = parse_jobs)]
    jobs: Jobs,
    #[command(flatten)]
    data_dir: DataDirOption,
    #[command(flatten)]
    threads: ThreadsOption,
}

fn parse_jobs(text: &str) -> Result<Jobs, String> {
    if text == "auto" {
        return Ok(Jobs::Auto);
    }
    let count = text.parse().ok().filter(|count| (1..=Threads::MAX).contains(count));
    count.map(Jobs::Count).ok_or_else(|| format!("expected auto, or a number from 1 to {}", Threads::MAX))
}

impl SearchArgs {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let threads = self.threads.count()?;
        if let Jobs::Count(jobs) = self.jobs
            && jobs > threads
        {
            bail!("--jobs {jobs} is not possible on {threads} threads: each job has at least one");
        }
        let options = SearchOptions {
            task: self.task(),
            data_dir: self.data_dir.path(),
            threads,
            jobs: self.jobs,
            stop: Arc::new(AtomicUsize::new(0)),
            exit_at_once: Arc::new(AtomicBool::new(true)),
        };
        signals::watch(&options.stop, &options.exit_at_once)?;
        // A closed pipe must not end a search.
        let mut say = |line: &str| drop(writeln!(io::stdout(), "{line}"));
        match search(&options, &mut Console::new(), &mut say)? {
            SearchOutcome::Finished { folder, table, best } => {
                writeln!(io::stdout(), "\n{table}\nrecords in {}", folder.display())?;
                if let Some(best) = best {
                    writeln!(io::stdout(), "the best: selvedge train --recipe {}", best.display())?;
                }
                Ok(ExitCode::SUCCESS)
            }
            SearchOutcome::Stopped { folder, reason } => {
                let folder = folder.display();
                tell(&format!(
                    "interrupted; finished runs are saved. Continue with: selvedge search --resume {folder}"
                ));
                Ok(ExitCode::from(128 + u8::try_from(reason).unwrap_or(0)))
            }
        }
    }

    fn task(&self) -> Task {
        let Self { file, out, resume, .. } = self;
        match (file.clone(), out.clone(), resume.clone()) {
            (file, _, Some(folder)) => Task::Resume { folder, file },
            (file, Some(out), None) => Task::in_folder(file.unwrap_or_default(), out),
            (file, None, None) => {
                let destination = Destination::Below(PathBuf::from("runs"));
                Task::New { file: file.unwrap_or_default(), destination }
            }
        }
    }
}
