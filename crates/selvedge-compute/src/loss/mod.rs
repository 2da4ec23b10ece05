//! Softmax cross-entropy with label smoothing over a block's logits, and softmax for prediction.
//!
//! With logits z, targets t (one-hot for a label) of K classes and smoothing ε, the loss of an image is −Σ qᵢ·log pᵢ,
//! where p = softmax(z) and q = (1 − ε)·t + ε/K (Szegedy et al., 2016). With a weight wᵢ for each class, wᵢ·qᵢ takes the place
//! of qᵢ, as in PyTorch's `CrossEntropyLoss(weight=w)`. The gradient by z is (Σ q)·p − q. Both subtract the largest logit
//! first, so no exponential overflows.

use crate::Cpu;
use crate::layout::{BLOCK, BlockShape};
use crate::simd::{Kernel, MAX_LANES, Simd, dispatch, math};

/// The targets of a block of images.
#[derive(Clone, Copy, Debug)]
pub enum BlockTargets<'a> {
    /// The class of each valid image.
    Labels(&'a [u8]),
    /// A weight for each class of each valid image, `[valid][classes]`.
    Soft(&'a [f32]),
}

/// The logits of a block of images.
#[derive(Clone, Copy, Debug)]
pub struct Logits<'a> {
    /// A block of one pixel whose channels are the classes; padded channels are ignored.
    pub values: &'a [f32],
    /// The number of classes.
    pub classes: usize,
    /// Images that carry data, the first of the block.
    pub valid: usize,
}

/// What [`cross_entropy`] makes of the targets.
#[derive(Clone, Copy, Debug, Default)]
pub struct TargetOptions<'a> {
    /// The share of each target that goes evenly to all classes, from 0 to 1.
    pub smoothing: f32,
    /// A factor for each class of each target, smoothed before; `None` for 1.
    pub class_weights: Option<&'a [f32]>,
}

/// Receives the gradient of [`cross_entropy`].
#[derive(Debug)]
pub struct LossGradient<'a> {
    /// What the gradient is multiplied by: 1 over the number of images makes it that of the mean loss.
    pub scale: f32,
    /// The gradient by the logits, in their layout, zero in padded channels and for images that are not valid.
    pub dlogits: &'a mut [f32],
}

/// The loss of a block.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct BlockLoss {
    /// The sum of the valid images' losses, in nats.
    pub sum: f64,
    /// The number of valid images whose largest logit, the first of equal ones, is the target's largest class.
    pub correct: usize,
}

/// The loss and, if `gradient` is given, its gradient by the logits.
///
/// A NaN among an image's logits makes its loss NaN and its prediction wrong.
///
/// # Panics
/// If a length does not fit the logits, a label is not below `classes`, or the smoothing is not within 0..=1.
///
/// ```
/// use selvedge_compute::{Cpu, loss::{BlockTargets, Logits, LossGradient, TargetOptions, cross_entropy}};
/// let (mut values, mut dlogits) = (vec![0.0; 32 * 16], vec![0.0; 32 * 16]);
/// values[3] = 8.0;
/// let logits = Logits { values: &values, classes: 10, valid: 1 };
/// let gradient = LossGradient { scale: 1.0, dlogits: &mut dlogits };
/// let (targets, options) = (BlockTargets::Labels(&[3]), TargetOptions::default());
/// let loss = cross_entropy(Cpu::detect()?, logits, targets, options, Some(gradient));
/// assert!(loss.sum < 0.01 && loss.correct == 1);
/// assert!(dlogits[3] < 0.0 && dlogits[2] > 0.0);
/// # Ok::<(), selvedge_compute::CpuError>(())
/// ```
pub fn cross_entropy(
    cpu: Cpu,
    logits: Logits<'_>,
    targets: BlockTargets<'_>,
    options: TargetOptions<'_>,
    gradient: Option<LossGradient<'_>>,
) -> BlockLoss {
    let TargetOptions { smoothing, class_weights } = options;
    logits.check();
    let (classes, valid) = (logits.classes, logits.valid);
    match targets {
        BlockTargets::Labels(labels) => {
            assert_eq!(labels.len(), valid, "{} labels for {valid} images", labels.len());
            for &label in labels {
                assert!(usize::from(label) < classes, "label {label} is not below the {classes} classes");
            }
        }
        BlockTargets::Soft(soft) => {
            let expected = valid * classes;
            assert_eq!(soft.len(), expected, "{} weights for {valid} images of {classes} classes", soft.len());
        }
    }
    assert!((0.0..=1.0).contains(&smoothing), "label smoothing must be between 0 and 1, not {smoothing}");
    if let Some(weights) = class_weights {
        assert_eq!(weights.len(), classes, "{} class weights for {classes} classes", weights.len());
    }
    if let Some(gradient) = &gradient {
        let (have, need) = (gradient.dlogits.len(), logits.values.len());
        assert_eq!(have, need, "the gradient has {have} elements and the logits {need}");
    }
    dispatch(cpu, CrossEntropy { logits, targets, options, gradient })
}

