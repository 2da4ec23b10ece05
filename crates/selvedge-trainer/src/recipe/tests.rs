//! Tests of recipes: reading, overriding, refusing, and the messages.

use std::path::Path;

use super::*;

const SMALL: &str = r#"name = "small"
epochs = 2
batch = 16
augmentation = [{ op = "horizontal_flip" }]
validation = 20

[optimizer]
kind = "sgd"
learning_rate = 0.1

[model]
layers = [
    { layer = "flatten" },
    { layer = "dense", units = 8 },
    { layer = "dropout", rate = 0.5 },
    { layer = "dense", units = "classes" },
]
"#;

fn load(text: &str, sets: &[&str]) -> Result<LoadedRecipe, RecipeError> {
    let overrides: Vec<Override> = sets.iter().map(|set| Override::parse(set)).collect::<Result<_, _>>()?;
    RecipeSource::from_text("small.toml", text).load(&overrides)
}

/// The message of the recipe with one text replaced by another.
fn refused(from: &str, to: &str) -> String {
    let text = SMALL.replacen(from, to, 1);
    assert_ne!(text, SMALL, "{from} is in the recipe");
    load(&text, &[]).unwrap_err().to_string()
}

#[track_caller]
fn assert_has(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "{part:?} is missing from: {message}");
    }
}

#[test]
fn built_in_recipes_load_and_repeat_themselves() {
    for (name, _) in BUILT_IN {
        let loaded = RecipeSource::find(name).unwrap().load(&[]).unwrap();
        assert_eq!(loaded.recipe.name, *name);
        let full = loaded.to_toml();
        let again = RecipeSource::from_text("full", full.clone()).load(&[]).unwrap();
        assert_eq!(again.recipe, loaded.recipe);
        assert_eq!(again.to_toml(), full);
    }
}

#[test]
fn the_full_recipe_holds_every_default() {
    let full = load(SMALL, &[]).unwrap().to_toml();
    for part in ["seed = 1", "drop_last = false", "precision = \"auto\"", "momentum = 0.0", "mean = 0.0", "std = 1.0"] {
        assert_has(&full, &[part]);
    }
    assert_has(&full, &["kind = \"constant\"", "bias = true", "dataset = \"fashion-mnist\"", "p = 0.5"]);
    for key in ["groups", "averaging", "accumulation", "class_weights", "gradient_clipping", "gradient_centralisation"]
    {
        assert!(!full.contains(key), "{key} is not there unless it is given: {full}");
    }
}

#[test]
fn groups_averages_and_muon_have_defaults_and_repeat_themselves() {
    let sets = [
        "optimizer={kind='muon', learning_rate=0.24, rest={learning_rate=0.1}}",
        "groups=[{match='*.beta', rate=64}, {kind='bias', weight_decay=0.1}]",
        "averaging={kind='swa'}",
        "gradient_clipping={max_norm=1.0}",
        "gradient_centralisation=true",
        "accumulation=2",
        "class_weights=[1, 2.5]",
    ];
    let full = load(SMALL, &sets).unwrap();
    let again = load(&full.to_toml(), &[]).unwrap();
    assert_eq!(again.recipe, full.recipe);
    let balanced = load(SMALL, &["class_weights=balanced"]).unwrap();
    assert_eq!(load(&balanced.to_toml(), &[]).unwrap().recipe.class_weights, Some(ClassWeights::Balanced));
    assert_has(&full.to_toml(), &["normalise = true", "steps = 3", "nesterov = true", "momentum = 0.6"]);
    assert_has(
        &full.to_toml(),
        &["[optimizer.rest]", "momentum = 0.85", "match = \"*.beta\"", "statistics_batches = 40"],
    );
}

