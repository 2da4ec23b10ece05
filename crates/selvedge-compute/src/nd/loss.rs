//! Softmax cross-entropy of arrays: [`crate::loss`] on logits `[image, class]`.

use ndarray::{Array2, ArrayView1, ArrayView2, Axis};
use rayon::prelude::*;

use super::blocks::BlockTensor;
use super::error::{ArrayError, Call};
use crate::Cpu;
use crate::layout::{BLOCK, BlockShape};
use crate::loss::{self, BlockLoss, BlockTargets, Logits, LossGradient, TargetOptions};

/// What the images should be recognised as.
#[derive(Clone, Copy, Debug)]
pub enum Targets<'a> {
    /// A class for each image.
    Labels(ArrayView1<'a, u8>),
    /// A weight for each class of each image, `[image, class]`: for mixed images, or for more than 256 classes.
    Soft(ArrayView2<'a, f32>),
}

/// The loss of a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Loss {
    /// The mean over the images.
    pub mean: f64,
    /// How many images' largest logit is the target's largest.
    pub correct: usize,
    /// The gradient of the mean by the logits.
    pub dlogits: Array2<f32>,
}

/// Softmax cross-entropy with label smoothing, the mean over the batch, and its gradient.
///
/// # Errors
/// If the batch or the classes are none, the targets do not fit the logits, a label is no class, or `smoothing` is not within
/// 0..=1.
///
/// ```
/// use ndarray::array;
/// use selvedge_compute::{Cpu, nd::loss::{self, Targets}};
/// let (logits, labels) = (array![[0.0, 0.0], [0.0, 40.0]], array![0, 1]);
/// let loss = loss::cross_entropy(Cpu::detect()?, logits.view(), Targets::Labels(labels.view()), 0.0)?;
/// assert!((loss.mean - 0.5 * 2f64.ln()).abs() < 1e-6);
/// assert_eq!((loss.correct, loss.dlogits.row(0)), (2, array![-0.25, 0.25].view()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn cross_entropy(
    cpu: Cpu,
    logits: ArrayView2<'_, f32>,
    targets: Targets<'_>,
    smoothing: f32,
) -> Result<Loss, ArrayError> {
    let call = Call("nd::loss::cross_entropy");
    call.not_empty("logits", logits.shape(), &[0, 1], "images and classes")?;
    let (images, classes) = logits.dim();
    let owned = match targets {
        Targets::Labels(labels) => {
            call.shape("labels", labels.shape(), &[images], "a label for each image")?;
            if let Some((image, &label)) = labels.iter().enumerate().find(|(_, label)| usize::from(**label) >= classes)
            {
                return Err(ArrayError::Label { operation: call.0, image, label, classes });
            }
            Owned::Labels(labels.to_vec())
        }
        Targets::Soft(soft) => {
            call.shape("targets", soft.shape(), logits.shape(), "the shape of the logits")?;
            Owned::Soft(soft.iter().copied().collect())
        }
    };
    call.value("smoothing", smoothing, (0.0..=1.0).contains(&smoothing), "a number between 0 and 1")?;
    let blocks = packed(call, logits)?;
    let shape = blocks.shape();
    let mut dlogits = BlockTensor::allocate(call, shape, images)?;
    let scale = 1.0 / images as f32;
    let of_blocks: Vec<BlockLoss> = dlogits
        .as_mut_slice()
        .par_chunks_mut(shape.len())
        .enumerate()
        .map(|(block, dlogits)| {
            let logits = Logits { values: blocks.block(block), classes, valid: blocks.valid(block) };
            let targets = owned.of_images(block * BLOCK..block * BLOCK + logits.valid, classes);
            let options = TargetOptions { smoothing, class_weights: None };
            loss::cross_entropy(cpu, logits, targets, options, Some(LossGradient { scale, dlogits }))
        })
        .collect();
    let sum: f64 = of_blocks.iter().map(|loss| loss.sum).sum();
    let dlogits = dlogits.to_array().index_axis_move(Axis(1), 0).index_axis_move(Axis(1), 0);
    Ok(Loss { mean: sum / images as f64, correct: of_blocks.iter().map(|loss| loss.correct).sum(), dlogits })
}

/// The probability of each class, `[image, class]`.
///
/// # Errors
/// If there are no classes.
///
/// ```
/// use ndarray::array;
/// use selvedge_compute::{Cpu, nd::loss};
/// let probabilities = loss::softmax(Cpu::detect()?, array![[3.0, 3.0], [0.0, 1.0]].view())?;
/// assert_eq!(probabilities.row(0), array![0.5, 0.5]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn softmax(cpu: Cpu, logits: ArrayView2<'_, f32>) -> Result<Array2<f32>, ArrayError> {
    let call = Call("nd::loss::softmax");
    call.not_empty("logits", logits.shape(), &[1], "classes")?;
    let classes = logits.ncols();
    let blocks = packed(call, logits)?;
    let mut probabilities = Array2::zeros(logits.dim());
    let elements = probabilities.as_slice_mut().expect("a new array is one slice");
    elements.par_chunks_mut(BLOCK * classes).enumerate().for_each(|(block, probabilities)| {
        let logits = Logits { values: blocks.block(block), classes, valid: blocks.valid(block) };
        loss::softmax(cpu, logits, probabilities);
    });
    Ok(probabilities)
}

/// Logits as images of one pixel.
fn packed(call: Call, logits: ArrayView2<'_, f32>) -> Result<BlockTensor<f32>, ArrayError> {
    BlockTensor::packed(call, logits.insert_axis(Axis(1)).insert_axis(Axis(1)), BlockShape::new)
}

/// Targets, image by image.
enum Owned {
    Labels(Vec<u8>),
    Soft(Vec<f32>),
}

impl Owned {
    fn of_images(&self, images: std::ops::Range<usize>, classes: usize) -> BlockTargets<'_> {
        match self {
            Self::Labels(labels) => BlockTargets::Labels(&labels[images]),
            Self::Soft(soft) => BlockTargets::Soft(&soft[images.start * classes..images.end * classes]),
        }
    }
}
