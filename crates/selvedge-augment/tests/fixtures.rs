//! Results against those of Albumentations, OpenCV and torchvision on real images with the same parameters. The
//! fixtures are made by `fixtures/make_fixtures.py`.

use std::path::PathBuf;

use selvedge_augment::geometric::{
    HorizontalFlip, RandomCrop, RandomRotate90, Rotate90Drawn, TranslateDrawn, Transpose, VerticalFlip,
};
use selvedge_augment::masking::{Cutout, RandomErasing, Region};
use selvedge_augment::mixing::{BatchTransform, CutMix, CutMixDrawn, MaskScratch, MixUp, MixUpDrawn};
use selvedge_augment::parameter::{Fill, Padding};
use selvedge_augment::photometric::{
    AutoContrast, Bits, Blur, BlurDrawn, Brightness, Contrast, Equalize, Factor, Gamma, GaussianBlur,
    GaussianBlurDrawn, Invert, Posterize, Sharpness, Solarize, Threshold,
};
use selvedge_augment::warp::{
    Affine, AffineDrawn, CropWindow, ElasticTransform, GridDistortion, GridDrawn, Interpolation, MAX_GRID_STEPS,
    OpticalDistortion, OpticalDrawn, OpticalModel, RandomResizedCrop, Rotate, RotateDrawn, Shear, ShearDrawn, ShearX,
    ShearY,
};
use selvedge_augment::{Canvas, FixedTransform, ImageShape, Transform};

const GREY: ImageShape = ImageShape { height: 28, width: 28, channels: 1 };
const COLOUR: ImageShape = ImageShape { height: 24, width: 28, channels: 3 };

#[derive(serde::Deserialize)]
struct Fixtures {
    made_with: String,
    case: Vec<Case>,
}

#[derive(serde::Deserialize)]
struct Case {
    op: String,
    images: String,
    parameters: Vec<f64>,
}

