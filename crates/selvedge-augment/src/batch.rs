//! The buffers of a batch, kept from batch to batch.

use std::sync::{Mutex, PoisonError};

use crate::mixing::{MixScratch, Unmixed};
use crate::{Canvas, ImageShape};

/// What [`Augmenter::fill_batch`](crate::Augmenter::fill_batch) writes. Kept by the caller, it grows to
/// the largest batch and then allocates nothing.
#[derive(Debug, Default)]
pub struct Batch {
    /// The images, `[samples, height, width, channels]`.
    pub images: Vec<u8>,
    /// The labels of the images, one each, as they were before any mixing.
    pub labels: Vec<u8>,
    /// Where images were mixed: the share of every class in each image, `[samples, classes]`, each row
    /// with sum 1. `None` where every image has its own label alone.
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

    /// Images in the batch.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// True before the first batch.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Makes room for `samples` images, and for a canvas for each of `workers` threads.
    pub(crate) fn reserve(&mut self, samples: usize, shape: ImageShape, workers: usize) {
        self.images.resize(samples * shape.len(), 0);
        if self.canvases.first_mut().is_some_and(|canvas| unlocked(canvas.get_mut()).shape() != shape) {
            self.canvases.clear();
        }
        while self.canvases.len() < workers {
            self.canvases.push(Mutex::new(Canvas::new(shape)));
        }
    }

    /// Takes the soft labels of the last batch away, and keeps their buffer.
    pub(crate) fn harden(&mut self) {
        if let Some(soft) = self.soft.take() {
            self.spare = soft;
        }
    }

    /// Lends the batch, with a soft label for each image, to be mixed; the soft labels stay where it was.
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

/// A canvas holds nothing that a panic in another thread could leave half done: it is loaded anew for
/// every image.
pub(crate) fn unlocked<T>(lock: Result<T, PoisonError<T>>) -> T {
    lock.unwrap_or_else(PoisonError::into_inner)
}
