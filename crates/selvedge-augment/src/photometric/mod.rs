//! Operations that change values and leave every pixel in its place.

mod enhance;
mod filter;
mod histogram;
mod noise;
mod tone;

pub use enhance::{Brightness, Contrast, Factor, Gamma, Sharpness};
pub use filter::{Blur, BlurDrawn, GaussianBlur, GaussianBlurDrawn};
pub use histogram::{AutoContrast, Equalize};
pub use noise::{GaussianNoise, GaussianNoiseDrawn};
pub use tone::{Bits, Invert, Posterize, Solarize, Threshold};

pub(crate) use enhance::saturate;
