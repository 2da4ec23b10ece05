//! The subcommand `preview`.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use crate::data::TrainingData;
use crate::download::{FetchOptions, default_data_dir};
use crate::error::TrainError;
use crate::observer::Console;
use crate::preview::{check_target, dataset_sheet, recipe_sheet};
use crate::recipe::{Override, RecipeSource};
use crate::setup::{Images, option_overrides};

/// Draw what training sees: a sheet of images with what a recipe makes of them
///
/// Each row is a training image: first as it is in the data set, then as training sees it in each of the first epochs.
/// Below each stands what was drawn: the operations with their parameters, the image it was mixed with, and the mixed
/// label. Pixels and draws are those of `train` with the same recipe and seed.
///
/// With --dataset and no recipe the sheet shows the data set itself: three rows of each class.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  preview                                          the recipe `seed`, into preview-seed.png
  preview --recipe my.toml --seed 7 --out my.png   another recipe, other draws
  preview --recipe seed --set 'augmentation=[{op=\"rotate\", limit=20, p=1}, {op=\"cutmix\"}]'
  preview --recipe seed --dataset mnist            the recipe on another data set
  preview --dataset fashion-mnist                  the data set alone, into preview-fashion-mnist.png")]
pub(super) struct PreviewArgs {
    /// A built-in recipe (seed, seed-notebook), or a TOML file [default: seed, if there is no --dataset]
    #[arg(long, value_name = "NAME or FILE")]
    recipe: Option<String>,
    /// A data set by name (fashion-mnist, mnist, kmnist), or a folder with its four files [default: the recipe's]
    #[arg(long, value_name = "NAME or DIR")]
    dataset: Option<String>,
    /// The PNG file to write; one that exists is replaced only if it is an older sheet
    /// [default: preview-<recipe>.png or preview-<dataset>.png here]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// What the order, the validation split and the augmentation are drawn from [default: the recipe's]
    #[arg(long, value_name = "N", requires = "recipe", value_parser = clap::value_parser!(i64).range(0..))]
    seed: Option<i64>,
    /// Change a value of the recipe: a dotted path and a TOML value; may be repeated
    #[arg(long, value_name = "KEY=VALUE", requires = "recipe")]
    set: Vec<String>,
    /// The folder that holds a folder for each named data set [default: `data` here, or the user's data folder]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

/// Runs the subcommand.
pub(super) fn run(args: &PreviewArgs) -> anyhow::Result<ExitCode> {
    let data_dir = args.data_dir.clone().unwrap_or_else(default_data_dir);
    let load = |dataset: &str| {
        TrainingData::load(dataset, &data_dir, &FetchOptions::default(), &mut Console::new()).map_err(TrainError::from)
    };
    let target = |name: &str| {
        let path = args.out.clone().unwrap_or_else(|| PathBuf::from(format!("preview-{name}.png")));
        check_target(&path).map(|()| path)
    };
    let (sheet, path) = match (&args.recipe, &args.dataset) {
        (None, Some(dataset)) => {
            let name = Path::new(dataset).file_name().unwrap_or_default().to_string_lossy();
            let path = target(if name.is_empty() { "dataset" } else { &name })?;
            (dataset_sheet(dataset, &load(dataset)?)?, path)
        }
        (recipe, dataset) => {
            let mut overrides: Vec<Override> =
                args.set.iter().map(|text| Override::parse(text)).collect::<Result<_, _>>()?;
            overrides.extend(option_overrides(dataset.as_deref(), None, args.seed, None));
            let recipe = RecipeSource::find(recipe.as_deref().unwrap_or("seed"))?.load(&overrides)?;
            let path = target(&recipe.recipe.name)?;
            let images = Images::prepare(&recipe, load(&recipe.recipe.dataset)?)?;
            (recipe_sheet(&recipe.recipe, images)?, path)
        }
    };
    sheet.save(&path)?;
    let [width, height] = sheet.size();
    writeln!(io::stdout(), "{}: {width} x {height} pixels", path.display())?;
    Ok(ExitCode::SUCCESS)
}
