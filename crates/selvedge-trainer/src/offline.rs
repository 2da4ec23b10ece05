//! [`Offline`]: copies of the training images that are augmented once, before training.

use ndarray::{Array1, Array4};
use selvedge_augment::{Augmenter, Batch, Canvas, DrawnStep, EpochKey, ImageShape};
use selvedge_idx::Split;

use crate::data::{TrainingData, flat};
use crate::recipe::{LoadedRecipe, RecipeError};

/// Images copied at a time.
const BATCH: usize = 1024;

/// Makes the copies of a recipe's `[offline_copies]`.
///
/// Copy `c` (from 1) of image `i` of `n` is image `c n + i` of the enlarged data set. It depends only on the seed, `i` and
/// `c`, so a resumed run makes the same copies.
#[derive(Debug)]
pub(crate) struct Offline {
    augmenter: Augmenter,
    copies: usize,
    seed: u64,
    /// Images before copying.
    pub(crate) originals: usize,
}

impl Offline {
    /// `None` for a recipe without copies.
    pub(crate) fn new(recipe: &LoadedRecipe, data: &TrainingData) -> Result<Option<Self>, RecipeError> {
        let Some(spec) = &recipe.recipe.offline_copies else { return Ok(None) };
        let [height, width, channels] = data.image_shape();
        let (shape, classes) = (ImageShape { height, width, channels }, data.class_names.len());
        let augmenter = Augmenter::new(spec.augmentation.clone(), shape, classes)
            .map_err(|error| recipe.error("offline_copies.augmentation", error))?;
        let originals = data.labels().len();
        if u32::try_from(originals * (1 + spec.count)).is_err() {
            let problem = format!("{} copies of {originals} images make more than {} images", spec.count, u32::MAX);
            return Err(recipe.error("offline_copies.count", problem));
        }
        Ok(Some(Self { augmenter, copies: spec.count, seed: recipe.recipe.seed, originals }))
    }

    /// Copies of each image.
    pub(crate) fn copies(&self) -> usize {
        self.copies
    }

    /// The key that copy `copy` (from 1) is drawn by. Training counts epochs up from 0 and copies count down from the largest
    /// number, so that no epoch draws the same as a copy.
    fn key(&self, copy: usize) -> EpochKey {
        EpochKey { seed: self.seed, epoch: u64::MAX - copy as u64 }
    }

    /// The images followed by their copies, made on the current rayon pool.
    pub(crate) fn enlarge(&self, split: &Split) -> Split {
        let (pixels, labels) = flat(split);
        let mut images = Vec::with_capacity(pixels.len() * (1 + self.copies));
        images.extend_from_slice(pixels);
        let indices: Vec<u32> = (0..).take(self.originals).collect();
        let mut batch = Batch::new();
        for copy in 1..=self.copies {
            for indices in indices.chunks(BATCH) {
                self.augmenter.fill_batch(split.images.view(), labels, indices, self.key(copy), &mut batch);
                images.extend_from_slice(&batch.images);
            }
        }
        let (_, height, width, channels) = split.images.dim();
        let count = self.originals * (1 + self.copies);
        Split {
            // The loops above made that many images of this shape.
            images: Array4::from_shape_vec((count, height, width, channels), images)
                .unwrap_or_else(|error| unreachable!("{count} images were made: {error}")),
            labels: Array1::from_iter(labels.iter().copied().cycle().take(count)),
        }
    }

    /// The operations that made copy `copy` (from 1) of image `index`.
    pub(crate) fn steps(&self, image: &[u8], index: u32, copy: usize) -> Vec<DrawnStep> {
        let mut canvas = Canvas::new(self.augmenter.shape());
        self.augmenter.apply_one(image, index, self.key(copy), &mut vec![0; image.len()], &mut canvas)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::{Override, RecipeSource};

    fn data(count: usize) -> TrainingData {
        let images = Array4::from_shape_fn((count, 6, 6, 1), |(n, y, x, _)| (n * 31 + y * 41 + x * 7) as u8);
        let labels = Array1::from_iter((0..count).map(|n| (n % 3) as u8));
        let class_names = ["a", "b", "c"].map(str::to_owned).to_vec();
        TrainingData { dir: "small".into(), split: Split { images, labels }, class_names }
    }

    fn offline(sets: &[&str], data: &TrainingData) -> Result<Option<Offline>, RecipeError> {
        let overrides: Vec<Override> = sets.iter().map(|set| Override::parse(set).unwrap()).collect();
        Offline::new(&RecipeSource::find("seed").unwrap().load(&overrides).unwrap(), data)
    }

    #[test]
    fn copies_follow_the_images_and_each_is_drawn_separately() {
        let data = data(BATCH + 5);
        let set = "offline_copies={count=2, augmentation=[{op='random_crop', padding=2, p=1}]}";
        let made = offline(&[set], &data).unwrap().unwrap();
        let Split { images, labels } = made.enlarge(&data.split);
        let n = BATCH + 5;
        assert_eq!(images.dim(), (3 * n, 6, 6, 1));
        let image = |index: usize| images.index_axis(ndarray::Axis(0), index);
        let mut same = 0;
        for i in 0..n {
            assert!(image(i) == data.split.images.index_axis(ndarray::Axis(0), i));
            assert_eq!([labels[i], labels[n + i], labels[2 * n + i]], [(i % 3) as u8; 3]);
            same += usize::from(image(n + i) == image(2 * n + i));
        }
        // Of 25 equally likely crops, 41 of 1029 pairs are expected to be equal.
        assert!(same < 80, "{same}");
        assert_eq!(made.enlarge(&data.split).images, images);
        let other = offline(&[set, "seed=2"], &data).unwrap().unwrap();
        assert_ne!(other.enlarge(&data.split).images, images);
    }

    #[test]
    fn the_reported_steps_are_those_that_were_taken() {
        let data = data(40);
        let set = "offline_copies={count=1, augmentation=[{op='invert', p=0.5}]}";
        let made = offline(&[set], &data).unwrap().unwrap();
        let images = made.enlarge(&data.split).images;
        let mut inverted = 0;
        for index in 0..40 {
            let image = images.index_axis(ndarray::Axis(0), index);
            let told = !made.steps(image.as_slice().unwrap(), index as u32, 1).is_empty();
            let copy = images.index_axis(ndarray::Axis(0), 40 + index);
            assert_eq!(copy == image.mapv(|value| !value), told, "image {index}");
            inverted += usize::from(told);
        }
        assert!((8..32).contains(&inverted), "{inverted}");
    }

    #[test]
    fn a_chain_that_does_not_fit_the_images_is_refused() {
        let data = data(4);
        assert!(offline(&[], &data).unwrap().is_none());
        let set = "offline_copies={count=1, augmentation=[{op='translate', max=6}]}";
        let message = offline(&[set], &data).unwrap_err().to_string();
        assert!(message.contains("offline_copies") && message.contains("translate"), "{message}");
    }
}
