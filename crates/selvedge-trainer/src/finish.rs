//! The end of a run: the one look at the test set, the weights and the summary.

use selvedge_compute::Precision;
use selvedge_model::Metrics;

use crate::data::{TrainingData, flat, load_test};
use crate::error::TrainError;
use crate::recipe::Recipe;
use crate::run_folder::{FolderError, MODEL, RunFolder, SUMMARY};
use crate::state::TrainState;
use crate::summary::{Summary, cpu_name, peak_memory_bytes, sha256_hex};

/// Goes back to the best weights if the recipe asks for it, evaluates, and writes `model.safetensors`, then
/// `summary.json`. `held_out` are the validation images and labels, `total_seconds` tells the time since the start.
pub(crate) fn finish(
    recipe: &Recipe,
    mut state: TrainState,
    data: &TrainingData,
    held_out: (&[u8], &[u8]),
    folder: &RunFolder,
    precision: Precision,
    threads: usize,
    total_seconds: &dyn Fn() -> f64,
) -> Result<Summary, TrainError> {
    if let Some(best) = state.best_network.take() {
        state.network.restore(&best);
    }
    let network = &mut state.network;
    let validation = (!held_out.1.is_empty()).then(|| network.evaluate(held_out.0, held_out.1));
    let test = load_test(&data.dir, data.image_shape(), data.class_names.len())?;
    let (images, labels) = flat(&test);
    let test = network.evaluate(images, labels);
    state.check_loss("test loss", test.loss(), recipe.optimizer.learning_rate())?;
    let network = &state.network;

    network.save(&folder.file(MODEL))?;
    let clock = state.progress.clock;
    let summary = Summary {
        recipe: recipe.name.clone(),
        dataset: recipe.dataset.clone(),
        seed: recipe.seed,
        precision: precision.to_string(),
        isa: state.progress.isa.clone(),
        threads,
        epochs: state.progress.epoch,
        steps: state.progress.step,
        train_images: data.labels().len() - held_out.1.len(),
        train_seconds: clock.train_seconds,
        total_seconds: total_seconds(),
        seconds_to_first_step: clock.seconds_to_first_step,
        images_per_second: clock.images as f64 / clock.train_seconds,
        test_accuracy: test.accuracy(),
        test_accuracy_tta: None,
        test_loss: test.loss(),
        validation_accuracy: validation.as_ref().map(Metrics::accuracy),
        parameters: network.spec().parameters()?,
        multiply_adds_per_image: network.spec().multiply_adds()?,
        peak_memory_bytes: peak_memory_bytes(),
        weights_sha256: sha256_hex(&network.weights_bytes()),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        cpu: cpu_name(),
        class_names: data.class_names.clone(),
    };
    let json = serde_json::to_string_pretty(&summary).map_err(|error| FolderError::Io {
        action: "write",
        path: folder.file(SUMMARY),
        source: error.into(),
    })?;
    folder.write(SUMMARY, format!("{json}\n").as_bytes())?;
    Ok(summary)
}
