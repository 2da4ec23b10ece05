//! The end of a run: the one look at the test set, the weights and the summary.

use selvedge_model::Metrics;

use crate::data::{flat, load_test};
use crate::error::TrainError;
use crate::evaluate::HeldOut;
use crate::machine::{cpu_name, peak_memory_bytes};
use crate::run_folder::{FolderError, MODEL, RunFolder, SUMMARY};
use crate::setup::Inputs;
use crate::state::TrainState;
use crate::summary::{Summary, sha256_hex};

/// A run after its last step, with its final weights.
pub(crate) struct FinishedRun<'a> {
    pub(crate) inputs: &'a Inputs,
    pub(crate) held_out: &'a HeldOut,
    pub(crate) state: TrainState,
    pub(crate) folder: &'a RunFolder,
}

/// Evaluates the final weights, and writes `model.safetensors`, then `summary.json`.
pub(crate) fn finish(run: FinishedRun<'_>) -> Result<Summary, TrainError> {
    let FinishedRun { inputs, held_out, mut state, folder } = run;
    let (recipe, data) = (&inputs.recipe, &inputs.images.data);
    let network = &mut state.learner.network;
    let validation = held_out.evaluate(network);
    let split = load_test(&data.dir, data.image_shape(), data.class_names.len())?;
    let (images, labels) = flat(&split);
    let test = network.evaluate(images, labels);
    let averaging = recipe.test_time_averaging;
    let test_averaged = averaging.map(|averaging| averaging.evaluate(network, images, labels));
    let validation_averaged = averaging.and_then(|averaging| held_out.evaluate_averaged(network, averaging));
    state.check_loss("test loss", test.loss(), recipe.optimizer.learning_rate())?;
    let network = &state.learner.network;

    network.save(&folder.file(MODEL))?;
    let clock = state.progress.clock;
    let summary = Summary {
        recipe: recipe.name.clone(),
        dataset: recipe.dataset.clone(),
        seed: recipe.seed,
        precision: inputs.precision.to_string(),
        isa: state.progress.isa.clone(),
        threads: inputs.threads.count(),
        epochs: state.progress.epoch,
        steps: state.progress.step,
        train_images: inputs.images.partition.train.len(),
        train_seconds: clock.train_seconds,
        total_seconds: state.total_seconds(),
        seconds_to_first_step: clock.seconds_to_first_step,
        images_per_second: clock.images as f64 / clock.train_seconds,
        test_accuracy: test.accuracy(),
        test_accuracy_tta: test_averaged.as_ref().map(Metrics::accuracy),
        test_loss: test.loss(),
        test_loss_tta: test_averaged.as_ref().map(Metrics::loss),
        test_images: Some(test.count),
        validation_accuracy: validation.as_ref().map(Metrics::accuracy),
        validation_accuracy_tta: validation_averaged.as_ref().map(Metrics::accuracy),
        validation_images: Some(held_out.len()),
        test_time_averaging: averaging,
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
