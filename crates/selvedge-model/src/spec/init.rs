//! [`Init`]: how the weights of a layer begin.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The initial weights of a convolution or dense layer. In TOML and JSON the key `init` names it in snake case.
///
/// The fan in is the number of inputs that an output is a weighted sum of, the fan out that of the outputs of a kernel's positions:
/// kernel height · kernel width · channels, in and out. Biases begin as 0 whatever the weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Init {
    /// Uniform in ±√(6 / (fan in + fan out)) (Glorot and Bengio, 2010), as Keras initialises its layers.
    #[default]
    GlorotUniform,
    /// Normal with standard deviation √(2 / fan in) (He et al., 2015), not truncated: PyTorch's `kaiming_normal_` for ReLU.
    HeNormal,
    /// Uniform in ±√(1 / fan in), as PyTorch initialises its layers. (Keras' `lecun_uniform` is √3 times as wide.)
    FanInUniform,
    /// The first outputs, as many as there are inputs, pass one input each on: 1 at the kernel's centre, 0 elsewhere. The others
    /// begin as [`Init::FanInUniform`]. For `conv2d` alone. It is PyTorch's `dirac_` on the first filters, as in Keller Jordan's
    /// airbench (arXiv 2404.00498).
    Dirac,
    /// Zero.
    Zeros,
    /// The eigenvectors of the images' patches, each divided by the square root of its eigenvalue + 5e-4, and their negatives, so
    /// that outputs are uncorrelated and have a variance of about 1 (arXiv 2404.00498). For a `conv2d` that is the network's first
    /// layer, usually with frozen weights; half of its filters are at most the numbers of a patch. [`crate::Network::whiten`]
    /// computes them from images; until then they are those of [`Init::FanInUniform`].
    Whitening,
}

impl Init {
    /// Whether it is the default, which is not written.
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// The value of the key `init`.
    pub fn name(self) -> &'static str {
        match self {
            Init::GlorotUniform => "glorot_uniform",
            Init::HeNormal => "he_normal",
            Init::FanInUniform => "fan_in_uniform",
            Init::Dirac => "dirac",
            Init::Zeros => "zeros",
            Init::Whitening => "whitening",
        }
    }
}

impl fmt::Display for Init {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
