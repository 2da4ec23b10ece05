//! Reading, naming and placing operations.

use super::*;

const SHAPE: ImageShape = ImageShape { height: 28, width: 28, channels: 1 };

/// Every operation of the list, with its defaults, by its name in recipes.
const NAMES: [&str; 35] = [
    "horizontal_flip",
    "alternating_flip",
    "vertical_flip",
    "random_rotate90",
    "transpose",
    "translate",
    "random_crop",
    "rotate",
    "shear_x",
    "shear_y",
    "affine",
    "random_resized_crop",
    "optical_distortion",
    "grid_distortion",
    "elastic_transform",
    "blur",
    "gaussian_blur",
    "gaussian_noise",
    "brightness",
    "contrast",
    "gamma",
    "invert",
    "sharpness",
    "posterize",
    "solarize",
    "auto_contrast",
    "equalize",
    "cutout",
    "random_erasing",
    "grid_mask",
    "rand_augment",
    "trivial_augment",
    "mixup",
    "cutmix",
    "fmix",
];

fn read(text: &str) -> Result<Augmentation, toml::de::Error> {
    toml::from_str(text)
}

#[test]
fn every_operation_has_valid_defaults_and_survives_writing() {
    for name in NAMES {
        let op = read(&format!("op = '{name}'")).unwrap();
        assert_eq!(op.name(), name);
        op.validate(SHAPE).unwrap();
        let written = toml::to_string(&op).unwrap();
        assert_eq!(read(&written).unwrap(), op, "{written}");
    }
}

#[test]
fn choices_survive_writing() {
    for name in ["one_of", "some_of", "sequential"] {
        let op =
            read(&format!("op = '{name}'\nops = [{{ op = 'invert' }}, {{ op = 'shear_x', limit = 0.1 }}]")).unwrap();
        assert_eq!(op.name(), name);
        op.validate(SHAPE).unwrap();
        assert_eq!(read(&toml::to_string(&op).unwrap()).unwrap(), op);
    }
}

#[test]
fn unknown_operations_and_parameters_are_refused_by_name() {
    for name in NAMES {
        let message = read(&format!("op = '{name}'\nprobability = 1")).unwrap_err().to_string();
        assert!(message.contains("probability"), "{name}: {message}");
    }
    let message = read("op = 'shuffle'").unwrap_err().to_string();
    assert!(message.contains("shuffle") && message.contains("random_erasing"), "{message}");
}

#[test]
fn probabilities_outside_of_0_to_1_are_refused_everywhere() {
    for name in NAMES.into_iter().filter(|name| *name != "alternating_flip") {
        for p in ["-0.1", "1.5", "nan"] {
            let op = read(&format!("op = '{name}'\np = {p}")).unwrap();
            let message = op.validate(SHAPE).unwrap_err().to_string();
            assert!(message.contains(&format!("`{name}`")) && message.contains("from 0 to 1"), "{message}");
        }
    }
}

#[test]
fn mixing_stands_at_the_end() {
    let chain = |names: &[&str]| -> Vec<Augmentation> {
        names.iter().map(|name| read(&format!("op = '{name}'")).unwrap()).collect()
    };
    Augmentation::validate_chain(&chain(&["invert", "cutmix", "mixup"]), SHAPE).unwrap();
    Augmentation::validate_chain(&chain(&["fmix"]), SHAPE).unwrap();
    Augmentation::validate_chain(&[], SHAPE).unwrap();
    let message = Augmentation::validate_chain(&chain(&["cutmix", "invert"]), SHAPE).unwrap_err().to_string();
    assert!(message.contains("`cutmix`") && message.contains("before `invert`"), "{message}");
    let choice = read("op = 'one_of'\nops = [{ op = 'mixup' }, { op = 'cutmix' }]").unwrap();
    assert!(choice.is_mixing());
    choice.validate(SHAPE).unwrap();
}
