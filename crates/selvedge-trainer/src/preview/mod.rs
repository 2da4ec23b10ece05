//! Contact sheets: training images before and after a recipe's augmentation, and a data set class by class.

mod dataset;
mod recipe;
mod sheet;

pub(crate) use dataset::dataset_sheet;
pub(crate) use recipe::recipe_sheet;
pub(crate) use sheet::{Sheet, check_target};

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use sheet::{CHARACTER, Line};

/// Why a sheet cannot be drawn or written.
#[derive(Debug, Error)]
pub(crate) enum PreviewError {
    /// The images are neither grey nor colour.
    #[error("the images have {channels} channels: expected 1 (grey) or 3 (red, green, blue)")]
    Channels { channels: usize },
    /// The sheet has too many pixels.
    #[error(
        "the sheet would have {width} x {height} pixels, more than {most}: the images are too large to show side by side"
    )]
    TooLarge { width: usize, height: usize, most: usize },
    /// The file is not named as a PNG file.
    #[error("{path}: the sheet is a PNG file, expected a name that ends in .png", path = path.display())]
    Extension { path: PathBuf },
    /// The file exists and was not made by this command.
    #[error(
        "{path} exists and is not a sheet that this command has drawn: name another file with --out", path = path.display()
    )]
    Exists { path: PathBuf },
    /// The file system refused to write.
    #[error("cannot write {path}: {source}", path = path.display())]
    Write { path: PathBuf, source: io::Error },
}

/// Refuses images that are neither grey nor colour.
fn check_channels(channels: usize) -> Result<(), PreviewError> {
    if matches!(channels, 1 | 3) { Ok(()) } else { Err(PreviewError::Channels { channels }) }
}

/// The margin of a sheet, in pixels.
const MARGIN: usize = 24;

/// The lines at the top, wrapped to a sheet's width.
fn header(lines: Vec<Line>, sheet_width: usize) -> Vec<Line> {
    lines.into_iter().flat_map(|line| line.wrapped((sheet_width - 2 * MARGIN) / CHARACTER)).collect()
}

/// The factor that enlarges an image so that its longer side has about `target` pixels.
fn scale_for(height: usize, width: usize, target: usize) -> usize {
    (target / height.max(width)).max(1)
}