#[test]
fn test_time_averaging_is_written_only_where_it_was() {
    assert!(!load(SMALL, &[]).unwrap().to_toml().contains("test_time_averaging"));
    let loaded = load(SMALL, &["test_time_averaging={}"]).unwrap();
    assert_has(&loaded.to_toml(), &["[test_time_averaging]\nmirror = true\nshift = 0\n"]);
    let shifted = load(SMALL, &["test_time_averaging.shift=1"]).unwrap().recipe.test_time_averaging.unwrap();
    assert!(shifted.mirror && shifted.shift == 1);
    let negative = load(SMALL, &["test_time_averaging.shift=-1"]).unwrap_err().to_string();
    assert_has(&negative, &["test_time_averaging.shift", "-1"]);
}

#[test]
fn decimals_are_written_as_they_were_read() {
    let full =
        load(SMALL, &["model.layers.2.rate=0.3", "input.mean=0.2860", "augmentation.0.p=0.1"]).unwrap().to_toml();
    assert_has(&full, &["rate = 0.3\n", "mean = 0.286\n", "p = 0.1\n"]);
}

#[test]
fn unknown_keys_are_named_with_line_and_allowed_keys() {
    assert_has(
        &refused("batch = 16", "batch = 16\nbatches = 3"),
        &["small.toml, line 4", "batches", "unknown key", "`drop_last`"],
    );
    assert_has(&refused("kind = \"sgd\"", "kind = \"sgd\"\nbeta1 = 0.9"), &["line 9", "optimizer.beta1", "`momentum`"]);
    assert_has(&refused("units = 8", "units = 8, unit = 3"), &["line 14", "model.layers.1.unit:", "`bias`"]);
    assert_has(&refused("[model]", "[mystery]\na = 1\n[model]"), &["line 11", "mystery", "`validation`"]);
    assert_has(&refused("\"horizontal_flip\"", "\"horizontal_flip\", q = 1"), &["line 4", "augmentation.0.q", "`p`"]);
}

#[test]
fn wrong_types_and_variants_are_named_with_their_line() {
    assert_has(&refused("epochs = 2", "epochs = \"two\""), &["line 2", "epochs:", "string \"two\""]);
    assert_has(
        &refused("learning_rate = 0.1", "learning_rate = \"fast\""),
        &["line 9", "optimizer.learning_rate", "f64"],
    );
    assert_has(&refused("rate = 0.5", "rate = \"half\""), &["line 15", "model.layers.2.rate", "f32"]);
    assert_has(&refused("\"dropout\"", "\"drop\""), &["line 15", "model.layers.2.layer", "`dropout`"]);
    assert_has(&refused("kind = \"sgd\"", "kind = \"lion\""), &["line 8", "optimizer.kind", "`adamw`"]);
    assert_has(&refused("validation = 20", "validation = -3"), &["line 5", "validation:", "-3", "6000"]);
    assert_has(&refused("validation = 20", "validation = \"some\""), &["line 5", "validation:", "6000"]);
    assert_has(&refused("batch = 16", "batch = 16\noops"), &["small.toml, line 4"]);
}

#[test]
fn missing_keys_are_named_with_their_table() {
    assert_has(&refused("learning_rate = 0.1", ""), &["line 7", "optimizer:", "`learning_rate`"]);
    assert_has(&refused(", rate = 0.5", ""), &["line 15", "model.layers.2:", "`rate`"]);
    assert_has(&refused("epochs = 2", ""), &["small.toml", "`epochs`"]);
}

