//! A checked chain of operations, applied to one image or to a batch.

use ndarray::{ArrayView4, Axis};
use rayon::prelude::*;
use selvedge_compute::prefetch;

use crate::augmentation::{Augmentation, validate_chain};
use crate::batch::{Batch, unlocked};
use crate::canvas::Canvas;
use crate::error::AugmentError;
use crate::operation::DrawnStep;
use crate::shape::ImageShape;
use crate::stream::{EpochKey, Stream};
use crate::trace::{BatchTrace, DrawnMix};

/// Samples per task: enough to hide the cost of scheduling a task, few enough to divide a batch of 128 evenly.
const SAMPLES_PER_TASK: usize = 16;

/// How many samples ahead images are prefetched. Those of a shuffled epoch lie anywhere in a data set that is larger
/// than the caches.
const PREFETCH_DISTANCE: usize = 4;

/// The longest side: positions in 1/256 of a pixel then fit into the 23 bits that `resample.rs` has for them.
const MAX_SIDE: usize = 16_384;

/// A chain of operations, checked for images of a shape.
#[derive(Clone, Debug)]
pub struct Augmenter {
    ops: Vec<Augmentation>,
    shape: ImageShape,
    classes: usize,
}

impl Augmenter {
    /// Checks the sizes, every operation and its parameters, and that mixing operations come last.
    ///
    /// # Errors
    /// [`AugmentError`] for the first operation that cannot be used, or for sides above 16,384, more than 1024 channels
    /// or more than 256 classes.
    pub fn new(ops: Vec<Augmentation>, shape: ImageShape, classes: usize) -> Result<Augmenter, AugmentError> {
        let ImageShape { height, width, channels } = shape;
        let sizes = [("height", height, MAX_SIDE), ("width", width, MAX_SIDE), ("channels", channels, 1024)];
        for (what, found, largest) in sizes.into_iter().chain([("classes", classes, 256)]) {
            if !(1..=largest).contains(&found) {
                return Err(AugmentError::Size { what, found, largest });
            }
        }
        validate_chain(&ops, shape)?;
        Ok(Augmenter { ops, shape, classes })
    }

    /// The chain.
    pub fn ops(&self) -> &[Augmentation] {
        &self.ops
    }

    /// The shape of every image.
    pub fn shape(&self) -> ImageShape {
        self.shape
    }

    /// The number of classes, the width of soft labels.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// Fills the batch with the samples at `indices` of `images`, `[samples, height, width, channels]`. The draws for a
    /// sample depend only on the key, on its index and on the operation's position in the chain. An empty chain copies.
    ///
    /// Mixing operations are then applied to the whole batch, with draws keyed by its first index. If one mixed it,
    /// `batch.soft` holds the mixed labels.
    ///
    /// The threads of the current rayon pool share the work.
    ///
    /// # Panics
    /// If the images have another shape than the augmenter's, images and labels differ in number, an index is out of
    /// range, or a label that is mixed is not below the number of classes.
    pub fn fill_batch(
        &self,
        images: ArrayView4<'_, u8>,
        labels: &[u8],
        indices: &[u32],
        key: EpochKey,
        batch: &mut Batch,
    ) {
        self.fill_batch_around(images, labels, indices, key, batch, &|task| task());
    }

    /// Does the same as [`fill_batch`](Self::fill_batch), and passes each task of a worker to `around`, which must call
    /// it: a profile reads the clock before and after. Mixing, which works on the whole batch, is not passed.
    ///
    /// # Panics
    /// As [`fill_batch`](Self::fill_batch).
    pub fn fill_batch_around(
        &self,
        images: ArrayView4<'_, u8>,
        labels: &[u8],
        indices: &[u32],
        key: EpochKey,
        batch: &mut Batch,
        around: &(dyn Fn(&mut dyn FnMut()) + Sync),
    ) {
        let image_len = self.shape.len();
        self.prepare(images, labels, indices, batch);
        let (to, canvases) = batch.parts();
        let tasks = to.par_chunks_mut(SAMPLES_PER_TASK * image_len).zip(indices.par_chunks(SAMPLES_PER_TASK));
        tasks.for_each(|(to, indices)| {
            around(&mut || {
                let worker = rayon::current_thread_index().unwrap_or(0) % canvases.len();
                let mut canvas = unlocked(canvases[worker].lock());
                for (number, (to, &index)) in to.chunks_exact_mut(image_len).zip(indices).enumerate() {
                    if let Some(&later) = indices.get(number + PREFETCH_DISTANCE)
                        && let Some(later) = images.index_axis(Axis(0), later as usize).as_slice()
                    {
                        prefetch(later);
                    }
                    self.fill_image(images, index, key, &mut canvas, to, &mut None);
                }
            });
        });
        self.mix(indices, key, batch, &mut None);
    }

