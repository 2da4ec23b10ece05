//! The subcommand `predict`.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::slice;

use clap::Args;
use ndarray::ArrayView1;

use crate::download::tell;
use crate::observer::Console;
use crate::options::{TestTimeAveragingOption, ThreadsOption};
use crate::predict::{PictureError, list_pictures, read_picture};
use crate::trained::TrainedRun;

/// Classify PNG files with the network of a finished run
///
/// A picture must look like the training images and have their size: for Fashion-MNIST, 28 x 28 pixels, white on black.
/// Colours become grey. Prints one line per picture: its name and the most probable classes. Pictures that cannot be read are
/// named on standard error; the others are classified, and the exit code is then 1.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  predict runs/mine shoe.png shirt.png
  predict runs/mine pictures/ --top 1
  predict runs/mine shoe.png --tta mirror    averaged over the picture and its mirror image")]
pub(super) struct PredictArgs {
    /// The run's folder
    run: PathBuf,
    /// PNG files, or folders of them
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,
    /// How many classes to print for each picture
    #[arg(long, value_name = "N", default_value = "3")]
    top: NonZeroUsize,
    #[command(flatten)]
    averaging: TestTimeAveragingOption,
    #[command(flatten)]
    threads: ThreadsOption,
}

impl PredictArgs {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let TrainedRun { summary, mut network } =
            TrainedRun::load(&self.run, self.threads.count()?, &mut Console::new())?;
        let input = &network.spec().input;
        let shape = [input.height, input.width, input.channels];
        let (mut paths, mut pixels, mut refused) = (Vec::new(), Vec::new(), 0);
        for listed in self.images.iter().map(|image| list_pictures(slice::from_ref(image))) {
            let read = |path: PathBuf| read_picture(&path, shape).map(|pixels| (path, pixels));
            let pictures = match listed {
                Ok(listed) => listed.into_iter().map(read).collect(),
                Err(error) => vec![Err(error)],
            };
            for picture in pictures {
                match picture {
                    Ok((path, picture)) => {
                        paths.push(path);
                        pixels.extend(picture);
                    }
                    // No picture can help.
                    Err(error @ PictureError::Channels { .. }) => return Err(error.into()),
                    Err(error) => {
                        tell(&format!("error: {error}"));
                        refused += 1;
                    }
                }
            }
        }
        if paths.is_empty() {
            return Ok(ExitCode::FAILURE);
        }
        let probabilities = match self.averaging.or(summary.test_time_averaging) {
            Some(averaging) => averaging.predict(&mut network, &pixels),
            None => network.predict(&pixels),
        };
        let mut text = String::new();
        for (path, probabilities) in paths.iter().zip(probabilities.rows()) {
            text.push_str(&path.display().to_string());
            for (class, probability) in most_probable(probabilities, self.top.get()) {
                // Writing to a String cannot fail.
                let _ = write!(text, "  {} {:.2} %", summary.class_names[class], 100.0 * probability);
            }
            text.push('\n');
        }
        io::stdout().write_all(text.as_bytes())?;
        if refused > 0 {
            tell(&format!("{} pictures classified, {refused} refused", paths.len()));
            return Ok(ExitCode::FAILURE);
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The `count` most probable classes in descending order; of equal ones the first comes first.
fn most_probable(probabilities: ArrayView1<'_, f32>, count: usize) -> Vec<(usize, f32)> {
    let mut classes: Vec<(usize, f32)> = probabilities.iter().copied().enumerate().collect();
    classes.sort_by(|a, b| b.1.total_cmp(&a.1));
    classes.truncate(count);
    classes
}
