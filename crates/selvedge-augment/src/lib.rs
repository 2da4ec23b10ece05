#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod augmentation;
mod augmenter;
mod batch;
mod canvas;
mod check;
mod convolve;
mod error;
pub mod geometric;
pub mod masking;
pub mod mixing;
mod normalize;
mod operation;
pub mod parameter;
pub mod photometric;
pub mod policy;
mod resample;
mod shape;
mod stream;
mod trace;
mod vectors;
pub mod warp;

pub use augmentation::{Augmentation, OneOf, Sequential, SomeOf};
pub use augmenter::Augmenter;
pub use batch::Batch;
pub use canvas::Canvas;
pub use check::Check;
pub use error::AugmentError;
pub use normalize::Normalize;
pub use operation::{Applied, DrawnStep, FixedTransform, Named, Operation, Transform};
pub use shape::ImageShape;
pub use stream::{EpochKey, Stream};
pub use trace::{BatchTrace, DrawnMix};
