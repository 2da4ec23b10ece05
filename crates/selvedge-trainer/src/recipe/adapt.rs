//! [`adapt`]: fits a recipe to a data set with other images than those it was tuned on.
//!
//! A recipe says what it was tuned on in the table `[tuned_on]`; a recipe without it is left as it is. Nothing changes on a data
//! set of that size, nor do values that the command line gives. What changes is returned in words, and stands in the `recipe.toml`
//! of the run, which repeats it.
//!
//! | what differs | what changes |
//! |---|---|
//! | mean or deviation of the pixels | `[input]`, measured on the training images |
//! | images at least half as large again | the first convolution gets a stride, and a kernel that sees every pixel |
//! | images too small for the poolings | the last poolings are left out |
//! | either | the reach of `translate`, in proportion |
//! | few images | smaller batches, with a lower learning rate, and more epochs |
//! | writing, among the data sets known by name | no mirroring |

use selvedge_augment::Augmentation;
use selvedge_augment::parameter::PerAxis;
use selvedge_model::{Kernel, LayerSpec, TestTimeAveraging};

use super::spec::{Normalisation, Recipe};
use crate::data::{TrainingData, flat};
use crate::download;

/// Pixels of the data set may differ from the recipe's mean and deviation by this much, in units of the full range, before
/// they are measured.
const PIXEL_TOLERANCE: f32 = 0.01;

/// Batches that an epoch must have: with fewer, batch norm's running statistics lag behind the weights.
const MIN_BATCHES: usize = 8;

/// The smallest batch: one block of images.
const MIN_BATCH: usize = 32;

/// A data set with fewer images is trained for this share of the steps that the recipe was tuned for.
const SHARE_OF_STEPS: f64 = 0.5;

/// What decides how a recipe is adapted.
#[derive(Clone, Copy, Debug)]
struct Facts {
    /// Height and width of the images.
    side: [usize; 2],
    /// Training images, without those held out.
    images: usize,
    /// Mean and deviation of the pixels, from 0 to 1.
    pixels: Normalisation,
    /// Whether a mirrored image is one of the same class.
    mirrors: bool,
}

/// Changes the recipe where the data set differs from what it was tuned on, and says what it changed. A key that `is_given` on the
/// command line stays as it is.
pub(crate) fn adapt(recipe: &mut Recipe, data: &TrainingData, is_given: impl Fn(&str) -> bool) -> Vec<String> {
    if recipe.tuned_on.is_none() {
        return vec![];
    }
    let [height, width, _] = data.image_shape();
    let all = data.labels().len();
    let facts = Facts {
        side: [height, width],
        images: all.saturating_sub(recipe.validation.count(all)),
        pixels: measure(flat(&data.split).0),
        mirrors: download::find(&recipe.dataset).is_none_or(|known| known.mirrors),
    };
    fit(recipe, &facts, &is_given)
}

/// Mean and standard deviation of pixels, scaled to 0 to 1.
fn measure(pixels: &[u8]) -> Normalisation {
    // Sums of integers: exact, so the same on every machine.
    let (sum, squares) = pixels.iter().fold((0u64, 0u64), |(sum, squares), &pixel| {
        let pixel = u64::from(pixel);
        (sum + pixel, squares + pixel * pixel)
    });
    let count = pixels.len().max(1) as f64;
    let mean = sum as f64 / count;
    let variance = (squares as f64 / count - mean * mean).max(0.0);
    // Four digits, so that the recipe in the run's folder is readable. Images of one colour have no deviation.
    let rounded = |value: f64| (value / 255.0 * 1e4).round() / 1e4;
    let std = rounded(variance.sqrt());
    Normalisation { mean: rounded(mean) as f32, std: if std > 0.0 { std as f32 } else { 1.0 } }
}

