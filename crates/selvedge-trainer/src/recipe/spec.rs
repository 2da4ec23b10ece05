//! The keys of a recipe, their defaults and their meaning.

use std::fmt;

use selvedge_augment::Augmentation;
use selvedge_model::{LayerSpec, TestTimeAveraging};
use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize};

use super::class_weights::ClassWeights;
use crate::averaging::AveragingSpec;
use crate::optimizer::{GroupSpec, OptimizerSpec};

/// Everything that decides what a training run computes. The number of threads is not part of it: the weights do not depend
/// on it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// A short name; the name of the run's folder ends with it.
    pub name: String,
    /// A description in one line.
    #[serde(default)]
    pub description: String,
    /// The name of a data set, or the path of a folder with the four files.
    #[serde(default = "default_dataset")]
    pub dataset: String,
    /// Seed of the initial weights, the validation split, the order, the augmentation and dropout.
    #[serde(default = "default_seed")]
    pub seed: u64,
    /// The precision of activations and packed weights.
    #[serde(default)]
    pub precision: PrecisionChoice,
    /// Passes over the training images.
    pub epochs: u64,
    /// Images per batch, and per step unless `accumulation` says otherwise.
    pub batch: usize,
    /// Batches per step of the optimizer, at least 1: each has `batch` images, their gradients are averaged over the images, and
    /// schedules, averages and all else count steps, not batches. Batch norms see one batch at a time. The last step of an epoch
    /// has the batches that are left.
    #[serde(default = "default_accumulation", skip_serializing_if = "is_one")]
    pub accumulation: usize,
    /// Whether to leave out the last step of an epoch if it has fewer images than the others. By default it is taken, as in
    /// Keras.
    #[serde(default)]
    pub drop_last: bool,
    /// The weight of each class in the loss. Without it all count the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class_weights: Option<ClassWeights>,
    /// The share of the target that is distributed over all classes, from 0 to below 1.
    #[serde(default)]
    pub label_smoothing: f64,
    /// How many of the training images are held out to validate on.
    #[serde(default)]
    pub validation: Validation,
    /// What the recipe was tuned on. With it a run fits the recipe to other data sets, and says what it changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tuned_on: Option<TunedOn>,
    /// How pixels are normalised.
    #[serde(default)]
    pub input: Normalisation,
    /// The optimizer and its settings.
    pub optimizer: OptimizerSpec,
    /// Groups of parameters with a learning rate and a weight decay of their own. A group that none of the network's parameters
    /// is in is refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<GroupSpec>,
    /// Limits the norm of the gradients of a step. Without it there is no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gradient_clipping: Option<GradientClipping>,
    /// Whether to subtract from the gradient of the weights of each output, of convolutions and dense layers, their mean (Yong et
    /// al., arXiv 2004.01461), after clipping.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub gradient_centralisation: bool,
    /// The learning rate over the run, relative to its peak.
    #[serde(default)]
    pub schedule: ScheduleSpec,
    /// A linear warm-up of the learning rate, before the schedule begins.
    #[serde(default)]
    pub warmup: WarmupSpec,
    /// An average of the weights over the steps, which is what the run ends with. Without it there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub averaging: Option<AveragingSpec>,
    /// Cuts the learning rate when a figure stops improving. Without it there are no cuts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reduce_lr_on_plateau: Option<ReduceLrOnPlateauSpec>,
    /// Ends the run when a figure stops improving. Without it all epochs are trained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub early_stopping: Option<EarlyStoppingSpec>,
    /// Views of an image whose logits are averaged by evaluation after training. Without it nothing is averaged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_time_averaging: Option<TestTimeAveraging>,
    /// The network.
    pub model: ModelTable,
    /// The operations applied to each training image in order, drawn anew in every epoch.
    #[serde(default)]
    pub augmentation: Vec<Augmentation>,
    /// Augmented copies that enlarge the data set before it is split. They leak into validation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offline_copies: Option<OfflineCopies>,
}

/// The table `[offline_copies]`: the data set becomes the training images and copies of them, each augmented once.
///
/// **This leaks.** The validation images are chosen after copying, as when a data set is enlarged on disk and split later:
/// the network trains on an image and validates on its copy, and the validation figures are better than the network. It is
/// there to repeat experiments that were done that way (`seed-notebook`). `augmentation` draws anew in every epoch, costs
/// next to nothing and does not leak.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OfflineCopies {
    /// Copies of each image, from 1 to 100. They are held in memory.
    pub count: usize,
    /// The operations applied to each copy once. Operations that mix images are refused: a copy has one label.
    pub augmentation: Vec<Augmentation>,
}

