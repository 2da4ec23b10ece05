//! The figures of a run: a [`HistoryLine`] for each epoch and a [`Summary`] at the end.

use std::fs;
use std::path::Path;

use selvedge_model::TestTimeAveraging;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::TrainError;
use crate::run_folder::{FolderError, SUMMARY};

/// A line of `history.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HistoryLine {
    /// The epoch, counted from 1.
    pub epoch: u64,
    /// Steps of the run at its end.
    pub step: u64,
    /// Learning rate of its last step.
    pub learning_rate: f64,
    /// Mean loss of its steps, label smoothing included.
    pub train_loss: f64,
    /// Accuracy on its augmented training images.
    pub train_accuracy: f64,
    /// Mean loss on the validation images; null if there are none.
    pub validation_loss: Option<f64>,
    /// Accuracy on the validation images; null if there are none.
    pub validation_accuracy: Option<f64>,
    /// Training images per second, without evaluation.
    pub images_per_second: f64,
    /// Seconds of its training steps.
    pub seconds: f64,
}

/// The figures of a finished run, `summary.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The recipe's name.
    pub recipe: String,
    /// The data set's name, or its folder.
    pub dataset: String,
    /// The seed.
    pub seed: u64,
    /// The precision: `f32` or `bf16`.
    pub precision: String,
    /// The name of the instruction set: see [`selvedge_compute::Isa`].
    pub isa: String,
    /// Worker threads.
    pub threads: usize,
    /// Epochs that were trained.
    pub epochs: u64,
    /// Steps that were trained.
    pub steps: u64,
    /// Training images, without validation images.
    pub train_images: usize,
    /// Seconds of the training steps, without evaluation.
    pub train_seconds: f64,
    /// Seconds from the start of the process to this summary, summed over the processes of a resumed run.
    pub total_seconds: f64,
    /// Seconds from the start of the process to the end of the first step.
    pub seconds_to_first_step: f64,
    /// Training images per second: the images of all steps divided by `train_seconds`.
    pub images_per_second: f64,
    /// Accuracy on the test images.
    pub test_accuracy: f64,
    /// Accuracy with test-time averaging; null if the recipe has none.
    pub test_accuracy_tta: Option<f64>,
    /// Mean loss on the test images.
    pub test_loss: f64,
    /// Mean loss with test-time averaging; null if the recipe has none.
    pub test_loss_tta: Option<f64>,
    /// Test images; null in summaries of versions that did not record it.
    pub test_images: Option<usize>,
    /// Accuracy of the final weights on the validation images; null if there are none.
    pub validation_accuracy: Option<f64>,
    /// The same with test-time averaging; null if there are no validation images, or the recipe has no averaging.
    pub validation_accuracy_tta: Option<f64>,
    /// Validation images; null in summaries of versions that did not record it.
    pub validation_images: Option<usize>,
    /// The recipe's test-time averaging, for `evaluate` and `predict`; null if it has none.
    pub test_time_averaging: Option<TestTimeAveraging>,
    /// Trainable parameters.
    pub parameters: usize,
    /// Multiply-adds of the forward pass of one image.
    pub multiply_adds_per_image: usize,
    /// The most memory that the process used; null where the system does not tell.
    pub peak_memory_bytes: Option<u64>,
    /// SHA-256 of all weights and running statistics in logical order, as little-endian f32.
    pub weights_sha256: String,
    /// Version of the program.
    pub version: String,
    /// The processor's name.
    pub cpu: String,
    /// Names of the classes, for `predict`.
    pub class_names: Vec<String>,
}

impl Summary {
    /// Reads the summary of a finished run.
    ///
    /// # Errors
    /// [`FolderError::NotARun`] if the folder has none, [`TrainError::Summary`] if it is broken.
    pub fn load(run: &Path) -> Result<Self, TrainError> {
        let path = run.join(SUMMARY);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
                return Err(FolderError::NotARun { path: run.to_owned(), missing: SUMMARY }.into());
            }
            Err(error) => return Err(TrainError::Summary { path, problem: error.to_string() }),
        };
        serde_json::from_str(&text).map_err(|error| TrainError::Summary { path, problem: error.to_string() })
    }
}

/// SHA-256 as lower-case hexadecimal digits.
pub(crate) fn sha256_hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
