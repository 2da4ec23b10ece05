//! [`ArrayShape`]: a parameter or running statistic with its name, logical shape and layout.

use selvedge_compute::conv::Conv2dShape;

use crate::spec::init::Init;
use crate::spec::layout::ParamLayout;

/// A parameter or running statistic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ArrayShape {
    /// The name in files.
    pub(crate) name: String,
    /// The logical shape.
    pub(crate) shape: Vec<usize>,
    pub(crate) layout: ParamLayout,
}

/// A parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ParamShape {
    pub(crate) array: ArrayShape,
    pub(crate) kind: ParamKind,
    /// How it begins, if it is a weight: biases and betas begin as 0, gammas as 1.
    pub(crate) init: Option<Init>,
    /// Whether it does not train.
    pub(crate) frozen: bool,
}

/// What a parameter does in its layer: optimizers treat kinds differently, weight decay for example.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ParamKind {
    /// The weights of a convolution or a dense layer.
    Weight,
    /// The bias of a convolution or a dense layer.
    Bias,
    /// The factor after a normalisation.
    Gamma,
    /// The summand after a normalisation.
    Beta,
}

impl ArrayShape {
    /// The weights of a convolution, `[kernel height, kernel width, in, out]`, or of a dense layer, `[in, out]`.
    pub(crate) fn panels(name: String, shape: Vec<usize>, conv: Conv2dShape) -> Self {
        debug_assert_eq!(shape.iter().product::<usize>(), conv.taps() * conv.input.channels * conv.output.channels);
        Self { name, shape, layout: ParamLayout::Panels(conv) }
    }

    /// One number for each of `channels` channels.
    pub(crate) fn channels(name: String, channels: usize) -> Self {
        Self { name, shape: vec![channels], layout: ParamLayout::Channels(channels) }
    }

    /// Numbers of the logical array.
    pub(crate) fn len(&self) -> usize {
        self.shape.iter().product()
    }
}
