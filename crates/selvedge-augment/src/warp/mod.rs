//! Operations that take each pixel from a position between pixels: rotation, shear, distortion.
//!
//! All of them state, for each pixel of the result, the position in the image that it shows, and share
//! one way of sampling. Positions are in pixels; the middle of the top left pixel is (0, 0), as
//! in OpenCV.

mod affine;
mod affine_ops;
mod crop;
mod distortion;
mod elastic;
pub(crate) mod sample;

pub use affine::Matrix;
pub use affine_ops::{Affine, AffineDrawn, Rotate, RotateDrawn, Shear, ShearDrawn, ShearX, ShearY};
pub use crop::{CropWindow, RandomResizedCrop};
pub use distortion::{GridDistortion, GridDrawn, MAX_GRID_STEPS, OpticalDistortion, OpticalDrawn, OpticalModel};
pub use elastic::{ElasticDrawn, ElasticTransform, NoiseDistribution};
pub use sample::{Border, Interpolation};