fn fit(recipe: &mut Recipe, facts: &Facts, is_given: &dyn Fn(&str) -> bool) -> Vec<String> {
    // Once adapted, a recipe is what it is: the one in a run's folder must not change again.
    let Some(tuned_on) = recipe.tuned_on.take() else { return vec![] };
    let mut notes = vec![];
    let was = recipe.input;
    let differs = |own: f32, measured: f32| (own - measured).abs() > PIXEL_TOLERANCE;
    if (differs(was.mean, facts.pixels.mean) || differs(was.std, facts.pixels.std))
        && !["input.mean", "input.std"].into_iter().any(is_given)
    {
        recipe.input = facts.pixels;
        let Normalisation { mean, std } = facts.pixels;
        notes.push(format!("pixels have mean {mean} and deviation {std}, not {} and {}", was.mean, was.std));
    }
    if facts.side != [tuned_on.side; 2] {
        fit_size(recipe, facts.side, tuned_on.side, is_given, &mut notes);
    }
    if facts.images < tuned_on.images {
        fit_steps(recipe, facts.images, tuned_on.images, is_given, &mut notes);
    }
    if !facts.mirrors && !is_given("augmentation") {
        let chain = recipe.augmentation.len();
        recipe.augmentation.retain(|operation| {
            !matches!(operation, Augmentation::HorizontalFlip(_) | Augmentation::AlternatingFlip(_))
        });
        let averaged = recipe.test_time_averaging.is_some_and(|averaging| averaging.mirror);
        recipe.test_time_averaging = recipe
            .test_time_averaging
            .map(|averaging| TestTimeAveraging { mirror: false, ..averaging })
            .filter(|averaging| averaging.shift > 0);
        if averaged || recipe.augmentation.len() < chain {
            notes.push("mirrored writing is other writing: images are not mirrored".to_owned());
        }
    }
    notes
}

/// Fits stride, poolings and shifts to the size of the images.
fn fit_size(
    recipe: &mut Recipe,
    side: [usize; 2],
    tuned: usize,
    is_given: &dyn Fn(&str) -> bool,
    notes: &mut Vec<String>,
) {
    let [height, width] = side;
    if !is_given("model.layers") {
        fit_layers(&mut recipe.model.layers, side, tuned, notes);
    }
    if is_given("augmentation") {
        return;
    }
    for operation in &mut recipe.augmentation {
        if let Augmentation::Translate(translate) = operation {
            let scaled = |max: u16, side: usize| {
                let max = (usize::from(max) * side + tuned / 2) / tuned;
                max.clamp(1, side.saturating_sub(1).max(1)).min(usize::from(u16::MAX)) as u16
            };
            let max = PerAxis { y: scaled(translate.max.y, height), x: scaled(translate.max.x, width) };
            if max != translate.max {
                translate.max = max;
                notes.push(format!("images are shifted by up to {max} pixels"));
            }
        }
    }
}

/// Fits the stride of the first convolution and the poolings.
fn fit_layers(layers: &mut Vec<LayerSpec>, [height, width]: [usize; 2], tuned: usize, notes: &mut Vec<String>) {
    // The nearest whole factor, rounded up from one and a half.
    let stride = (2 * height.max(width) + tuned) / (2 * tuned);
    let mut pixels = height.min(width);
    let first = layers.iter_mut().find_map(|layer| match layer {
        LayerSpec::Conv2d { kernel, stride, .. } => Some((kernel, stride)),
        _ => None,
    });
    if let Some((kernel, own)) = first
        && stride > 1
        && *own == 1
    {
        *own = stride;
        // An odd kernel that overlaps its neighbour by a pixel or more.
        let least = (stride + 1) | 1;
        *kernel = Kernel { height: kernel.height.max(least), width: kernel.width.max(least) };
        pixels = pixels.div_ceil(stride);
        notes.push(format!(
            "the first convolution has a stride of {stride} and a kernel of {kernel} for {height}x{width} pixels"
        ));
    }
    let mut left_out = 0;
    layers.retain(|layer| match layer {
        LayerSpec::MaxPool2d { size, .. } | LayerSpec::AvgPool2d { size, .. } if pixels / size < 2 => {
            left_out += 1;
            false
        }
        LayerSpec::MaxPool2d { size, .. } | LayerSpec::AvgPool2d { size, .. } => {
            pixels /= size;
            true
        }
        _ => true,
    });
    if left_out > 0 {
        let plural = if left_out == 1 { "pooling is" } else { "poolings are" };
        notes.push(format!("{left_out} {plural} left out for {height}x{width} pixels"));
    }
}

