//! Shape inference: [`NetworkShape`] has the shape of every tensor of a network, and inferring it refuses specs that are not networks.
//!
//! Parameters, initialisation, files, the summary and the memory plan take a [`NetworkShape`] and check nothing again.
//! Arithmetic on sizes is checked, because a spec may come from a file that someone else made.

use std::fmt;
use std::ops::Range;

use selvedge_compute::conv::Conv2dShape;
use selvedge_compute::pool::generalized_mean;
use selvedge_compute::{BlockShape, padded_channels};

use crate::spec::array::{ArrayShape, ParamKind, ParamShape};
use crate::spec::error::{LayerProblem, ModelError};
use crate::spec::init::Init;
use crate::spec::layer::LayerSpec;
use crate::spec::limits::{MAX_ACTIVATIONS, MAX_DEPTH, MAX_PARAMETERS, MAX_WHITENED};
use crate::spec::options::{Kernel, Padding};
use crate::spec::shape::{Shape, TensorShape};
use crate::spec::{InputSpec, ModelSpec};

/// The most channels a network's input may have without padding: what the convolution kernels take.
const MAX_UNPADDED_CHANNELS: usize = 15;

/// One layer with its shapes. Layers of [`ModelSpec::layers`] and of a residual body correspond one to one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LayerShape {
    /// The layer's path from the input, such as `3.residual.0.conv2d`: what its tensors' names begin with.
    pub(crate) name: String,
    pub(crate) input: TensorShape,
    pub(crate) output: TensorShape,
    /// What the kernels compute, for `conv2d` and `dense`.
    pub(crate) conv: Option<Conv2dShape>,
    /// Its entries in [`NetworkShape::params`], those of a body included.
    pub(crate) params: Range<usize>,
    /// Its entries in [`NetworkShape::buffers`], those of a body included.
    pub(crate) buffers: Range<usize>,
    /// The layers of a residual block, or the two dense layers of squeeze-and-excitation.
    pub(crate) body: Vec<LayerShape>,
}

impl LayerShape {
    /// Multiply-adds of one image's forward pass, those of a body included.
    pub(crate) fn multiply_adds(&self) -> usize {
        self.conv.map_or(0, |conv| conv.multiply_adds())
            + self.body.iter().map(LayerShape::multiply_adds).sum::<usize>()
    }
}

/// All shapes of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NetworkShape {
    pub(crate) input: TensorShape,
    pub(crate) layers: Vec<LayerShape>,
    pub(crate) params: Vec<ParamShape>,
    /// The running statistics: mean and variance of each batch norm.
    pub(crate) buffers: Vec<ArrayShape>,
}

impl NetworkShape {
    /// Infers the shapes of `spec`, layer by layer from the input.
    ///
    /// # Errors
    /// If the layers do not fit together, an option is not allowed, or the network is too large.
    pub(crate) fn infer(spec: &ModelSpec) -> Result<Self, ModelError> {
        let input = input_shape(spec)?;
        if !(2..=256).contains(&spec.classes) {
            return Err(ModelError::Classes { found: spec.classes });
        }
        let mut inference =
            Inference { classes: spec.classes, params: Vec::new(), buffers: Vec::new(), stored: 0, activations: 0 };
        let layers = inference.sequence(&spec.layers, "", input, 0)?;
        let Some(last) = layers.last() else { return Err(ModelError::NoLayers) };
        if last.output.logical != Shape::Features(spec.classes) || !last.output.is_one_pixel() {
            return Err(ModelError::Output {
                layer: last.name.clone(),
                output: last.output.logical,
                classes: spec.classes,
            });
        }
        Ok(Self { input, layers, params: inference.params, buffers: inference.buffers })
    }

    /// The arrays of [`NetworkShape::params`].
    pub(crate) fn param_arrays(&self) -> impl Iterator<Item = &ArrayShape> + Clone {
        self.params.iter().map(|param| &param.array)
    }

