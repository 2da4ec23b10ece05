//! [`Loader`]: the batches of an epoch, augmented, in an order that depends on seed and epoch alone.

use std::ops::Range;

use selvedge_augment::{Augmenter, Batch, BatchTrace, EpochKey};

use crate::data::{TrainingData, epoch_order};
use crate::recipe::Recipe;

/// Makes the batches of one epoch after another. Any batch can be made at any time: the loop makes the next one while
/// the network works on the current one, and a resumed run starts in the middle of an epoch.
#[derive(Debug)]
pub struct Loader<'a> {
    data: &'a TrainingData,
    /// The training images.
    indices: &'a [u32],
    augmenter: Augmenter,
    batch: usize,
    /// Batches per step.
    accumulation: usize,
    drop_last: bool,
    key: EpochKey,
    order: Vec<u32>,
}

/// Steps of an epoch of a recipe over so many training images.
pub(crate) fn steps_per_epoch(recipe: &Recipe, images: usize) -> usize {
    parts_of(images, recipe.batch * recipe.accumulation, recipe.drop_last)
}

/// Parts of so many images, without the last if it is smaller and `drop_last` says so.
fn parts_of(images: usize, part: usize, drop_last: bool) -> usize {
    if drop_last { images / part } else { images.div_ceil(part) }
}

impl<'a> Loader<'a> {
    /// Batches of the images at `indices`, by the recipe's batch size and seed.
    ///
    /// # Panics
    /// If the recipe's batch size is 0, or its steps have no batches.
    pub fn new(recipe: &Recipe, data: &'a TrainingData, indices: &'a [u32], augmenter: Augmenter) -> Self {
        let &Recipe { batch, accumulation, drop_last, seed, .. } = recipe;
        assert!(batch > 0 && accumulation > 0, "a batch has at least one image, and a step at least one batch");
        let (key, order) = (EpochKey { seed, epoch: 0 }, Vec::with_capacity(indices.len()));
        let mut loader = Self { data, indices, augmenter, batch, accumulation, drop_last, key, order };
        loader.begin_epoch(0);
        loader
    }

    /// Steps of an epoch.
    pub fn steps(&self) -> usize {
        parts_of(self.indices.len(), self.batch * self.accumulation, self.drop_last)
    }

    /// Batches of an epoch.
    pub fn batches(&self) -> usize {
        if self.drop_last { self.steps() * self.accumulation } else { parts_of(self.indices.len(), self.batch, false) }
    }

    /// The batches of a step of the epoch, both counted from 0.
    pub fn batches_of(&self, step: usize) -> Range<usize> {
        let first = step * self.accumulation;
        first..self.batches().min(first + self.accumulation)
    }

    /// Images of all steps of an epoch.
    pub fn images_per_epoch(&self) -> usize {
        if self.drop_last { self.batches() * self.batch } else { self.indices.len() }
    }

    /// Batches of an epoch that are full.
    pub fn full_batches(&self) -> usize {
        self.indices.len() / self.batch
    }

    /// Begins an epoch, counted from 0.
    pub fn begin_epoch(&mut self, epoch: u64) {
        self.key.epoch = epoch;
        epoch_order(self.indices, self.key.seed, epoch, &mut self.order);
    }

    /// Makes batch `number` of the epoch, counted from 0, on the current rayon pool. Beyond the epoch's last batch it does
    /// nothing.
    pub fn fill(&self, number: usize, batch: &mut Batch) {
        self.fill_around(number, batch, &|task| task());
    }

    /// Like [`Loader::fill`], but hands each chunk of a worker's work to `around`, which must call it.
    pub fn fill_around(&self, number: usize, batch: &mut Batch, around: &(dyn Fn(&mut dyn FnMut()) + Sync)) {
        if number >= self.batches() {
            return;
        }
        let (images, labels) = (self.data.images(), self.data.labels());
        self.augmenter.fill_batch_around(images, labels, self.indices(number), self.key, batch, around);
    }

    /// Makes the same batch on one thread and returns what was drawn. Beyond the epoch's last batch it is empty.
    pub fn fill_traced(&self, number: usize, batch: &mut Batch) -> BatchTrace {
        let indices = self.indices(number);
        self.augmenter.fill_batch_traced(self.data.images(), self.data.labels(), indices, self.key, batch)
    }

    /// The images of a batch of the epoch, in their order; empty beyond its last batch.
    pub fn indices(&self, number: usize) -> &[u32] {
        if number >= self.batches() {
            return &[];
        }
        let start = number * self.batch;
        &self.order[start..self.order.len().min(start + self.batch)]
    }

    /// The batch of the epoch that an image is in, and its position there; `None` if it is left out or held out.
    pub fn find(&self, image: u32) -> Option<(usize, usize)> {
        let position = self.order.iter().position(|&index| index == image)?;
        let place = (position / self.batch, position % self.batch);
        (place.0 < self.batches()).then_some(place)
    }
}
