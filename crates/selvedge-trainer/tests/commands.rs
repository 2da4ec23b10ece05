//! The program as a user runs it: exit codes and messages, above all of errors.

mod common;

use std::fs;
use std::path::Path;
use std::process::Output;

use assert_cmd::cargo::cargo_bin_cmd;
use common::{Workplace, assert_fails, stdout, write_part};
use selvedge_compute::{Cpu, Precision};

impl Workplace {
    /// Trains the small recipe.
    fn train(&self, args: &[&str]) -> Output {
        self.training(args).output().unwrap()
    }

    /// Expects failure with `code`, these parts in the message, and no run folder.
    #[track_caller]
    fn assert_fails(&self, output: &Output, code: i32, parts: &[&str]) {
        assert_fails(output, code, parts);
        assert!(!self.path().join("runs").exists(), "a run was started: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn help_has_examples_and_every_command() {
    let place = Workplace::new();
    let help = stdout(&place.run(&["--help"]));
    for command in ["train", "evaluate", "predict", "preview", "profile", "search", "download"] {
        assert!(help.contains(command), "{help}");
        assert!(stdout(&place.run(&[command, "--help"])).contains("Examples:"), "{command}");
    }
}

#[test]
fn wrong_usage_is_exit_code_2() {
    let place = Workplace::new();
    place.assert_fails(&place.run(&[]), 2, &["Usage"]);
    place.assert_fails(&place.run(&["trian"]), 2, &["train"]);
    place.assert_fails(&place.run(&["train", "--epochs", "many"]), 2, &["--epochs"]);
    place.assert_fails(&place.run(&["train", "--threads", "0"]), 2, &["from 1 to 1024", "this machine runs"]);
    place.assert_fails(&place.run(&["train", "--threads", "5000"]), 2, &["from 1 to 1024"]);
    place.assert_fails(&place.run(&["train", "--precision", "f16"]), 2, &["expected auto, f32 or bf16"]);
    place.assert_fails(&place.run(&["train", "--resume", "x", "--epochs", "3"]), 2, &["--resume"]);
    place.assert_fails(&place.train(&["--seed", "9223372036854775808"]), 2, &["--seed", "too large"]);
    place.assert_fails(&place.run(&["predict", "runs"]), 2, &["IMAGE"]);
    place.assert_fails(&place.run(&["predict", "runs", "x.png", "--top", "0"]), 2, &["--top"]);
}

#[test]
fn failure_is_exit_code_1() {
    let place = Workplace::new();
    place.assert_fails(&place.run(&["train", "--recipe", "fats"]), 1, &["fats", "built in: fast, quick, seed"]);
    place.assert_fails(&place.train(&["--set", "epoch=3"]), 1, &["--set epoch=3", "unknown key", "`epochs`"]);
    place.assert_fails(&place.train(&["--epochs", "0"]), 1, &["--epochs 0", "from 1"]);
    place.assert_fails(&place.run(&["train", "--dataset", "nowhere"]), 1, &["nowhere", "fashion-mnist"]);
    place.assert_fails(&place.run(&["train", "--resume", "data"]), 1, &["not the folder of a run", "recipe.toml"]);
    place.assert_fails(&place.run(&["evaluate", "data"]), 1, &["not the folder of a run", "summary.json"]);
    place.assert_fails(&place.run(&["predict", "data", "x.png"]), 1, &["not the folder of a run"]);
    let mut command = cargo_bin_cmd!("selvedge");
    let output = command.current_dir(place.path()).env("RAYON_NUM_THREADS", "many").args(["train"]).output().unwrap();
    place.assert_fails(&output, 1, &["RAYON_NUM_THREADS=many", "this machine runs"]);
    let mut command = cargo_bin_cmd!("selvedge");
    let args = ["train", "--recipe", "small.toml", "--dataset", "data", "--precision", "bf16"];
    let output = command.current_dir(place.path()).env("SELVEDGE_ISA", "portable").args(args).output().unwrap();
    place.assert_fails(&output, 1, &["bf16 needs AMX", "portable"]);
    let mut command = cargo_bin_cmd!("selvedge");
    let output = command.current_dir(place.path()).env("SELVEDGE_ISA", "avx9").args(&args[..5]).output().unwrap();
    place.assert_fails(&output, 1, &["avx9", "SELVEDGE_ISA can be portable, neon, avx2"]);
}

#[test]
fn broken_data_is_refused_before_training() {
    let refused = |damage: &dyn Fn(&Path), parts: &[&str]| {
        let place = Workplace::new();
        damage(&place.path().join("data"));
        place.assert_fails(&place.train(&[]), 1, parts);
    };
    let file = |data: &Path, name: &str| data.join(name);
    refused(&|data| fs::remove_file(file(data, "t10k-labels-idx1-ubyte")).unwrap(), &["t10k-labels-idx1-ubyte"]);
    refused(&|data| fs::remove_file(file(data, "train-images-idx3-ubyte")).unwrap(), &["train-images-idx3-ubyte"]);
    let cut = |data: &Path, name: &str| {
        let bytes = fs::read(file(data, name)).unwrap();
        fs::write(file(data, name), &bytes[..bytes.len() / 2]).unwrap();
    };
    refused(&|data| cut(data, "train-images-idx3-ubyte"), &["train-images-idx3-ubyte"]);
    refused(&|data| cut(data, "t10k-images-idx3-ubyte"), &["t10k-images-idx3-ubyte"]);
    refused(
        &|data| {
            let (images, labels) = (file(data, "train-images-idx3-ubyte"), file(data, "train-labels-idx1-ubyte"));
            fs::rename(&images, file(data, "x")).unwrap();
            fs::rename(&labels, &images).unwrap();
            fs::rename(file(data, "x"), &labels).unwrap();
        },
        &["train-"],
    );
    refused(&|data| write_part(data, "t10k", 40, 7), &["data", "label", "4 classes"]);
    refused(
        &|data| {
            let labels = ndarray::Array1::<u8>::zeros(149).into_dyn();
            let path = file(data, "train-labels-idx1-ubyte");
            selvedge_idx::write(path, &labels, selvedge_idx::Compression::None).unwrap();
        },
        &["train-labels-idx1-ubyte", "149", "150"],
    );
    refused(
        &|data| {
            let images = ndarray::Array3::<u8>::zeros((40, 9, 10)).into_dyn();
            let path = file(data, "t10k-images-idx3-ubyte");
            selvedge_idx::write(path, &images, selvedge_idx::Compression::None).unwrap();
        },
        &["[9, 10, 1]", "[10, 10, 1]"],
    );
}

#[test]
fn an_output_folder_that_cannot_be_used_is_refused() {
    let place = Workplace::new();
    fs::create_dir(place.path().join("full")).unwrap();
    fs::write(place.path().join("full/mine.txt"), "mine").unwrap();
    place.assert_fails(&place.train(&["--out", "full"]), 1, &["full exists and is not empty"]);
    assert_eq!(fs::read_dir(place.path().join("full")).unwrap().count(), 1);
    // A file: nothing can be created below it, not even by root.
    place.assert_fails(&place.train(&["--out", "small.toml/run"]), 1, &["cannot create", "small.toml"]);
    place.assert_fails(&place.train(&["--out", "small.toml"]), 1, &["small.toml exists and is not a folder"]);
}

#[test]
fn a_run_can_be_evaluated_and_predict() {
    let place = Workplace::new();
    let text = stdout(&place.train(&["--epochs", "8", "--out", "run"]));
    assert!(text.contains("epoch 8/8") && text.contains("test accuracy"), "{text}");
    assert!(!text.contains('\u{1b}'), "escape sequences where there is no terminal");

    let report = stdout(&place.run(&["evaluate", "run"]));
    let summary: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(place.path().join("run/summary.json")).unwrap()).unwrap();
    let accuracy = format!("accuracy {:.4}", summary["test_accuracy"].as_f64().unwrap());
    assert!(report.contains(&accuracy) && report.contains("confusion"), "{accuracy}: {report}");

    // The validation images of the small recipe are 30, the test images 40.
    let error =
        |accuracy: f64, images: f64| format!("± {:.2} %", 100.0 * (accuracy * (1.0 - accuracy) / images).sqrt());
    assert!(text.contains(&error(summary["test_accuracy"].as_f64().unwrap(), 40.0)), "{text}");
    assert!(text.contains(&error(summary["validation_accuracy"].as_f64().unwrap(), 30.0)), "{text}");
    assert!(!text.contains("averaged") && summary["test_accuracy_tta"].is_null(), "{text}");

    // An image of class 2: the third of four bands of rows is bright.
    let pixels: Vec<u8> = (0..100).map(|i| if (i / 10) * 4 / 10 == 2 { 160 } else { 40 }).collect();
    write_png(&place.path().join("a.png"), 10, &pixels);
    write_png(&place.path().join("small.png"), 5, &pixels[..25]);
    let text = stdout(&place.run(&["predict", "run", "a.png", "--top", "2"]));
    assert!(text.starts_with("a.png  2 ") && text.trim_end().ends_with('%') && text.lines().count() == 1, "{text}");

    place.assert_fails(&place.run(&["predict", "run", "a.png", "small.png"]), 1, &["small.png has 5 x 5", "10 x 10"]);
    // A bad picture keeps no good one from being classified.
    fs::create_dir(place.path().join("pictures")).unwrap();
    for name in ["b.png", "c.png"] {
        fs::copy(place.path().join("a.png"), place.path().join("pictures").join(name)).unwrap();
    }
    fs::write(place.path().join("pictures/._a.png"), [0, 5, 22, 7]).unwrap();
    let output = place.run(&["predict", "run", "pictures", "none.png", "--top", "1"]);
    place.assert_fails(
        &output,
        1,
        &["._a.png is not a PNG image", "none.png cannot be read", "2 pictures classified, 2 refused"],
    );
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.lines().count() == 2 && text.lines().all(|line| line.contains(".png  2 ")), "{text}");
    place.assert_fails(&place.run(&["predict", "run", "small.toml"]), 1, &["small.toml is not a PNG image"]);
    place.assert_fails(&place.run(&["predict", "run", "none.png"]), 1, &["none.png cannot be read"]);
    place.assert_fails(&place.run(&["predict", "run", "data"]), 1, &["no file that ends in .png"]);

