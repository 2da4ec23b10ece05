//! Loss, gradients, running statistics and predictions against PyTorch in double precision.
//!
//! `tests/fixtures/make_gradients.py` made the numbers and describes their file.

use safetensors::SafeTensors;
use serde::Deserialize;

use super::*;

static FIXTURE: &[u8] = include_bytes!("../../../tests/fixtures/gradients.safetensors");

#[derive(Deserialize)]
struct Case {
    name: String,
    spec: ModelSpec,
    label_smoothing: f32,
    loss_sum: f64,
    correct: usize,
}

/// The tensors of a case.
struct Tensors<'a> {
    file: &'a SafeTensors<'a>,
    case: &'a str,
}

impl<'a> Tensors<'a> {
    fn bytes(&self, name: &str) -> Option<&'a [u8]> {
        self.file.tensor(&format!("{}/{name}", self.case)).ok().map(|tensor| tensor.data())
    }

    /// The numbers of a tensor, none if the case has none.
    fn floats(&self, name: &str) -> Vec<f32> {
        let bytes = self.bytes(name).unwrap_or_default();
        bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
    }
}

/// A number here is the result of some hundred additions and ten layers, each with a rounding error of 2⁻²⁴ = 6e-8 of
/// the largest number in it. Adding up as random errors do, that makes 2e-6; four times that passes.
const ROUNDING: f32 = 8e-6;
/// A gradient whose terms cancel, such as that of a bias before a normalisation, has the error of its terms, not of its
/// size: the network's largest gradient stands for them, with half the tolerance.
const CANCELLED: f32 = 4e-6;

/// bf16 rounds to 2⁻⁹ = 2e-3, and ten layers add up to three times that; twice this passes.
const BF16_ROUNDING: f32 = 0.012;
/// Where ReLU and max pooling are, rounding to bf16 moves some values over a jump of the gradient, each of which changes
/// it in whole: what this lets pass is still far from the 1 of an unrelated gradient.
const BF16_JUMPS: f32 = 0.15;
/// As [`CANCELLED`].
const BF16_CANCELLED: f32 = 0.02;

#[test]
fn training_and_inference_match_pytorch() {
    let (_, metadata) = SafeTensors::read_metadata(FIXTURE).unwrap();
    let cases: Vec<Case> = serde_json::from_str(&metadata.metadata().as_ref().unwrap()["cases"]).unwrap();
    let file = SafeTensors::deserialize(FIXTURE).unwrap();
    assert_eq!(cases.len(), 16);
    for cpu in Cpu::all() {
        for precision in [Precision::F32, Precision::Bf16] {
            for case in cases.iter().filter(|_| cpu.check(precision).is_ok()) {
                check(cpu, precision, case, &Tensors { file: &file, case: &case.name });
            }
        }
    }
}

fn check(cpu: Cpu, precision: Precision, case: &Case, tensors: &Tensors<'_>) {
    let name = format!("{} in {precision} on {}", case.name, cpu.isa());
    let images = tensors.bytes("images").unwrap();
    let labels = tensors.bytes("labels");
    let soft = tensors.floats("soft");
    let targets = labels.map_or(Targets::Soft(&soft), Targets::Labels);
    let input = &case.spec.input;
    let count = images.len() / (input.height * input.width * input.channels);
    let mut network = Network::build_on(cpu, &case.spec, &options(count, precision)).unwrap();
    network.restore(&Snapshot { params: tensors.floats("params"), buffers: tensors.floats("buffers") });

    let loss = Loss { label_smoothing: case.label_smoothing, class_weights: None };
    let metrics = network.forward_backward(images, targets, &loss, StepKey { seed: 0, step: 0 });
    type Compare = fn(&str, &[f32], &[f32], f32, f32);
    let json = serde_json::to_string(&case.spec).unwrap();
    let (compare, tolerance, floor): (Compare, f32, f32) = match precision {
        Precision::F32 => (assert_close, ROUNDING, CANCELLED),
        Precision::Bf16 if json.contains("relu") || json.contains("max_pool") => {
            (assert_near, BF16_JUMPS, BF16_CANCELLED)
        }
        Precision::Bf16 => (assert_near, BF16_ROUNDING, BF16_CANCELLED),
    };
    assert_eq!(metrics.count, count, "{name}: images");
    let differing = metrics.correct.abs_diff(case.correct) as f32 / count as f32;
    assert!(differing <= tolerance / 8.0, "{name}: {} images are correct, not {}", metrics.correct, case.correct);
    let error = (metrics.loss_sum / case.loss_sum - 1.0).abs() as f32;
    assert!(error <= tolerance / 8.0, "{name}: the loss is {}, not {}", metrics.loss_sum, case.loss_sum);

    let (got, want) = (logical_gradients(&network), tensors.floats("gradients"));
    let floor = floor * largest(&want);
    let mut start = 0;
    for entry in &network.params().entries {
        let end = start + entry.shape.iter().product::<usize>();
        let what = format!("{name}, gradient of {}", entry.name);
        compare(&what, &got[start..end], &want[start..end], tolerance, floor);
        start = end;
    }
    assert_eq!(start, want.len(), "{name}: parameters");

    let buffers = network.snapshot().buffers;
    compare(&format!("{name}, running statistics"), &buffers, &tensors.floats("buffers_after"), tolerance / 8.0, 0.0);
    let probabilities = network.predict(images).into_raw_vec_and_offset().0;
    compare(&format!("{name}, probabilities"), &probabilities, &tensors.floats("probabilities"), tolerance, 0.0);
}
