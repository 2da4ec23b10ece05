//! Operations that resample the image at positions between pixels: rotation, shear, distortion.
//!
//! Each operation gives, for every pixel of the result, the position in the image that it shows; they share one way of
//! sampling. Positions are in pixels; the centre of the top left pixel is (0, 0), as in OpenCV.

mod affine;
mod crop;
mod distortion;
mod elastic;
mod matrix;

pub use affine::{Affine, AffineDrawn, Rotate, RotateDrawn, Shear, ShearDrawn, ShearX, ShearY};
pub use crop::{CropWindow, RandomResizedCrop};
pub use distortion::{GridDistortion, GridDrawn, MAX_GRID_STEPS, OpticalDistortion, OpticalDrawn, OpticalModel};
pub use elastic::{ElasticDrawn, ElasticTransform, NoiseDistribution};
pub use matrix::Matrix;

pub use crate::resample::{Border, Interpolation};