    fs::write(place.path().join("run/model.safetensors"), "broken").unwrap();
    place.assert_fails(&place.run(&["evaluate", "run"]), 1, &["model.safetensors"]);
}

/// In each precision that the processor has.
#[test]
fn evaluate_prints_the_figures_of_the_summary() {
    for (name, precision) in [("f32", Precision::F32), ("bf16", Precision::Bf16)] {
        if let Err(lacks) = Cpu::detect().and_then(|cpu| cpu.check(precision)) {
            eprintln!("SKIPPED: {lacks}");
            continue;
        }
        let place = Workplace::new();
        stdout(&place.train(&["--epochs", "8", "--out", "run", "--precision", name]));
        let json = fs::read_to_string(place.path().join("run/summary.json")).unwrap();
        let summary: serde_json::Value = serde_json::from_str(&json).unwrap();
        let figure = |key: &str| format!("{:.4}", summary[key].as_f64().unwrap());
        let report = stdout(&place.run(&["evaluate", "run", "--threads", "1"]));
        let line = report.lines().next().unwrap();
        assert!(line.starts_with(&format!("accuracy {} ", figure("test_accuracy"))), "{name}: {report}");
        assert!(line.contains(&format!("  loss {}  ", figure("test_loss"))), "{name}: {json} {report}");
        // A machine without that precision says that figures may differ.
        let mut evaluate = place.command(&["evaluate", "run"]);
        let elsewhere = evaluate.env("SELVEDGE_ISA", "portable").output().unwrap();
        let stderr = String::from_utf8_lossy(&elsewhere.stderr);
        stdout(&elsewhere);
        assert_eq!(stderr.contains("the run was in bf16, this is in f32"), precision == Precision::Bf16, "{stderr}");
    }
}