#[test]
fn impossible_values_are_named_with_what_is_allowed() {
    assert_has(&refused("= 0.1", "= nan"), &["line 9", "optimizer.learning_rate", "NaN", "above 0"]);
    assert_has(&refused("epochs = 2", "epochs = 0"), &["line 2", "from 1 to"]);
    assert_has(&refused("batch = 16", "batch = 0"), &["line 3", "65536"]);
    assert_has(&refused("validation = 20", "validation = 1.0"), &["line 5", "below 1"]);
    assert_has(&refused("name = \"small\"", "name = \"../up\""), &["line 1", "letters"]);
    assert_has(&refused("= 0.1", "= 0.1\nnesterov = true"), &["optimizer.nesterov", "momentum"]);
    assert_has(&refused("[model]", "[warmup]\nepochs = 3\n[model]"), &["line 12", "warmup.epochs", "2 epochs"]);
    let plateau = "[reduce_lr_on_plateau]\nfactor = 1.0\n[model]";
    assert_has(&refused("[model]", plateau), &["line 12", "reduce_lr_on_plateau.factor", "below 1"]);
    assert_has(&refused("batch = 16", "batch = 16\naccumulation = 0"), &["line 4", "accumulation", "at least 1"]);
    assert_has(&refused("batch = 16", "batch = 16\nclass_weights = [1, 0]"), &["line 4", "class_weights.1", "above 0"]);
    assert_has(
        &refused("batch = 16", "batch = 16\nclass_weights = \"even\""),
        &["line 4", "class_weights:", "\"balanced\""],
    );
    let clipping = "[gradient_clipping]\nmax_norm = 0.0\n[model]";
    assert_has(&refused("[model]", clipping), &["line 12", "gradient_clipping.max_norm", "above 0"]);
    let group = "[[groups]]\nkind = \"bias\"\n[[groups]]\nkind = \"beta\"\nrate = -1.0\n[model]";
    assert_has(&refused("[model]", group), &["line 15", "groups.1.rate", "0 or above"]);
    assert_has(&refused("[model]", "[[groups]]\nrate = 2.0\n[model]"), &["line 11", "groups.0", "`match`", "`kind`"]);
    assert_has(&refused("[model]", "[[groups]]\nkind = \"all\"\n[model]"), &["line 12", "groups.0.kind", "`gamma`"]);
    assert_has(&refused("kind = \"sgd\"", "kind = \"muon\""), &["line 7", "optimizer:", "`rest`"]);
    let muon = "kind = \"muon\"\nsteps = 0\nrest = { learning_rate = 0.1 }";
    assert_has(&refused("kind = \"sgd\"", muon), &["line 9", "optimizer.steps", "from 1 to 20"]);
    let muon = "kind = \"muon\"\nrest = { learning_rate = 0.1, momentum = 1.0 }";
    assert_has(&refused("kind = \"sgd\"", muon), &["line 9", "optimizer.rest.momentum", "below 1"]);
    let average = "[averaging]\nkind = \"ema\"\nstart = 1.0\n[model]";
    assert_has(&refused("[model]", average), &["line 13", "averaging.start", "below 1"]);
    assert_has(&refused("[model]", "[averaging]\nkind = \"polyak\"\n[model]"), &["line 12", "`lookahead`", "`swa`"]);
    let averaging = "[test_time_averaging]\nmirror = false\n[model]";
    assert_has(&refused("[model]", averaging), &["line 11", "test_time_averaging", "nothing to average"]);
    let step = "[schedule]\nkind = \"step\"\nmilestones = [3.0, 1.0]\n[model]";
    assert_has(&refused("[model]", step), &["line 13", "schedule.milestones.1", "later"]);
    let copies = |text: &str| refused("[model]", &format!("[offline_copies]\n{text}\n[model]"));
    let count = copies("count = 0\naugmentation = [{ op = 'blur' }]");
    assert_has(&count, &["line 12", "offline_copies.count", "from 1 to 100"]);
    let mixing = copies("count = 1\naugmentation = [{ op = 'blur' }, { op = 'cutmix' }]");
    assert_has(&mixing, &["line 13", "offline_copies.augmentation.1", "cutmix", "one label"]);
    let early = SMALL.replace("validation = 20", "") + "[early_stopping]\npatience = 3\n";
    assert_has(&load(&early, &[]).unwrap_err().to_string(), &["early_stopping.monitor", "set `validation`"]);
}

