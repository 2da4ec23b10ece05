//! The subcommand `download`.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Args;

use crate::download::{ConsoleProgress, DownloadError, FetchOptions, Matched, Outcome, fetch, find, list};
use crate::options::DataDirOption;

/// Verify a data set and download what is missing or broken
///
/// Fashion-MNIST is part of the repository: there it is only verified, without a network. A file appears under its final
/// name only after its SHA-256 matches the pinned one. An interrupted download resumes where it stopped.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  download                               verify Fashion-MNIST, and repair it if necessary
  download --dataset mnist               get MNIST
  download --list                        list all data sets with size, licence and sources
  download --mirror https://HOST/FOLDER  get the files from there instead")]
pub(super) struct DownloadArgs {
    /// The data set: fashion-mnist, mnist or kmnist
    #[arg(long, value_name = "NAME", default_value = "fashion-mnist")]
    dataset: String,
    /// Download the files from this address instead of the public sources; https, or http on this machine. May be
    /// repeated: mirrors are tried in order
    #[arg(long, value_name = "URL")]
    mirror: Vec<String>,
    #[command(flatten)]
    data_dir: DataDirOption,
    /// List the data sets and do nothing else
    #[arg(long)]
    list: bool,
}

impl DownloadArgs {
    /// Prints the result on standard output, progress on standard error.
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        if self.list {
            io::stdout().write_all(list().as_bytes())?;
            return Ok(ExitCode::SUCCESS);
        }
        let dataset = find(&self.dataset).ok_or_else(|| DownloadError::unknown(&self.dataset))?;
        let dir = self.data_dir.path().join(dataset.name);
        let options = FetchOptions { mirrors: self.mirror, ..FetchOptions::default() };
        let files = fetch(&dir, dataset, &options, &mut ConsoleProgress::new())?;
        let mut text = format!("{} in {}\n", dataset.name, dir.display());
        for file in files {
            let (how, matched) = match file.outcome {
                Outcome::Present(matched) => ("verified", matched),
                Outcome::Downloaded(matched) => ("downloaded, verified", matched),
            };
            let what = match matched {
                Matched::Gz => "",
                Matched::Raw => " by its uncompressed bytes",
            };
            text.push_str(&format!("  {:28} {how}{what}\n", file.pin.name));
        }
        text.push_str(&format!("licence: {}\n", dataset.licence));
        io::stdout().write_all(text.as_bytes())?;
        Ok(ExitCode::SUCCESS)
    }
}
