//! A batch of augmented images with its labels, and its buffers.

use std::sync::{Mutex, PoisonError};

use crate::canvas::Canvas;
use crate::mixing::{MixScratch, Unmixed};
use crate::shape::ImageShape;

/// A batch, written by [`Augmenter::fill_batch`](crate::Augmenter::fill_batch). If the caller keeps it from batch to
/// batch, it grows to the largest one and then allocates nothing.
#[derive(Debug, Default)]
pub struct Batch {
    /// The images, `[samples, height, width, channels]`.
    pub images: Vec<u8>,
    /// The label of each image, as before any mixing.
    pub labels: Vec<u8>,
    /// If images were mixed: the share of every class in each image, `[samples, classes]`; each row has the sum 1.
    pub soft: Option<Vec<f32>>,
    canvases: Vec<Mutex<Canvas>>,
    mixing: MixScratch,
    /// The buffer of `soft`, while nothing is mixed.
    spare: Vec<f32>,
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Batch {
        Batch::default()
    }

    /// The number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// True before the first batch.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Makes room for `samples` images and for one canvas for each of `workers` threads.
    pub(crate) fn reserve(&mut self, samples: usize, shape: ImageShape, workers: usize) {
        self.images.resize(samples * shape.len(), 0);
        if self.canvases.first_mut().is_some_and(|canvas| unlocked(canvas.get_mut()).shape() != shape) {
            self.canvases.clear();
        }
        while self.canvases.len() < workers {
            self.canvases.push(Mutex::new(Canvas::new(shape)));
        }
    }

    /// Removes the soft labels of the last batch, and keeps their buffer.
    pub(crate) fn harden(&mut self) {
        if let Some(soft) = self.soft.take() {
            self.spare = soft;
        }
    }

    /// Lends the batch, with a soft label for each image, to `mix`; keeps the soft labels if it returns true.
    pub(crate) fn mix(&mut self, shape: ImageShape, classes: usize, mix: impl FnOnce(&mut Unmixed<'_>) -> bool) {
        let mut soft = std::mem::take(&mut self.spare);
        soft.clear();
        soft.resize(self.labels.len() * classes, 0.0);
        for (row, &label) in soft.chunks_exact_mut(classes).zip(&self.labels) {
            row[usize::from(label)] = 1.0;
        }
        let Batch { images, mixing, .. } = self;
        let mixed = mix(&mut Unmixed { shape, classes, images, labels: &mut soft, scratch: mixing });
        if mixed {
            self.soft = Some(soft);
        } else {
            self.spare = soft;
        }
    }

    /// The images to be written, and the canvases to work on.
    pub(crate) fn parts(&mut self) -> (&mut [u8], &[Mutex<Canvas>]) {
        (&mut self.images, &self.canvases)
    }
}

/// Ignores poisoning: every image is loaded anew, so a panic in another thread leaves nothing invalid in a canvas.
pub(crate) fn unlocked<T>(lock: Result<T, PoisonError<T>>) -> T {
    lock.unwrap_or_else(PoisonError::into_inner)
}
