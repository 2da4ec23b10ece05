//! The command `preview`: what the sheets show, pixel for pixel, and what is refused.

mod common;

use std::fs::{self, File};
use std::io::BufReader;
use std::path::Path;
use std::process::Output;

use common::{SMALL, Workplace, assert_fails, stdout};
use selvedge_augment::{Augmenter, Batch, ImageShape};
use selvedge_trainer::data::{TrainingData, stratified};
use selvedge_trainer::download::FetchOptions;
use selvedge_trainer::loader::Loader;
use selvedge_trainer::observer::Silent;
use selvedge_trainer::recipe::{Override, RecipeSource};

/// 10 x 10 images are drawn 14 times as large on the sheet of a recipe, 5 times on that of a data set.
const RECIPE_SCALE: usize = 14;
const DATASET_SCALE: usize = 5;
/// The sheet of a recipe has the images and six epochs.
const COLUMNS: usize = 7;
/// Images of four classes: two of each.
const ROWS: usize = 8;

fn preview(place: &Workplace, args: &[&str]) -> Output {
    place.run(&[&["preview"], args].concat())
}

fn load(place: &Path) -> TrainingData {
    let dataset = place.join("data").display().to_string();
    TrainingData::load(&dataset, place, &FetchOptions::default(), &mut Silent).unwrap()
}

/// A decoded sheet.
struct Sheet {
    width: usize,
    height: usize,
    rgb: Vec<u8>,
}

impl Sheet {
    fn read(path: &Path) -> Self {
        let mut reader = png::Decoder::new(BufReader::new(File::open(path).unwrap())).read_info().unwrap();
        let mut rgb = vec![0; reader.output_buffer_size().unwrap()];
        let frame = reader.next_frame(&mut rgb).unwrap();
        assert_eq!((frame.color_type, frame.bit_depth), (png::ColorType::Rgb, png::BitDepth::Eight));
        Self { width: frame.width as usize, height: frame.height as usize, rgb }
    }

    fn pixel(&self, x: usize, y: usize) -> &[u8] {
        &self.rgb[(y * self.width + x) * 3..][..3]
    }

    /// Whether the enlarged 10 x 10 image is at this position.
    fn shows(&self, image: &[u8], scale: usize, left: usize, top: usize) -> bool {
        (0..10 * scale).all(|y| {
            (0..10 * scale).all(|x| {
                let value = image[y / scale * 10 + x / scale];
                self.pixel(left + x, top + y) == [value; 3]
            })
        })
    }

    /// The first position of the image, row by row.
    fn find(&self, image: &[u8], scale: usize) -> Option<(usize, usize)> {
        let (right, bottom) = (self.width - 10 * scale, self.height - 10 * scale);
        (0..=bottom).find_map(|y| (0..=right).find(|&x| self.shows(image, scale, x, y)).map(|x| (x, y)))
    }
}

/// The positions of the images: the left edges of the columns, and the top edges of the rows. `first` is the
/// first image of each row.
fn grid(sheet: &Sheet, first: &[&[u8]]) -> (Vec<usize>, Vec<usize>) {
    let places: Vec<_> = first.iter().map(|image| sheet.find(image, RECIPE_SCALE).expect("the image")).collect();
    let left = places[0].0;
    assert!(places.iter().all(|place| place.0 == left), "{places:?}");
    let tops: Vec<usize> = places.iter().map(|place| place.1).collect();
    assert!(tops.is_sorted_by(|a, b| b > &(a + 10 * RECIPE_SCALE)), "{tops:?}");
    // As much paper on the right as on the left, and equal gaps between the columns.
    let step = (sheet.width - 2 * left - 10 * RECIPE_SCALE) / (COLUMNS - 1);
    ((0..COLUMNS).map(|column| left + column * step).collect(), tops)
}

/// Two training images of each class, as the sheet shows them.
fn shown(data: &TrainingData, train: &[u32]) -> Vec<u32> {
    let of = |class: u8| train.iter().copied().filter(move |&i| data.labels()[i as usize] == class).take(2);
    (0..4).flat_map(of).collect()
}

