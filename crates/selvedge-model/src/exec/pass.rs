//! What goes into a training pass, and what comes out of it.

use crate::exec::images::Images;

/// The classes that the network should find in a batch.
#[derive(Clone, Copy, Debug)]
pub enum Targets<'a> {
    /// One class for each image.
    Labels(&'a [u8]),
    /// A distribution over the classes for each image, `[N, classes]`, such as that of mixed images.
    Soft(&'a [f32]),
}

/// Softmax cross-entropy, the mean over the batch.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Loss {
    /// The share of each target, from 0 to below 1, that goes evenly to all classes (Szegedy et al., 2015).
    pub label_smoothing: f32,
}

/// The key of the random numbers of a training pass: passes with equal keys on equal data are bit-identical.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StepKey {
    /// The run's seed.
    pub seed: u64,
    /// The number of the step in the run.
    pub step: u64,
}

impl StepKey {
    /// A hash of the key: the finaliser of SplitMix64 (Steele, Lea and Flood, 2014).
    pub(crate) fn hash(self) -> u32 {
        let mut x = self.seed.wrapping_add(self.step.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) >> 32) as u32
    }
}

/// Sums over images; those of several batches add up.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct BatchMetrics {
    /// Sum of the losses.
    pub loss_sum: f64,
    /// Images whose most probable class is that of the target.
    pub correct: usize,
    /// Images.
    pub count: usize,
}

/// Sums over all images of an evaluation.
pub type Metrics = BatchMetrics;

impl BatchMetrics {
    /// Mean loss of an image; NaN without images.
    pub fn loss(&self) -> f64 {
        self.loss_sum / self.count as f64
    }

    /// Share of the images that are classified correctly, from 0 to 1; NaN without images.
    pub fn accuracy(&self) -> f64 {
        self.correct as f64 / self.count as f64
    }
}

impl std::ops::AddAssign for BatchMetrics {
    fn add_assign(&mut self, other: Self) {
        self.loss_sum += other.loss_sum;
        self.correct += other.correct;
        self.count += other.count;
    }
}

/// Images and their targets.
#[derive(Clone, Copy)]
pub(crate) struct Batch<'a> {
    pub images: Images<'a>,
    pub targets: Targets<'a>,
    pub count: usize,
}
