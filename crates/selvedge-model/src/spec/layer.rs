//! [`LayerSpec`]: the catalogue of layers, with their options, defaults and names.

use selvedge_compute::activation::Activation;
use serde::ser::SerializeStruct;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::spec::init::Init;
use crate::spec::options::{Kernel, Padding, Units};

/// One layer. In TOML and JSON the key `layer` names it in snake case, the options are the other keys.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self", tag = "layer", rename_all = "snake_case", deny_unknown_fields)]
pub enum LayerSpec {
    /// Convolution (cross-correlation, as everywhere in the field) with zero padding. Image to image.
    Conv2d {
        /// Output channels.
        filters: usize,
        /// Size of the kernel.
        kernel: Kernel,
        /// Input pixels from one output pixel to the next, in both directions.
        #[serde(default = "one")]
        stride: usize,
        /// Zeros around the input.
        #[serde(default)]
        padding: Padding,
        /// Whether a trained number is added to each output channel.
        #[serde(default = "yes")]
        bias: bool,
        /// How the weights begin; not written if it is the default.
        #[serde(default, skip_serializing_if = "Init::is_default")]
        init: Init,
        /// Whether the weights keep their initial values: the bias alone trains. Not written if false.
        #[serde(default, skip_serializing_if = "is_false")]
        frozen: bool,
    },
    /// Matrix product. Features to features.
    Dense {
        /// Output features.
        units: Units,
        /// Whether a trained number is added to each output feature.
        #[serde(default = "yes")]
        bias: bool,
        /// How the weights begin; not written if it is the default.
        #[serde(default, skip_serializing_if = "Init::is_default")]
        init: Init,
        /// Whether the weights keep their initial values: the bias alone trains. Not written if false.
        #[serde(default, skip_serializing_if = "is_false")]
        frozen: bool,
    },
    /// The largest value of each window, for each channel; pixels beyond the last whole window are left out.
    #[serde(serialize_with = "serialize_pool", deserialize_with = "deserialize_pool")]
    MaxPool2d {
        /// Height and width of the window; 2 if not written.
        size: usize,
        /// Pixels from one window to the next; `size` if `None` or not written.
        stride: Option<usize>,
    },
    /// The mean of each window, for each channel; pixels beyond the last whole window are left out.
    #[serde(serialize_with = "serialize_pool", deserialize_with = "deserialize_pool")]
    AvgPool2d {
        /// Height and width of the window; 2 if not written.
        size: usize,
        /// Pixels from one window to the next; `size` if `None` or not written.
        stride: Option<usize>,
    },
    /// The mean of each channel: image to features.
    #[serde(deserialize_with = "no_options")]
    GlobalAvgPool,
    /// The largest value of each channel: image to features.
    #[serde(deserialize_with = "no_options")]
    GlobalMaxPool,
    /// Half the sum of the mean and the largest value of each channel: image to features. Known as `avgmax` in timm.
    #[serde(deserialize_with = "no_options")]
    GlobalAvgMaxPool,
    /// The generalised mean of each channel, GeM (Radenović, Tolias and Chum, 2018): the p-th root of the mean of p-th powers, where
    /// numbers below 1e-6 count as 1e-6. Image to features.
    GemPool {
        /// The exponent, from 1 to 6: with 1 it is the average of positive numbers, and the larger it is, the nearer to the maximum.
        #[serde(default = "three")]
        p: f32,
    },
    /// Image to features, in the order rows, columns, channels.
    #[serde(deserialize_with = "no_options")]
    Flatten,
    /// An elementwise function, written by its own name: `{ layer = "relu" }`.
    #[serde(skip)]
    Activation(Activation),
    /// In training each value becomes zero with probability `rate`, and is divided by `1 - rate` otherwise (Srivastava et al.,
    /// 2014).
    Dropout {
        /// Probability of zero, from 0 to below 1.
        rate: f32,
    },
    /// Normalises each channel over the batch (Ioffe and Szegedy, 2015): by the batch's statistics in training, by their
    /// running average otherwise.
    BatchNorm {
        /// Weight of a new batch's statistics in the running average, above 0 to 1. Keras' momentum is 1 minus this.
        #[serde(default = "tenth")]
        momentum: f32,
        /// Added to the variance, above 0.
        #[serde(default = "small")]
        epsilon: f32,
        /// Whether gamma, a trained factor for each channel, is applied; beta, the trained summand, always is.
        #[serde(default = "yes")]
        scale: bool,
    },
    /// x·sigmoid(fc2(relu(fc1(mean(x))))), with the mean of each channel over the image and two dense layers: a factor for each
    /// channel that depends on the image (Hu et al., 2018).
    SqueezeExcitation {
        /// The channels divided by this, but at least 1, are the units between the two dense layers.
        #[serde(default = "sixteen")]
        reduction: usize,
    },
    /// x + body(x): the body must keep the shape of its input (He et al., 2015).
    Residual {
        /// Stochastic depth (Huang et al., 2016): in training the body is left out of each image with this probability, from 0 to
        /// below 1, and divided by 1 - `drop` otherwise.
        #[serde(default, skip_serializing_if = "is_zero")]
        drop: f32,
        /// The body.
        layers: Vec<LayerSpec>,
    },
}

