//! [`ModelError`]: why a network cannot be built, saved or loaded.

use std::path::PathBuf;

use safetensors::{Dtype, SafeTensorError};
use selvedge_compute::CpuError;

use crate::spec::init::Init;
use crate::spec::limits::{MAX_ACTIVATIONS, MAX_DEPTH, MAX_PARAMETERS};
use crate::spec::options::Kernel;
use crate::spec::shape::Shape;

/// Why a network cannot be built, saved or loaded.
///
/// Layers are named by their path from the input, as their weights are in files: `3.residual.0.conv2d` is the first
/// layer of the body of the fourth. Layers are counted from 0.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The processor lacks the instruction set or precision.
    #[error(transparent)]
    Cpu(#[from] CpuError),
    /// An option of the input is not allowed.
    #[error("input: {option} = {found} is not allowed: {allowed}")]
    Input {
        /// The option.
        option: &'static str,
        /// Its value.
        found: String,
        /// What is allowed.
        allowed: &'static str,
    },
    /// The number of classes is out of its range: labels are bytes, and there is nothing to classify with fewer than two.
    #[error("classes = {found} is not allowed: from 2 to 256")]
    Classes {
        /// The number of classes.
        found: usize,
    },
    /// The spec has no layers.
    #[error("the network has no layers: its last one must give one score for each class")]
    NoLayers,
    /// A layer cannot take its input, or one of its options is not allowed.
    #[error("layer {layer} (counted from 0) gets {input}: {problem}")]
    Layer {
        /// The layer.
        layer: String,
        /// Its input.
        input: Shape,
        /// Why it is refused.
        problem: LayerProblem,
    },
    /// The last layer does not give one score for each class.
    #[error(
        "the last layer, {layer} (counted from 0), gives {output}, but {classes} classes need {classes} features: \
         end with {{ layer = \"dense\", units = \"classes\" }}"
    )]
    Output {
        /// The last layer.
        layer: String,
        /// Its output.
        output: Shape,
        /// The number of classes.
        classes: usize,
    },
    /// A file of weights cannot be written or read.
    #[error("{path}: {problem}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: FileProblem,
    },
}

/// Why a layer is refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum LayerProblem {
    /// An option that counts something is 0.
    #[error("{option} = 0 is not allowed: at least 1")]
    Zero {
        /// The option.
        option: &'static str,
    },
    /// A number is out of its range.
    #[error("{option} = {found} is not allowed: {allowed}")]
    Number {
        /// The option.
        option: &'static str,
        /// Its value.
        found: f32,
        /// What is allowed.
        allowed: &'static str,
    },
    /// The kernel does not fit into the padded input.
    #[error(
        "the kernel of {kernel} is larger than the padded input of {height}x{width}: take a smaller one, more padding, \
         or less pooling before it"
    )]
    Kernel {
        /// The kernel.
        kernel: Kernel,
        /// Rows of the padded input.
        height: usize,
        /// Columns of the padded input.
        width: usize,
    },
    /// Some output pixels would see nothing but padding.
    #[error(
        "padding = {padding} with a kernel of {kernel} makes pixels of nothing but zeros: it must be smaller than the \
         kernel's height and width"
    )]
    Padding {
        /// The padding.
        padding: usize,
        /// The kernel.
        kernel: Kernel,
    },
    /// Initial weights that the layer cannot have.
    #[error("init = \"{init}\" is not allowed: {allowed}")]
    Init {
        /// The initial weights.
        init: Init,
        /// What they are for.
        allowed: &'static str,
    },
    /// Whitening has two filters for each eigenvector of the patches at most.
    #[error(
        "filters = {filters} is not allowed with init = \"whitening\": an even number, at most {largest}, two for each of the \
         {} numbers of a {kernel} patch of {channels} channel{}",
        largest / 2, if *channels == 1 { "" } else { "s" }
    )]
    WhiteningFilters {
        /// The filters.
        filters: usize,
        /// The kernel.
        kernel: Kernel,
        /// Channels of the images.
        channels: usize,
        /// The most filters.
        largest: usize,
    },
    /// Too few images to whiten with.
    #[error(
        "init = \"whitening\" needs at least {dimensions} patches of {kernel} pixels, and {images} images have {patches}: take \
         more training images, or a smaller kernel"
    )]
    WhiteningImages {
        /// The images.
        images: usize,
        /// Their patches.
        patches: usize,
        /// The kernel.
        kernel: Kernel,
        /// Numbers of a patch.
        dimensions: usize,
    },
    /// The window does not fit into the image.
    #[error("the window of {size}x{size} is larger than the image: take a smaller one, or less pooling before it")]
    Pool {
        /// Height and width of the window.
        size: usize,
    },
    /// A layer that takes an image, after the image has become features.
    #[error("it takes an image: put it before flatten, dense and global pooling")]
    NeedsImage,
    /// A dense layer on an image.
    #[error("it takes features: put {{ layer = \"flatten\" }} or a global pooling before it")]
    NeedsFeatures,
    /// A layer that works on channels, right after `flatten`.
    #[error("it cannot follow flatten directly: put it before flatten, or a dense layer between")]
    FlattenedImage,
    /// A residual block without layers.
    #[error("the body has no layers: give it some, or leave the block out")]
    EmptyBody,
    /// A body that changes the shape.
    #[error("the body gives {output}, but it is added to what the block gets: make the two equal")]
    Body {
        /// The output of the body.
        output: Shape,
    },
    /// Residual blocks are nested too deep.
    #[error("residual blocks are nested more than {MAX_DEPTH} deep")]
    Depth,
    /// Sizes beyond the limits.
    #[error(
        "with it the tensors of one image have more than {MAX_ACTIVATIONS} numbers, or the weights more than \
         {MAX_PARAMETERS} numbers, with padding: make the layers smaller"
    )]
    TooLarge,
}