#[test]
fn overrides_replace_add_and_are_named_in_errors() {
    let recipe = load(SMALL, &["epochs=7", "precision=f32", "early_stopping.patience=3", "model.layers.1.units = 4"]);
    let recipe = recipe.unwrap().recipe;
    assert_eq!((recipe.epochs, recipe.precision), (7, PrecisionChoice::F32));
    assert_eq!(recipe.early_stopping.unwrap().patience, 3);
    let whole = load(SMALL, &["optimizer={kind='adam', learning_rate=0.5}"]).unwrap().recipe;
    assert_eq!(whole.optimizer.learning_rate(), 0.5);

    let message = |set: &str| load(SMALL, &[set]).unwrap_err().to_string();
    assert_has(&message("epochs"), &["--set epochs", "key=value"]);
    assert_has(&message("epochs=0"), &["--set epochs=0", "from 1 to"]);
    assert_has(&message("epochs=1O"), &["--set epochs=1O", "string \"1O\""]);
    assert_has(&message("epoch=3"), &["--set epoch=3", "unknown key", "`epochs`"]);
    assert_has(&message("model.layers.9.rate=1"), &["`9`", "there are 4"]);
    assert_has(&message("name.first=1"), &["`name`", "string"]);
}

#[test]
fn later_checks_can_name_the_line() {
    let loaded = load(SMALL, &[]).unwrap();
    assert_eq!(loaded.error("batch", "too large").to_string(), "small.toml, line 3: batch: too large");
    assert_has(&loaded.error("label_smoothing", "no").to_string(), &["small.toml: label_smoothing: no"]);
}

#[test]
fn names_and_files_are_told_apart() {
    assert_has(&RecipeSource::find("sead").unwrap_err().to_string(), &["sead", "built in: fast, quick, seed"]);
    assert_has(&RecipeSource::find("./nowhere/x.toml").unwrap_err().to_string(), &["nowhere", "cannot be read"]);
}

#[test]
fn files_are_utf_8_with_or_without_a_mark() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("my.toml");
    let text = RecipeSource::find("seed").unwrap().load(&[]).unwrap().to_toml();
    let plain = RecipeSource::from_text("plain", text.clone()).load(&[]).unwrap().recipe;
    std::fs::write(&path, format!("\u{feff}{text}")).unwrap();
    let marked = RecipeSource::read(&path).unwrap().load(&[]).unwrap();
    assert_eq!((&marked.recipe, marked.source_text()), (&plain, text.as_str()));

    let little: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let big: Vec<u8> = text.encode_utf16().flat_map(u16::to_be_bytes).collect();
    for bytes in [[&[0xff, 0xfe], &little[..]].concat(), [&[0xfe, 0xff], &big[..]].concat(), little, big] {
        std::fs::write(&path, bytes).unwrap();
        let message = RecipeSource::read(&path).unwrap_err().to_string();
        assert!(message.contains("my.toml cannot be read: it is UTF-16") && message.contains("as UTF-8"), "{message}");
    }
    std::fs::write(&path, b"name = \"caf\xe9\"").unwrap();
    let message = RecipeSource::read(&path).unwrap_err().to_string();
    assert!(message.contains("byte 11") && message.contains("not UTF-8"), "{message}");
}

#[test]
fn a_data_set_of_a_file_counts_from_its_folder() {
    let dir = tempfile::tempdir().unwrap();
    let (config, data) = (dir.path().join("cfg"), dir.path().join("data/x"));
    std::fs::create_dir_all(&config).unwrap();
    std::fs::create_dir_all(&data).unwrap();
    let dataset = |dataset: &str, overrides: &[Override]| {
        let text =
            RecipeSource::find("seed").unwrap().load(&[Override::new("dataset", dataset, "test")]).unwrap().to_toml();
        std::fs::write(config.join("my.toml"), text).unwrap();
        RecipeSource::read(&config.join("my.toml")).unwrap().load(overrides).unwrap().recipe.dataset
    };
    assert_eq!(Path::new(&dataset("../data/x", &[])), config.join("../data/x"));
    assert_eq!(Path::new(&dataset(data.to_str().unwrap(), &[])), data);
    // Named data sets, absent folders and options stay as they are.
    for (written, overrides) in [("mnist", vec![]), ("../absent", vec![])] {
        std::fs::create_dir_all(config.join("mnist")).unwrap();
        assert_eq!(dataset(written, &overrides), written);
    }
    assert_eq!(dataset("other", &[Override::new("dataset", "../data/x", "--dataset ../data/x")]), "../data/x");
}
