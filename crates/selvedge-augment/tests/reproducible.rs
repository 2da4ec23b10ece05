//! Results depend only on (seed, epoch, sample, position in the chain), and for mixing on the batch.

use ndarray::{Array4, ArrayView4, Axis, s};
use proptest::prelude::*;
use selvedge_augment::{Augmentation, Augmenter, Batch, Canvas, EpochKey, ImageShape};

const SHAPE: ImageShape = ImageShape { height: 12, width: 12, channels: 2 };
const SAMPLES: usize = 200;
const KEY: EpochKey = EpochKey { seed: 11, epoch: 3 };

/// Operations of every kind that act on one image.
const CHAIN: &str = r#"ops = [
    { op = "alternating_flip" },
    { op = "random_crop", padding = 2, padding_mode = "reflect" },
    { op = "one_of", p = 0.9, ops = [
        { op = "affine", rotate = 20, scale = [0.8, 1.2], translate = 0.1, shear = 5 },
        { op = "grid_distortion", num_steps = 3 },
        { op = "elastic_transform", alpha = 5, sigma = 2 },
        { op = "optical_distortion", distort_limit = 0.4 },
        { op = "random_resized_crop" },
    ] },
    { op = "some_of", n = [1, 3], ops = [
        { op = "blur" },
        { op = "gaussian_noise" },
        { op = "gamma" },
        { op = "random_rotate90" },
        { op = "equalize" },
    ] },
    { op = "rand_augment" },
    { op = "sequential", ops = [{ op = "grid_mask" }, { op = "cutout", size = 4, mode = "inside" }] },
    { op = "random_erasing", fill = "random" },
]"#;

#[derive(serde::Deserialize)]
struct Chain {
    ops: Vec<Augmentation>,
}

fn augmenter(text: &str) -> Augmenter {
    let chain: Chain = toml::from_str(text).unwrap();
    Augmenter::new(chain.ops, SHAPE, 10).unwrap()
}

fn images() -> Array4<u8> {
    Array4::from_shape_fn((SAMPLES, 12, 12, 2), |(n, y, x, c)| (n * 7 + y * 19 + x * (c + 3) * 5) as u8)
}

fn labels() -> Vec<u8> {
    (0..SAMPLES).map(|n| (n % 10) as u8).collect()
}

fn filled(augmenter: &Augmenter, images: ArrayView4<'_, u8>, indices: &[u32], threads: usize) -> Batch {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let mut batch = Batch::new();
    pool.install(|| augmenter.fill_batch(images, &labels(), indices, KEY, &mut batch));
    batch
}

#[test]
fn the_number_of_threads_does_not_matter() {
    let text = CHAIN.trim_end_matches(']').to_owned() + "    { op = 'cutmix' }, { op = 'mixup' }, { op = 'fmix' } ]";
    let augmenter = augmenter(&text);
    let (images, indices) = (images(), (0..SAMPLES as u32).rev().collect::<Vec<_>>());
    let one = filled(&augmenter, images.view(), &indices, 1);
    assert!(one.soft.is_some());
    for threads in [2, 3, 8] {
        let many = filled(&augmenter, images.view(), &indices, threads);
        assert!(many.images == one.images && many.soft == one.soft && many.labels == one.labels, "{threads} threads");
    }
}

#[test]
fn batches_and_order_do_not_matter() {
    let augmenter = augmenter(CHAIN);
    let images = images();
    let all = filled(&augmenter, images.view(), &(0..SAMPLES as u32).collect::<Vec<_>>(), 2);
    let order: Vec<u32> = (0..SAMPLES as u32).map(|i| i * 77 % SAMPLES as u32).collect();
    for size in [1, 7, 64] {
        for indices in order.chunks(size) {
            let batch = filled(&augmenter, images.view(), indices, 2);
            for (image, &index) in batch.images.chunks_exact(SHAPE.len()).zip(indices) {
                assert_eq!(image, &all.images[index as usize * SHAPE.len()..][..SHAPE.len()], "sample {index}");
            }
        }
    }
}

#[test]
fn seed_and_epoch_do_matter() {
    let augmenter = augmenter(CHAIN);
    let (images, indices) = (images(), (0..SAMPLES as u32).collect::<Vec<_>>());
    let mut batch = Batch::new();
    let mut of = |seed, epoch| {
        augmenter.fill_batch(images.view(), &labels(), &indices, EpochKey { seed, epoch }, &mut batch);
        batch.images.clone()
    };
    let base = of(1, 1);
    for other in [of(2, 1), of(1, 2)] {
        let changed = base.chunks(SHAPE.len()).zip(other.chunks(SHAPE.len())).filter(|(a, b)| a != b).count();
        assert!(changed > SAMPLES * 9 / 10, "{changed}");
    }
    assert_eq!(base, of(1, 1));
}

