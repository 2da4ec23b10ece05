//! [`ModelSpec`]: a network as a value that is written in a recipe and stored with the weights.

pub(crate) mod options;
pub(crate) mod shape;
pub(crate) mod summary;

use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::spec::options::{Kernel, Padding, Units};

/// A network: what it sees, how many classes it tells apart, and its layers from input to output.
///
/// The last layer gives one score (logit) for each class; softmax is part of the loss and of prediction, not a layer.
/// A tensor is an image, `[height, width, channels]`, until `flatten` or a global pooling makes features of it.
///
/// ```
/// use selvedge_model::ModelSpec;
/// let spec: ModelSpec = toml::from_str(r#"
///     classes = 10
///     input = { height = 28, width = 28, channels = 1 }
///     layers = [
///         { layer = "conv2d", filters = 16, kernel = 3 },
///         { layer = "relu" },
///         { layer = "max_pool2d" },
///         { layer = "flatten" },
///         { layer = "dense", units = "classes" },
///     ]
/// "#)?;
/// assert_eq!(spec.layers.len(), 5);
/// # Ok::<(), toml::de::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSpec {
    /// Number of classes, 2 to 256: labels are bytes.
    pub classes: usize,
    /// The images.
    pub input: InputSpec,
    /// The layers, the one next to the input first.
    pub layers: Vec<LayerSpec>,
}

/// The images a network takes, and how their bytes become numbers: `(pixel / 255 - mean) / std`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputSpec {
    /// Rows of pixels.
    pub height: usize,
    /// Pixels of a row.
    pub width: usize,
    /// Bytes of a pixel: 1 for grey images.
    #[serde(default = "one")]
    pub channels: usize,
    /// Subtracted from every pixel, in units of the full brightness.
    #[serde(default)]
    pub mean: f32,
    /// What every pixel is divided by afterwards, in units of the full brightness; above 0.
    #[serde(default = "unit")]
    pub std: f32,
}

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
        /// Whether a number is added to each output channel.
        #[serde(default = "yes")]
        bias: bool,
    },
    /// Matrix product. Features to features.
    Dense {
        /// Output features.
        units: Units,
        /// Whether a number is added to each output feature.
        #[serde(default = "yes")]
        bias: bool,
    },
    /// The largest value of each window, for each channel; pixels that fill no whole window are left out.
    #[serde(serialize_with = "serialize_pool", deserialize_with = "deserialize_pool")]
    MaxPool2d {
        /// Height and width of the window; 2 if not written.
        size: usize,
        /// Pixels from one window to the next; `size` if `None` or not written.
        stride: Option<usize>,
    },
    /// The mean of each window, for each channel; pixels that fill no whole window are left out.
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
    /// Image to features, in the order rows, columns, channels.
    #[serde(deserialize_with = "no_options")]
    Flatten,
    /// max(0, x).
    #[serde(deserialize_with = "no_options")]
    Relu,
    /// x·Φ(x) (Hendrycks and Gimpel, 2016), in the exact form with the error function.
    #[serde(deserialize_with = "no_options")]
    Gelu,
    /// x / (1 + exp(-x)), also called swish.
    #[serde(deserialize_with = "no_options")]
    Silu,
    /// In training each value is zero with probability `rate`, else divided by `1 - rate` (Srivastava et al., 2014).
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
        /// Whether the result is multiplied by a trained number for each channel; the shift is always there.
        #[serde(default = "yes")]
        scale: bool,
    },
    /// x + body(x): the layers must give the shape they take (He et al., 2015).
    Residual {
        /// The body.
        layers: Vec<LayerSpec>,
    },
}

impl LayerSpec {
    /// The name that the key `layer` has.
    pub fn kind(&self) -> &'static str {
        match self {
            LayerSpec::Conv2d { .. } => "conv2d",
            LayerSpec::Dense { .. } => "dense",
            LayerSpec::MaxPool2d { .. } => "max_pool2d",
            LayerSpec::AvgPool2d { .. } => "avg_pool2d",
            LayerSpec::GlobalAvgPool => "global_avg_pool",
            LayerSpec::GlobalMaxPool => "global_max_pool",
            LayerSpec::Flatten => "flatten",
            LayerSpec::Relu => "relu",
            LayerSpec::Gelu => "gelu",
            LayerSpec::Silu => "silu",
            LayerSpec::Dropout { .. } => "dropout",
            LayerSpec::BatchNorm { .. } => "batch_norm",
            LayerSpec::Residual { .. } => "residual",
        }
    }
}

impl Serialize for LayerSpec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        LayerSpec::serialize(self, serializer)
    }
}

/// Reads a map inside of a visitor, not around one: so errors happen where the format knows the line of this layer.
/// (Serde's own code for tagged enums first reads the map to its end, and then finds the errors.)
impl<'de> Deserialize<'de> for LayerSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct LayerVisitor;

        impl<'de> Visitor<'de> for LayerVisitor {
            type Value = LayerSpec;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a layer such as { layer = \"relu\" }")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<LayerSpec, A::Error> {
                LayerSpec::deserialize(MapAccessDeserializer::new(map))
            }
        }

        deserializer.deserialize_map(LayerVisitor)
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

/// Refuses every key: serde alone would ignore unknown keys beside the tag of a variant without fields.
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

fn yes() -> bool {
    true
}

fn unit() -> f32 {
    1.0
}

fn tenth() -> f32 {
    0.1
}

fn small() -> f32 {
    1e-5
}
