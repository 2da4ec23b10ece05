//! [`ModelSpec`]: a network as a value that is written in a recipe and stored with the weights.
//!
//! | file | what |
//! |---|---|
//! | `layer` | the catalogue of layers, their options and names |
//! | `reading` | how a layer is read from a recipe |
//! | `options`, `init` | options that can be written in several ways; how weights begin |
//! | `inference` | the shape of every tensor and array |
//! | `shape`, `array`, `layout` | what inference finds |
//! | `limits`, `error` | what it refuses |
//! | `summary` | the table of layers |

pub(crate) mod array;
pub(crate) mod error;
pub(crate) mod inference;
pub(crate) mod init;
pub(crate) mod layer;
pub(crate) mod layout;
pub(crate) mod limits;
pub(crate) mod options;
mod reading;
pub(crate) mod shape;
pub(crate) mod summary;

use serde::{Deserialize, Serialize};

use crate::spec::layer::LayerSpec;

/// A network: its input, the number of classes, and its layers from input to output.
///
/// The last layer gives one score (logit) for each class; softmax is part of the loss and of prediction, not a layer.
/// A tensor is an image, `[height, width, channels]`, until `flatten` or a global pooling turns it into features.
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
    /// The layers from input to output.
    pub layers: Vec<LayerSpec>,
}

/// The images that a network takes, and how their bytes become numbers: `(pixel / 255 - mean) / std`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputSpec {
    /// Rows of pixels.
    pub height: usize,
    /// Pixels of a row.
    pub width: usize,
    /// Bytes of a pixel: 1 for greyscale images.
    #[serde(default = "one")]
    pub channels: usize,
    /// Subtracted from every pixel, in units of the full brightness.
    #[serde(default)]
    pub mean: f32,
    /// Every pixel is then divided by this, in units of the full brightness; above 0.
    #[serde(default = "unit")]
    pub std: f32,
}

fn one() -> usize {
    1
}

fn unit() -> f32 {
    1.0
}