fn fixture(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Applies the operation of the case.
fn apply(case: &Case, canvas: &mut Canvas) {
    let p = case.parameters.as_slice();
    let whole = |index: usize| p[index] as i32;
    let at = |index: usize| p[index] as usize;
    let float = |index: usize| p[index] as f32;
    match case.op.as_str() {
        "horizontal_flip" => HorizontalFlip::default().change(canvas),
        "vertical_flip" => VerticalFlip::default().change(canvas),
        "transpose" => Transpose::default().change(canvas),
        "random_rotate90" => RandomRotate90::default().apply(&Rotate90Drawn(p[0] as u8), canvas),
        "random_crop_constant" => shift(Padding::Zero, p, canvas),
        "random_crop_edge" => shift(Padding::Edge, p, canvas),
        "random_crop_reflect" => shift(Padding::Reflect, p, canvas),
        "random_crop_symmetric" => shift(Padding::Symmetric, p, canvas),
        "random_erasing" => {
            let region = Region { top: at(0), left: at(1), height: at(2), width: at(3), noise: None };
            let erasing = RandomErasing { fill: Fill::Value(p[4] as u8), ..RandomErasing::default() };
            erasing.apply(&region, canvas);
        }
        "cutout" => {
            let half = whole(0) / 2;
            let span = |centre: i32, len: usize| {
                let start = (centre - half).max(0);
                (start as usize, ((centre + half).min(len as i32) - start) as usize)
            };
            let ImageShape { height, width, .. } = canvas.shape();
            let ((top, rows), (left, columns)) = (span(whole(1), height), span(whole(2), width));
            let region = Region { top, left, height: rows, width: columns, noise: None };
            Cutout { size: at(0), ..Cutout::default() }.apply(&region, canvas);
        }
        "rotate" | "rotate_torchvision_bilinear" => rotate(Padding::Zero, p, canvas),
        "rotate_reflect" => rotate(Padding::Reflect, p, canvas),
        "rotate_edge" => rotate(Padding::Edge, p, canvas),
        "rotate_symmetric" => rotate(Padding::Symmetric, p, canvas),
        "rotate_fill" => Rotate { fill: p[1] as u8, ..Rotate::default() }.apply(&RotateDrawn(float(0)), canvas),
        "rotate_torchvision_nearest" => {
            let nearest = Rotate { interpolation: Interpolation::Nearest, ..Rotate::default() };
            nearest.apply(&RotateDrawn(float(0)), canvas);
        }
        "affine" => {
            let drawn = AffineDrawn {
                scale: [float(0), float(1)],
                translate: [whole(2), whole(3)],
                rotate: float(4),
                shear: [float(5), float(6)],
            };
            Affine::default().apply(&drawn, canvas);
        }
        "shear_x" => ShearX(Shear::default()).apply(&ShearDrawn(float(0)), canvas),
        "shear_y" => ShearY(Shear::default()).apply(&ShearDrawn(float(0)), canvas),
        "random_resized_crop" => {
            let window = CropWindow { top: at(0), left: at(1), height: at(2), width: at(3) };
            RandomResizedCrop::default().apply(&window, canvas);
        }
        "optical_distortion_camera" => OpticalDistortion::default().apply(&OpticalDrawn(float(0)), canvas),
        "optical_distortion_fisheye" => {
            let fisheye = OpticalDistortion { mode: OpticalModel::Fisheye, ..OpticalDistortion::default() };
            fisheye.apply(&OpticalDrawn(float(0)), canvas);
        }
        "grid_distortion" => grid(false, p, canvas),
        "grid_distortion_normalized" => grid(true, p, canvas),
        "elastic_transform" => {
            let elastic = ElasticTransform { alpha: float(0), sigma: float(1), ..ElasticTransform::default() };
            let noise = sixteenths(canvas.shape().pixels());
            elastic.apply_noise(&noise, &noise, canvas);
        }
        "blur" => Blur::default().apply(&BlurDrawn(p[0] as u16), canvas),
        "gaussian_blur" => GaussianBlur::default().apply(&GaussianBlurDrawn(float(0)), canvas),
        "brightness" => Brightness::default().apply(&Factor(float(0)), canvas),
        "contrast" => Contrast::default().apply(&Factor(float(0)), canvas),
        "gamma" => Gamma::default().apply(&Factor(float(0)), canvas),
        "sharpness" => Sharpness::default().apply(&Factor(float(0)), canvas),
        "invert" => Invert::default().change(canvas),
        "posterize" => Posterize::default().apply(&Bits(p[0] as u16), canvas),
        "solarize" => Solarize::default().apply(&Threshold(p[0] as u16), canvas),
        "auto_contrast" => AutoContrast::default().change(canvas),
        "equalize" => Equalize::default().change(canvas),
        other => panic!("this test does not know the operation {other} of the fixtures"),
    }
}

fn shift(padding: Padding, p: &[f64], canvas: &mut Canvas) {
    let crop = RandomCrop { padding_mode: padding, ..RandomCrop::default() };
    crop.apply(&TranslateDrawn { dy: p[0] as i32, dx: p[1] as i32 }, canvas);
}

fn rotate(padding: Padding, p: &[f64], canvas: &mut Canvas) {
    Rotate { padding, ..Rotate::default() }.apply(&RotateDrawn(p[0] as f32), canvas);
}

fn grid(normalized: bool, p: &[f64], canvas: &mut Canvas) {
    let num_steps = p[0] as usize;
    let factors = |values: &[f64]| {
        let mut factors = [0.0; MAX_GRID_STEPS + 1];
        factors.iter_mut().zip(values).for_each(|(to, from)| *to = *from as f32);
        factors
    };
    let (x, y) = p[1..].split_at(num_steps + 1);
    let distortion = GridDistortion { num_steps, normalized, ..GridDistortion::default() };
    distortion.apply(&GridDrawn { x: factors(x), y: factors(y) }, canvas);
}

/// The same noise as in `make_fixtures.py`.
fn sixteenths(count: usize) -> Vec<f32> {
    let mut state = 1u32;
    let next = || {
        state = state * 75 % 65537;
        (state % 33) as f32 / 16.0 - 1.0
    };
    std::iter::repeat_with(next).take(count).collect()
}

/// Whether the results of an operation must be equal in every byte.
fn is_exact(op: &str) -> bool {
    let masks_and_permutations = ["flip", "transpose", "rotate90", "random_crop", "erasing", "cutout", "cutmix"];
    let tables = ["invert", "posterize", "solarize", "equalize"];
    masks_and_permutations.iter().chain(&tables).any(|name| op.contains(name))
}

/// Compares one result; describes the difference if it is not allowed.
fn compare(case: &Case, found: &[u8], expected: &[u8]) -> Option<String> {
    let differences = found.iter().zip(expected).map(|(a, b)| a.abs_diff(*b));
    let off = differences.clone().filter(|difference| *difference > 1).count() as f64 / found.len() as f64;
    let largest = differences.max().unwrap_or(0);
    let allowed = if is_exact(&case.op) { largest == 0 } else { largest <= 1 };
    let Case { op, images, parameters } = case;
    let percent = 100.0 * off;
    (!allowed).then(|| {
        format!("{op} {parameters:?} on {images}: {percent:.2} % of bytes off by more than 1, at most by {largest}")
    })
}

fn mix(case: &Case, images: &[u8]) -> Vec<u8> {
    let mut mixed = vec![0; images.len()];
    let all: Vec<&[u8]> = images.chunks_exact(GREY.len()).collect();
    let (p, mask) = (&case.parameters, MaskScratch::default());
    for (index, to) in mixed.chunks_exact_mut(GREY.len()).enumerate() {
        let (own, partner) = (all[index], all[(index + all.len() - 1) % all.len()]);
        if case.op == "mixup" {
            let drawn = MixUpDrawn((p[0] * 256.0).round() as u16);
            MixUp::default().mix(&drawn, GREY, &mask, own, partner, to);
        } else {
            let drawn = CutMixDrawn::about(p[0] as f32, p[1] as usize, p[2] as usize, GREY);
            CutMix::default().mix(&drawn, GREY, &mask, own, partner, to);
        }
    }
    mixed
}

#[test]
fn results_equal_those_of_the_originals() {
    let text = String::from_utf8(fixture("cases.toml")).unwrap();
    let fixtures: Fixtures = toml::from_str(&text).unwrap();
    assert!(fixtures.made_with.starts_with("albumentations 2.0.8"), "{}", fixtures.made_with);
    let (grey, colour, outputs) = (fixture("grey.bin"), fixture("colour.bin"), fixture("outputs.bin"));
    let mut outputs = outputs.as_slice();
    let mut failures = Vec::new();
    for case in &fixtures.case {
        let (shape, images) = if case.images == "grey" { (GREY, &grey) } else { (COLOUR, &colour) };
        let (expected, rest) = outputs.split_at(images.len());
        outputs = rest;
        let found = if case.op == "mixup" || case.op == "cutmix" {
            mix(case, images)
        } else {
            let mut canvas = Canvas::new(shape);
            let mut found = Vec::new();
            for image in images.chunks_exact(shape.len()) {
                canvas.load(image);
                apply(case, &mut canvas);
                found.extend_from_slice(canvas.image());
            }
            found
        };
        failures.extend(compare(case, &found, expected));
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(outputs.is_empty(), "{} bytes of results belong to no case", outputs.len());
}
