//! [`ProfiledOperation`]: an operation that can be measured alone; [`measure_operation`] does it.

use std::time::{Duration, Instant};

use selvedge_compute::activation::Activation;
use selvedge_compute::cost::Cost;
use selvedge_compute::{AlignedVec, Cpu, Precision, Threads};
use selvedge_model::{IsolatedOperation, Operands, ParamEntry, ParamKind, ParamLayout, Params};

use super::shape::ShapeForm;
use super::{Figure, Measurement, OperationShape, Peaks, ProfileError};
use crate::optimizer::{Optimizer, OptimizerSpec};

/// How long a pass runs for a sample, and how many samples there are; the fastest counts.
const SAMPLE: Duration = Duration::from_millis(20);
const SAMPLES: usize = 4;

/// The most numbers of a batch's tensor: 1 GiB of f32.
const MOST_NUMBERS: f64 = (1 << 28) as f64;

/// The usual 3x3 convolutions.
const CONVOLUTIONS: &[&str] =
    &["28x28x1-16", "28x28x64-64", "14x14x16-32", "14x14x64-64", "14x14x128-128", "7x7x256-256", "3x3x512-512"];
const DENSE_LAYERS: &[&str] = &["3x3x64-350", "1x1x350-150", "1x1x150-10"];
const IMAGES: &[&str] = &["14x14x64"];

/// Products and pooling. Activations follow, from their own list.
const PRODUCTS: [ProfiledOperation; 4] = [
    layer("conv", ShapeForm::Convolution, CONVOLUTIONS, |s| IsolatedOperation::Conv(s.conv())),
    layer("dense", ShapeForm::Dense, DENSE_LAYERS, |s| IsolatedOperation::Conv(s.conv())),
    layer("pool", ShapeForm::Pooled, IMAGES, |s| IsolatedOperation::MaxPool(s.pool())),
    layer("average_pool", ShapeForm::Pooled, IMAGES, |s| IsolatedOperation::AveragePool(s.pool())),
];

/// The other operations of networks. Optimizers follow, from their own list.
const OTHERS: [ProfiledOperation; 6] = [
    layer("norm", ShapeForm::Image, IMAGES, |s| IsolatedOperation::Norm(s.block())),
    layer("norm_pool", ShapeForm::Pooled, IMAGES, |s| IsolatedOperation::NormMaxPool(s.pool())),
    layer("dropout", ShapeForm::Image, IMAGES, |s| IsolatedOperation::Dropout(s.block())),
    layer("add", ShapeForm::Image, IMAGES, |s| IsolatedOperation::Add(s.block())),
    layer("input", ShapeForm::Pixels, &["28x28x1"], |s| IsolatedOperation::Input(s.block())),
    layer("loss", ShapeForm::Classes, &["10"], |s| IsolatedOperation::CrossEntropy(s.count())),
];

/// An operation that can be measured alone.
#[derive(Clone, Copy, Debug)]
pub struct ProfiledOperation {
    name: &'static str,
    form: ShapeForm,
    usual_shapes: &'static [&'static str],
    subject: Subject,
}

#[derive(Clone, Copy, Debug)]
enum Subject {
    Layer(fn(&OperationShape) -> IsolatedOperation),
    Activation(Activation),
    Optimizer(OptimizerSpec),
}

const fn layer(
    name: &'static str,
    form: ShapeForm,
    usual_shapes: &'static [&'static str],
    make: fn(&OperationShape) -> IsolatedOperation,
) -> ProfiledOperation {
    ProfiledOperation { name, form, usual_shapes, subject: Subject::Layer(make) }
}

impl ProfiledOperation {
    /// All of them, in the order of the table.
    pub fn all() -> impl Iterator<Item = Self> {
        let optimizer = |spec: OptimizerSpec| Self {
            name: spec.name(),
            form: ShapeForm::Parameters,
            usual_shapes: &["279406"],
            subject: Subject::Optimizer(spec),
        };
        let activation = |kind: Activation| Self {
            name: kind.name(),
            form: ShapeForm::Image,
            usual_shapes: IMAGES,
            subject: Subject::Activation(kind),
        };
        let layers = PRODUCTS.into_iter().chain(Activation::ALL.map(activation)).chain(OTHERS);
        layers.chain(OptimizerSpec::ALL.map(optimizer))
    }

    /// The names of all of them.
    pub fn names() -> String {
        Self::all().map(|operation| operation.name).collect::<Vec<_>>().join(", ")
    }

    /// The operation of that name.
    ///
    /// # Errors
    /// [`ProfileError::UnknownOperation`]
    pub fn find(name: &str) -> Result<Self, ProfileError> {
        let found = Self::all().find(|operation| operation.name == name);
        found.ok_or_else(|| ProfileError::UnknownOperation { asked: name.to_owned() })
    }

