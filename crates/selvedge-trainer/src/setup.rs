//! What stands before the first step: the recipe, the data, the network and the run's folder, each checked, so that
//! nothing is found out later that could have been found out now.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::time::Instant;

use selvedge_augment::{Augmenter, ImageShape};
use selvedge_compute::{Cpu, Precision, Threads};
use selvedge_model::{BuildOptions, InputSpec, ModelSpec, Network};

use crate::data::{Partition, TrainingData, stratified};
use crate::download::{self, FetchOptions};
use crate::error::TrainError;
use crate::observer::Observer;
use crate::offline::Offline;
use crate::recipe::{LoadedRecipe, Override, PrecisionChoice, RecipeError, RecipeSource};
use crate::run_folder::{Destination, RECIPE, RunFolder};

/// What to train, and with what.
#[derive(Clone, Debug)]
pub struct TrainOptions {
    /// A new run or one to go on with.
    pub run: Run,
    /// The folder that holds registered data sets.
    pub data_dir: PathBuf,
    /// Where missing files come from.
    pub fetch: FetchOptions,
    /// Worker threads. The weights do not depend on them.
    pub threads: usize,
    /// When the process started.
    pub started: Instant,
    /// Not zero when training should save and end; the value is handed back.
    pub stop: Arc<AtomicUsize>,
    /// True as long as nobody looks at `stop`. Training makes it false when there is something to save; until then, in
    /// the middle of a download for example, a signal handler should end the process.
    pub stop_unheeded: Arc<AtomicBool>,
}

impl TrainOptions {
    /// From now on, until the end, with data sets in `data_dir` and on this many threads.
    pub fn new(run: Run, data_dir: impl Into<PathBuf>, threads: usize) -> Self {
        Self {
            run,
            data_dir: data_dir.into(),
            fetch: FetchOptions::default(),
            threads,
            started: Instant::now(),
            stop: Arc::new(AtomicUsize::new(0)),
            stop_unheeded: Arc::new(AtomicBool::new(true)),
        }
    }
}

/// A new run or one to go on with.
#[derive(Clone, Debug)]
pub enum Run {
    /// Trains a recipe from the start.
    New {
        /// The recipe.
        recipe: Box<LoadedRecipe>,
        /// Where the results go.
        destination: Destination,
    },
    /// Goes on with the run in this folder, by its own recipe.
    Resume(PathBuf),
}

/// Everything that training needs.
pub(crate) struct Setup {
    pub(crate) recipe: LoadedRecipe,
    /// The recipe as it is written into the run's folder.
    pub(crate) recipe_text: String,
    pub(crate) resumed: bool,
    pub(crate) cpu: Cpu,
    pub(crate) precision: Precision,
    pub(crate) threads: Threads,
    pub(crate) data: TrainingData,
    pub(crate) partition: Partition,
    pub(crate) augmenter: Augmenter,
    pub(crate) network: Network,
    pub(crate) folder: RunFolder,
}

impl Setup {
    pub(crate) fn prepare(options: &TrainOptions, observer: &mut dyn Observer) -> Result<Self, TrainError> {
        let opened = match &options.run {
            Run::New { destination, .. } => {
                destination.check()?;
                None
            }
            Run::Resume(path) => Some(RunFolder::open(path)?),
        };
        let mut recipe = match (&options.run, &opened) {
            (Run::New { recipe, .. }, _) => (**recipe).clone(),
            (Run::Resume(path), _) => RecipeSource::read(&path.join(RECIPE))?.load(&[])?,
        };
        let cpu = Cpu::detect()?;
        let precision = choose_precision(recipe.recipe.precision, cpu)?;
        let threads = Threads::new(options.threads)?;
        let data = TrainingData::load(&recipe.recipe.dataset, &options.data_dir, &options.fetch, observer)?;
        settle(&mut recipe, precision, &data.dir);

        let Images { data, partition, augmenter, .. } = threads.install(|| Images::prepare(&recipe, data))?;
        let network = build_network(&recipe, &augmenter, precision, &threads)?;
        observer.network(&network.spec().summary()?);

        let resumed = opened.is_some();
        // A later version of the program may fill in more defaults: the run is known by the text it began with.
        let recipe_text = if resumed { recipe.source_text().to_owned() } else { recipe.to_toml() };
        let folder = match (opened, &options.run) {
            (Some(folder), _) => folder,
            (None, Run::New { destination, .. }) => RunFolder::create(destination, &recipe.recipe.name)?,
            (None, Run::Resume(path)) => RunFolder::open(path)?,
        };
        if !resumed {
            folder.write(RECIPE, recipe_text.as_bytes())?;
        }
        Ok(Self { recipe, recipe_text, resumed, cpu, precision, threads, data, partition, augmenter, network, folder })
    }
}

