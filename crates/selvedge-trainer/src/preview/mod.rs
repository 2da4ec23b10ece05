//! Contact sheets: what a recipe makes of the images it trains on, and a data set class by class.

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
    /// Neither grey nor colour.
    #[error("the images have {channels} channels: only 1 (grey) and 3 (red, green, blue) can be drawn")]
    Channels { channels: usize },
    /// Too many pixels.
    #[error(
        "the sheet would have {width} x {height} pixels, more than {most}: the images are too large to be shown side by side"
    )]
    TooLarge { width: usize, height: usize, most: usize },
    /// Another kind of file is asked for.
    #[error("{path}: the sheet is a PNG file: name one that ends in .png", path = path.display())]
    Extension { path: PathBuf },
    /// Somebody's file.
    #[error(
        "{path} exists and is not a sheet that this command has drawn: name another file by --out", path = path.display()
    )]
    Exists { path: PathBuf },
    /// The file system refused.
    #[error("cannot write {path}: {source}", path = path.display())]
    Write { path: PathBuf, source: io::Error },
}

/// Refuses images that are neither grey nor coloured.
fn check_channels(channels: usize) -> Result<(), PreviewError> {
    if matches!(channels, 1 | 3) { Ok(()) } else { Err(PreviewError::Channels { channels }) }
}

/// Paper around everything, in pixels.
const MARGIN: usize = 24;

/// The lines above all else, cut to a sheet's width.
fn header(lines: Vec<Line>, sheet_width: usize) -> Vec<Line> {
    lines.into_iter().flat_map(|line| line.wrapped((sheet_width - 2 * MARGIN) / CHARACTER)).collect()
}

/// How many times each pixel is drawn along each axis, so that the longer side comes near `target` pixels.
fn scale_for(height: usize, width: usize, target: usize) -> usize {
    (target / height.max(width)).max(1)
}