    /// The name that `--op` takes.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Reads a shape of this operation.
    ///
    /// ```
    /// use selvedge_trainer::profile::ProfiledOperation;
    /// let conv = ProfiledOperation::find("conv")?;
    /// assert_eq!(conv.shape("14x14x64-128k3")?, conv.shape("14x14x64-128")?);
    /// assert!(ProfiledOperation::find("pool")?.shape("14x14").is_err());
    /// # Ok::<(), selvedge_trainer::profile::ProfileError>(())
    /// ```
    ///
    /// # Errors
    /// [`ProfileError::Shape`], with how a shape of this operation is written.
    pub fn shape(&self, text: &str) -> Result<OperationShape, ProfileError> {
        OperationShape::parse(self.form, text).map_err(|problem| ProfileError::Shape {
            asked: text.to_owned(),
            operation: self.name,
            problem,
            expected: self.form.words(),
        })
    }

    /// The shapes that it is measured on by default.
    ///
    /// # Errors
    /// [`ProfileError::Shape`]
    pub fn usual_shapes(&self) -> Result<Vec<OperationShape>, ProfileError> {
        self.usual_shapes.iter().map(|text| self.shape(text)).collect()
    }

    /// Refuses a batch without images, or one that is too large for memory on some shape.
    ///
    /// # Errors
    /// [`ProfileError::Batch`]
    pub fn check_batch(&self, shapes: &[OperationShape], batch: usize) -> Result<(), ProfileError> {
        let largest = shapes.iter().map(OperationShape::numbers_of_an_image).fold(1.0, f64::max);
        let most = if self.form.has_batch() { (MOST_NUMBERS / largest) as usize } else { usize::MAX };
        if (1..=most).contains(&batch) { Ok(()) } else { Err(ProfileError::Batch { asked: batch, most }) }
    }
}

/// The machine that operations are measured on.
#[derive(Clone, Copy, Debug)]
pub struct Machine<'a> {
    /// The instruction set.
    pub cpu: Cpu,
    /// The worker threads.
    pub threads: &'a Threads,
    /// The limits of these threads.
    pub peaks: &'a Peaks,
}

/// The operands that operations are measured on.
#[derive(Clone, Debug)]
pub struct OperationOptions {
    /// Images.
    pub batch: usize,
    /// The numbers that convolutions and dense layers read.
    pub operands: Operands,
    /// Each pass is measured in those of them that it has.
    pub precisions: Vec<Precision>,
}

/// Measures every pass of an operation on these shapes, on all threads, partitioned over them as in a network: in blocks of
/// 32 images.
///
/// # Errors
/// [`ProfileError::Batch`], and [`ProfileError::Cpu`] for a precision that the processor does not have.
///
/// # Panics
/// If a shape was read for an operation of another form.
pub fn measure_operation(
    operation: &ProfiledOperation,
    shapes: &[OperationShape],
    machine: Machine<'_>,
    options: &OperationOptions,
) -> Result<Vec<Measurement>, ProfileError> {
    let &OperationOptions { batch, operands, ref precisions } = options;
    let Machine { cpu, threads, peaks } = machine;
    operation.check_batch(shapes, batch)?;
    for &precision in precisions {
        cpu.check(precision)?;
    }
    let mut rows = Vec::new();
    for shape in shapes {
        for &precision in precisions {
            for mut pass in passes(operation, shape, machine, precision, options) {
                let seconds = threads.install(|| best_time(&mut *pass.run));
                let figure = Figure::new(seconds, pass.cost, pass.precision, pass.resident, peaks, &peaks.all_threads);
                rows.push(Measurement {
                    operation: operation.name.to_owned(),
                    shape: shape.to_string(),
                    pass: pass.name.to_owned(),
                    precision: precision.to_string(),
                    path: pass.path,
                    batch: if operation.form.has_batch() { batch } else { 0 },
                    operands: operation.form.multiplies().then(|| operands.name().to_owned()),
                    figure,
                });
            }
        }
    }
    Ok(rows)
}

/// One direction of an operation over a batch, or an update of parameters.
struct TimedPass {
    name: &'static str,
    path: String,
    precision: Precision,
    cost: Cost,
    /// Bytes of the operands of the busiest thread.
    resident: u64,
    run: Box<dyn FnMut() + Send>,
}

