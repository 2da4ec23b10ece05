//! The kinds of parameters that operations share, and how recipes write them.

use std::fmt::{self, Display};

use serde::{Deserialize, Serialize};

use crate::stream::Stream;

/// A range that a value is drawn from; for whole numbers it includes both ends. Recipes write `[low, high]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "[T; 2]", into = "[T; 2]")]
pub struct Span<T: Copy> {
    /// The smallest value.
    pub low: T,
    /// The largest value.
    pub high: T,
}

impl<T: Copy> From<[T; 2]> for Span<T> {
    fn from([low, high]: [T; 2]) -> Self {
        Span { low, high }
    }
}

impl<T: Copy> From<Span<T>> for [T; 2] {
    fn from(span: Span<T>) -> Self {
        [span.low, span.high]
    }
}

impl<T: Copy + Display> Display for Span<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, {}]", self.low, self.high)
    }
}

impl Span<f32> {
    /// Draws uniformly.
    pub(crate) fn draw(self, rng: &mut Stream) -> f32 {
        rng.between(self.low, self.high)
    }

    /// Draws log-uniformly, as aspect ratios are drawn.
    pub(crate) fn draw_logarithmic(self, rng: &mut Stream) -> f32 {
        rng.between(self.low.ln(), self.high.ln()).exp()
    }
}

/// A range around 0: recipes write `[low, high]`, or one number `x` for `[-x, x]`, as in Albumentations and
/// torchvision.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "Symmetric", into = "[f32; 2]")]
pub struct Limit(pub Span<f32>);

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a number x for [-x, x], or a pair [low, high]")]
enum Symmetric {
    Around(f32),
    Pair([f32; 2]),
}

impl From<Symmetric> for Limit {
    fn from(written: Symmetric) -> Self {
        match written {
            Symmetric::Around(limit) => Limit::around(limit),
            Symmetric::Pair(pair) => Limit(pair.into()),
        }
    }
}

impl From<Limit> for [f32; 2] {
    fn from(limit: Limit) -> Self {
        limit.0.into()
    }
}

impl Limit {
    /// `[-limit, limit]`.
    pub const fn around(limit: f32) -> Limit {
        Limit(Span { low: -limit, high: limit })
    }
}

/// A range of whole numbers, both ends included: recipes write `[low, high]`, or one number for a fixed value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "ExactlyOrSpan", into = "[u16; 2]")]
pub struct Whole(pub Span<u16>);

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a whole number, or a pair [low, high] of them, each from 0 to 65535")]
enum ExactlyOrSpan {
    Exactly(u16),
    Pair([u16; 2]),
}

impl From<ExactlyOrSpan> for Whole {
    fn from(written: ExactlyOrSpan) -> Self {
        match written {
            ExactlyOrSpan::Exactly(value) => Whole::exactly(value),
            ExactlyOrSpan::Pair(pair) => Whole(pair.into()),
        }
    }
}

impl From<Whole> for [u16; 2] {
    fn from(whole: Whole) -> Self {
        whole.0.into()
    }
}

impl Whole {
    /// A fixed value.
    pub const fn exactly(value: u16) -> Whole {
        Whole(Span { low: value, high: value })
    }

    /// Draws uniformly.
    pub(crate) fn draw(self, rng: &mut Stream) -> u16 {
        rng.whole(i32::from(self.0.low), i32::from(self.0.high)) as u16
    }
}