/// The probability of each class of each valid image, `[valid][classes]` without padding.
///
/// # Panics
/// If a length does not fit the logits.
///
/// ```
/// use selvedge_compute::{Cpu, loss::{Logits, softmax}};
/// let logits = Logits { values: &[0.0; 32 * 16], classes: 4, valid: 2 };
/// let mut probabilities = [0.0; 2 * 4];
/// softmax(Cpu::detect()?, logits, &mut probabilities);
/// assert_eq!(probabilities, [0.25; 8]);
/// # Ok::<(), selvedge_compute::CpuError>(())
/// ```
pub fn softmax(cpu: Cpu, logits: Logits<'_>, probabilities: &mut [f32]) {
    logits.check();
    let (have, need) = (probabilities.len(), logits.valid * logits.classes);
    assert_eq!(have, need, "{have} probabilities for {} images of {} classes", logits.valid, logits.classes);
    dispatch(cpu, Softmax { logits, probabilities });
}

impl Logits<'_> {
    /// Copies the logits of the valid images, `[valid][classes]` without padding.
    ///
    /// # Panics
    /// If a length does not fit.
    ///
    /// ```
    /// use selvedge_compute::loss::Logits;
    /// let mut values = vec![0.0; 32 * 16];
    /// (values[1], values[16]) = (3.0, 5.0); // class 1 of image 0, class 0 of image 1
    /// let mut rows = [f32::NAN; 2 * 2];
    /// Logits { values: &values, classes: 2, valid: 2 }.copy_rows(&mut rows);
    /// assert_eq!(rows, [0.0, 3.0, 5.0, 0.0]);
    /// ```
    pub fn copy_rows(&self, rows: &mut [f32]) {
        self.check();
        let (have, need) = (rows.len(), self.valid * self.classes);
        assert_eq!(have, need, "room for {have} logits of {} images of {} classes", self.valid, self.classes);
        for (image, row) in rows.chunks_exact_mut(self.classes).enumerate() {
            for (class, logit) in row.iter_mut().enumerate() {
                *logit = self.values[self.at(image, class)];
            }
        }
    }

    #[track_caller]
    fn check(&self) {
        let Self { values, classes, valid } = *self;
        assert!(classes > 0, "no classes");
        assert!(valid <= BLOCK, "{valid} valid images in a block of {BLOCK}");
        let need = self.shape().len();
        assert_eq!(values.len(), need, "{} logits for {BLOCK} images of {classes} classes, padded", values.len());
    }

    fn shape(&self) -> BlockShape {
        BlockShape::new(1, 1, self.classes)
    }

    /// The index of `image`'s logit for class `c`.
    #[inline(always)]
    fn at(&self, image: usize, c: usize) -> usize {
        let shape = self.shape();
        shape.channel(c) + image * shape.plane()
    }

    /// The largest logit of `image`, and the sum over its logits of exp(logit − largest).
    #[inline(always)]
    fn max_and_sum<S: Simd>(&self, s: S, image: usize) -> (f32, f32) {
        let mut top = s.splat(f32::NEG_INFINITY);
        for c in (0..self.classes).step_by(S::LANES) {
            top = s.max(top, self.load(s, image, c));
        }
        let top = s.largest(top);
        let mut sum = s.zero();
        for c in (0..self.classes).step_by(S::LANES) {
            sum = s.add(sum, math::exp(s, s.sub(self.load(s, image, c), s.splat(top))));
        }
        (top, s.sum(sum))
    }

    /// A vector of `image`'s logits from class `c` on. Lanes beyond the classes are −∞, whose exponential is 0.
    #[inline(always)]
    fn load<S: Simd>(&self, s: S, image: usize, c: usize) -> S::V {
        // SAFETY: `check` saw the logits hold the shape, image < valid ≤ BLOCK, and c is a multiple of LANES below the
        // classes; LANES divides the channels of a plane.
        let v = unsafe { s.load(self.values.as_ptr().add(self.at(image, c))) };
        s.select(self.is_class(s, c), v, s.splat(f32::NEG_INFINITY))
    }

    /// A mask of the lanes that are classes, in the vector from class `c` on.
    #[inline(always)]
    fn is_class<S: Simd>(&self, s: S, c: usize) -> S::M {
        s.lt_u(s.lane_numbers(), s.splat_u((self.classes - c) as u32))
    }
}

struct CrossEntropy<'a> {
    logits: Logits<'a>,
    targets: BlockTargets<'a>,
    options: TargetOptions<'a>,
    gradient: Option<LossGradient<'a>>,
}