/// The passes that an operation has in a precision. Their tensors are made one pass at a time.
fn passes<'a>(
    operation: &ProfiledOperation,
    shape: &OperationShape,
    machine: Machine<'a>,
    precision: Precision,
    options: &OperationOptions,
) -> Box<dyn Iterator<Item = TimedPass> + 'a> {
    let Machine { cpu, threads, .. } = machine;
    let isolated = match operation.subject {
        Subject::Layer(make) => make(shape),
        Subject::Activation(kind) => IsolatedOperation::Activation(kind, shape.block()),
        // Parameters and their gradients are f32 in either precision.
        Subject::Optimizer(_) if precision == Precision::Bf16 => return Box::new(std::iter::empty()),
        Subject::Optimizer(spec) => return Box::new(std::iter::once(update(spec, shape.count(), machine))),
    };
    let passes = isolated.passes(cpu, precision, options.operands, options.batch, threads.count());
    Box::new(passes.map(|mut pass| TimedPass {
        name: pass.name,
        path: pass.path.clone(),
        precision: pass.precision,
        cost: pass.cost,
        resident: pass.resident,
        run: Box::new(move || pass.run()),
    }))
}

/// An optimizer's step on parameters of so many numbers: the weights of convolutions as large as those of recipes, as many as
/// fit, and a dense layer with what is left.
fn update(spec: OptimizerSpec, parameters: usize, Machine { cpu, threads, .. }: Machine<'_>) -> TimedPass {
    const CONV: [usize; 4] = [3, 3, 128, 128];
    let conv = CONV.iter().product::<usize>();
    let mut entries = vec![];
    let mut add = |shape: Vec<usize>| {
        let (start, count) = (entries.last().map_or(0, |last: &ParamEntry| last.range.end), shape.iter().product());
        entries.push(ParamEntry {
            name: "weight".to_owned(),
            range: start..start + usize::next_multiple_of(count, 16),
            shape,
            kind: ParamKind::Weight,
            frozen: false,
            layout: ParamLayout::Channels(count),
        });
    };
    (0..parameters / conv).for_each(|_| add(CONV.to_vec()));
    add(vec![1, parameters % conv]);
    let len = entries.last().map_or(0, |last| last.range.end);
    let numbers: Vec<f32> = (0..len).map(|i| (i % 2003 * 1117 % 2003) as f32 * 1e-3 - 1.0).collect();
    let mut params =
        Params { values: AlignedVec::from_slice(&numbers), grads: AlignedVec::from_slice(&numbers), entries };
    let mut optimizer = Optimizer::new(spec, &params, cpu);
    let cost = spec.cost(&params.entries);
    TimedPass {
        name: "update",
        path: format!("{} vectors", cpu.isa().vectors()),
        precision: Precision::F32,
        cost,
        resident: cost.bytes / threads.count() as u64,
        run: Box::new(move || optimizer.step(&mut params, spec.learning_rate())),
    }
}

/// Seconds of a run in the fastest sample.
fn best_time(run: &mut (dyn FnMut() + Send)) -> f64 {
    run();
    let mut best = f64::INFINITY;
    for _ in 0..SAMPLES {
        let (started, mut runs) = (Instant::now(), 0u32);
        while runs == 0 || started.elapsed() < SAMPLE {
            run();
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
        for operation in ProfiledOperation::all() {
            let name = operation.name();
            assert_eq!(ProfiledOperation::all().filter(|other| other.name == name).count(), 1, "{name}");
            assert_eq!(operation.usual_shapes().unwrap().len(), operation.usual_shapes.len(), "{name}");
            assert!(!operation.usual_shapes.is_empty(), "{name}");
        }
        let message = ProfiledOperation::find("convolution").unwrap_err().to_string();
        assert!(message.contains("convolution") && message.contains("average_pool, relu"), "{message}");
        assert!(message.ends_with("sgd, adam, adamw, muon"), "{message}");
    }

    #[test]
    fn a_wrong_shape_is_refused_with_the_operation_and_the_form() {
        for operation in ProfiledOperation::all() {
            let message = operation.shape("many").unwrap_err().to_string();
            assert!(message.contains(operation.name) && message.contains("expected"), "{message}");
        }
    }

    #[test]
    fn batches_that_do_not_fit_are_refused() {
        let conv = ProfiledOperation::find("conv").unwrap();
        let check = |shape, batch| conv.check_batch(&[conv.shape(shape).unwrap()], batch);
        assert!(check("28x28x64-64", 5349).is_ok());
        let message = check("28x28x64-64", 5350).unwrap_err().to_string();
        assert!(message.contains("5350") && message.contains("expected 1 to 5349"), "{message}");
        assert!(check("28x28x64-64", 0).is_err());
        let adam = ProfiledOperation::find("adam").unwrap();
        assert!(adam.check_batch(&adam.usual_shapes().unwrap(), 1 << 40).is_ok());
    }
}
