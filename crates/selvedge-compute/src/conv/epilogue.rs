//! [`Epilogue`]: what is applied to a sum before it is written. [`Part`]: the rows and images of a block that a call computes.

use std::ops::Range;

use crate::layout::BLOCK;
use crate::simd::Simd;

/// What is applied to a sum before it is written.
#[derive(Clone, Copy)]
pub struct Epilogue<'a> {
    /// Added to every pixel; as many numbers as the output's channel stride, the padding zero.
    pub bias: Option<&'a [f32]>,
    /// Whether negative results become zero.
    pub relu: bool,
}

impl Epilogue<'_> {
    /// The sum is written as it is.
    pub const NONE: Epilogue<'static> = Epilogue { bias: None, relu: false };

    /// Whether the sum is written as it is.
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

    /// Applies bias and ReLU to a sum.
    #[inline(always)]
    pub(super) fn apply<S: Simd>(&self, s: S, sum: S::V, bias: S::V) -> S::V {
        let sum = s.add(sum, bias);
        if self.relu { s.max(sum, s.zero()) } else { sum }
    }
}

/// The part of a block's result that a call computes: some rows of pixels of the first images.
///
/// ```
/// use selvedge_compute::conv::Part;
/// assert_eq!(Part::from(3..7).images, 32);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The rows of pixels; the result holds just these.
    pub rows: Range<usize>,
    /// How many images, from 1 to [`BLOCK`]; the results of the others are undefined.
    pub images: usize,
}

impl From<Range<usize>> for Part {
    /// These rows of all images.
    fn from(rows: Range<usize>) -> Self {
        Self { rows, images: BLOCK }
    }
}
