//! The command `profile`: what it writes and what it refuses. No test depends on speed.

mod common;

use std::fs;
use std::process::Output;

use common::{Workplace, assert_fails, stdout};
use serde_json::Value;

impl Workplace {
    fn profile(&self, args: &[&str]) -> Output {
        self.profile_with(args, &[])
    }

    fn profile_with(&self, args: &[&str], environment: &[(&str, &str)]) -> Output {
        let mut command = self.command(&["profile"]);
        command.args(args).envs(environment.iter().copied()).output().unwrap()
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path().join(name)).unwrap()
    }
}

/// The element names and the text of a document, which must be well-formed.
#[track_caller]
fn xml(text: &str) -> (Vec<String>, String) {
    use quick_xml::events::Event;
    let mut reader = quick_xml::Reader::from_str(text);
    let (mut names, mut words, mut open) = (Vec::new(), String::new(), 0usize);
    loop {
        match reader.read_event().expect("well-formed XML") {
            Event::Start(tag) => {
                open += 1;
                names.push(String::from_utf8(tag.name().as_ref().to_vec()).unwrap());
            }
            Event::Empty(tag) => names.push(String::from_utf8(tag.name().as_ref().to_vec()).unwrap()),
            Event::End(_) => open -= 1,
            Event::Text(text) => words += &text.decode().unwrap(),
            Event::Eof => break,
            _ => {}
        }
    }
    assert_eq!(open, 0, "unclosed elements");
    (names, words)
}

#[track_caller]
fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is not a number"))
}

/// Collects every figure of a report.
fn figures<'a>(value: &'a Value, found: &mut Vec<&'a Value>) {
    match value {
        Value::Object(fields) if fields.contains_key("share") => found.push(value),
        Value::Object(fields) => fields.values().for_each(|value| figures(value, found)),
        Value::Array(values) => values.iter().for_each(|value| figures(value, found)),
        _ => {}
    }
}