/// Fits batch, learning rate and epochs to a data set of fewer images.
fn fit_steps(
    recipe: &mut Recipe,
    images: usize,
    tuned: usize,
    is_given: &dyn Fn(&str) -> bool,
    notes: &mut Vec<String>,
) {
    let steps = (recipe.epochs as f64 * tuned.div_ceil(recipe.batch) as f64 * SHARE_OF_STEPS).ceil() as u64;
    let most = (images / MIN_BATCHES / MIN_BATCH * MIN_BATCH).max(MIN_BATCH).min(images.max(1));
    if most < recipe.batch && !is_given("batch") {
        // The noise of a gradient falls with the root of the batch.
        let factor = (most as f64 / recipe.batch as f64).sqrt();
        recipe.optimizer = recipe.optimizer.with_rate_scaled(factor);
        notes.push(format!(
            "batches of {most} images instead of {}, and {factor:.2} of the learning rate, for {images} images",
            recipe.batch
        ));
        recipe.batch = most;
    }
    let epochs = steps.div_ceil(images.div_ceil(recipe.batch).max(1) as u64);
    if epochs > recipe.epochs && !is_given("epochs") {
        notes.push(format!("{epochs} epochs instead of {} for {images} images", recipe.epochs));
        recipe.epochs = epochs;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::RecipeSource;

    const TUNED: &str = r#"name = "tuned"
epochs = 10
batch = 1000
augmentation = [{ op = "alternating_flip" }, { op = "translate", max = 2 }]
test_time_averaging = { mirror = true, shift = 1 }
tuned_on = { side = 28, images = 60000 }
input = { mean = 0.286, std = 0.353 }
optimizer = { kind = "sgd", learning_rate = 0.4 }

[model]
layers = [
    { layer = "conv2d", filters = 16, kernel = 3 },
    { layer = "max_pool2d" },
    { layer = "max_pool2d" },
    { layer = "max_pool2d" },
    { layer = "global_max_pool" },
    { layer = "dense", units = "classes" },
]
"#;

    const FACTS: Facts =
        Facts { side: [28, 28], images: 60_000, pixels: Normalisation { mean: 0.286, std: 0.353 }, mirrors: true };

    fn fitted(facts: Facts) -> (Recipe, String) {
        let mut recipe = RecipeSource::from_text("tuned", TUNED).load(&[]).unwrap().recipe;
        let notes = fit(&mut recipe, &facts, &|_| false).join("; ");
        assert_eq!(fit(&mut recipe, &facts, &|_| false), Vec::<String>::new(), "a fitted recipe is not fitted again");
        (recipe, notes)
    }

    fn first_conv(recipe: &Recipe) -> (usize, usize) {
        match &recipe.model.layers[0] {
            LayerSpec::Conv2d { kernel, stride, .. } => (kernel.height, *stride),
            other => panic!("{other:?}"),
        }
    }

    fn poolings(recipe: &Recipe) -> usize {
        recipe.model.layers.iter().filter(|layer| matches!(layer, LayerSpec::MaxPool2d { .. })).count()
    }

    #[test]
    fn what_it_was_tuned_on_changes_nothing() {
        let (mut recipe, notes) = fitted(FACTS);
        assert_eq!(notes, "");
        recipe.tuned_on = Some(crate::recipe::TunedOn { side: 28, images: 60_000 });
        assert_eq!(recipe, RecipeSource::from_text("tuned", TUNED).load(&[]).unwrap().recipe);
        // More images are trained on as they are.
        assert_eq!(fitted(Facts { images: 700_000, ..FACTS }).1, "");
    }

    #[test]
    fn large_images_are_read_with_a_stride_that_sees_every_pixel() {
        for (side, kernel, stride) in [(32, 3, 1), (41, 3, 1), (42, 3, 2), (64, 3, 2), (84, 5, 3), (128, 7, 5)] {
            let (recipe, notes) = fitted(Facts { side: [side; 2], ..FACTS });
            assert_eq!(first_conv(&recipe), (kernel, stride), "{side}: {notes}");
            assert_eq!(poolings(&recipe), 3, "{side}");
        }
    }

    #[test]
    fn small_images_are_pooled_less() {
        for (side, left) in [(8, 2), (12, 2), (16, 3), (5, 1), (3, 0)] {
            let (recipe, notes) = fitted(Facts { side: [side, side + 4], ..FACTS });
            assert_eq!(poolings(&recipe), left, "{side}: {notes}");
        }
    }

    #[test]
    fn shifts_are_in_proportion() {
        for (side, expected) in [([8, 8], [1, 1]), ([64, 28], [5, 2]), ([128, 128], [9, 9])] {
            let (recipe, _) = fitted(Facts { side, ..FACTS });
            let Augmentation::Translate(translate) = recipe.augmentation[1] else {
                panic!("{:?}", recipe.augmentation)
            };
            assert_eq!([translate.max.y, translate.max.x], expected);
        }
    }

    #[test]
    fn few_images_are_seen_more_often_in_smaller_batches() {
        for (images, batch, epochs) in
            [(60_000, 1000, 10), (10_000, 1000, 30), (1000, 96, 28), (300, 32, 30), (20, 20, 300)]
        {
            let (recipe, notes) = fitted(Facts { images, ..FACTS });
            assert_eq!((recipe.batch, recipe.epochs), (batch, epochs), "{images}: {notes}");
            let rate = 0.4 * (batch as f64 / 1000.0).sqrt();
            assert!((recipe.optimizer.learning_rate() - rate).abs() < 1e-12);
        }
    }

    #[test]
    fn other_pixels_are_measured() {
        let pixels = measure(&[0, 0, 255, 255]);
        assert_eq!((pixels.mean, pixels.std), (0.5, 0.5));
        assert_eq!(measure(&[7; 10]).std, 1.0);
        let (recipe, notes) = fitted(Facts { pixels, ..FACTS });
        assert_eq!(recipe.input, pixels);
        assert_eq!(notes, "pixels have mean 0.5 and deviation 0.5, not 0.286 and 0.353");
    }

    #[test]
    fn what_the_command_line_gives_stays() {
        let facts = Facts { side: [8, 8], images: 300, pixels: measure(&[0, 255]), mirrors: false };
        let tuned = RecipeSource::from_text("tuned", TUNED).load(&[]).unwrap().recipe;
        let mut recipe = tuned.clone();
        assert_eq!(fit(&mut recipe, &facts, &|_| true), Vec::<String>::new());
        assert_eq!(recipe, Recipe { tuned_on: None, ..tuned.clone() });
        let mut recipe = tuned;
        let notes = fit(&mut recipe, &facts, &|key| key == "epochs").join("; ");
        assert_eq!((recipe.epochs, recipe.batch), (10, 32), "{notes}");
    }

    #[test]
    fn writing_is_not_mirrored() {
        let (recipe, notes) = fitted(Facts { mirrors: false, ..FACTS });
        assert_eq!(recipe.augmentation.len(), 1);
        assert_eq!(recipe.test_time_averaging, Some(TestTimeAveraging { mirror: false, shift: 1 }));
        assert!(notes.contains("not mirrored"), "{notes}");
    }
}