#[test]
fn test_time_averaging_is_the_recipes_unless_an_option_says_otherwise() {
    let place = Workplace::new();
    let set = "test_time_averaging={mirror=true, shift=1}";
    let text = stdout(&place.train(&["--epochs", "4", "--out", "run", "--set", set]));
    let summary: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(place.path().join("run/summary.json")).unwrap()).unwrap();
    let figure = |key: &str| summary[key].as_f64().unwrap();
    let [test, averaged] = ["test_accuracy", "test_accuracy_tta"].map(|key| format!("{:.2} ± ", 100.0 * figure(key)));
    let lines: Vec<&str> = text.lines().collect();
    let closing = |start: &str| *lines.iter().find(|line| line.starts_with(start)).unwrap();
    assert!(closing("test accuracy").starts_with(&format!("test accuracy {test}")), "{text}");
    let line = closing("averaged (mirror + shift 1)");
    assert!(line.contains(&averaged) && line.contains(&format!("loss {:.4}", figure("test_loss_tta"))), "{text}");
    let validation = format!("validation {:.2} ± ", 100.0 * figure("validation_accuracy_tta"));
    assert!(line.contains(&validation), "{text}");

    // `evaluate` prints the figures of the summary.
    let line = |accuracy: &str, loss: &str| {
        let (accuracy, loss) = (figure(accuracy), figure(loss));
        format!("accuracy {accuracy:.4} ± {:.4}  loss {loss:.4}  (", (accuracy * (1.0 - accuracy) / 40.0).sqrt())
    };
    let report = stdout(&place.run(&["evaluate", "run"]));
    let lines: Vec<&str> = report.lines().collect();
    assert!(lines[0].starts_with(&line("test_accuracy", "test_loss")), "{report}");
    assert!(lines[1].starts_with(&line("test_accuracy_tta", "test_loss_tta")), "{report}");
    assert!(lines[1].contains("averaged: mirror + shift 1"), "{report}");
    assert!(!stdout(&place.run(&["evaluate", "run", "--tta", "none"])).contains("averaged"));
    assert!(stdout(&place.run(&["evaluate", "run", "--tta", "mirror"])).contains("averaged: mirror;"));
    place.assert_fails(&place.run(&["evaluate", "run", "--tta", "flip"]), 2, &["--tta", "mirror+shift or none"]);

    // A picture and its mirror image are classified alike with mirroring, and not without.
    let pixels: Vec<u8> = (0..100).map(|i| (i * i % 251) as u8).collect();
    let mirrored: Vec<u8> = pixels.chunks(10).flat_map(|row| row.iter().rev().copied()).collect();
    write_png(&place.path().join("a.png"), 10, &pixels);
    write_png(&place.path().join("b.png"), 10, &mirrored);
    let predict = |tta: &[&str]| {
        let text = stdout(&place.run(&[&["predict", "run", "a.png", "b.png", "--top", "4"], tta].concat()));
        let rows: Vec<String> = text.lines().map(|line| line.split_once("  ").unwrap().1.to_owned()).collect();
        [rows[0].clone(), rows[1].clone()]
    };
    let [a, b] = predict(&["--tta", "mirror"]);
    assert_eq!(a, b);
    let [plain, other] = predict(&["--tta", "none"]);
    assert_ne!(plain, other);
    // The recipe has mirroring and a shift, which the option leaves out.
    assert_ne!(predict(&[])[0], a);
    assert_eq!(predict(&[]), predict(&["--tta", "mirror+shift"]));
}

