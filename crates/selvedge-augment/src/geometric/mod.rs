//! Operations that move whole pixels: flips, quarter turns, shifts and crops. All are exact.

mod flip;
mod translate;
mod turn;

pub use flip::{AlternatingFlip, AlternatingFlipDrawn, Flipped, HorizontalFlip, VerticalFlip};
pub use translate::{RandomCrop, Translate, TranslateDrawn};
pub use turn::{QuarterTurns, RandomRotate90, Transpose, Transposed};
