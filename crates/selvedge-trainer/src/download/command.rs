//! The subcommand `download`.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;

use super::fetch::{FetchOptions, Outcome, fetch};
use super::verify::Matched;
use super::{ConsoleProgress, DownloadError, default_data_dir, find, list};

/// Verify a data set, and download what is missing or broken
///
/// Fashion-MNIST is part of the repository, so there it is only verified and no network is needed.
/// A file gets its final name only after its SHA-256 has been compared with the pinned one, and an
/// interrupted download goes on where it stopped.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  download                               verify Fashion-MNIST, repair it if need be
  download --dataset mnist               get MNIST
  download --list                        every data set: size, licence, sources
  download --mirror https://HOST/FOLDER  get the files from there instead")]
pub struct DownloadArgs {
    /// Which data set: fashion-mnist, mnist or kmnist
    #[arg(long, value_name = "NAME", default_value = "fashion-mnist")]
    pub dataset: String,
    /// Get the files from below this address instead of the public sources; may be repeated, tried in
    /// order. https, or http on this machine
    #[arg(long, value_name = "URL")]
    pub mirror: Vec<String>,
    /// The folder that holds a folder for each data set [default: `data` of the repository, or the
    /// user's data folder; SELVEDGE_DATA names another]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// List the data sets that have a name and do nothing else
    #[arg(long)]
    pub list: bool,
}

/// Runs the subcommand: the result goes to standard output, progress to standard error.
///
/// # Errors
/// [`DownloadError::UnknownDataset`] and whatever [`fetch`] returns.
pub fn run(args: &DownloadArgs) -> Result<(), DownloadError> {
    let mut out = io::stdout().lock();
    if args.list {
        return out.write_all(list().as_bytes()).map_err(DownloadError::io("write", "standard output".as_ref()));
    }
    let dataset = find(&args.dataset).ok_or_else(|| DownloadError::unknown(&args.dataset))?;
    let dir = args.data_dir.clone().unwrap_or_else(default_data_dir).join(dataset.name);
    let options = FetchOptions { mirrors: args.mirror.clone(), ..FetchOptions::default() };
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
    out.write_all(text.as_bytes()).map_err(DownloadError::io("write", "standard output".as_ref()))
}