#[test]
fn an_appended_operation_does_not_change_the_draws_before_it() {
    let images = images();
    let short = filled(&augmenter("ops = [{ op = 'translate' }]"), images.view(), &[5, 9], 1);
    let long = "ops = [{ op = 'translate' }, { op = 'invert', p = 1 }]";
    let inverted = filled(&augmenter(long), images.view(), &[5, 9], 1);
    assert!(short.images.iter().zip(&inverted.images).all(|(a, b)| *a == !*b));
}

#[test]
fn one_image_is_augmented_as_in_a_batch() {
    let augmenter = augmenter(CHAIN);
    let images = images();
    let batch = filled(&augmenter, images.view(), &[42], 1);
    let (mut out, mut canvas) = (vec![0; SHAPE.len()], Canvas::new(SHAPE));
    let image = images.index_axis(Axis(0), 42);
    let steps = augmenter.apply_one(image.as_slice().unwrap(), 42, KEY, &mut out, &mut canvas);
    assert_eq!(out, batch.images);
    assert_eq!(steps[0].op, "alternating_flip");
    assert!(steps.len() >= 4 && steps.iter().all(|step| !step.parameters.is_empty()), "{steps:?}");
}

#[test]
fn a_traced_batch_is_the_same_batch_and_its_trace_explains_it() {
    let text = CHAIN.trim_end_matches(']').to_owned()
        + "    { op = 'mixup' }, { op = 'one_of', p = 1, ops = [{ op = 'cutmix' }] } ]";
    let whole = augmenter(&text);
    let (images, indices) = (images(), (0..40).map(|i| i * 3).collect::<Vec<u32>>());
    let batch = filled(&whole, images.view(), &indices, 2);
    let mut traced = Batch::new();
    let trace = whole.fill_batch_traced(images.view(), &labels(), &indices, KEY, &mut traced);
    assert!(traced.images == batch.images && traced.soft == batch.soft && traced.labels == batch.labels);

    // The steps are those of each image alone.
    let (mut out, mut canvas) = (vec![0; SHAPE.len()], Canvas::new(SHAPE));
    assert_eq!(trace.steps.len(), indices.len());
    for (steps, &index) in trace.steps.iter().zip(&indices) {
        let image = images.index_axis(Axis(0), index as usize);
        assert_eq!(*steps, whole.apply_one(image.as_slice().unwrap(), index, KEY, &mut out, &mut canvas));
    }
    // The mixed labels follow from partners and shares.
    assert_eq!(trace.mixes.iter().map(|mix| mix.op).collect::<Vec<_>>(), ["mixup", "cutmix"]);
    let one_hot = |index: u32| (0..10).map(|class| f32::from(u8::from(class == index % 10))).collect::<Vec<_>>();
    let mut shares: Vec<Vec<f32>> = indices.iter().map(|&index| one_hot(index)).collect();
    for mix in &trace.mixes {
        let with = |(own, &partner): (&Vec<f32>, &u32)| {
            let blend = |(own, partner): (&f32, &f32)| mix.own_share * own + (1.0 - mix.own_share) * partner;
            own.iter().zip(&shares[partner as usize]).map(blend).collect()
        };
        shares = shares.iter().zip(&mix.partners).map(with).collect();
    }
    for (found, expected) in traced.soft.unwrap().iter().zip(shares.concat()) {
        assert!((found - expected).abs() < 1e-6, "{found} {expected}");
    }
}

#[test]
fn a_batch_that_is_not_mixed_has_no_mixes() {
    let augmenter = augmenter("ops = [{ op = 'invert', p = 0 }, { op = 'cutmix', p = 0 }]");
    let trace = augmenter.fill_batch_traced(images().view(), &labels(), &[7, 8], KEY, &mut Batch::new());
    assert_eq!(trace, selvedge_augment::BatchTrace { steps: vec![vec![], vec![]], mixes: vec![] });
}

