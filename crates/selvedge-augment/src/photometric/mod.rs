//! Operations that change values and leave every pixel where it is.

mod filter;
mod histogram;
mod noise;
mod tone;

pub use filter::{Blur, BlurDrawn, GaussianBlur, GaussianBlurDrawn, Sharpness};
pub use histogram::{AutoContrast, Equalize, Stretched};
pub use noise::{GaussianNoise, GaussianNoiseDrawn};
pub use tone::{Bits, Brightness, Contrast, Factor, Gamma, Invert, Inverted, Posterize, Solarize, Threshold};

pub(crate) use tone::saturate;
