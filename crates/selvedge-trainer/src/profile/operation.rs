//! [`OperationKind`]: what can be measured on its own; [`measure_operations`] does it.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

use selvedge_compute::{Cpu, Precision, Threads};
use selvedge_model::{Operands, Pass};

use super::{Figure, Measurement, OperationShape, Peaks, ProfileError};

/// How long a pass runs for a sample, and how many samples there are at least; the best counts.
const SAMPLE: Duration = Duration::from_millis(20);
const SAMPLES: usize = 4;

/// The most numbers of a batch's tensor: 1 GiB of f32.
const MOST_NUMBERS: f64 = (1 << 28) as f64;

/// The usual 3x3 convolutions.
const CONVOLUTIONS: [&str; 7] =
    ["28x28x1-16", "28x28x64-64", "14x14x16-32", "14x14x64-64", "14x14x128-128", "7x7x256-256", "3x3x512-512"];

/// What can be measured on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OperationKind {
    /// Convolution.
    Conv,
    /// Dense layer.
    Dense,
    /// Max pooling, 2x2.
    Pool,
    /// Average pooling, 2x2.
    AveragePool,
    /// ReLU.
    Relu,
    /// GELU.
    Gelu,
    /// SiLU.
    Silu,
    /// Batch normalisation with ReLU.
    Norm,
    /// Batch normalisation with ReLU and max pooling, 2x2.
    NormPool,
    /// Dropout.
    Dropout,
    /// The sum of two tensors.
    Add,
    /// Bytes made the network's input.
    Input,
    /// Softmax cross-entropy.
    Loss,
    /// SGD with momentum.
    Sgd,
    /// Adam.
    Adam,
}

impl OperationKind {
    /// All of them, in the order of the table.
    pub const ALL: [OperationKind; 15] = [
        Self::Conv,
        Self::Dense,
        Self::Pool,
        Self::AveragePool,
        Self::Relu,
        Self::Gelu,
        Self::Silu,
        Self::Norm,
        Self::NormPool,
        Self::Dropout,
        Self::Add,
        Self::Input,
        Self::Loss,
        Self::Sgd,
        Self::Adam,
    ];

    /// The name that `--op` takes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Conv => "conv",
            Self::Dense => "dense",
            Self::Pool => "pool",
            Self::AveragePool => "average_pool",
            Self::Relu => "relu",
            Self::Gelu => "gelu",
            Self::Silu => "silu",
            Self::Norm => "norm",
            Self::NormPool => "norm_pool",
            Self::Dropout => "dropout",
            Self::Add => "add",
            Self::Input => "input",
            Self::Loss => "loss",
            Self::Sgd => "sgd",
            Self::Adam => "adam",
        }
    }

    /// The usual shapes.
    pub fn shapes(self) -> Vec<OperationShape> {
        let texts: &[&str] = match self {
            Self::Conv => &CONVOLUTIONS,
            Self::Dense => &["3x3x64-350", "1x1x350-150", "1x1x150-10"],
            Self::Input => &["28x28x1"],
            Self::Loss => &["10"],
            Self::Sgd | Self::Adam => &["279406"],
            _ => &["14x14x64"],
        };
        texts.iter().filter_map(|text| OperationShape::parse(self, text).ok()).collect()
    }

    /// Whether it works on images, and not on parameters.
    fn has_batch(self) -> bool {
        !matches!(self, Self::Sgd | Self::Adam)
    }

    /// Whether it multiplies activations by weights.
    fn multiplies(self) -> bool {
        matches!(self, Self::Conv | Self::Dense)
    }

    /// How its shapes are written.
    pub(super) fn shape_form(self) -> &'static str {
        match self {
            Self::Conv => "HEIGHTxWIDTHxCHANNELS-FILTERS, or with kK at the end for a kernel of KxK: 14x14x64-128k5",
            Self::Dense => "HEIGHTxWIDTHxCHANNELS-UNITS, such as 1x1x350-150",
            Self::Loss => "a number of classes, such as 10",
            Self::Sgd | Self::Adam => "a number of parameters, such as 279406",
            _ => "HEIGHTxWIDTHxCHANNELS, such as 14x14x64",
        }
    }
}

impl fmt::Display for OperationKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for OperationKind {
    type Err = ProfileError;
    fn from_str(name: &str) -> Result<Self, ProfileError> {
        let found = Self::ALL.into_iter().find(|kind| kind.name() == name);
        found.ok_or_else(|| ProfileError::UnknownOperation { asked: name.to_owned() })
    }
}