fn write_png(path: &Path, size: u32, pixels: &[u8]) {
    let mut encoder = png::Encoder::new(fs::File::create(path).unwrap(), size, size);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.write_header().unwrap().write_image_data(pixels).unwrap();
}

#[test]
fn classes_in_another_order_are_refused_or_mapped_and_the_test_files_suffice() {
    let place = Workplace::new();
    let data = place.path().join("data");
    fs::write(data.join("classes.txt"), "top\nupper\nlower\nbottom\n").unwrap();
    stdout(&place.train(&["--epochs", "2", "--out", "run"]));
    let expected = stdout(&place.run(&["evaluate", "run"]));

    // The same pictures, with the classes in the reverse order.
    let other = place.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("classes.txt"), "bottom\nlower\nupper\ntop\n").unwrap();
    fs::copy(data.join("t10k-images-idx3-ubyte"), other.join("t10k-images.idx3-ubyte")).unwrap();
    let labels = fs::read(data.join("t10k-labels-idx1-ubyte")).unwrap();
    let reversed: Vec<u8> = labels.iter().enumerate().map(|(i, &byte)| if i < 8 { byte } else { 3 - byte }).collect();
    fs::write(other.join("t10k-labels-idx1-ubyte"), reversed).unwrap();
    let evaluate = |options: &[&str]| place.run(&[&["evaluate", "run", "--dataset", "other"], options].concat());
    let parts = ["classes bottom, lower, upper, top;", "with top, upper, lower, bottom,", "--map-classes"];
    place.assert_fails(&evaluate(&[]), 1, &parts);
    assert_eq!(stdout(&evaluate(&["--map-classes"])), expected);
    fs::remove_file(other.join("classes.txt")).unwrap();
    let output = evaluate(&[]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("note: other has no classes.txt"));
    assert_ne!(stdout(&output), expected);
}