    /// Numbers of all parameters, without padding.
    pub(crate) fn param_count(&self) -> usize {
        self.param_arrays().map(ArrayShape::len).sum()
    }

    /// Numbers of the parameters that train, without padding.
    pub(crate) fn trained_count(&self) -> usize {
        self.params.iter().filter(|param| !param.frozen).map(|param| param.array.len()).sum()
    }

    /// Numbers of all running statistics, without padding.
    pub(crate) fn buffer_count(&self) -> usize {
        self.buffers.iter().map(ArrayShape::len).sum()
    }

    /// Multiply-adds of one image's forward pass.
    pub(crate) fn multiply_adds(&self) -> usize {
        self.layers.iter().map(LayerShape::multiply_adds).sum()
    }
}

/// The shape of the input: padded, unless the first layer that computes is one whose kernels read it as it is.
fn input_shape(spec: &ModelSpec) -> Result<TensorShape, ModelError> {
    let InputSpec { height, width, channels, mean, std } = spec.input;
    let refuse = |option, found: &dyn fmt::Display, allowed| {
        Err(ModelError::Input { option, found: found.to_string(), allowed })
    };
    for (option, size) in [("height", height), ("width", width), ("channels", channels)] {
        if size == 0 {
            return refuse(option, &size, "at least 1");
        }
    }
    if padded(channels).and_then(|channels| limit(&[height, width, channels], MAX_ACTIVATIONS)).is_err() {
        return refuse("size", &format_args!("{height}x{width}x{channels}"), "at most 67,108,864 numbers with padding");
    }
    if !mean.is_finite() {
        return refuse("mean", &mean, "a finite number");
    }
    if !(std.is_finite() && std > 0.0) {
        return refuse("std", &std, "a finite number above 0");
    }
    let first = spec.layers.iter().find(|layer| !matches!(layer, LayerSpec::Flatten));
    let reads_unpadded = matches!(first, Some(LayerSpec::Conv2d { .. } | LayerSpec::Dense { .. }));
    Ok(TensorShape::image(if reads_unpadded && channels <= MAX_UNPADDED_CHANNELS {
        BlockShape::input(height, width, channels)
    } else {
        BlockShape::new(height, width, channels)
    }))
}

/// What inference has found so far.
struct Inference {
    classes: usize,
    params: Vec<ParamShape>,
    buffers: Vec<ArrayShape>,
    /// Numbers of all parameters so far, with padding.
    stored: usize,
    /// Numbers of all tensors of one image so far, with padding.
    activations: usize,
}

/// What one layer makes of its input.
struct Step {
    output: TensorShape,
    conv: Option<Conv2dShape>,
    body: Vec<LayerShape>,
}

impl Step {
    fn to(output: TensorShape) -> Self {
        Self { output, conv: None, body: Vec::new() }
    }
}

impl Inference {
    fn sequence(
        &mut self,
        layers: &[LayerSpec],
        prefix: &str,
        input: TensorShape,
        depth: usize,
    ) -> Result<Vec<LayerShape>, ModelError> {
        let mut current = input;
        let mut shapes = Vec::with_capacity(layers.len());
        for (index, layer) in layers.iter().enumerate() {
            let name = format!("{prefix}{index}.{}", layer.kind());
            let (params, buffers) = (self.params.len(), self.buffers.len());
            let refuse = |problem| ModelError::Layer { layer: name.clone(), input: current.logical, problem };
            if matches!(layer, LayerSpec::Conv2d { init: Init::Whitening, .. }) && (depth, index) != (0, 0) {
                let allowed = "it is for the network's first layer, which reads the images";
                return Err(refuse(LayerProblem::Init { init: Init::Whitening, allowed }));
            }
            let Step { output, conv, body } = match layer {
                LayerSpec::Residual { layers, drop } => {
                    probability("drop", *drop).map_err(refuse)?;
                    self.residual(layers, &name, current, depth)?
                }
                _ => self.layer(layer, &name, current).map_err(refuse)?,
            };
            self.activations += output.block.height * output.block.width * output.block.channel_stride;
            if self.activations > MAX_ACTIVATIONS {
                return Err(refuse(LayerProblem::TooLarge));
            }
            let (params, buffers) = (params..self.params.len(), buffers..self.buffers.len());
            shapes.push(LayerShape { name, input: current, output, conv, params, buffers, body });
            current = output;
        }
        Ok(shapes)
    }

