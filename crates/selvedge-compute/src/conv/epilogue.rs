//! What a call computes of a block ([`Part`]) and what it does to each sum before it is written ([`Epilogue`]).

use std::ops::Range;

use crate::layout::BLOCK;
use crate::simd::Simd;

/// What is done to a sum before it is written.
#[derive(Clone, Copy)]
pub struct Epilogue<'a> {
    /// Added to every pixel; as long as the output's channel stride, its padded lanes zero.
    pub bias: Option<&'a [f32]>,
    /// Whether negative results become zero.
    pub relu: bool,
}

impl Epilogue<'_> {
    /// The bare sum.
    pub const NONE: Epilogue<'static> = Epilogue { bias: None, relu: false };

    /// Whether the bare sum is written.
    pub(super) fn is_none(&self) -> bool {
        self.bias.is_none() && !self.relu
    }

    /// A vector of the bias from `channel` on, zeros if there is none.
    ///
    /// # Safety
    /// `channel` + LANES must be at most the output's channel stride, which `ImplicitGemm::check` compared the bias with.
    #[inline(always)]
    pub(super) unsafe fn bias_at<S: Simd>(&self, s: S, channel: usize) -> S::V {
        match self.bias {
            // SAFETY: the caller's promise.
            Some(bias) => unsafe { s.load(bias.as_ptr().add(channel)) },
            None => s.zero(),
        }
    }

    /// What becomes of a bare sum.
    #[inline(always)]
    pub(super) fn apply<S: Simd>(&self, s: S, sum: S::V, bias: S::V) -> S::V {
        let sum = s.add(sum, bias);
        if self.relu { s.max(sum, s.zero()) } else { sum }
    }
}

/// The part of a block's result that a call computes: rows of pixels, and of images the first ones.
///
/// ```
/// use selvedge_compute::conv::Part;
/// assert_eq!(Part::from(3..7).images, 32);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The rows of pixels; a result has room for just these.
    pub rows: Range<usize>,
    /// How many images, from 1 to [`BLOCK`]; whatever is left in the place of the others means nothing.
    pub images: usize,
}

impl From<Range<usize>> for Part {
    /// These rows of all images.
    fn from(rows: Range<usize>) -> Self {
        Self { rows, images: BLOCK }
    }
}
