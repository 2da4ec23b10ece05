//! [`Setup`]: loads and checks everything that a run needs before its first step, so that no error comes later than it has
//! to.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::time::Instant;

use selvedge_augment::{Augmenter, ImageShape};
use selvedge_compute::{Cpu, Precision, Threads};
use selvedge_model::{BuildOptions, InputSpec, LayerSpec, ModelSpec, Network};

use crate::data::{Partition, TrainingData, stratified};
use crate::download::{self, FetchOptions};
use crate::error::TrainError;
use crate::loader::steps_per_epoch;
use crate::memory;
use crate::observer::Observer;
use crate::offline::Offline;
use crate::optimizer::groups;
use crate::recipe::{LoadedRecipe, PrecisionChoice, Recipe, RecipeError, RecipeSource};
use crate::run_folder::{Destination, RECIPE, RunFolder};

/// Training images at most that a first layer's whitening is computed from; as many as airbench takes (arXiv 2404.00498).
const WHITENING_IMAGES: usize = 5_000;

/// What to train, and on what.
#[derive(Clone, Debug)]
pub struct TrainOptions {
    /// A new run, or one to resume.
    pub run: Run,
    /// The folder that holds the data sets known by name.
    pub data_dir: PathBuf,
    /// Where to download missing files from.
    pub fetch: FetchOptions,
    /// Worker threads. The weights do not depend on them.
    pub threads: usize,
    /// When the process started.
    pub started: Instant,
    /// Set it to a number other than 0 to make training save and return [`crate::Outcome::Stopped`] with that number.
    pub stop: Arc<AtomicUsize>,
    /// True until training begins to look at `stop`. Until then, during a download for example, there is nothing to save
    /// and a signal handler should end the process at once.
    pub exit_at_once: Arc<AtomicBool>,
}

impl TrainOptions {
    /// Options for a run that starts now, with data sets in `data_dir`, on this many threads.
    pub fn new(run: Run, data_dir: impl Into<PathBuf>, threads: usize) -> Self {
        Self {
            run,
            data_dir: data_dir.into(),
            fetch: FetchOptions::default(),
            threads,
            started: Instant::now(),
            stop: Arc::new(AtomicUsize::new(0)),
            exit_at_once: Arc::new(AtomicBool::new(true)),
        }
    }
}

/// A new run, or one to resume.
#[derive(Clone, Debug)]
pub enum Run {
    /// Train a recipe from the start.
    New {
        /// The recipe.
        recipe: Box<LoadedRecipe>,
        /// Where the results go.
        destination: Destination,
    },
    /// Resume the run in this folder, by its own recipe.
    Resume(PathBuf),
}

/// A run that is ready for its first step.
pub(crate) struct Setup {
    pub(crate) inputs: Inputs,
    pub(crate) network: Network,
    pub(crate) folder: RunFolder,
    pub(crate) resumed: bool,
}

/// What a run computes from, and on: nothing here changes during training.
pub(crate) struct Inputs {
    pub(crate) recipe: Recipe,
    /// The recipe as the run's folder holds it.
    pub(crate) recipe_text: String,
    pub(crate) cpu: Cpu,
    pub(crate) precision: Precision,
    pub(crate) threads: Threads,
    pub(crate) images: Images,
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
        let loaded = match &options.run {
            Run::New { recipe, .. } => (**recipe).clone(),
            Run::Resume(path) => RecipeSource::read(&path.join(RECIPE))?.load(&[])?,
        };
        let cpu = Cpu::detect()?;
        // A recipe that this processor cannot train is refused before the data set is downloaded.
        choose_precision(loaded.recipe.precision, cpu)?;
        let threads = Threads::new(options.threads)?;
        let data = TrainingData::load(&loaded.recipe.dataset, &options.data_dir, &options.fetch, observer)?;
        let resumed = opened.is_some();
        // A later version may fill in more defaults, and a checkpoint knows its run by the hash of this text.
        let written = resumed.then(|| loaded.source_text().to_owned());
        let note = &mut |note: &str| observer.note(note);
        let (mut inputs, network) = Inputs::prepare(loaded, Arc::new(data), cpu, &threads, note)?;
        observer.network(&network.spec().summary()?);
        if let Some(text) = written {
            inputs.recipe_text = text;
        }
        let folder = match (opened, &options.run) {
            (Some(folder), _) => folder,
            (None, Run::New { destination, .. }) => RunFolder::create(destination, &inputs.recipe.name)?,
            (None, Run::Resume(path)) => RunFolder::open(path)?,
        };
        folder.notes().for_each(|note| observer.note(&note));
        if !resumed && let Err(error) = folder.write(RECIPE, inputs.recipe_text.as_bytes()) {
            folder.abandon();
            return Err(error.into());
        }
        Ok(Self { inputs, network, folder, resumed })
    }
}