/// The table `[gradient_clipping]`, as PyTorch's `clip_grad_norm_`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GradientClipping {
    /// If the L2 norm of all gradients of a step together is larger than this number above 0, they are scaled to have it.
    /// Parameters that are not trained do not count.
    pub max_norm: f64,
}

/// The table `[model]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelTable {
    /// The layers, from the image to the logits.
    pub layers: Vec<LayerSpec>,
}

/// What `precision` can be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PrecisionChoice {
    /// bf16 if the processor has matrix units for it, else f32.
    #[default]
    Auto,
    /// 32-bit floats.
    F32,
    /// bfloat16 products, f32 sums.
    Bf16,
}

impl PrecisionChoice {
    /// The word in recipes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }
}

/// How many of the training images are held out to validate on: an integer is their number; a number with a decimal point is
/// their share of all, from 0 to below 1 (as scikit-learn's `test_size`).
///
/// The seed chooses the images, the same share of every class.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Validation {
    /// This many images.
    Count(usize),
    /// This share of the images.
    Fraction(f64),
}

impl Validation {
    /// The number held out of `images` training images.
    pub fn count(self, images: usize) -> usize {
        match self {
            Self::Count(count) => count,
            Self::Fraction(fraction) => (fraction * images as f64).round() as usize,
        }
    }
}

impl Default for Validation {
    fn default() -> Self {
        Self::Count(0)
    }
}

impl<'de> Deserialize<'de> for Validation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValidationVisitor)
    }
}

struct ValidationVisitor;

impl Visitor<'_> for ValidationVisitor {
    type Value = Validation;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number of images such as 6000, or a share such as 0.1")
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Validation, E> {
        let count = usize::try_from(value).map_err(|_| E::invalid_value(de::Unexpected::Signed(value), &self))?;
        Ok(Validation::Count(count))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Validation, E> {
        Ok(Validation::Fraction(value))
    }
}

/// The table `[input]`: the network sees `(pixel / 255 - mean) / std`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Normalisation {
    /// Subtracted from pixels that are scaled to 0 to 1.
    pub mean: f32,
    /// The divisor, above 0.
    pub std: f32,
}

impl Default for Normalisation {
    fn default() -> Self {
        Self { mean: 0.0, std: 1.0 }
    }
}

/// The table `[tuned_on]`: the data set for which the recipe's values were chosen. A run on images of another size, with other
/// pixels, or on fewer images changes the recipe as follows, notes each change, and writes the changed recipe into its folder:
///
/// - mean and deviation of `[input]` become those of the training images;
/// - for larger images the first convolution gets a stride, for smaller ones the last poolings are left out, and `translate`
///   shifts in proportion;
/// - for fewer images batches are smaller, with the learning rate multiplied by the root of their ratio, and epochs more;
/// - writing (of the data sets known by name) is not mirrored.
///
/// Values given on the command line stay as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TunedOn {
    /// Height and width of the images in pixels, above 0.
    pub side: usize,
    /// Training images, above 0.
    pub images: usize,
}

/// The table `[schedule]`: the factor of the peak learning rate as a function of `x`, the share of the steps after warm-up
/// that are done. The first step has `x = 0`; `x = 1` would be the step after the last.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum ScheduleSpec {
    /// Always 1.
    #[default]
    Constant,
    /// Multiplied by `gamma` at each milestone.
    Step {
        /// Ascending epochs, counted from 0 at the start of the run.
        milestones: Vec<f64>,
        /// The factor, from 0 to 1.
        #[serde(default = "default_gamma")]
        gamma: f64,
    },
    /// Half a cosine from 1 to `end` (Loshchilov and Hutter, arXiv 1608.03983, without restarts).
    Cosine {
        /// The factor at the end, from 0 to 1.
        #[serde(default)]
        end: f64,
    },
    /// Half a cosine up from `start` to 1 over the first `rise` of the steps, then half a cosine down to `end`
    /// (Smith and Topin, arXiv 1708.07120). The defaults are those of PyTorch's `OneCycleLR`.
    OneCycle {
        /// The share of the steps in which the rate rises, from 0 to 1.
        #[serde(default = "default_rise")]
        rise: f64,
        /// The factor of the first step.
        #[serde(default = "default_cycle_start")]
        start: f64,
        /// The factor at the end.
        #[serde(default = "default_cycle_end")]
        end: f64,
    },
    /// Linear from `start` to 1 over the first `rise` of the steps, then linear to `end`.
    Linear {
        /// The share of the steps in which the rate rises, from 0 to 1.
        #[serde(default)]
        rise: f64,
        /// The factor of the first step. It has no effect if `rise` is 0.
        #[serde(default)]
        start: f64,
        /// The factor at the end.
        #[serde(default)]
        end: f64,
    },
}

