//! Reading, naming and placing operations, choices, and results on every instruction set.

use super::*;
use crate::vectors::Vectors;

const SHAPE: ImageShape = ImageShape { height: 28, width: 28, channels: 1 };

/// The names of the operations that have a default for every parameter: all but the choices.
fn with_defaults() -> impl Iterator<Item = &'static str> {
    Augmentation::NAMES.iter().copied().filter(|name| !CHOICES.contains(name))
}

const CHOICES: [&str; 3] = [OneOf::NAME, SomeOf::NAME, Sequential::NAME];

fn read(text: &str) -> Result<Augmentation, toml::de::Error> {
    toml::from_str(text)
}

/// An operation that must be readable.
fn parse(text: &str) -> Augmentation {
    read(text).unwrap()
}

#[test]
fn every_operation_has_valid_defaults_and_survives_writing() {
    for name in with_defaults() {
        let op = parse(&format!("op = '{name}'"));
        assert_eq!(op.name(), name);
        op.validate(SHAPE).unwrap();
        let written = toml::to_string(&op).unwrap();
        assert_eq!(parse(&written), op, "{written}");
    }
}

#[test]
fn choices_survive_writing() {
    for name in CHOICES {
        let op = parse(&format!("op = '{name}'\nops = [{{ op = 'invert' }}, {{ op = 'shear_x', limit = 0.1 }}]"));
        assert_eq!(op.name(), name);
        op.validate(SHAPE).unwrap();
        assert_eq!(parse(&toml::to_string(&op).unwrap()), op);
    }
}

#[test]
fn unknown_operations_and_parameters_are_refused_by_name() {
    for name in with_defaults() {
        let message = read(&format!("op = '{name}'\nprobability = 1")).unwrap_err().to_string();
        assert!(message.contains("probability"), "{name}: {message}");
    }
    let message = read("op = 'shuffle'").unwrap_err().to_string();
    assert!(message.contains("shuffle"), "{message}");
    assert!(Augmentation::NAMES.iter().all(|name| message.contains(&format!("`{name}`"))), "{message}");
}

#[test]
fn probabilities_outside_of_0_to_1_are_refused_everywhere() {
    for name in with_defaults().filter(|name| *name != AlternatingFlip::NAME) {
        for p in ["-0.1", "1.5", "nan"] {
            let op = parse(&format!("op = '{name}'\np = {p}"));
            let message = op.validate(SHAPE).unwrap_err().to_string();
            assert!(message.contains(&format!("`{name}`")) && message.contains("from 0 to 1"), "{message}");
        }
    }
}

#[test]
fn mixing_stands_at_the_end() {
    let chain =
        |names: &[&str]| -> Vec<Augmentation> { names.iter().map(|name| parse(&format!("op = '{name}'"))).collect() };
    validate_chain(&chain(&["invert", "cutmix", "mixup"]), SHAPE).unwrap();
    validate_chain(&chain(&["fmix"]), SHAPE).unwrap();
    validate_chain(&[], SHAPE).unwrap();
    let message = validate_chain(&chain(&["cutmix", "invert"]), SHAPE).unwrap_err().to_string();
    assert!(message.contains("`cutmix`") && message.contains("before `invert`"), "{message}");
    let choice = parse("op = 'one_of'\nops = [{ op = 'mixup' }, { op = 'cutmix' }]");
    assert!(choice.is_mixing());
    choice.validate(SHAPE).unwrap();
}

fn steps(policy: &Augmentation, key: u64) -> Vec<&'static str> {
    let mut steps = Vec::new();
    policy.run(false, &mut Stream::from_bits(key), &mut Canvas::new(SHAPE), &mut Some(&mut steps));
    steps.iter().map(|step| step.op).collect()
}

#[test]
fn one_of_chooses_by_weight_and_always_applies() {
    let policy = parse("op = 'one_of'\np = 1.0\nops = [{ op = 'invert', p = 0.3 }, { op = 'transpose', p = 0.1 }]");
    policy.validate(SHAPE).unwrap();
    let mut inverted = 0;
    for key in 0..4000 {
        let steps = steps(&policy, key);
        assert_eq!(steps.len(), 1);
        inverted += usize::from(steps[0] == "invert");
    }
    // Three quarters; the standard deviation is 27.
    assert!((2860..3140).contains(&inverted), "{inverted}");
}

#[test]
fn some_of_takes_n_in_their_order() {
    let policy = parse(
        "op = 'some_of'\nn = 2\n\
         ops = [{ op = 'invert', p = 1 }, { op = 'transpose', p = 1 }, { op = 'vertical_flip', p = 1 }]",
    );
    policy.validate(SHAPE).unwrap();
    let mut counts = std::collections::HashMap::new();
    for key in 0..3000 {
        *counts.entry(steps(&policy, key)).or_insert(0) += 1;
    }
    for pair in [["invert", "transpose"], ["invert", "vertical_flip"], ["transpose", "vertical_flip"]] {
        assert!((870..1130).contains(&counts[pair.as_slice()]), "{counts:?}");
    }
    assert_eq!(counts.len(), 3);
}

#[test]
fn sequential_applies_all_or_none() {
    let policy = parse("op = 'random_apply'\nops = [{ op = 'invert', p = 1 }, { op = 'transpose', p = 1 }]");
    let counts = (0..1000).map(|key| steps(&policy, key).len());
    assert!(counts.clone().all(|count| count == 0 || count == 2));
    let applied = counts.filter(|count| *count == 2).count();
    assert!((420..580).contains(&applied), "{applied}");
}

#[test]
fn what_cannot_be_chosen_is_refused() {
    let message = |text: &str| parse(text).validate(SHAPE).unwrap_err().to_string();
    assert!(message("op = 'one_of'\nops = []").contains("at least one operation"));
    assert!(message("op = 'one_of'\nops = [{ op = 'invert', p = 0 }]").contains("above 0"));
    assert!(message("op = 'some_of'\nn = 2\nops = [{ op = 'invert' }]").contains("from 0 to 1"));
    let mixing = message("op = 'sequential'\nops = [{ op = 'mixup' }]");
    assert!(mixing.contains("`mixup`") && mixing.contains("end of the chain"), "{mixing}");
    assert!(message("op = 'sequential'\nops = [{ op = 'invert', p = 2 }]").contains("`invert`"));
}

#[test]
fn instruction_sets_agree_in_every_bit() {
    let chain = [
        "op = 'affine'\np = 1\nrotate = [17, 17]\nscale = [0.9, 1.2]\npadding = 'symmetric'",
        "op = 'elastic_transform'\np = 1\npadding = 'reflect'",
        "op = 'blur'\np = 1\nblur_limit = 5",
    ]
    .map(parse);
    for (height, width, channels) in [(28, 28, 1), (9, 45, 1), (6, 1100, 1), (20, 24, 3)] {
        let shape = ImageShape { height, width, channels };
        let image: Vec<u8> = (0..shape.len()).map(|i| (i * 97 % 251) as u8).collect();
        let results: Vec<Vec<u8>> = Vectors::all()
            .map(|vectors| {
                let mut canvas = Canvas::new(shape);
                canvas.scratch_mut().vectors = vectors;
                canvas.load(&image);
                for (position, op) in chain.iter().enumerate() {
                    op.run(false, &mut Stream::from_bits(9).fork(position), &mut canvas, &mut None);
                }
                canvas.image().to_vec()
            })
            .collect();
        assert!(results[0] != image && results.iter().all(|result| *result == results[0]), "{shape:?}");
    }
}