    fn residual(
        &mut self,
        layers: &[LayerSpec],
        name: &str,
        input: TensorShape,
        depth: usize,
    ) -> Result<Step, ModelError> {
        let refuse = |problem| ModelError::Layer { layer: name.to_owned(), input: input.logical, problem };
        if depth == MAX_DEPTH {
            return Err(refuse(LayerProblem::Depth));
        }
        let body = self.sequence(layers, &format!("{name}."), input, depth + 1)?;
        let Some(last) = body.last() else { return Err(refuse(LayerProblem::EmptyBody)) };
        if last.output.logical != input.logical {
            return Err(refuse(LayerProblem::Body { output: last.output.logical }));
        }
        if last.output.block != input.block {
            return Err(refuse(LayerProblem::FlattenedImage));
        }
        Ok(Step { output: input, conv: None, body })
    }

    fn layer(&mut self, layer: &LayerSpec, name: &str, input: TensorShape) -> Result<Step, LayerProblem> {
        match *layer {
            LayerSpec::Conv2d { filters, kernel, stride, padding, bias, init, frozen } => {
                require_image(&input)?;
                let conv = conv2d(input.block, filters, kernel, stride, padding)?;
                if init == Init::Whitening {
                    whitening(filters, kernel, input.block.channels)?;
                }
                let shape = vec![kernel.height, kernel.width, input.block.channels, filters];
                self.add_weights(name, shape, conv, Weights { bias, init, frozen })?;
                Ok(Step { output: TensorShape::image(conv.output), conv: Some(conv), body: Vec::new() })
            }
            LayerSpec::Dense { units, bias, init, frozen } => {
                let Shape::Features(count) = input.logical else { return Err(LayerProblem::NeedsFeatures) };
                if matches!(init, Init::Dirac | Init::Whitening) {
                    return Err(LayerProblem::Init { init, allowed: "it is for conv2d, whose kernel has a centre" });
                }
                let units = units.count(self.classes);
                at_least_one("units", units)?;
                let BlockShape { height, width, channel_stride, .. } = input.block;
                limit(&[height, width, channel_stride, padded(units)?], MAX_PARAMETERS)?;
                let conv = Conv2dShape::dense(input.block, units);
                self.add_weights(name, vec![count, units], conv, Weights { bias, init, frozen })?;
                Ok(Step { output: TensorShape::features(conv.output), conv: Some(conv), body: Vec::new() })
            }
            LayerSpec::MaxPool2d { size, stride } | LayerSpec::AvgPool2d { size, stride } => {
                require_image(&input)?;
                pool(input.block, size, stride.unwrap_or(size)).map(Step::to)
            }
            LayerSpec::GlobalAvgPool
            | LayerSpec::GlobalMaxPool
            | LayerSpec::GlobalAvgMaxPool
            | LayerSpec::GemPool { .. } => {
                require_image(&input)?;
                if let LayerSpec::GemPool { p } = *layer {
                    number("p", p, |p| generalized_mean::EXPONENTS.contains(&p), "from 1 to 6")?;
                }
                Ok(Step::to(TensorShape::features(BlockShape::new(1, 1, input.block.channels))))
            }
            LayerSpec::SqueezeExcitation { reduction } => self.squeeze_excitation(name, input, reduction),
            LayerSpec::Flatten => Ok(Step::to(TensorShape::features(input.block))),
            LayerSpec::Activation(_) => Ok(Step::to(input)),
            LayerSpec::Dropout { rate } => {
                probability("rate", rate)?;
                Ok(Step::to(input))
            }
            LayerSpec::BatchNorm { momentum, epsilon, scale } => {
                number("momentum", momentum, |momentum| momentum > 0.0 && momentum <= 1.0, "above 0, at most 1")?;
                number("epsilon", epsilon, |epsilon| epsilon > 0.0 && epsilon.is_finite(), "a finite number above 0")?;
                if matches!(input.logical, Shape::Features(_)) && !input.is_one_pixel() {
                    return Err(LayerProblem::FlattenedImage);
                }
                self.add_norm(name, input.block.channels, scale)?;
                Ok(Step::to(input))
            }
            LayerSpec::Residual { .. } => unreachable!("`sequence` infers residual blocks"),
        }
    }