impl Inputs {
    /// Adapts the recipe to the data set and the machine, prepares the images and builds the network: every check that needs
    /// the data. `note` receives what was adapted.
    pub(crate) fn prepare(
        mut loaded: LoadedRecipe,
        data: Arc<TrainingData>,
        cpu: Cpu,
        threads: &Threads,
        note: &mut dyn FnMut(&str),
    ) -> Result<(Self, Network), TrainError> {
        let precision = choose_precision(loaded.recipe.precision, cpu)?;
        loaded.adapt(&data).iter().for_each(|text| note(text));
        settle(&mut loaded, precision, &data.dir);
        let images = threads.install(|| Images::prepare(&loaded, data))?;
        images.notes().iter().for_each(|text| note(text));
        norm_of_one_value(&loaded.recipe, images.partition.train.len()).iter().for_each(|text| note(text));
        let mut network = build_network(&loaded, &images.augmenter, precision, threads)?;
        whiten(&mut network, &images, &loaded)?;
        let recipe_text = loaded.to_toml();
        Ok((Self { recipe: loaded.recipe, recipe_text, cpu, precision, threads: threads.clone(), images }, network))
    }
}

/// The images of a run and how they are augmented: the part that training, preview and profile share.
pub(crate) struct Images {
    /// The data set, offline copies included.
    pub(crate) data: Arc<TrainingData>,
    pub(crate) partition: Partition,
    pub(crate) augmenter: Augmenter,
    /// The weight of each class in the loss, if the recipe has them.
    pub(crate) class_weights: Option<Vec<f32>>,
    /// What made the copies, if there are any.
    pub(crate) offline: Option<Offline>,
}

impl Images {
    /// Makes the recipe's offline copies, on the current rayon pool, and holds out the validation images.
    pub(crate) fn prepare(recipe: &LoadedRecipe, data: impl Into<Arc<TrainingData>>) -> Result<Self, TrainError> {
        let mut data = data.into();
        let [height, width, channels] = data.image_shape();
        let (shape, classes) = (ImageShape { height, width, channels }, data.class_names.len());
        let augmenter = Augmenter::new(recipe.recipe.augmentation.clone(), shape, classes)
            .map_err(|error| recipe.error("augmentation", error))?;
        let offline = Offline::new(recipe, &data)?;
        if let Some(offline) = &offline {
            let split = offline.enlarge(&data.split);
            data = Arc::new(TrainingData { dir: data.dir.clone(), split, class_names: data.class_names.clone() });
        }
        let partition = hold_out(recipe, &data)?;
        if let Some(shift) = recipe.recipe.test_time_averaging.map(|averaging| averaging.shift)
            && shift >= height.min(width)
        {
            let problem = format!("{shift} is not possible: from 0 to below the image's {} pixels", height.min(width));
            return Err(recipe.error("test_time_averaging.shift", problem).into());
        }
        let labels = partition.train.iter().map(|&index| data.labels()[index as usize]);
        let class_weights = match &recipe.recipe.class_weights {
            Some(weights) => Some(
                weights.of(labels, &data.class_names).map_err(|refusal| recipe.error(&refusal.key, refusal.problem))?,
            ),
            None => None,
        };
        Ok(Self { data, partition, augmenter, class_weights, offline })
    }

    /// What a user should know about the classes: those so small that the split spares them, and those with no image to train on.
    fn notes(&self) -> Vec<String> {
        let names = &self.data.class_names;
        let list =
            |classes: &[usize]| classes.iter().map(|&class| names[class].as_str()).collect::<Vec<_>>().join(", ");
        let mut images = vec![0_usize; names.len()];
        self.partition.train.iter().for_each(|&index| images[usize::from(self.data.labels()[index as usize])] += 1);
        let kept: Vec<usize> = self.partition.kept.iter().map(|&class| usize::from(class)).collect();
        let untrained: Vec<usize> = (0..names.len()).filter(|&class| images[class] == 0).collect();
        let mut notes = Vec::new();
        if !kept.is_empty() {
            notes.push(format!(
                "too few images to hold out their share: {}; the last image of each stays in training, and other classes give \
                 one more to validation",
                list(&kept)
            ));
        }
        if !untrained.is_empty() {
            notes.push(format!("no training image is of {}: the network cannot learn it", list(&untrained)));
        }
        notes
    }
}

/// What to note if a batch of the run has one image, and a batch norm sees one pixel of it: one value has no variance.
fn norm_of_one_value(recipe: &Recipe, images: usize) -> Option<String> {
    let is_lonely = recipe.batch == 1 || (images % recipe.batch == 1 && !recipe.drop_last);
    let mut layers = recipe.model.layers.iter().map(LayerSpec::kind);
    // From here on, activations have one pixel.
    let is_one_pixel = |kind: &str| kind == "flatten" || kind == "dense" || kind.ends_with("_pool");
    let has_norm = layers.by_ref().any(is_one_pixel) && layers.any(|kind| kind == "batch_norm");
    let (batch, cure) = match recipe.batch {
        1 => ("every batch has", "a larger batch would have one"),
        _ => ("the last batch of an epoch has", "drop_last = true leaves it out"),
    };
    (is_lonely && has_norm).then(|| {
        format!(
            "{batch} 1 image, and a batch norm after the last image-shaped layer sees one value of each channel: it has no \
             variance, so the running variance stays as it is; {cure}"
        )
    })
}