    /// Fills the batch with the same bytes as [`fill_batch`](Self::fill_batch), and returns what was drawn for each
    /// image and for the batch. Meant for display: it uses one thread and allocates the descriptions.
    ///
    /// ```
    /// use selvedge_augment::{Augmentation, Augmenter, Batch, EpochKey, ImageShape};
    ///
    /// let chain = vec![toml::from_str("op = 'invert'\np = 1")?, toml::from_str("op = 'mixup'")?];
    /// let augmenter = Augmenter::new(chain, ImageShape { height: 2, width: 2, channels: 1 }, 10)?;
    /// let images = ndarray::Array4::zeros((3, 2, 2, 1));
    /// let (key, mut batch) = (EpochKey { seed: 1, epoch: 0 }, Batch::new());
    /// let trace = augmenter.fill_batch_traced(images.view(), &[4, 5, 6], &[0, 1, 2], key, &mut batch);
    /// assert_eq!(trace.steps[1][0].to_string(), "invert (applied)");
    /// assert_eq!((trace.mixes[0].op, trace.mixes[0].partners.len()), ("mixup", 3));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Panics
    /// As [`fill_batch`](Self::fill_batch).
    pub fn fill_batch_traced(
        &self,
        images: ArrayView4<'_, u8>,
        labels: &[u8],
        indices: &[u32],
        key: EpochKey,
        batch: &mut Batch,
    ) -> BatchTrace {
        self.prepare(images, labels, indices, batch);
        let mut trace = BatchTrace::default();
        let (to, canvases) = batch.parts();
        let mut canvas = unlocked(canvases[0].lock());
        for (to, &index) in to.chunks_exact_mut(self.shape.len()).zip(indices) {
            let mut steps = Vec::new();
            self.fill_image(images, index, key, &mut canvas, to, &mut Some(&mut steps));
            trace.steps.push(steps);
        }
        drop(canvas);
        self.mix(indices, key, batch, &mut Some(&mut trace.mixes));
        trace
    }

    /// Checks the images and labels, and sizes the batch.
    fn prepare(&self, images: ArrayView4<'_, u8>, labels: &[u8], indices: &[u32], batch: &mut Batch) {
        let ImageShape { height, width, channels } = self.shape;
        assert_eq!(
            images.shape()[1..],
            [height, width, channels],
            "the augmenter was made for images of another shape"
        );
        assert_eq!(labels.len(), images.len_of(Axis(0)), "as many labels as images are needed");
        batch.reserve(indices.len(), self.shape, rayon::current_num_threads());
        batch.labels.clear();
        batch.labels.extend(indices.iter().map(|&index| labels[index as usize]));
        batch.harden();
    }

    /// Augments one image of the data set into `to`.
    #[inline]
    fn fill_image(
        &self,
        images: ArrayView4<'_, u8>,
        index: u32,
        key: EpochKey,
        canvas: &mut Canvas,
        to: &mut [u8],
        record: &mut Option<&mut Vec<DrawnStep>>,
    ) {
        let from = images.index_axis_move(Axis(0), index as usize);
        match from.as_slice() {
            Some(image) => canvas.load(image),
            None => canvas.image_mut().iter_mut().zip(from.iter()).for_each(|(to, from)| *to = *from),
        }
        self.run(index, key, canvas, record);
        to.copy_from_slice(canvas.image());
    }

    fn mix(&self, indices: &[u32], key: EpochKey, batch: &mut Batch, record: &mut Option<&mut Vec<DrawnMix>>) {
        let Some(&first) = indices.first() else { return };
        if !self.ops.iter().any(Augmentation::is_mixing) {
            return;
        }
        let sample = Stream::for_sample(key, first);
        batch.mix(self.shape, self.classes, |unmixed| {
            let mut mixed = false;
            for (position, op) in self.ops.iter().enumerate() {
                mixed |= op.run_on_batch(false, &mut sample.fork(position), unmixed, record);
            }
            mixed
        });
    }

    /// Augments one image, `[height, width, channels]`, as [`fill_batch`](Self::fill_batch) augments the sample with
    /// this index, and returns the operations that were carried out. Mixing operations are skipped.
    ///
    /// # Panics
    /// If `image`, `out` or the canvas has another shape than the augmenter's.
    pub fn apply_one(
        &self,
        image: &[u8],
        index: u32,
        key: EpochKey,
        out: &mut [u8],
        canvas: &mut Canvas,
    ) -> Vec<DrawnStep> {
        assert_eq!(canvas.shape(), self.shape, "the canvas was made for images of another shape");
        let mut steps = Vec::new();
        canvas.load(image);
        self.run(index, key, canvas, &mut Some(&mut steps));
        out.copy_from_slice(canvas.image());
        steps
    }

    fn run(&self, index: u32, key: EpochKey, canvas: &mut Canvas, record: &mut Option<&mut Vec<DrawnStep>>) {
        let sample = Stream::for_sample(key, index);
        for (position, op) in self.ops.iter().enumerate() {
            op.run(false, &mut sample.fork(position), canvas, record);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_sizes_are_refused() {
        let message = |height, classes| {
            let shape = ImageShape { height, width: 28, channels: 1 };
            Augmenter::new(Vec::new(), shape, classes).unwrap_err().to_string()
        };
        assert!(message(0, 10).contains("height = 0"));
        assert!(message(28, 257).contains("classes = 257") && message(28, 257).contains("from 1 to 256"));
        assert!(message(1 << 20, 10).contains("from 1 to 16384"));
    }
}