impl LayerSpec {
    /// The value of the key `layer`.
    pub fn kind(&self) -> &'static str {
        match self {
            LayerSpec::Conv2d { .. } => "conv2d",
            LayerSpec::Dense { .. } => "dense",
            LayerSpec::MaxPool2d { .. } => "max_pool2d",
            LayerSpec::AvgPool2d { .. } => "avg_pool2d",
            LayerSpec::GlobalAvgPool => "global_avg_pool",
            LayerSpec::GlobalMaxPool => "global_max_pool",
            LayerSpec::GlobalAvgMaxPool => "global_avg_max_pool",
            LayerSpec::GemPool { .. } => "gem_pool",
            LayerSpec::Flatten => "flatten",
            LayerSpec::Activation(kind) => kind.name(),
            LayerSpec::Dropout { .. } => "dropout",
            LayerSpec::BatchNorm { .. } => "batch_norm",
            LayerSpec::SqueezeExcitation { .. } => "squeeze_excitation",
            LayerSpec::Residual { .. } => "residual",
        }
    }

    /// The layer in the words of [`ModelSpec::summary`](crate::ModelSpec::summary), which are Keras' own where Keras has them.
    pub(crate) fn title(&self) -> String {
        match self {
            LayerSpec::Conv2d { kernel, stride: 1, .. } => format!("Conv2D {kernel}"),
            LayerSpec::Conv2d { kernel, stride, .. } => format!("Conv2D {kernel}, stride {stride}"),
            LayerSpec::Dense { .. } => "Dense".to_owned(),
            LayerSpec::MaxPool2d { size, .. } => format!("MaxPooling2D {size}x{size}"),
            LayerSpec::AvgPool2d { size, .. } => format!("AveragePooling2D {size}x{size}"),
            LayerSpec::GlobalAvgPool => "GlobalAveragePooling2D".to_owned(),
            LayerSpec::GlobalMaxPool => "GlobalMaxPooling2D".to_owned(),
            LayerSpec::GlobalAvgMaxPool => "GlobalAverageMaxPooling2D".to_owned(),
            LayerSpec::GemPool { p } => format!("GlobalGeMPooling2D {p}"),
            LayerSpec::Flatten => "Flatten".to_owned(),
            LayerSpec::Activation(kind) => kind.title().to_owned(),
            LayerSpec::Dropout { rate } => format!("Dropout {rate}"),
            LayerSpec::BatchNorm { .. } => "BatchNormalization".to_owned(),
            LayerSpec::SqueezeExcitation { reduction } => format!("SqueezeExcitation {reduction}"),
            LayerSpec::Residual { drop: 0.0, .. } => "Add of input and body".to_owned(),
            LayerSpec::Residual { drop, .. } => format!("Add of input and body, drop {drop}"),
        }
    }
}

impl Serialize for LayerSpec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            LayerSpec::Activation(kind) => {
                let mut map = serializer.serialize_struct("LayerSpec", 1)?;
                map.serialize_field("layer", kind.name())?;
                map.end()
            }
            _ => LayerSpec::serialize(self, serializer),
        }
    }
}

/// A pooling window as it is written. The stride is always written out, so that a stored spec holds every default.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pool {
    #[serde(default = "two")]
    size: usize,
    stride: Option<usize>,
}

fn serialize_pool<S: Serializer>(size: &usize, stride: &Option<usize>, serializer: S) -> Result<S::Ok, S::Error> {
    Pool { size: *size, stride: Some(stride.unwrap_or(*size)) }.serialize(serializer)
}

fn deserialize_pool<'de, D: Deserializer<'de>>(deserializer: D) -> Result<(usize, Option<usize>), D::Error> {
    let Pool { size, stride } = Pool::deserialize(deserializer)?;
    Ok((size, Some(stride.unwrap_or(size))))
}

/// Refuses every key: serde's own code ignores unknown keys beside the tag of a variant without fields.
fn no_options<'de, D: Deserializer<'de>>(deserializer: D) -> Result<(), D::Error> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct NoOptions {}
    NoOptions::deserialize(deserializer).map(|NoOptions {}| ())
}

fn one() -> usize {
    1
}

fn two() -> usize {
    2
}

fn three() -> f32 {
    3.0
}

fn sixteen() -> usize {
    16
}

fn is_zero(number: &f32) -> bool {
    *number == 0.0
}

fn yes() -> bool {
    true
}

fn is_false(value: &bool) -> bool {
    !value
}

fn tenth() -> f32 {
    0.1
}

fn small() -> f32 {
    1e-5
}