/// The images of a run and how they are drawn: what training and its preview have in common.
pub(crate) struct Images {
    /// The data set, with its offline copies.
    pub(crate) data: TrainingData,
    pub(crate) partition: Partition,
    pub(crate) augmenter: Augmenter,
    /// What the copies were made by, if there are any.
    pub(crate) offline: Option<Offline>,
}

impl Images {
    /// Makes the copies that the recipe asks for, on the current rayon pool, and holds images out.
    pub(crate) fn prepare(recipe: &LoadedRecipe, mut data: TrainingData) -> Result<Self, TrainError> {
        let [height, width, channels] = data.image_shape();
        let (shape, classes) = (ImageShape { height, width, channels }, data.class_names.len());
        let augmenter = Augmenter::new(recipe.recipe.augmentation.clone(), shape, classes)
            .map_err(|error| recipe.error("augmentation", error))?;
        let offline = Offline::new(recipe, &data)?;
        if let Some(offline) = &offline {
            data.split = offline.enlarge(&data.split);
        }
        let partition = hold_out(recipe, &data)?;
        Ok(Self { data, partition, augmenter, offline })
    }
}

/// The recipe's network for the images of its augmenter.
pub(crate) fn build_network(
    loaded: &LoadedRecipe,
    augmenter: &Augmenter,
    precision: Precision,
    threads: &Threads,
) -> Result<Network, RecipeError> {
    let recipe = &loaded.recipe;
    let ImageShape { height, width, channels } = augmenter.shape();
    let input = InputSpec { height, width, channels, mean: recipe.input.mean, std: recipe.input.std };
    let spec = ModelSpec { input, classes: augmenter.classes(), layers: recipe.model.layers.clone() };
    let options = BuildOptions { seed: recipe.seed, max_batch: recipe.batch, precision, threads: threads.clone() };
    Network::build(&spec, &options).map_err(|error| loaded.error("model.layers", error))
}

pub(crate) fn choose_precision(choice: PrecisionChoice, cpu: Cpu) -> Result<Precision, TrainError> {
    let precision = match choice {
        PrecisionChoice::Auto => cpu.best_precision(),
        PrecisionChoice::F32 => Precision::F32,
        PrecisionChoice::Bf16 => Precision::Bf16,
    };
    cpu.check(precision)?;
    Ok(precision)
}

/// Replaces what depends on this machine by what was found, so that the recipe in the run's folder repeats the run.
fn settle(recipe: &mut LoadedRecipe, precision: Precision, data_dir: &Path) {
    recipe.recipe.precision = match precision {
        Precision::F32 => PrecisionChoice::F32,
        Precision::Bf16 => PrecisionChoice::Bf16,
    };
    if download::find(&recipe.recipe.dataset).is_none() {
        // A recipe is UTF-8: where the folder above is not, the path stays as it was given, good from here alone.
        if let Some(absolute) = std::path::absolute(data_dir).ok().as_deref().and_then(Path::to_str) {
            absolute.clone_into(&mut recipe.recipe.dataset);
        }
    }
}

fn hold_out(loaded: &LoadedRecipe, data: &TrainingData) -> Result<Partition, TrainError> {
    let (recipe, images) = (&loaded.recipe, data.labels().len());
    let count = recipe.validation.count(images);
    let needed = recipe.reduce_lr_on_plateau.is_some_and(|spec| spec.monitor.needs_validation())
        || recipe.early_stopping.is_some_and(|spec| spec.monitor.needs_validation());
    if count >= images || (count == 0 && needed) {
        let least = usize::from(needed);
        let problem =
            format!("{count} of the {images} training images is not possible: from {least} to {}", images - 1);
        return Err(loaded.error("validation", problem).into());
    }
    let partition = stratified(data.labels(), count, recipe.seed);
    let left = partition.train.len();
    if recipe.batch > left {
        let problem = format!("{} is not possible: from 1 to the {left} training images", recipe.batch);
        return Err(loaded.error("batch", problem).into());
    }
    Ok(partition)
}

/// The overrides that the command line's own options stand for.
pub(crate) fn option_overrides(
    dataset: Option<&str>,
    epochs: Option<i64>,
    seed: Option<i64>,
    precision: Option<PrecisionChoice>,
) -> Vec<Override> {
    let number =
        |key: &str, value: Option<i64>| value.map(|value| Override::new(key, value, &format!("--{key} {value}")));
    let dataset = dataset.map(|name| Override::new("dataset", name, &format!("--dataset {name}")));
    let precision =
        precision.map(|choice| Override::new("precision", choice.name(), &format!("--precision {}", choice.name())));
    [dataset, number("epochs", epochs), number("seed", seed), precision].into_iter().flatten().collect()
}