/// The table `[warmup]`: step `t` of the first `w` steps, counted from 0, has the factor
/// `start + (1 - start) (t + 1) / w`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WarmupSpec {
    /// The length in epochs; 0 for no warm-up.
    pub epochs: f64,
    /// The factor before the first step, from 0 to 1.
    pub start: f64,
}

/// A figure of an epoch that a callback monitors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Monitor {
    /// The mean loss on the validation images.
    #[default]
    ValidationLoss,
    /// The accuracy on the validation images.
    ValidationAccuracy,
    /// The mean loss of the epoch's steps.
    TrainLoss,
    /// The accuracy on the training images during the epoch.
    TrainAccuracy,
}

impl Monitor {
    /// Whether a smaller value is better.
    pub fn smaller_is_better(self) -> bool {
        matches!(self, Self::ValidationLoss | Self::TrainLoss)
    }

    /// Whether it needs validation images.
    pub fn needs_validation(self) -> bool {
        matches!(self, Self::ValidationLoss | Self::ValidationAccuracy)
    }
}

impl fmt::Display for Monitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ValidationLoss => "validation_loss",
            Self::ValidationAccuracy => "validation_accuracy",
            Self::TrainLoss => "train_loss",
            Self::TrainAccuracy => "train_accuracy",
        })
    }
}

/// The table `[reduce_lr_on_plateau]`, with the meaning and the defaults of Keras' `ReduceLROnPlateau`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReduceLrOnPlateauSpec {
    /// The figure to monitor.
    pub monitor: Monitor,
    /// The learning rate is multiplied by this, from 0 to below 1.
    pub factor: f64,
    /// Epochs without improvement before a cut.
    pub patience: u64,
    /// The least change that counts as an improvement.
    pub min_delta: f64,
    /// Epochs after a cut that do not count.
    pub cooldown: u64,
    /// Cuts do not go below this learning rate.
    pub min_lr: f64,
}

impl Default for ReduceLrOnPlateauSpec {
    fn default() -> Self {
        Self { monitor: Monitor::default(), factor: 0.1, patience: 10, min_delta: 1e-4, cooldown: 0, min_lr: 0.0 }
    }
}

/// The table `[early_stopping]`, with the meaning and the defaults of Keras' `EarlyStopping`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EarlyStoppingSpec {
    /// The figure to monitor.
    pub monitor: Monitor,
    /// The least change that counts as an improvement.
    pub min_delta: f64,
    /// Epochs without improvement before training ends.
    pub patience: u64,
    /// The figure must be better than this before improvements reset the patience.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub baseline: Option<f64>,
    /// Whether to restore the weights of the best epoch at the end, as in Keras 3 even if the run was not stopped early.
    pub restore_best: bool,
    /// The first epoch to monitor, counted from 0.
    pub start_from_epoch: u64,
}

impl Default for EarlyStoppingSpec {
    fn default() -> Self {
        Self {
            monitor: Monitor::default(),
            min_delta: 0.0,
            patience: 0,
            baseline: None,
            restore_best: false,
            start_from_epoch: 0,
        }
    }
}

fn default_dataset() -> String {
    "fashion-mnist".to_owned()
}

fn default_seed() -> u64 {
    1
}

fn default_accumulation() -> usize {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_one(value: &usize) -> bool {
    *value == 1
}

fn default_gamma() -> f64 {
    0.1
}

fn default_rise() -> f64 {
    0.3
}

fn default_cycle_start() -> f64 {
    1.0 / 25.0
}

fn default_cycle_end() -> f64 {
    1.0 / (25.0 * 1e4)
}