#[test]
fn a_recipe_sheet_shows_what_training_sees() {
    let place = Workplace::new();
    let mixing = "augmentation=[{op='horizontal_flip'}, {op='translate', max=2}, {op='cutmix', p=0.5}]";
    let args = ["--recipe", "small.toml", "--dataset", "data", "--seed", "5", "--set", mixing];
    let output = preview(&place, &args);
    let told = stdout(&output);
    let sheet = Sheet::read(&place.path().join("preview-small.png"));
    assert_eq!(told, format!("preview-small.png: {} x {} pixels\n", sheet.width, sheet.height));

    let data = load(place.path());
    let train = stratified(data.labels(), 30, 5).train;
    let shown = shown(&data, &train);
    let first: Vec<&[u8]> = shown.iter().map(|&index| data.image(index as usize)).collect();
    let (lefts, tops) = grid(&sheet, &first);
    assert_eq!(tops.len(), ROWS);

    let changes = ["seed=5", mixing].map(|set| Override::parse(set).unwrap());
    let recipe = RecipeSource::from_text("small.toml", SMALL).load(&changes).unwrap().recipe;
    let shape = ImageShape { height: 10, width: 10, channels: 1 };
    let augmenter = Augmenter::new(recipe.augmentation.clone(), shape, 4).unwrap();
    let mut loader = Loader::new(&recipe, &data, &train, augmenter);
    let mut batch = Batch::new();
    let (mut compared, mut mixed) = (0, 0);
    for epoch in 0..COLUMNS as u64 - 1 {
        loader.begin_epoch(epoch);
        for number in 0..loader.steps() {
            // The batch as training makes it, not as the preview does.
            loader.fill(number, &mut batch);
            for (position, index) in loader.indices(number).iter().enumerate() {
                let Some(row) = shown.iter().position(|shown| shown == index) else { continue };
                let image = &batch.images[position * 100..][..100];
                let left = lefts[1 + epoch as usize];
                assert!(sheet.shows(image, RECIPE_SCALE, left, tops[row]), "epoch {epoch}, image {index}");
                compared += 1;
                mixed += usize::from(batch.soft.is_some());
            }
        }
    }
    assert_eq!(compared, ROWS * (COLUMNS - 1));
    assert!((8..40).contains(&mixed), "{mixed}");

    // The same command draws the same sheet, another seed another one.
    let bytes = fs::read(place.path().join("preview-small.png")).unwrap();
    assert!(preview(&place, &args).status.success());
    assert_eq!(fs::read(place.path().join("preview-small.png")).unwrap(), bytes);
    let other = preview(&place, &["--recipe", "small.toml", "--dataset", "data", "--seed", "6", "--set", mixing]);
    assert!(other.status.success());
    assert_ne!(fs::read(place.path().join("preview-small.png")).unwrap(), bytes);
}

#[test]
fn text_stands_below_the_images_and_never_on_them() {
    let place = Workplace::new();
    let set = "augmentation=[{op='rand_augment', num_ops=5}, {op='grid_distortion', p=1, num_steps=3}, {op='mixup'}]";
    let args = ["--recipe", "small.toml", "--dataset", "data", "--set", set, "--out", "long.png"];
    assert!(preview(&place, &args).status.success());
    let sheet = Sheet::read(&place.path().join("long.png"));
    let data = load(place.path());
    let train = stratified(data.labels(), 30, 1).train;
    let shown = shown(&data, &train);
    let first: Vec<&[u8]> = shown.iter().map(|&index| data.image(index as usize)).collect();
    let (lefts, tops) = grid(&sheet, &first);
    let bottoms = tops[1..].iter().copied().chain([sheet.height]);
    for (top, bottom) in tops.iter().zip(bottoms) {
        for (column, &left) in lefts.iter().enumerate() {
            let inked = |x: usize, y: usize| sheet.pixel(x, y).iter().any(|&value| value < 200);
            let below = top + 10 * RECIPE_SCALE..bottom;
            let text = below.clone().filter(|&y| (left..left + 10 * RECIPE_SCALE).any(|x| inked(x, y))).count();
            // Two lines below an image, fifteen and more below each draw; letters fill a part of their line.
            assert!(text > if column == 0 { 10 } else { 100 }, "column {column}: {text} rows with text");
            if column + 1 < lefts.len() {
                let gap = left + 10 * RECIPE_SCALE..lefts[column + 1];
                assert!(gap.into_iter().all(|x| (*top..bottom).all(|y| !inked(x, y))), "column {column}");
            }
        }
    }
}

