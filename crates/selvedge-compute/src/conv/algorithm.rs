//! [`ConvAlgorithm`]: which code computes a convolution, for profiles to say.

use std::fmt;

use super::Conv2dShape;
use super::first_layer::is_first_layer;
use super::winograd::Winograd;
use crate::cpu::Precision;

/// Which code computes a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConvAlgorithm {
    /// Products of bf16 tiles on AMX.
    Tiles,
    /// Products of f32 vectors.
    Vectors,
    /// f32 vectors, by Winograd's algorithm.
    Winograd,
    /// f32 vectors, written for a grey image under max pooling.
    FirstLayer,
}

impl ConvAlgorithm {
    /// The code that `shape` is computed by in `precision`, with max pooling over `window` in the same pass if there is
    /// one. A network's input, whose channels are not padded, is f32 in either precision.
    pub fn of(shape: &Conv2dShape, precision: Precision, window: Option<[usize; 2]>) -> Self {
        let padded = shape.input.channel_stride.is_multiple_of(super::PANEL);
        match (precision, window) {
            (Precision::Bf16, _) if padded => Self::Tiles,
            (_, Some(window)) if is_first_layer(shape, window) => Self::FirstLayer,
            _ if Winograd::fused(shape, window).is_some() => Self::Winograd,
            _ => Self::Vectors,
        }
    }
}

impl fmt::Display for ConvAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tiles => "tiles",
            Self::Vectors => "vectors",
            Self::Winograd => "winograd",
            Self::FirstLayer => "first layer",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BlockShape;

    #[test]
    fn the_input_is_f32_in_either_precision() {
        let first = Conv2dShape::same(BlockShape::input(28, 28, 1), 16, [3, 3], 1);
        let inner = Conv2dShape::same(BlockShape::new(14, 14, 16), 32, [3, 3], 1);
        assert_eq!(ConvAlgorithm::of(&first, Precision::Bf16, None), ConvAlgorithm::Vectors);
        assert_eq!(ConvAlgorithm::of(&first, Precision::Bf16, Some([2, 2])), ConvAlgorithm::FirstLayer);
        assert_eq!(ConvAlgorithm::of(&inner, Precision::Bf16, Some([2, 2])), ConvAlgorithm::Tiles);
        assert_eq!(ConvAlgorithm::of(&inner, Precision::F32, Some([2, 2])), ConvAlgorithm::Winograd);
        let strided = Conv2dShape::same(BlockShape::new(14, 14, 16), 32, [3, 3], 2);
        assert_eq!(ConvAlgorithm::of(&strided, Precision::F32, None), ConvAlgorithm::Vectors);
    }
}