/// What operations are measured on.
#[derive(Clone, Debug)]
pub struct OperationOptions {
    /// Images.
    pub batch: usize,
    /// The numbers that convolutions and dense layers read.
    pub operands: Operands,
    /// Each pass is measured in all of them in which it is done.
    pub precisions: Vec<Precision>,
}

/// Measures every pass of an operation on these shapes, on all of `threads`.
///
/// The batch is cut into blocks of 32 images over the threads, as a network cuts it.
///
/// # Errors
/// [`ProfileError::Batch`], and [`ProfileError::Cpu`] for a precision that the processor cannot do.
///
/// # Panics
/// If a shape was read for another operation and is too small for this one.
pub fn measure_operations(
    cpu: Cpu,
    threads: &Threads,
    peaks: &Peaks,
    kind: OperationKind,
    shapes: &[OperationShape],
    options: &OperationOptions,
) -> Result<Vec<Measurement>, ProfileError> {
    let &OperationOptions { batch, operands, ref precisions } = options;
    check_batch(kind, shapes, batch)?;
    for &precision in precisions {
        cpu.check(precision)?;
    }
    let mut rows = Vec::new();
    for shape in shapes {
        for &precision in precisions {
            for mut pass in shape.operation(kind).passes(cpu, precision, operands, batch, threads.count()) {
                let seconds = threads.install(|| best_time(&mut pass));
                let figure = Figure::new(seconds, pass.cost, pass.precision, pass.resident, peaks, &peaks.all_threads);
                rows.push(Measurement {
                    operation: kind.name().to_owned(),
                    shape: shape.to_string(),
                    pass: pass.name.to_owned(),
                    precision: precision.to_string(),
                    path: pass.path,
                    batch: if kind.has_batch() { batch } else { 0 },
                    operands: kind.multiplies().then(|| operands.name().to_owned()),
                    figure,
                });
            }
        }
    }
    Ok(rows)
}

/// Refuses a batch that has no images, or of which some shape has more than fit into memory.
///
/// # Errors
/// [`ProfileError::Batch`]
pub fn check_batch(kind: OperationKind, shapes: &[OperationShape], batch: usize) -> Result<(), ProfileError> {
    let largest = shapes.iter().map(|shape| shape.numbers_of_an_image(kind)).fold(1.0, f64::max);
    let most = if kind.has_batch() { (MOST_NUMBERS / largest) as usize } else { usize::MAX };
    if (1..=most).contains(&batch) { Ok(()) } else { Err(ProfileError::Batch { asked: batch, most }) }
}

/// Seconds of the fastest sample, divided by the runs in it.
fn best_time(pass: &mut Pass) -> f64 {
    pass.run();
    let mut best = f64::INFINITY;
    for _ in 0..SAMPLES {
        let (started, mut runs) = (Instant::now(), 0u32);
        while runs == 0 || started.elapsed() < SAMPLE {
            pass.run();
            runs += 1;
        }
        best = best.min(started.elapsed().as_secs_f64() / f64::from(runs));
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_has_a_name_and_shapes_of_its_own() {
        for kind in OperationKind::ALL {
            assert_eq!(kind.name().parse::<OperationKind>().unwrap(), kind);
            assert!(!kind.shapes().is_empty(), "{kind}");
        }
        assert_eq!(OperationKind::Conv.shapes().len(), CONVOLUTIONS.len());
        let message = "convolution".parse::<OperationKind>().unwrap_err().to_string();
        assert!(message.contains("convolution") && message.contains("average_pool"), "{message}");
    }

    #[test]
    fn batches_that_do_not_fit_are_refused() {
        let check = |shape, batch| {
            check_batch(OperationKind::Conv, &[OperationShape::parse(OperationKind::Conv, shape).unwrap()], batch)
        };
        assert!(check("28x28x64-64", 5349).is_ok());
        let message = check("28x28x64-64", 5350).unwrap_err().to_string();
        assert!(message.contains("5350") && message.contains("from 1 to 5349"), "{message}");
        assert!(check("28x28x64-64", 0).is_err());
        assert!(check_batch(OperationKind::Adam, &OperationKind::Adam.shapes(), 1 << 40).is_ok());
    }
}