#[test]
fn a_profile_adds_up() {
    let place = Workplace::new();
    let recipe = ["--recipe", "small.toml", "--dataset", "data", "--threads", "2", "--precision", "f32"];
    let files = ["--op", "conv", "--shape", "10x10x16-16", "--json", "p.json", "--svg", "p.svg", "--batch", "32"];
    let text = stdout(&place.profile(&[&recipe[..], &files].concat()));
    for part in ["f32 multiply-adds", "10x10x16-16", "backward_weights", "0.conv2d", "left over", "batch 32"] {
        assert!(text.contains(part), "{part:?} is missing from:\n{text}");
    }

    let report: Value = serde_json::from_str(&place.read("p.json")).unwrap();
    assert_eq!(report["threads"], 2);
    let operations = report["operations"].as_array().unwrap();
    let passes: Vec<&str> = operations.iter().map(|row| row["pass"].as_str().unwrap()).collect();
    assert_eq!(passes, ["forward", "backward_data", "backward_weights"]);
    assert_eq!(operations[0]["operands"], "dense");
    // 32 images of 10x10 pixels: 30x30 taps. Winograd's algorithm multiplies 3x3 tiles of 6x6 points.
    assert_eq!(operations[0]["figure"]["flops"], 2 * 32 * 3 * 3 * 36 * 16 * 16);
    assert_eq!(operations[0]["figure"]["nominal_flops"], 2 * 32 * 30 * 30 * 16 * 16);

    let recipe = &report["recipe"];
    let layers = recipe["layers"].as_array().unwrap();
    let names: Vec<&str> = layers.iter().map(|layer| layer["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["0.conv2d", "1.batch_norm + relu + max_pool2d", "5.dropout", "6.dense"]);
    let step = &recipe["step"];
    for pass in ["forward", "backward"] {
        let sum: f64 = layers.iter().map(|layer| number(&layer[pass]["seconds"])).sum();
        assert!((sum - number(&step[pass])).abs() <= 1e-9 * sum, "{pass}: {sum} and {}", step[pass]);
    }
    let parts = ["forward", "backward", "input", "loss", "packing", "gradient_sums", "augmentation", "update"];
    let accounted: f64 = parts.iter().map(|part| number(&step[part])).sum();
    let (whole, left_over) = (number(&step["step"]), number(&step["left_over"]));
    assert!(parts.iter().all(|part| number(&step[part]) >= 0.0), "{step}");
    assert!((accounted + left_over - whole).abs() <= 1e-9 * whole, "{step}");
    // The parts are disjoint, so they are not more than the threads' time.
    assert!(left_over >= -1e-9 * whole, "{step}");
    let images_per_second = number(&recipe["images_per_second"]);
    assert!((images_per_second * whole - 32.0).abs() < 1e-6, "{images_per_second}");

    let mut all = Vec::new();
    figures(&report, &mut all);
    assert_eq!(all.len(), 3 + 2 * layers.len());
    for figure in all {
        assert!(number(&figure["share"]) >= 0.0 && number(&figure["share"]).is_finite(), "{figure}");
        let flops = number(&figure["flops_per_second"]) * number(&figure["seconds"]);
        assert!((flops - number(&figure["flops"])).abs() <= 1e-6 * flops, "{figure}");
    }
    for limits in ["one_thread", "all_threads"] {
        let limits = &report["peaks"][limits];
        assert!(number(&limits["f32_flops"]) > 0.0, "{limits}");
        for place in ["l1", "l2", "beyond"] {
            assert!(number(&limits["read"][place]) > 0.0 && number(&limits["copy"][place]) > 0.0, "{limits}");
        }
    }

    let (elements, words) = xml(&place.read("p.svg"));
    assert!(elements[0] == "svg" && elements[1] == "rect", "the plot has a background: {elements:?}");
    for part in ["conv 10x10x16-16", "f32 peak", "GFLOP/s", "L1", "backward weights"] {
        assert!(words.contains(part), "{part:?} is missing from the plot: {words}");
    }
}

#[test]
fn the_layers_of_a_recipe_alone_are_drawn_and_no_operation_is_measured() {
    let place = Workplace::new();
    let args = ["--recipe", "small.toml", "--dataset", "data", "--threads", "1", "--svg", "p.svg", "--json", "p.json"];
    let text = stdout(&place.profile(&args));
    assert!(!text.contains("operation "), "{text}");
    let report: Value = serde_json::from_str(&place.read("p.json")).unwrap();
    assert_eq!(report["operations"], Value::Array(vec![]));
    assert_eq!(report["recipe"]["precision"], "f32", "the recipe's own precision");
    assert_eq!(report["peaks"]["one_thread"], report["peaks"]["all_threads"]);
    let (_, words) = xml(&place.read("p.svg"));
    assert!(words.contains("1.batch_norm + relu") && words.contains("layers of recipe small"), "{words}");
}

#[test]
fn every_operation_can_be_profiled() {
    let place = Workplace::new();
    for (operation, shape, passes) in [
        ("dense", "3x3x16-20", 3),
        ("pool", "6x6x16", 2),
        ("average_pool", "6x6x16", 2),
        ("relu", "6x6x16", 2),
        ("gelu", "6x6x16", 2),
        ("silu", "6x6x16", 2),
        ("hard_swish", "6x6x16", 2),
        ("norm", "6x6x16", 2),
        ("dropout", "6x6x16", 1),
        ("add", "6x6x16", 1),
        ("input", "6x6x3", 1),
        ("loss", "10", 1),
        ("sgd", "1000", 1),
        ("adam", "1000", 1),
        ("adamw", "1000", 1),
    ] {
        let args = ["--op", operation, "--shape", shape, "--precision", "f32", "--batch", "40", "--json", "p.json"];
        let text = stdout(&place.profile(&[&args[..], &["--operands", "relu"]].concat()));
        let report: Value = serde_json::from_str(&place.read("p.json")).unwrap();
        let operands = &report["operations"][0]["operands"];
        assert_eq!(operands.as_str(), (operation == "dense").then_some("relu"), "{operation}");
        assert_eq!(text.contains("as after a ReLU"), operation == "dense", "{text}");
        assert_eq!(report["operations"].as_array().unwrap().len(), passes, "{operation}");
        assert_eq!(report["operations"][0]["shape"], shape);
        assert_eq!(report["recipe"], Value::Null);
    }
}

#[test]
fn what_cannot_be_profiled_is_refused_before_anything_is_measured() {
    let place = Workplace::new();
    assert_fails(&place.profile(&["--op", "convolution"]), 1, &["convolution", "expected one of conv, dense, pool"]);
    assert_fails(&place.profile(&["--op", "conv", "--shape", "14x14"]), 1, &["14x14", "FILTERS"]);
    assert_fails(
        &place.profile(&["--op", "pool", "--shape", "1x1x16"]),
        1,
        &["1x1x16", "smaller than a window of 2x2"],
    );
    assert_fails(&place.profile(&["--op", "conv", "--batch", "0"]), 1, &["a batch of 0", "expected 1 to"]);
    assert_fails(&place.profile(&["--op", "conv", "--batch", "99999999"]), 1, &["99999999", "expected 1 to"]);
    assert_fails(&place.profile(&["--recipe", "fats"]), 1, &["fats", "built in: "]);
    assert_fails(&place.profile(&["--recipe", "small.toml", "--dataset", "none"]), 1, &["none"]);
    let huge = ["--recipe", "small.toml", "--dataset", "data", "--batch", "1000"];
    assert_fails(&place.profile(&huge), 1, &["--batch 1000", "120"]);
    let bf16 = ["--op", "conv", "--precision", "bf16"];
    assert_fails(&place.profile_with(&bf16, &[("SELVEDGE_ISA", "portable")]), 1, &["bf16 needs AMX", "portable"]);
    let many = [("RAYON_NUM_THREADS", "5000")];
    assert_fails(&place.profile_with(&["--op", "conv"], &many), 1, &["5000", "this machine runs"]);

    assert_fails(&place.profile(&["--threads", "0"]), 2, &["from 1 to 1024", "this machine runs"]);
    assert_fails(&place.profile(&["--threads", "5000"]), 2, &["from 1 to 1024"]);
    assert_fails(&place.profile(&["--shape", "14x14x64"]), 2, &["--op"]);
    assert_fails(&place.profile(&["--precision", "f16"]), 2, &["expected auto, f32 or bf16"]);
    assert_fails(&place.profile(&["--operands", "sparse"]), 2, &["sparse", "expected dense or relu"]);

    let args = ["--op", "loss", "--json", "small.toml/p.json"];
    assert_fails(&place.profile(&args), 1, &["small.toml/p.json cannot be written"]);
}

#[test]
#[cfg(unix)]
fn a_flame_graph_needs_perf_and_says_so() {
    let place = Workplace::new();
    let args = ["--recipe", "small.toml", "--dataset", "data", "--flamegraph", "flames.svg"];
    let output = place.profile_with(&args, &[("PATH", "/nonexistent")]);
    assert_fails(&output, 1, &["needs the program perf", "apt-get install linux-perf"]);
    assert!(!place.path().join("flames.svg").exists() && output.stdout.is_empty());
}

/// A `perf` that records nothing and prints two stacks, or refuses.
#[cfg(unix)]
fn stand_in(place: &Workplace, record: &str) -> String {
    use std::os::unix::fs::PermissionsExt;
    let script = format!(
        "#!/bin/sh\ncase $1 in\n--version) echo perf version 1;;\nrecord) {record};;\nscript) cat <<END\n\
         selvedge-0 7 1.0: 2004008 cpu-clock:\n\
         \t100 selvedge_compute::conv::forward+0x10 (selvedge)\n\
         \t200 rayon_core::job::execute+0x20 (selvedge)\n\n\
         selvedge-0 7 1.1: 2004008 cpu-clock:\n\
         \t300 selvedge_compute::pool::max_forward+0x10 (selvedge)\n\
         \t200 rayon_core::job::execute+0x20 (selvedge)\n\nEND\nesac\n"
    );
    let bin = place.path().join("bin");
    fs::create_dir_all(&bin).unwrap();
    fs::write(bin.join("perf"), script).unwrap();
    fs::set_permissions(bin.join("perf"), fs::Permissions::from_mode(0o755)).unwrap();
    format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default())
}

#[test]
#[cfg(unix)]
fn sampled_stacks_become_a_flame_graph() {
    let place = Workplace::new();
    // The argument after `--output` is the file to write.
    let path = stand_in(&place, "while [ \"$1\" != --output ]; do shift; done; echo samples > \"$2\"; sleep 0.2");
    let args = ["--recipe", "small.toml", "--dataset", "data", "--flamegraph", "flames.svg"];
    stdout(&place.profile_with(&args, &[("PATH", &path)]));
    let (elements, words) = xml(&place.read("flames.svg"));
    assert_eq!(elements[0], "svg");
    assert!(words.contains("Training steps"), "{words}");
    assert!(words.contains("selvedge_compute::conv::forward") && words.contains("max_forward"), "{words}");
    assert!(!place.path().join("flames.perf.data").exists(), "samples are removed");
}

#[test]
#[cfg(unix)]
fn the_message_of_a_failing_perf_is_reported() {
    let place = Workplace::new();
    let path = stand_in(&place, "echo 'No permission: kernel.perf_event_paranoid' >&2; exit 3");
    let args = ["--recipe", "small.toml", "--dataset", "data", "--flamegraph", "flames.svg"];
    let output = place.profile_with(&args, &[("PATH", &path)]);
    assert_fails(&output, 1, &["perf record", "perf_event_paranoid"]);
    assert!(!place.path().join("flames.svg").exists());
}
