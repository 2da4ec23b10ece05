//! The subcommand `preview`.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use crate::data::TrainingData;
use crate::download::FetchOptions;
use crate::error::TrainError;
use crate::observer::Console;
use crate::options::{DEFAULT_RECIPE, DataDirOption, RecipeChanges, recipe_help};
use crate::preview::{Sheet, check_target, dataset_sheet, recipe_sheet};
use crate::setup::Images;

/// Draw a sheet of images as training sees them
///
/// Each row shows a training image, then what the recipe's augmentation makes of it in each of the first epochs. The text
/// below each image lists what was drawn for it: the operations with their parameters, the image it was mixed with, and the
/// mixed label. Pixels and draws are those of `train` with the same recipe and seed.
///
/// With --dataset and no recipe, the sheet shows the data set itself: three rows per class.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  preview                                          the recipe `fast`, into preview-fast.png
  preview --recipe my.toml --seed 7 --out my.png   another recipe, other draws
  preview --recipe seed --set 'augmentation=[{op=\"rotate\", limit=20, p=1}, {op=\"cutmix\"}]'
  preview --recipe seed --dataset mnist            the recipe on another data set
  preview --dataset fashion-mnist                  the data set alone, into preview-fashion-mnist.png")]
pub(super) struct PreviewArgs {
    #[arg(long, value_name = "NAME or FILE", help = recipe_help("The recipe: ", " [default: fast, unless --dataset is given]"))]
    recipe: Option<String>,
    /// A data set by name (fashion-mnist, mnist, kmnist), or a folder with its four files [default: the recipe's]
    #[arg(long, value_name = "NAME or DIR")]
    dataset: Option<String>,
    /// The PNG file to write; an existing file is replaced only if it is an older sheet
    /// [default: preview-<recipe>.png or preview-<dataset>.png here]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Seed of the order, the validation split and the augmentation [default: the recipe's]
    #[arg(long, value_name = "N", requires = "recipe", value_parser = clap::value_parser!(i64).range(0..))]
    seed: Option<i64>,
    /// Change a value of the recipe: a dotted path and a TOML value; may be repeated
    #[arg(long, value_name = "KEY=VALUE", requires = "recipe")]
    set: Vec<String>,
    #[command(flatten)]
    data_dir: DataDirOption,
}

impl PreviewArgs {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let (sheet, path) = match (&self.recipe, &self.dataset) {
            (None, Some(dataset)) => self.of_dataset(dataset)?,
            (recipe, _) => self.of_recipe(recipe.as_deref().unwrap_or(DEFAULT_RECIPE))?,
        };
        sheet.save(&path)?;
        let [width, height] = sheet.size();
        writeln!(io::stdout(), "{}: {width} x {height} pixels", path.display())?;
        Ok(ExitCode::SUCCESS)
    }

    fn of_dataset(&self, dataset: &str) -> anyhow::Result<(Sheet, PathBuf)> {
        let name = Path::new(dataset).file_name().unwrap_or_default().to_string_lossy();
        let path = self.target(if name.is_empty() { "dataset" } else { &name })?;
        Ok((dataset_sheet(dataset, &self.load(dataset)?)?, path))
    }

    fn of_recipe(&self, recipe: &str) -> anyhow::Result<(Sheet, PathBuf)> {
        let changes = RecipeChanges {
            set: &self.set,
            dataset: self.dataset.as_deref(),
            seed: self.seed,
            ..RecipeChanges::default()
        };
        let mut loaded = changes.load(recipe)?;
        let path = self.target(&loaded.recipe.name)?;
        let data = self.load(&loaded.recipe.dataset)?;
        loaded.adapt(&data);
        let images = Images::prepare(&loaded, data)?;
        Ok((recipe_sheet(&loaded.recipe, images)?, path))
    }

    /// The file to write. It is checked before any work is done.
    fn target(&self, name: &str) -> anyhow::Result<PathBuf> {
        let path = self.out.clone().unwrap_or_else(|| PathBuf::from(format!("preview-{name}.png")));
        check_target(&path)?;
        Ok(path)
    }

    fn load(&self, dataset: &str) -> Result<TrainingData, TrainError> {
        let (data_dir, fetch) = (self.data_dir.path(), FetchOptions::default());
        Ok(TrainingData::load(dataset, &data_dir, &fetch, &mut Console::new())?)
    }
}