    /// The two dense layers are its body, `fc1` and `fc2` as in torchvision.
    fn squeeze_excitation(&mut self, name: &str, input: TensorShape, reduction: usize) -> Result<Step, LayerProblem> {
        require_image(&input)?;
        at_least_one("reduction", reduction)?;
        let channels = input.block.channels;
        let mut current = TensorShape::features(BlockShape::new(1, 1, channels));
        let mut body = Vec::with_capacity(2);
        for (part, units) in [("fc1", (channels / reduction).max(1)), ("fc2", channels)] {
            let (name, params) = (format!("{name}.{part}"), self.params.len());
            limit(&[current.block.channel_stride, padded(units)?], MAX_PARAMETERS)?;
            let conv = Conv2dShape::dense(current.block, units);
            let weights = Weights { bias: true, init: Init::default(), frozen: false };
            self.add_weights(&name, vec![current.block.channels, units], conv, weights)?;
            let output = TensorShape::features(conv.output);
            let params = params..self.params.len();
            let buffers = self.buffers.len()..self.buffers.len();
            body.push(LayerShape { name, input: current, output, conv: Some(conv), params, buffers, body: vec![] });
            current = output;
        }
        Ok(Step { output: input, conv: None, body })
    }

    fn add_weights(
        &mut self,
        name: &str,
        shape: Vec<usize>,
        conv: Conv2dShape,
        Weights { bias, init, frozen }: Weights,
    ) -> Result<(), LayerProblem> {
        let out = conv.output.channels;
        let array = ArrayShape::panels(format!("{name}.weight"), shape, conv);
        self.add(ParamShape { array, kind: ParamKind::Weight, init: Some(init), frozen })?;
        if bias {
            self.add_channels(format!("{name}.bias"), out, ParamKind::Bias)?;
        }
        Ok(())
    }

    fn add_norm(&mut self, name: &str, channels: usize, scale: bool) -> Result<(), LayerProblem> {
        if scale {
            self.add_channels(format!("{name}.scale"), channels, ParamKind::Gamma)?;
        }
        self.add_channels(format!("{name}.shift"), channels, ParamKind::Beta)?;
        for statistic in ["running_mean", "running_var"] {
            self.buffers.push(ArrayShape::channels(format!("{name}.{statistic}"), channels));
        }
        Ok(())
    }

    fn add_channels(&mut self, name: String, channels: usize, kind: ParamKind) -> Result<(), LayerProblem> {
        let array = ArrayShape::channels(name, channels);
        self.add(ParamShape { array, kind, init: None, frozen: false })
    }

    fn add(&mut self, param: ParamShape) -> Result<(), LayerProblem> {
        self.stored += param.array.layout.stored_len();
        if self.stored > MAX_PARAMETERS {
            return Err(LayerProblem::TooLarge);
        }
        self.params.push(param);
        Ok(())
    }
}

/// The options of a convolution or dense layer that its parameters follow from.
struct Weights {
    bias: bool,
    init: Init,
    frozen: bool,
}

/// Refuses filters that whitening does not have, two for each eigenvector of the patches at most, and patches that are too large.
fn whitening(filters: usize, kernel: Kernel, channels: usize) -> Result<(), LayerProblem> {
    let dimensions = kernel.height * kernel.width * channels;
    if dimensions > MAX_WHITENED {
        let allowed = "height · width · channels of the kernel are at most 256 with it";
        return Err(LayerProblem::Init { init: Init::Whitening, allowed });
    }
    let largest = 2 * dimensions;
    if filters > largest || !filters.is_multiple_of(2) {
        return Err(LayerProblem::WhiteningFilters { filters, kernel, channels, largest });
    }
    Ok(())
}