/// The recipe's network for the images of its augmenter. Each of the recipe's groups has parameters in it.
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
    check_memory(loaded, &spec, &options)?;
    let network = Network::build(&spec, &options).map_err(|error| loaded.error("model.layers", error))?;
    groups::check_members(&recipe.groups, &network.params().entries)
        .map_err(|refusal| loaded.error(&refusal.key, refusal.problem))?;
    Ok(network)
}

/// Refuses a network that the system has no room for.
fn check_memory(loaded: &LoadedRecipe, spec: &ModelSpec, options: &BuildOptions) -> Result<(), RecipeError> {
    let problem = |max_batch| {
        let bytes = Network::memory_bytes(spec, &BuildOptions { max_batch, ..options.clone() });
        Ok(memory::check(bytes.map_err(|error| loaded.error("model.layers", error))?).err())
    };
    let Some(needed) = problem(options.max_batch)? else { return Ok(()) };
    Err(match problem(1)? {
        None => loaded.error("batch", format!("{} {needed}: a smaller batch needs less", options.max_batch)),
        Some(needed) => {
            loaded.error("model.layers", format!("the network {needed}: smaller layers or fewer threads need less"))
        }
    })
}

/// Gives a first layer that whitens its weights: by the first training images, as they are without augmentation.
fn whiten(network: &mut Network, images: &Images, loaded: &LoadedRecipe) -> Result<(), RecipeError> {
    if !network.needs_whitening() {
        return Ok(());
    }
    let first = images.partition.train.iter().take(WHITENING_IMAGES);
    let pixels: Vec<u8> = first.flat_map(|&index| images.data.image(index as usize)).copied().collect();
    network.whiten(&pixels).map_err(|error| loaded.error("model.layers", error))
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

/// Replaces values that depend on this machine by what was found here, so that the recipe in the run's folder repeats the
/// run.
pub(crate) fn settle(recipe: &mut LoadedRecipe, precision: Precision, data_dir: &Path) {
    recipe.recipe.precision = match precision {
        Precision::F32 => PrecisionChoice::F32,
        Precision::Bf16 => PrecisionChoice::Bf16,
    };
    if download::find(&recipe.recipe.dataset).is_none() {
        // A recipe is UTF-8. If a parent folder's name is not, the path stays relative to the current folder.
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
    let most = left / recipe.batch;
    if recipe.accumulation > most {
        let problem = format!("{} is not possible: from 1 to the {most} full batches of an epoch", recipe.accumulation);
        return Err(loaded.error("accumulation", problem).into());
    }
    if let Some(averaging) = recipe.averaging {
        averaging
            .check_length(recipe.epochs, steps_per_epoch(recipe, left) as u64)
            .map_err(|refusal| loaded.error(&refusal.key, refusal.problem))?;
    }
    Ok(partition)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::{BUILT_IN, Override};

    #[test]
    fn a_batch_norm_that_sees_one_value_is_noted() {
        let note = |sets: &[&str], images: usize| {
            let overrides: Vec<Override> = sets.iter().map(|set| Override::parse(set).unwrap()).collect();
            norm_of_one_value(&RecipeSource::find("seed").unwrap().load(&overrides).unwrap().recipe, images)
        };
        // After the first dense layer; where `seed` has a ReLU between two convolutions.
        let (dense, conv) = ("model.layers.13={layer='batch_norm'}", "model.layers.5={layer='batch_norm'}");
        assert_eq!(note(&[conv], 129), None);
        assert_eq!(note(&[dense], 128), None);
        assert_eq!(note(&[dense, "drop_last=true"], 129), None);
        assert!(note(&[dense], 129).unwrap().starts_with("the last batch of an epoch has 1 image"));
        assert!(note(&[dense, "batch=1", "drop_last=true"], 129).unwrap().starts_with("every batch has 1 image"));
    }

    #[test]
    fn every_built_in_recipe_builds() {
        let threads = Threads::new(1).unwrap();
        let shape = ImageShape { height: 28, width: 28, channels: 1 };
        for (name, _) in BUILT_IN {
            // Small batches, for little memory.
            let loaded = RecipeSource::find(name).unwrap().load(&[Override::new("batch", 32, "test")]).unwrap();
            let augmenter = Augmenter::new(loaded.recipe.augmentation.clone(), shape, 10).unwrap();
            let network = build_network(&loaded, &augmenter, Precision::F32, &threads).unwrap();
            assert_eq!(network.spec().classes, 10, "{name}");
        }
    }
}