#[test]
fn a_recipe_names_a_data_set_from_its_own_folder() {
    let place = Workplace::new();
    let folder = place.path().join("cfg");
    fs::create_dir_all(folder.join("elsewhere")).unwrap();
    let recipe = fs::read_to_string(place.path().join("small.toml")).unwrap();
    fs::write(folder.join("my.toml"), format!("\u{feff}dataset = '../data'\n{recipe}")).unwrap();
    let mut command = place.command(&["train", "--recipe", "../my.toml", "--epochs", "1", "--out", "run"]);
    stdout(&command.current_dir(folder.join("elsewhere")).output().unwrap());
    let utf_16: Vec<u8> = recipe.encode_utf16().flat_map(u16::to_le_bytes).collect();
    fs::write(folder.join("my.toml"), [&[0xff, 0xfe], &utf_16[..]].concat()).unwrap();
    place.assert_fails(&place.run(&["train", "--recipe", "cfg/my.toml"]), 1, &["UTF-16", "save it as UTF-8"]);
}

#[test]
fn the_default_folder_is_in_runs() {
    let place = Workplace::new();
    stdout(&place.train(&["--epochs", "1"]));
    let runs: Vec<_> = fs::read_dir(place.path().join("runs")).unwrap().map(|entry| entry.unwrap()).collect();
    assert!(runs.len() == 1 && runs[0].file_name().to_string_lossy().ends_with("-small"), "{runs:?}");
}

#[test]
fn a_printed_recipe_can_be_trained() {
    let place = Workplace::new();
    let text = stdout(&place.train(&["--print-recipe", "--set", "batch=8"]));
    fs::write(place.path().join("mine.toml"), &text).unwrap();
    assert!(text.contains("batch = 8\n"), "{text}");
    assert_eq!(stdout(&place.run(&["train", "--recipe", "mine.toml", "--print-recipe"])), text);
}
