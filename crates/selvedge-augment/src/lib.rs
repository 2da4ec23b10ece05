#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod augmentation;
mod augmenter;
mod batch;
mod canvas;
mod convolve;
mod error;
pub mod geometric;
pub mod masking;
pub mod mixing;
mod normalize;
pub mod parameter;
pub mod photometric;
pub mod policy;
mod stream;
mod trace;
mod transform;
mod vectors;
pub mod warp;

pub use augmentation::Augmentation;
pub use augmenter::Augmenter;
pub use batch::Batch;
pub use canvas::{Canvas, ImageShape};
pub use error::AugmentError;
pub use normalize::Normalize;
pub use stream::{EpochKey, Stream};
pub use trace::{BatchTrace, DrawnMix};
pub use transform::{DrawnStep, Transform};
