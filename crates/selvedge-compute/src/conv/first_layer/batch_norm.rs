//! Batch normalisation behind the layer next to a network's input, in closed form.
//!
//! A 3x3 convolution of one channel makes each result of nine pixels, a patch. What normalisation needs to know of the results
//! of a batch follows from what is known of its patches: their mean m, nine numbers, and their covariance K, nine times nine.
//! With w the nine weights of a channel, b its bias, and a = scale / √(variance + ε),
//!
//! ```text
//! mean      = w·m + b
//! variance  = wᵀ K w
//! y         = a·(w·x + b − mean) + shift       once more a convolution, of weights a·w
//! ```
//!
//! Backward, g is the gradient of y, G = Σ g·x and B = Σ g over all patches, what a convolution's gradients of weights and bias
//! are. Then
//!
//! ```text
//! dshift  = B
//! dscale  = w·(G − B·m) / √(variance + ε)
//! dw      = a·(G − B·m − dscale / √(variance + ε) · K w)
//! db      = 0
//! ```
//!
//! So the convolution's own result and its gradient, the largest tensors of many a network, are never stored, and y is written
//! once and read once. Against a convolution and a normalisation with passes of their own, of 28x28 pixels and 64 channels, this
//! takes a third of the time in bf16, and .4 in f32.
//!
//! Patches are summed by [`patch_sums`] of each block (in bf16 [`crate::conv::first_layer::patches::patch_sums`]), then [`Patches::of_batch`]
//! combines the blocks' sums in their order, in f64.

use super::backward_weights::ZEROS;
use crate::conv::{Conv2dShape, PANEL};
use crate::cpu::Cpu;
use crate::layout::BLOCK;
use crate::norm::Normalisation;
use crate::simd::{Kernel, Simd, dispatch};

/// Pixels of a patch.
pub(in crate::conv) const TAPS: usize = 9;

/// Numbers that [`patch_sums`] writes: the sum of each of a patch's pixels, and of each product of two.
pub const PATCH_SUMS: usize = TAPS + TAPS * TAPS;

/// Whether a layer sees patches of this form: its kernel has 3x3 pixels at stride 1, its input one channel and the size of its
/// output.
///
/// ```
/// use selvedge_compute::{BlockShape, conv::{Conv2dShape, first_layer::batch_norm::sees_patches}};
/// assert!(sees_patches(&Conv2dShape::same(BlockShape::input(28, 28, 1), 64, [3, 3], 1)));
/// assert!(!sees_patches(&Conv2dShape::same(BlockShape::input(32, 32, 3), 64, [3, 3], 1)));
/// ```
pub fn sees_patches(shape: &Conv2dShape) -> bool {
    let Conv2dShape { input, output, kernel, stride, padding } = shape;
    input.channel_stride == 1
        && [output.height, output.width] == [input.height, input.width]
        && *kernel == [3, 3]
        && *stride == 1
        && *padding == [1, 1]
}

/// Sums over the patches of one block, `[pixel of the patch]` and behind them `[pixel][pixel]`; images that are zero add nothing.
///
/// # Panics
/// If the layer sees no patches, or a slice is not as long as it must be.
pub fn patch_sums(cpu: Cpu, shape: &Conv2dShape, x: &[f32], sums: &mut [f64]) {
    assert!(sees_patches(shape), "a layer that sees patches is needed, not {shape:?}");
    assert_eq!(x.len(), shape.input.len(), "the length of x and that of {:?}", shape.input);
    assert_eq!(sums.len(), PATCH_SUMS, "the length of the sums");
    sums.fill(0.0);
    dispatch(cpu, PatchSums { shape, x, sums });
}

struct PatchSums<'a> {
    shape: &'a Conv2dShape,
    x: &'a [f32],
    sums: &'a mut [f64],
}