impl CrossEntropy<'_> {
    /// A vector of `image`'s smoothed and weighted targets from class `c` on, zero in lanes beyond the classes.
    #[inline(always)]
    fn target<S: Simd>(&self, s: S, image: usize, c: usize) -> S::V {
        let classes = self.logits.classes;
        let base = s.splat(self.options.smoothing / classes as f32);
        let kept = s.splat(1.0 - self.options.smoothing);
        let target = match self.targets {
            BlockTargets::Labels(labels) => {
                let lanes = s.add_u(s.lane_numbers(), s.splat_u(c as u32));
                s.select(s.eq_u(lanes, s.splat_u(u32::from(labels[image]))), kept, s.zero())
            }
            BlockTargets::Soft(soft) => s.mul(kept, Self::padded(s, &soft[image * classes..][..classes], c)),
        };
        let smoothed = s.add(target, base);
        let weighted = match self.options.class_weights {
            Some(weights) => s.mul(smoothed, Self::padded(s, weights, c)),
            None => smoothed,
        };
        s.select(self.logits.is_class(s, c), weighted, s.zero())
    }

    /// A vector of `row`'s numbers from class `c` on, zero in lanes beyond them. Rows are not padded, so the last vector is
    /// copied from the numbers that are left.
    #[inline(always)]
    fn padded<S: Simd>(s: S, row: &[f32], c: usize) -> S::V {
        let mut lanes = [0.0; MAX_LANES];
        let left = &row[c..row.len().min(c + S::LANES)];
        lanes[..left.len()].copy_from_slice(left);
        // SAFETY: `lanes` has MAX_LANES elements, at least LANES.
        unsafe { s.load(lanes.as_ptr()) }
    }

    /// The class that a correct prediction of `image` has.
    #[inline(always)]
    fn label(&self, image: usize) -> usize {
        match self.targets {
            BlockTargets::Labels(labels) => usize::from(labels[image]),
            BlockTargets::Soft(soft) => {
                let row = &soft[image * self.logits.classes..][..self.logits.classes];
                (1..row.len()).fold(0, |best, c| if row[c] > row[best] { c } else { best })
            }
        }
    }
}

impl Kernel for CrossEntropy<'_> {
    type Output = BlockLoss;
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) -> BlockLoss {
        let Logits { classes, valid, .. } = self.logits;
        let mut gradient = self.gradient.take();
        let mut loss = BlockLoss::default();
        for image in 0..valid {
            let (top, sum) = self.logits.max_and_sum(s, image);
            // Σ q, and Σ q·(z − top).
            let (mut mass, mut inner) = (s.zero(), s.zero());
            for c in (0..classes).step_by(S::LANES) {
                let q = self.target(s, image, c);
                mass = s.add(mass, q);
                // Lanes beyond the classes hold −∞; times a target of zero it would be NaN.
                let z = s.sub(self.logits.load(s, image, c), s.splat(top));
                inner = s.add(inner, s.select(self.logits.is_class(s, c), s.mul(q, z), s.zero()));
            }
            let mass = s.sum(mass);
            loss.sum += f64::from(mass) * f64::from(sum).ln() - f64::from(s.sum(inner));
            let label = self.label(image);
            let is_top = |class| self.logits.values[self.logits.at(image, class)] == top;
            // The comparisons above may miss a NaN, but it makes the sum NaN.
            loss.correct += usize::from(is_top(label) && !(0..label).any(is_top) && !sum.is_nan());

            let Some(LossGradient { scale, dlogits }) = &mut gradient else { continue };
            let (factor, scale) = (s.splat(mass / sum), s.splat(*scale));
            for c in (0..classes).step_by(S::LANES) {
                let e = math::exp(s, s.sub(self.logits.load(s, image, c), s.splat(top)));
                let g = s.mul(scale, s.sub(s.mul(e, factor), self.target(s, image, c)));
                // SAFETY: `cross_entropy` asserted that the gradient is as long as the logits; see `Logits::load`.
                unsafe { s.store(dlogits.as_mut_ptr().add(self.logits.at(image, c)), g) }
            }
        }
        if let Some(LossGradient { dlogits, .. }) = gradient {
            let shape = self.logits.shape();
            for plane in dlogits.chunks_exact_mut(shape.plane_len()) {
                plane[valid * shape.plane()..].fill(0.0);
            }
            for c in (classes.next_multiple_of(S::LANES)..shape.channel_stride).step_by(S::LANES) {
                for image in 0..valid {
                    dlogits[self.logits.at(image, c)..][..S::LANES].fill(0.0);
                }
            }
        }
        loss
    }
}

struct Softmax<'a> {
    logits: Logits<'a>,
    probabilities: &'a mut [f32],
}

impl Kernel for Softmax<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let classes = self.logits.classes;
        for (image, row) in self.probabilities.chunks_mut(classes).enumerate() {
            let (top, sum) = self.logits.max_and_sum(s, image);
            for (n, to) in row.chunks_mut(S::LANES).enumerate() {
                let e = math::exp(s, s.sub(self.logits.load(s, image, n * S::LANES), s.splat(top)));
                let mut lanes = [0.0; MAX_LANES];
                // SAFETY: `lanes` has MAX_LANES elements, at least LANES.
                unsafe { s.store(lanes.as_mut_ptr(), s.div(e, s.splat(sum))) }
                to.copy_from_slice(&lanes[..to.len()]);
            }
        }
    }
}

#[cfg(test)]
mod tests;
