//! [`ConvAlgorithm`]: which code computes a convolution.

use std::fmt;

use crate::conv::winograd::Winograd;
use crate::cpu::Precision;

/// Which code computes a convolution. [`super::ConvPlan`] decides it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConvAlgorithm {
    /// Direct convolution in f32 vectors ([`crate::conv::direct`]).
    Direct,
    /// Winograd's algorithm in f32 vectors ([`crate::conv::winograd`]).
    Winograd(Winograd),
    /// bf16 tiles on AMX ([`crate::conv::tiles`]).
    Tiles,
    /// f32 vectors for a grey image with 2x2 max pooling ([`crate::conv::first_layer`]).
    GreyPooled,
    /// bf16 tiles on AMX for 4x4 patches of a grey image ([`crate::conv::first_layer::patches`]).
    Patches,
}

impl ConvAlgorithm {
    /// The element type of the operands that it multiplies.
    pub fn precision(&self) -> Precision {
        match self {
            Self::Direct | Self::Winograd(_) | Self::GreyPooled => Precision::F32,
            Self::Tiles | Self::Patches => Precision::Bf16,
        }
    }
}

impl fmt::Display for ConvAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Direct => "direct",
            Self::Winograd(_) => "winograd",
            Self::Tiles => "tiles",
            Self::GreyPooled | Self::Patches => "first layer",
        })
    }
}