impl Kernel for PatchSums<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (input, sums) = (&self.shape.input, self.sums);
        let pixel = |y: usize, x: usize| {
            // Patches begin a pixel above and left of their result.
            match (y.checked_sub(1), x.checked_sub(1)) {
                (Some(y), Some(x)) if y < input.height && x < input.width => &self.x[input.offset(y, x)..][..BLOCK],
                _ => &ZEROS[..BLOCK],
            }
        };
        for y in 0..input.height {
            // Sums of a row are short enough for f32.
            let (mut first, mut second) = ([s.zero(); TAPS], [[s.zero(); TAPS]; TAPS]);
            for x in 0..input.width {
                let patch: [&[f32]; TAPS] = std::array::from_fn(|tap| pixel(y + tap / 3, x + tap % 3));
                for image in (0..BLOCK).step_by(S::LANES) {
                    // SAFETY: each of the patch's pixels is BLOCK numbers long, a multiple of the lanes.
                    let patch = patch.map(|pixel| unsafe { s.load(pixel.as_ptr().add(image)) });
                    for (tap, &value) in patch.iter().enumerate() {
                        first[tap] = s.add(first[tap], value);
                        for other in tap..TAPS {
                            second[tap][other] = s.mul_add(value, patch[other], second[tap][other]);
                        }
                    }
                }
            }
            for tap in 0..TAPS {
                sums[tap] += f64::from(s.sum(first[tap]));
                for other in tap..TAPS {
                    let sum = f64::from(s.sum(second[tap][other]));
                    sums[TAPS + tap * TAPS + other] += sum;
                    if other > tap {
                        sums[TAPS + other * TAPS + tap] += sum;
                    }
                }
            }
        }
    }
}

/// Mean and covariance of the patches of a batch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Patches {
    count: usize,
    mean: [f64; TAPS],
    covariance: [[f64; TAPS]; TAPS],
}

impl Patches {
    /// From the sums of a batch's blocks, one behind the other, which are over `count` patches, one for each pixel of each image.
    ///
    /// # Panics
    /// If the length of `parts` is no multiple of [`PATCH_SUMS`].
    ///
    /// ```
    /// use selvedge_compute::{BlockShape, Cpu, conv::{Conv2dShape, first_layer::batch_norm::*, pack}};
    /// let layer = Conv2dShape::same(BlockShape::input(4, 4, 1), 16, [3, 3], 1);
    /// let mut sums = [0.0; PATCH_SUMS];
    /// patch_sums(Cpu::detect()?, &layer, &[1.0; 16 * 32], &mut sums);
    /// let patches = Patches::of_batch(&sums, 16 * 32);
    /// // The weights that take the middle pixel: ones everywhere.
    /// let (mut weights, mut mean, mut square) = (vec![0.0; layer.weights_len()], [0.0; 16], [0.0; 16]);
    /// weights[4 * 16..5 * 16].fill(1.0);
    /// patches.moments(&weights, None, &mut mean, &mut square);
    /// assert_eq!((mean, square), ([1.0; 16], [0.0; 16]));
    /// # Ok::<(), selvedge_compute::CpuError>(())
    /// ```
    pub fn of_batch(parts: &[f64], count: usize) -> Self {
        assert!(parts.len().is_multiple_of(PATCH_SUMS), "{} numbers are no sums of blocks", parts.len());
        let mut sums = [0.0; PATCH_SUMS];
        for part in parts.chunks_exact(PATCH_SUMS) {
            sums.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
        }
        let share = 1.0 / count.max(1) as f64;
        let mean: [f64; TAPS] = std::array::from_fn(|tap| sums[tap] * share);
        let covariance =
            std::array::from_fn(|a| std::array::from_fn(|b| sums[TAPS + a * TAPS + b] * share - mean[a] * mean[b]));
        Self { count, mean, covariance }
    }