/// A value for each axis: recipes write `[vertical, horizontal]`, or one number for both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "OneOrTwo", into = "[u16; 2]")]
pub struct PerAxis {
    /// Along the height.
    pub y: u16,
    /// Along the width.
    pub x: u16,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a whole number, or a pair [vertical, horizontal] of them, each at most 65535")]
enum OneOrTwo {
    One(u16),
    Two([u16; 2]),
}

impl From<OneOrTwo> for PerAxis {
    fn from(written: OneOrTwo) -> Self {
        match written {
            OneOrTwo::One(both) => PerAxis::both(both),
            OneOrTwo::Two([y, x]) => PerAxis { y, x },
        }
    }
}

impl From<PerAxis> for [u16; 2] {
    fn from(value: PerAxis) -> Self {
        [value.y, value.x]
    }
}

impl PerAxis {
    /// The same value along both axes.
    pub const fn both(value: u16) -> PerAxis {
        PerAxis { y: value, x: value }
    }
}

impl Display for PerAxis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, {}]", self.y, self.x)
    }
}

/// How an image is continued beyond its edges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Padding {
    /// With the operation's `fill` value, 0 by default: `000|abcd|000`.
    #[default]
    #[serde(alias = "constant")]
    Zero,
    /// With the mirrored image, without repeating the outermost pixel: `dcb|abcd|cba`.
    Reflect,
    /// With the mirrored image, repeating the outermost pixel: `cba|abcd|dcb`.
    Symmetric,
    /// With the outermost pixel: `aaa|abcd|ddd`.
    #[serde(alias = "replicate", alias = "nearest")]
    Edge,
}

impl Padding {
    /// The position inside `0..len` of the pixel that appears at `position`; `None` for the fill value.
    #[inline]
    pub(crate) fn source(self, position: isize, len: usize) -> Option<usize> {
        if position >= 0 && (position as usize) < len {
            return Some(position as usize);
        }
        let n = len as isize;
        match self {
            Padding::Zero => None,
            Padding::Edge => Some(position.clamp(0, n - 1) as usize),
            Padding::Reflect if n == 1 => Some(0),
            Padding::Reflect => {
                let folded = position.rem_euclid(2 * (n - 1));
                Some(folded.min(2 * (n - 1) - folded) as usize)
            }
            Padding::Symmetric => {
                let folded = position.rem_euclid(2 * n);
                Some(folded.min(2 * n - 1 - folded) as usize)
            }
        }
    }
}

/// The fill of a masked region: recipes write a number from 0 to 255, `"random"` or `"mean"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a number from 0 to 255, \"random\" or \"mean\"")]
pub enum Fill {
    /// One value for every pixel and channel.
    Value(u8),
    /// A random fill or the mean.
    Named(NamedFill),
}

/// The fills that have a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NamedFill {
    /// Random bytes, uniform from 0 to 255.
    Random,
    /// The mean of each channel of the image.
    Mean,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_continues_an_image_as_numpy_pad_does() {
        let row = [b'a', b'b', b'c', b'd'];
        let padded = |padding: Padding| -> String {
            (-6..10).map(|i| padding.source(i, 4).map_or('0', |at| row[at] as char)).collect()
        };
        assert_eq!(padded(Padding::Zero), "000000abcd000000");
        assert_eq!(padded(Padding::Edge), "aaaaaaabcddddddd");
        assert_eq!(padded(Padding::Reflect), "abcdcbabcdcbabcd");
        assert_eq!(padded(Padding::Symmetric), "cddcbaabcddcbaab");
        assert_eq!(Padding::Reflect.source(-3, 1), Some(0));
    }

    #[test]
    fn a_limit_is_one_number_or_a_pair() {
        #[derive(Deserialize, Serialize)]
        struct Holder {
            limit: Limit,
        }
        let read = |text: &str| toml::from_str::<Holder>(text).map(|holder| holder.limit);
        assert_eq!(read("limit = 15").unwrap(), Limit::around(15.0));
        assert_eq!(read("limit = [-1, 0.5]").unwrap(), Limit(Span { low: -1.0, high: 0.5 }));
        let message = read("limit = \"much\"").unwrap_err().to_string();
        assert!(message.contains("[low, high]"), "{message}");
        let text = toml::to_string(&Holder { limit: Limit::around(0.5) }).unwrap();
        assert_eq!(text.trim(), "limit = [-0.5, 0.5]");
    }
}
