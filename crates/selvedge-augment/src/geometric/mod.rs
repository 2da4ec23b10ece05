//! Operations that move whole pixels: flips, rotations by 90°, shifts and crops. All are exact.

mod flip;
mod rotate90;
mod translate;

pub use flip::{AlternatingFlip, AlternatingFlipDrawn, HorizontalFlip, VerticalFlip};
pub use rotate90::{RandomRotate90, Rotate90Drawn, Transpose};
pub use translate::{RandomCrop, Translate, TranslateDrawn};