#[test]
fn a_dataset_sheet_has_three_rows_of_each_class() {
    let place = Workplace::new();
    assert!(preview(&place, &["--dataset", "data"]).status.success());
    let sheet = Sheet::read(&place.path().join("preview-data.png"));
    let data = load(place.path());
    let of = |class: u8| (0..150).filter(|&i| data.labels()[i] == class).collect::<Vec<usize>>();
    let side = 10 * DATASET_SCALE;
    let mut last_bottom = 0;
    for class in 0..4 {
        let images = of(class);
        let (left, top) = sheet.find(data.image(images[0]), DATASET_SCALE).expect("the first image of the class");
        assert!(top >= last_bottom, "class {class} begins at {top}");
        for (position, &index) in images.iter().enumerate().take(90) {
            let (x, y) = (left + position % 30 * side, top + position / 30 * side);
            assert!(sheet.shows(data.image(index), DATASET_SCALE, x, y), "class {class}, its image {position}");
            last_bottom = y + side;
        }
    }
    assert!(sheet.height > last_bottom && sheet.width > 30 * side);
}

#[test]
fn copies_stand_between_the_image_and_the_epochs() {
    let place = Workplace::new();
    let copies = "offline_copies={count=2, augmentation=[{op='invert', p=1}]}";
    let args = ["--recipe", "small.toml", "--dataset", "data", "--set", copies, "--set", "augmentation=[]"];
    assert!(preview(&place, &args).status.success());
    let sheet = Sheet::read(&place.path().join("preview-small.png"));
    let data = load(place.path());
    let labels = data.labels().repeat(3);
    let train = stratified(&labels, 30, 1).train;
    let index = train.iter().copied().find(|&index| labels[index as usize] == 0).unwrap() as usize;
    let image = data.image(index);
    let inverted: Vec<u8> = image.iter().map(|value| !value).collect();
    let (left, top) = sheet.find(image, RECIPE_SCALE).unwrap();
    // The image, two copies, and one epoch that is like any other.
    let step = (sheet.width - 2 * left - 10 * RECIPE_SCALE) / 3;
    for (column, expected) in [image, &inverted, &inverted, image].into_iter().enumerate() {
        assert!(sheet.shows(expected, RECIPE_SCALE, left + column * step, top), "column {column}");
    }
}

#[test]
fn what_cannot_be_drawn_is_refused_and_nothing_is_written() {
    let place = Workplace::new();
    fs::write(place.path().join("mine.png"), "not a sheet").unwrap();
    let before = fs::read_dir(place.path()).unwrap().count();
    let small = ["--recipe", "small.toml", "--dataset", "data"];
    for (args, code, parts) in [
        (&["--recipe", "fats"][..], 1, &["fats", "built in: fast, quick, seed"][..]),
        (&["--dataset", "nowhere"], 1, &["nowhere", "fashion-mnist"]),
        (&["--dataset", "data", "--seed", "3"], 2, &["--recipe"]),
        (&["--set", "seed=3"], 2, &["--recipe"]),
        (&["--recipe"], 2, &["--recipe"]),
        (&[&small[..], &["--out", "sheet.jpg"]].concat(), 1, &["sheet.jpg", ".png"]),
        (&[&small[..], &["--out", "mine.png"]].concat(), 1, &["mine.png", "not a sheet", "--out"]),
        (&[&small[..], &["--out", "no/such/a.png"]].concat(), 1, &["cannot write", "a.png"]),
        (&[&small[..], &["--set", "augmentation=[{op='rotat'}]"]].concat(), 1, &["rotat", "`rotate`"]),
        (&[&small[..], &["--set", "augmentation.1.max=10"]].concat(), 1, &["translate", "at most"]),
        (&[&small[..], &["--set", "validation=150"]].concat(), 1, &["validation", "150 training images"]),
    ] {
        let output = preview(&place, args);
        assert_fails(&output, code, parts);
    }
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), before);
    assert_eq!(fs::read(place.path().join("mine.png")).unwrap(), b"not a sheet");
}