fn conv2d(
    input: BlockShape,
    filters: usize,
    kernel: Kernel,
    stride: usize,
    padding: Padding,
) -> Result<Conv2dShape, LayerProblem> {
    at_least_one("filters", filters)?;
    at_least_one("kernel height", kernel.height)?;
    at_least_one("kernel width", kernel.width)?;
    at_least_one("stride", stride)?;
    limit(&[kernel.height, kernel.width, padded(input.channel_stride)?, padded(filters)?], MAX_PARAMETERS)?;
    let size = [kernel.height, kernel.width];
    let pixels = match padding {
        Padding::Same => {
            let (height, width) = (input.height.div_ceil(stride), input.width.div_ceil(stride));
            limit(&[height, width, padded(filters)?], MAX_ACTIVATIONS)?;
            return Ok(Conv2dShape::same(input, filters, size, stride));
        }
        Padding::Valid => 0,
        Padding::Pixels(pixels) => pixels,
    };
    if pixels >= kernel.height.min(kernel.width) && pixels > 0 {
        return Err(LayerProblem::Padding { padding: pixels, kernel });
    }
    let (height, width) = (input.height + 2 * pixels, input.width + 2 * pixels);
    if kernel.height > height || kernel.width > width {
        return Err(LayerProblem::Kernel { kernel, height, width });
    }
    let (rows, columns) = ((height - kernel.height) / stride + 1, (width - kernel.width) / stride + 1);
    limit(&[rows, columns, padded(filters)?], MAX_ACTIVATIONS)?;
    Ok(Conv2dShape::new(input, filters, size, stride, [pixels; 2]))
}

fn pool(input: BlockShape, size: usize, stride: usize) -> Result<TensorShape, LayerProblem> {
    at_least_one("size", size)?;
    at_least_one("stride", stride)?;
    if size > input.height || size > input.width {
        return Err(LayerProblem::Pool { size });
    }
    let pixels = |length: usize| (length - size) / stride + 1;
    Ok(TensorShape::image(BlockShape::new(pixels(input.height), pixels(input.width), input.channels)))
}

fn require_image(input: &TensorShape) -> Result<(), LayerProblem> {
    match input.logical {
        Shape::Image { .. } => Ok(()),
        Shape::Features(_) => Err(LayerProblem::NeedsImage),
    }
}

fn at_least_one(option: &'static str, value: usize) -> Result<(), LayerProblem> {
    if value == 0 { Err(LayerProblem::Zero { option }) } else { Ok(()) }
}

fn probability(option: &'static str, found: f32) -> Result<(), LayerProblem> {
    number(option, found, |found| (0.0..1.0).contains(&found), "from 0 to below 1")
}

/// Refuses a number that is not allowed; `allowed` says in words which are.
fn number(
    option: &'static str,
    found: f32,
    is_allowed: impl Fn(f32) -> bool,
    allowed: &'static str,
) -> Result<(), LayerProblem> {
    if is_allowed(found) { Ok(()) } else { Err(LayerProblem::Number { option, found, allowed }) }
}

/// The number of channels with padding, if it is not beyond all limits.
fn padded(channels: usize) -> Result<usize, LayerProblem> {
    if channels <= MAX_PARAMETERS { Ok(padded_channels(channels)) } else { Err(LayerProblem::TooLarge) }
}

/// Refuses sizes whose product is beyond `most`.
fn limit(sizes: &[usize], most: usize) -> Result<(), LayerProblem> {
    let product = sizes.iter().try_fold(1usize, |product, &size| product.checked_mul(size));
    if product.is_some_and(|product| product <= most) { Ok(()) } else { Err(LayerProblem::TooLarge) }
}

#[cfg(test)]
mod tests;