    /// The patches that these are of.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The mean of each channel's results, and the sum of their squared deviations from it, as
    /// [`crate::norm::combine_moments`] gives them. `weights` are in panels, `bias` one number a channel.
    ///
    /// # Panics
    /// If the lengths do not fit each other.
    pub fn moments(&self, weights: &[f32], bias: Option<&[f32]>, mean: &mut [f64], square: &mut [f64]) {
        let stride = mean.len();
        check_channels(stride, weights, &[("square", square.len()), ("bias", bias.map_or(stride, <[_]>::len))]);
        for c in 0..stride {
            let w = taps(weights, c);
            mean[c] = dot(&w, &self.mean) + bias.map_or(0.0, |bias| f64::from(bias[c]));
            // What rounding leaves of a variance of zero may lie below it.
            square[c] = (self.count as f64 * dot(&w, &self.spread(&w))).max(0.0);
        }
    }

    /// Makes of G and B, which `dweights` and `dshift` hold, the gradients of the weights, in place, and of `scale`, if there
    /// is one; B is that of the shift.
    ///
    /// # Panics
    /// If the lengths do not fit each other.
    pub fn gradients(
        &self,
        weights: &[f32],
        norm: &Normalisation<'_>,
        dweights: &mut [f32],
        dshift: &[f32],
        mut dscale: Option<&mut [f32]>,
    ) {
        let stride = dshift.len();
        let scales = dscale.as_ref().map_or(stride, |dscale| dscale.len());
        check_channels(stride, weights, &[("dscale", scales), ("factor", norm.factor.len())]);
        check_channels(stride, dweights, &[("rstd", norm.rstd.len())]);
        for c in 0..stride {
            let (w, inverse) = (taps(weights, c), f64::from(norm.rstd[c]));
            let (g, b) = (taps(dweights, c), f64::from(dshift[c]));
            let centred: [f64; TAPS] = std::array::from_fn(|tap| g[tap] - b * self.mean[tap]);
            let of_scale = dot(&w, &centred) * inverse;
            let spread = self.spread(&w);
            for tap in 0..TAPS {
                let gradient = centred[tap] - of_scale * inverse * spread[tap];
                dweights[place(c, tap)] = (f64::from(norm.factor[c]) * gradient) as f32;
            }
            if let Some(dscale) = &mut dscale {
                dscale[c] = of_scale as f32;
            }
        }
    }

    /// K w.
    fn spread(&self, w: &[f64; TAPS]) -> [f64; TAPS] {
        std::array::from_fn(|tap| dot(&self.covariance[tap], w))
    }
}

/// Weights and bias of the convolution that a layer and a normalisation a·x + b behind it are: a·weights, and a·bias + b.
///
/// # Panics
/// If the lengths do not fit each other.
pub fn fold(
    weights: &[f32],
    bias: Option<&[f32]>,
    [factor, offset]: [&[f32]; 2],
    folded: &mut [f32],
    folded_bias: &mut [f32],
) {
    let stride = folded_bias.len();
    let channels = [("factor", factor.len()), ("offset", offset.len()), ("bias", bias.map_or(stride, <[_]>::len))];
    check_channels(stride, weights, &channels);
    check_channels(stride, folded, &[]);
    for c in 0..stride {
        for tap in 0..TAPS {
            folded[place(c, tap)] = factor[c] * weights[place(c, tap)];
        }
        folded_bias[c] = bias.map_or(0.0, |bias| factor[c] * bias[c]) + offset[c];
    }
}

/// Where the weight of a channel's tap lies in the panels.
fn place(channel: usize, tap: usize) -> usize {
    (channel / PANEL * TAPS + tap) * PANEL + channel % PANEL
}

/// A channel's weights.
fn taps(panels: &[f32], channel: usize) -> [f64; TAPS] {
    std::array::from_fn(|tap| f64::from(panels[place(channel, tap)]))
}

fn dot(a: &[f64; TAPS], b: &[f64; TAPS]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[track_caller]
fn check_channels(stride: usize, panels: &[f32], channels: &[(&str, usize)]) {
    assert!(stride.is_multiple_of(PANEL), "{stride} channels are no panels of {PANEL}");
    assert_eq!(panels.len(), stride * TAPS, "the panels' length and {TAPS} weights of {stride} channels");
    for &(name, len) in channels {
        assert_eq!(len, stride, "{name} has {len} channels, not {stride}");
    }
}

#[cfg(test)]
mod tests;
