//! Operations on a whole batch, which mix each image with another of the batch, and their labels as well.
//!
//! The parameters of a batch are drawn from (seed, epoch, index of its first sample in the data set, position in the
//! chain), so they do not depend on the number of threads. A random permutation gives each image its partner, as in the
//! papers; all images of a batch share one draw.

mod cutmix;
mod fmix;
mod mixup;

pub use cutmix::{CutMix, CutMixDrawn};
pub use fmix::{FMix, FMixDrawn};
pub use mixup::{MixUp, MixUpDrawn};

use std::fmt::Display;

use rand_distr::{Beta, Distribution};
use rayon::prelude::*;

use crate::check::Check;
use crate::error::AugmentError;
use crate::operation::Operation;
use crate::shape::ImageShape;
use crate::stream::Stream;
use crate::trace::DrawnMix;

/// An operation that mixes the images of a batch.
pub trait BatchTransform: Operation {
    /// What is drawn for a batch; a contact sheet prints its `Display`.
    type Drawn: Display;

    /// Draws the parameters of one batch.
    fn draw(&self, rng: &mut Stream, shape: ImageShape) -> Self::Drawn;

    /// Prepares the mask, if there is one, and returns the share that each image keeps of itself, from 0 to 1.
    fn prepare(&self, drawn: &Self::Drawn, shape: ImageShape, mask: &mut MaskScratch) -> f32;

    /// Writes the mixture of an image, `own`, and its partner, each `[height, width, channels]`, to `mixed`.
    fn mix(
        &self,
        drawn: &Self::Drawn,
        shape: ImageShape,
        mask: &MaskScratch,
        own: &[u8],
        partner: &[u8],
        mixed: &mut [u8],
    );
}

/// The mask that [`BatchTransform::prepare`] writes for [`BatchTransform::mix`], and its buffers.
#[derive(Clone, Debug, Default)]
pub struct MaskScratch {
    /// For each pixel, whether the image keeps its own.
    pub own: Vec<bool>,
    waves: Vec<[f32; 2]>,
    columns: Vec<[f32; 2]>,
    field: Vec<f32>,
    order: Vec<u32>,
}

/// The buffers of mixing, kept from batch to batch.
#[derive(Debug, Default)]
pub(crate) struct MixScratch {
    unmixed: Vec<u8>,
    unmixed_labels: Vec<f32>,
    partners: Vec<u32>,
    mask: MaskScratch,
}

/// A batch that is to be mixed.
pub(crate) struct Unmixed<'a> {
    pub(crate) shape: ImageShape,
    pub(crate) classes: usize,
    pub(crate) images: &'a mut Vec<u8>,
    /// Shares of the classes, `[samples, classes]`.
    pub(crate) labels: &'a mut Vec<f32>,
    pub(crate) scratch: &'a mut MixScratch,
}

/// Draws whether the batch is mixed (`forced` skips this) and the parameters, and mixes it; returns whether it did. A
/// record, if there is one, gets what was drawn.
pub(crate) fn run<T: BatchTransform + Sync>(
    transform: &T,
    forced: bool,
    rng: &mut Stream,
    batch: &mut Unmixed<'_>,
    record: &mut Option<&mut Vec<DrawnMix>>,
) -> bool
where
    T::Drawn: Sync,
{
    if !(forced || rng.chance(transform.probability())) {
        return false;
    }
    let Unmixed { shape, classes, images, labels, scratch } = batch;
    let MixScratch { unmixed, unmixed_labels, partners, mask } = &mut **scratch;
    let shape = *shape;
    let drawn = transform.draw(rng, shape);
    draw_partners(rng, images.len() / shape.len(), partners);
    let own_share = transform.prepare(&drawn, shape, mask);
    if let Some(mixes) = record {
        mixes.push(DrawnMix { op: T::NAME, parameters: drawn.to_string(), own_share, partners: partners.clone() });
    }

    std::mem::swap(*images, unmixed);
    images.resize(unmixed.len(), 0);
    let rows = images.par_chunks_exact_mut(shape.len()).zip(unmixed.par_chunks_exact(shape.len()));
    let (unmixed, mask) = (&*unmixed, &*mask);
    rows.zip(&*partners).with_min_len(16).for_each(|((mixed, own), &partner)| {
        let partner = &unmixed[partner as usize * shape.len()..][..shape.len()];
        transform.mix(&drawn, shape, mask, own, partner, mixed);
    });

    std::mem::swap(*labels, unmixed_labels);
    labels.resize(unmixed_labels.len(), 0.0);
    let rows = labels.chunks_exact_mut(*classes).zip(unmixed_labels.chunks_exact(*classes));
    for ((to, own), &partner) in rows.zip(&*partners) {
        let partner = &unmixed_labels[partner as usize * *classes..][..*classes];
        for ((to, own), partner) in to.iter_mut().zip(own).zip(partner) {
            *to = own_share * own + (1.0 - own_share) * partner;
        }
    }
    true
}

/// A random permutation of the batch.
fn draw_partners(rng: &mut Stream, samples: usize, partners: &mut Vec<u32>) {
    partners.clear();
    partners.extend(0..samples as u32);
    for last in (1..samples).rev() {
        partners.swap(last, rng.below(last + 1));
    }
}

/// Checks the parameter of the share's Beta distribution.
fn check_alpha(check: Check, alpha: f32) -> Result<(), AugmentError> {
    check.number("alpha", alpha, 0.001..=1000.0)
}

/// A share with the distribution Beta(alpha, alpha).
fn draw_share(rng: &mut Stream, alpha: f32) -> f32 {
    // Every alpha that passed `check_alpha` has a distribution.
    Beta::new(alpha, alpha).map_or(0.5, |beta| beta.sample(rng))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partners_are_a_permutation_without_preference() {
        let mut partners = Vec::new();
        let mut hits = [[0; 4]; 4];
        for key in 0..4000 {
            draw_partners(&mut Stream::from_bits(key), 4, &mut partners);
            let mut sorted = partners.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, [0, 1, 2, 3]);
            partners.iter().enumerate().for_each(|(i, &partner)| hits[i][partner as usize] += 1);
        }
        // 1000 expected, standard deviation 27.
        assert!(hits.iter().flatten().all(|hits| (860..1140).contains(hits)), "{hits:?}");
    }

    #[test]
    fn shares_have_the_beta_distribution() {
        let mut rng = Stream::from_bits(1);
        for alpha in [0.2, 1.0, 4.0] {
            let shares: Vec<f64> = (0..20_000).map(|_| f64::from(draw_share(&mut rng, alpha))).collect();
            let mean = shares.iter().sum::<f64>() / 20_000.0;
            let variance = shares.iter().map(|share| (share - mean).powi(2)).sum::<f64>() / 20_000.0;
            let expected = 1.0 / (4.0 * (2.0 * f64::from(alpha) + 1.0));
            assert!((mean - 0.5).abs() < 0.012, "alpha {alpha}: mean {mean}");
            assert!((variance / expected - 1.0).abs() < 0.04, "alpha {alpha}: variance {variance}, {expected}");
        }
    }
}