/// What is wrong with a file of weights.
#[derive(Debug, thiserror::Error)]
pub enum FileProblem {
    /// The operating system refused.
    #[error("cannot {action}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Fewer bytes than the file itself announces.
    #[error("the file is cut short: {found} bytes, expected at least {expected}: get it again")]
    Truncated {
        /// Bytes of the file.
        found: u64,
        /// Bytes that it should have.
        expected: u64,
    },
    /// A header that is too large to be one of a network's.
    #[error(
        "not a safetensors file of a network: its first 8 bytes announce a header of {found} bytes, at most {max} are read"
    )]
    HeaderTooLarge {
        /// The announced length.
        found: u64,
        /// The limit.
        max: u64,
    },
    /// A file that is larger than any network may be.
    #[error("the file has {found} bytes, at most {max} are read")]
    TooLarge {
        /// Bytes of the file.
        found: u64,
        /// The limit.
        max: u64,
    },
    /// The bytes are not a safetensors file.
    #[error("not a valid safetensors file: {0}")]
    Format(SafeTensorError),
    /// A safetensors file that holds no network.
    #[error("the metadata has no entry {key:?}: the file was not saved by selvedge")]
    NoSpec {
        /// The missing key.
        key: &'static str,
    },
    /// A spec that cannot be read.
    #[error("the metadata entry {key:?} is not a network: {source}")]
    BrokenSpec {
        /// The key.
        key: &'static str,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A spec that can be read but whose layers do not fit together.
    #[error("the metadata entry {key:?} is not a network: {source}")]
    ImpossibleSpec {
        /// The key.
        key: &'static str,
        /// Why not.
        source: Box<ModelError>,
    },
    /// The network has a tensor that the file lacks.
    #[error("tensor {name} of shape {expected:?} is missing")]
    MissingTensor {
        /// Its name.
        name: String,
        /// The shape that the spec gives it.
        expected: Vec<usize>,
    },
    /// The file has a tensor that the network lacks.
    #[error("tensor {name} does not belong to the network that the file describes")]
    ExtraTensor {
        /// Its name.
        name: String,
    },
    /// A tensor's shape is not what the spec says.
    #[error("tensor {name} has shape {found:?}, expected {expected:?}")]
    TensorShape {
        /// Its name.
        name: String,
        /// The shape that the spec gives it.
        expected: Vec<usize>,
        /// The shape in the file.
        found: Vec<usize>,
    },
    /// A tensor's elements are not f32.
    #[error("tensor {name} has elements of type {found}, expected F32")]
    TensorType {
        /// Its name.
        name: String,
        /// The type in the file.
        found: Dtype,
    },
}