#[test]
fn an_empty_chain_copies_even_from_strided_views() {
    let augmenter = augmenter("ops = []");
    let images = images();
    let every_second = images.slice(s![..;2, .., .., ..]);
    let mut batch = Batch::new();
    augmenter.fill_batch(every_second, &[3; SAMPLES / 2], &[4, 0], KEY, &mut batch);
    let expected = [8, 0].map(|n| images.index_axis(Axis(0), n).iter().copied().collect::<Vec<u8>>()).concat();
    assert_eq!(batch.images, expected);
    assert_eq!(batch.labels, [3, 3]);
    assert!(batch.soft.is_none());
}

#[test]
fn mixed_labels_are_shares_of_the_partners_classes() {
    for op in ["mixup", "cutmix", "fmix"] {
        let augmenter = augmenter(&format!("ops = [{{ op = '{op}' }}]"));
        let (images, indices) = (images(), (0..64).collect::<Vec<u32>>());
        let batch = filled(&augmenter, images.view(), &indices, 2);
        let soft = batch.soft.unwrap();
        let mut partners = 0;
        for (row, &label) in soft.chunks_exact(10).zip(&batch.labels) {
            assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-5);
            let others = row.iter().enumerate().filter(|(class, share)| *class != label as usize && **share > 0.0);
            partners += others.count();
        }
        // All but those with a partner of their own class.
        assert!(partners > 40, "{op}: {partners}");
    }
}

#[test]
fn batches_that_are_not_mixed_have_hard_labels() {
    let augmenter = augmenter("ops = [{ op = 'cutmix', p = 0.5 }]");
    let images = images();
    let mut batch = Batch::new();
    let mut mixed = 0;
    for first in 0..200u32 {
        augmenter.fill_batch(images.view(), &labels(), &[first % 100, 150], KEY, &mut batch);
        mixed += usize::from(batch.soft.is_some());
    }
    assert!((50..150).contains(&mixed), "{mixed}");
}

#[test]
fn buffers_are_kept_from_batch_to_batch() {
    let augmenter = augmenter("ops = [{ op = 'invert' }, { op = 'mixup', p = 0.5 }]");
    let images = images();
    let mut batch = Batch::new();
    let mut addresses = std::collections::HashSet::new();
    for first in 0..100u32 {
        augmenter.fill_batch(images.view(), &labels(), &[first, 150, 151], KEY, &mut batch);
        addresses.insert(batch.images.as_ptr());
        addresses.extend(batch.soft.as_ref().map(|soft| soft.as_ptr().cast::<u8>()));
    }
    // Images and soft labels each alternate between two buffers, one before and one after mixing.
    assert!(addresses.len() <= 4, "{}", addresses.len());
}

/// The names of the operations on one image that hold no other operations.
fn on_one_image() -> Vec<&'static str> {
    let others = ["one_of", "some_of", "sequential", "mixup", "cutmix", "fmix"];
    Augmentation::NAMES.iter().copied().filter(|name| !others.contains(name)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Any operation with its defaults works on images of any shape that it accepts.
    #[test]
    fn every_operation_works_on_any_shape(
        height in 1usize..40,
        width in 1usize..40,
        channels in 1usize..5,
        name in prop::sample::select(on_one_image()),
        key in any::<u64>(),
    ) {
        let text = if name == "alternating_flip" { format!("op = '{name}'") } else { format!("op = '{name}'\np = 1") };
        let op: Augmentation = toml::from_str(&text).unwrap();
        let shape = ImageShape { height, width, channels };
        if let Ok(augmenter) = Augmenter::new(vec![op], shape, 2) {
            let value = |(n, y, x, c): (usize, usize, usize, usize)| (n + y * x * 3 + c * 50) as u8;
            let images = Array4::from_shape_fn((2, height, width, channels), value);
            let mut batch = Batch::new();
            let key = EpochKey { seed: key, epoch: key % 5 };
            augmenter.fill_batch(images.view(), &[0, 1], &[1, 0, 1], key, &mut batch);
            prop_assert_eq!(batch.images.len(), 3 * shape.len());
            prop_assert_eq!(&batch.images[..shape.len()], &batch.images[2 * shape.len()..]);
        } else {
            // Some operations refuse small images, those that exchange height and width oblong ones.
            let exchanges = name == "random_rotate90" || name == "transpose";
            let needs_room = ["translate", "random_crop", "cutout", "grid_distortion"].contains(&name);
            prop_assert!(exchanges && height != width || needs_room && height.min(width) < 8, "{} {:?}", name, shape);
        }
    }
}
