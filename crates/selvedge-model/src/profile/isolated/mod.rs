//! The operations that networks are made of, one at a time: each on tensors of its own, with its cost, ready to be run
//! over and over by a profile.
//!
//! They are here and not with the profile because this crate has every kernel compiled already.

mod conv;
mod norm;

use rayon::prelude::*;
use selvedge_compute::activation::{self, Activation};
use selvedge_compute::conv::Conv2dShape;
use selvedge_compute::cost::{self, Cost};
use selvedge_compute::dropout::{self, DropoutMask};
use selvedge_compute::input::{self, BlockImages};
use selvedge_compute::loss::{self, BlockTargets, Logits, LossGradient};
use selvedge_compute::optim::{self, AdamParams, CHUNK, SgdParams};
use selvedge_compute::pool::{self, Pool2dShape};
use selvedge_compute::simd::Element;
use selvedge_compute::{AlignedVec, BLOCK, BlockShape, Cpu, Precision, bf16, sum};

/// An operation with its shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IsolatedOperation {
    /// A convolution or dense layer with bias and ReLU. If the channels of its input are not padded, it is f32 in either
    /// precision, and the input has no gradient.
    Conv(Conv2dShape),
    /// Max pooling that keeps the indices.
    MaxPool(Pool2dShape),
    /// Average pooling.
    AveragePool(Pool2dShape),
    /// An activation.
    Activation(Activation, BlockShape),
    /// Batch normalisation with ReLU and its statistics, but not their combination, which takes no time.
    Norm(BlockShape),
    /// The same with max pooling behind it, in the same pass, over windows that do not overlap.
    NormMaxPool(Pool2dShape),
    /// Dropout.
    Dropout(BlockShape),
    /// The sum of two tensors.
    Add(BlockShape),
    /// Bytes made the network's input.
    Input(BlockShape),
    /// Softmax cross-entropy with its gradient, over this many classes.
    CrossEntropy(usize),
    /// SGD with Nesterov momentum on this many parameters.
    Sgd(usize),
    /// Adam with decoupled weight decay on this many parameters.
    Adam(usize),
}

/// The numbers in what convolutions and dense layers multiply the weights by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Operands {
    /// Numbers between −1 and 1, as behind a normalisation.
    #[default]
    Dense,
    /// The same with zeros for those below zero, as behind a ReLU and in the gradient that it passes on. With them matrix
    /// units are up to a fifth faster.
    Relu,
}

impl Operands {
    /// The name that `--operands` takes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dense => "dense",
            Self::Relu => "relu",
        }
    }

    /// `len` elements.
    fn numbers<E: Element>(self, len: usize) -> AlignedVec<E> {
        let mut numbers = numbers::<E>(len);
        if self == Self::Relu {
            numbers.iter_mut().filter(|x| x.to_f32() < 0.0).for_each(|x| *x = E::default());
        }
        numbers
    }
}

/// One direction of an operation, over a batch.
pub struct Pass {
    /// `forward`, `backward`, `backward_data`, `backward_weights` or `update`.
    pub name: &'static str,
    /// Instruction set and code, such as `amx tiles`.
    pub path: String,
    /// What it multiplies in.
    pub precision: Precision,
    /// The cost of the batch.
    pub cost: Cost,
    /// Bytes of the operands of the busiest thread.
    pub resident: u64,
    run: Box<dyn FnMut() + Send>,
}

impl Pass {
    /// Runs it once, on the current rayon pool. The result is thrown away.
    pub fn run(&mut self) {
        (self.run)();
    }
}

/// Makes a pass for a batch, of which a thread has so many images.
type Make = Box<dyn FnOnce(Cpu, usize, usize) -> Pass>;

impl IsolatedOperation {
    /// The operation's passes over a batch of images on that many threads, none where it is not done in this precision.
    /// The tensors of a pass are made when the iterator comes to it.
    ///
    /// The batch is cut into blocks of 32 images over the threads, as a network cuts it; a last block that is not full
    /// takes as long as a full one, as in a network.
    ///
    /// ```
    /// use selvedge_compute::{BlockShape, Cpu, Precision, conv::Conv2dShape};
    /// use selvedge_model::{IsolatedOperation, Operands};
    /// let shape = Conv2dShape::same(BlockShape::new(4, 4, 16), 16, [3, 3], 1);
    /// let passes = IsolatedOperation::Conv(shape).passes(Cpu::detect()?, Precision::F32, Operands::Dense, 64, 2);
    /// let names: Vec<_> = passes.map(|mut pass| {
    ///     pass.run();
    ///     pass.name
    /// }).collect();
    /// assert_eq!(names, ["forward", "backward_data", "backward_weights"]);
    /// # Ok::<(), selvedge_compute::CpuError>(())
    /// ```
    ///
    /// # Panics
    /// If there is no image or no thread, or, at a pass, if the precision is bf16 and `cpu` does not prove AMX.
    pub fn passes(
        self,
        cpu: Cpu,
        precision: Precision,
        operands: Operands,
        images: usize,
        threads: usize,
    ) -> impl Iterator<Item = Pass> {
        assert!(images > 0 && threads > 0, "{images} images on {threads} threads");
        let of_thread = images_of_a_thread(images, threads);
        self.makers(precision, operands, threads).into_iter().map(move |make| make(cpu, images, of_thread))
    }

    fn makers(self, precision: Precision, operands: Operands, threads: usize) -> Vec<Make> {
        match (self, precision) {
            (Self::Conv(shape), Precision::F32) => conv::passes(shape, operands, precision),
            (Self::Conv(shape), Precision::Bf16) if is_padded(&shape.input) => conv::passes(shape, operands, precision),
            // A network's input, logits, parameters and their gradients are f32 in either precision.
            (
                Self::Conv(_) | Self::Input(_) | Self::CrossEntropy(_) | Self::Sgd(_) | Self::Adam(_),
                Precision::Bf16,
            ) => {
                vec![]
            }
            (Self::Input(shape), Precision::F32) => vec![network_input(shape)],
            (Self::CrossEntropy(classes), Precision::F32) => vec![cross_entropy(classes)],
            (Self::Sgd(parameters), Precision::F32) => vec![optimizer(false, parameters, threads)],
            (Self::Adam(parameters), Precision::F32) => vec![optimizer(true, parameters, threads)],
            (_, Precision::F32) => self.on_blocks::<f32>(),
            (_, Precision::Bf16) => self.on_blocks::<bf16>(),
        }
    }
}

/// Images that the busiest thread works on.
fn images_of_a_thread(images: usize, threads: usize) -> usize {
    (images.div_ceil(BLOCK).div_ceil(threads) * BLOCK).min(images)
}

fn is_padded(shape: &BlockShape) -> bool {
    shape.channel_stride == BlockShape::new(shape.height, shape.width, shape.channels).channel_stride
}

/// The path of vector code: beside AMX it is AVX-512.
fn vectors(cpu: Cpu) -> String {
    format!("{} vectors", cpu.isa().vectors())
}

/// What one block of an elementwise or pooling pass has: what is read, what is written, indices, sums of channels.
struct Tensors<'a, E> {
    read: [&'a [E]; 2],
    written: &'a mut [E],
    indices: &'a mut [u16],
    sums: &'a mut [f64],
}

/// A pass that takes each block alone: two tensors of `read` elements a block are read at the most, one of `written`
/// is written.
fn by_block<E: Element>(
    name: &'static str,
    [read, written]: [usize; 2],
    channels: usize,
    costs: impl Fn(usize) -> Cost + 'static,
    block: impl Fn(Cpu, Tensors<'_, E>) + Send + Sync + 'static,
) -> Make {
    Box::new(move |cpu, batch, of_thread| {
        let blocks = batch.div_ceil(BLOCK);
        let (a, b) = (numbers::<E>(blocks * read), numbers::<E>(blocks * read));
        let mut y = numbers::<E>(blocks * written);
        let indices = read.min(written);
        let mut numbers_of_winners = AlignedVec::<u16>::zeroed(blocks * indices);
        let mut sums = AlignedVec::<f64>::zeroed(blocks * 2 * channels);
        let run = Box::new(move || {
            let read = a.par_chunks(read).zip(b.par_chunks(read));
            let written = y.par_chunks_mut(written).zip(numbers_of_winners.par_chunks_mut(indices));
            read.zip(written).zip(sums.par_chunks_mut(2 * channels)).for_each(|(((a, b), (y, indices)), sums)| {
                block(cpu, Tensors { read: [a, b], written: y, indices, sums });
            });
        });
        let (cost, resident) = (costs(batch), costs(of_thread).bytes);
        Pass { name, path: vectors(cpu), precision: Precision::F32, cost, resident, run }
    })
}

impl IsolatedOperation {
    /// The passes of what works on blocks of `E` alone.
    fn on_blocks<E: Element>(self) -> Vec<Make> {
        let element = size_of::<E>();
        match self {
            Self::Activation(kind, shape) => {
                let (len, costs) = (shape.len(), move |images| cost::activation(kind, &shape, images, element));
                let forward = by_block::<E>(
                    "forward",
                    [len, len],
                    shape.channel_stride,
                    move |images| costs(images).forward,
                    move |cpu, t| activation::forward(cpu, kind, t.read[0], t.written),
                );
                let backward = by_block::<E>(
                    "backward",
                    [len, len],
                    shape.channel_stride,
                    move |images| costs(images).backward,
                    move |cpu, t| activation::backward(cpu, kind, t.read[0], t.read[1], t.written),
                );
                vec![forward, backward]
            }
            Self::MaxPool(shape) => pooling::<E>(shape, true),
            Self::AveragePool(shape) => pooling::<E>(shape, false),
            Self::Norm(shape) => norm::alone::<E>(shape),
            Self::NormMaxPool(shape) => norm::pooled::<E>(shape),
            Self::Dropout(shape) => vec![by_block::<E>(
                "forward",
                [shape.len(); 2],
                shape.channel_stride,
                move |images| cost::dropout(&shape, images, element).forward,
                move |cpu, t| {
                    let mask = DropoutMask { key: 1, first_image: 0, rate: 0.3 };
                    dropout::apply(cpu, &shape, 0..shape.height, &mask, t.read[0], t.written);
                },
            )],
            Self::Add(shape) => vec![by_block::<E>(
                "forward",
                [shape.len(); 2],
                shape.channel_stride,
                move |images| cost::add(&shape, images, element).forward,
                |cpu, t| sum::add(cpu, t.read[0], t.read[1], t.written),
            )],
            _ => vec![],
        }
    }
}

fn pooling<E: Element>(shape: Pool2dShape, is_max: bool) -> Vec<Make> {
    let input = shape.input();
    let (large, small, channels) = (input.len(), shape.output().len(), input.channel_stride);
    let (rows, all_rows) = (shape.output().height, input.height);
    let costs = move |images| match is_max {
        true => cost::max_pool(&shape, images, size_of::<E>()),
        false => cost::average_pool(&shape, images, size_of::<E>()),
    };
    let forward = by_block::<E>(
        "forward",
        [large, small],
        channels,
        move |images| costs(images).forward,
        move |cpu, t| match is_max {
            true => pool::max_forward(cpu, &shape, 0..rows, t.read[0], t.written, Some(t.indices)),
            false => pool::average_forward(cpu, &shape, 0..rows, t.read[0], t.written),
        },
    );
    let backward = by_block::<E>(
        "backward",
        [small, large],
        channels,
        move |images| costs(images).backward,
        move |cpu, t| match is_max {
            true => pool::max_backward(cpu, &shape, 0..all_rows, t.read[0], t.indices, t.written),
            false => pool::average_backward(cpu, &shape, 0..all_rows, t.read[0], t.written),
        },
    );
    vec![forward, backward]
}

fn network_input(shape: BlockShape) -> Make {
    Box::new(move |cpu, batch, of_thread| {
        let blocks = batch.div_ceil(BLOCK);
        let pixels: Vec<u8> = (0..blocks * shape.len()).map(|i| (i * 7919 % 256) as u8).collect();
        let mut to = AlignedVec::<f32>::zeroed(blocks * shape.len());
        let run = Box::new(move || {
            to.par_chunks_mut(shape.len()).zip(pixels.par_chunks(shape.len())).for_each(|(to, pixels)| {
                let images = BlockImages { pixels, valid: BLOCK, scale: 0.0125, shift: -0.75 };
                input::fill_block(cpu, shape, images, to);
            });
        });
        let (cost, resident) = (cost::input(&shape, batch), cost::input(&shape, of_thread).bytes);
        Pass { name: "forward", path: vectors(cpu), precision: Precision::F32, cost, resident, run }
    })
}

fn cross_entropy(classes: usize) -> Make {
    Box::new(move |cpu, batch, of_thread| {
        let stride = BlockShape::new(1, 1, classes).channel_stride;
        let blocks = batch.div_ceil(BLOCK);
        let values = numbers::<f32>(blocks * BLOCK * stride);
        let mut gradients = numbers::<f32>(values.len());
        // There are at most 256 classes.
        let labels: Vec<u8> = (0..BLOCK).map(|image| (image % classes) as u8).collect();
        let run = Box::new(move || {
            let blocks = values.par_chunks(BLOCK * stride).zip(gradients.par_chunks_mut(BLOCK * stride));
            blocks.for_each(|(values, dlogits)| {
                let logits = Logits { values, classes, valid: BLOCK };
                let gradient = Some(LossGradient { scale: 1.0 / 64.0, dlogits });
                loss::cross_entropy(cpu, logits, BlockTargets::Labels(&labels), 0.1, gradient);
            });
        });
        let costs = |images| cost::cross_entropy(images, stride);
        let (cost, resident) = (costs(batch), costs(of_thread).bytes);
        Pass { name: "forward", path: vectors(cpu), precision: Precision::F32, cost, resident, run }
    })
}

/// A step of SGD or Adam, in pieces as the training loop cuts it.
fn optimizer(is_adam: bool, parameters: usize, threads: usize) -> Make {
    Box::new(move |cpu, _, _| {
        let len = parameters.next_multiple_of(16);
        let grad = numbers::<f32>(len);
        let (mut value, mut first, mut second) = (grad.clone(), AlignedVec::zeroed(len), AlignedVec::zeroed(len));
        let mut step = 0;
        let run = Box::new(move || {
            step += 1;
            let pieces = value.par_chunks_mut(CHUNK).zip(grad.par_chunks(CHUNK));
            let moments = first.par_chunks_mut(CHUNK).zip(second.par_chunks_mut(CHUNK));
            pieces.zip(moments).for_each(|((value, grad), (first, second))| {
                if is_adam {
                    optim::adam(cpu, value, grad, first, second, &AdamParams { step, ..ADAM });
                } else {
                    optim::sgd(cpu, value, grad, first, &SGD);
                }
            });
        });
        let cost = if is_adam { cost::adam(parameters) } else { cost::sgd(parameters) };
        let resident = cost.bytes / threads as u64;
        Pass { name: "update", path: vectors(cpu), precision: Precision::F32, cost, resident, run }
    })
}

const SGD: SgdParams = SgdParams { rate: 1e-3, momentum: 0.9, nesterov: true, weight_decay: 5e-4 };

const ADAM: AdamParams =
    AdamParams { rate: 1e-3, beta1: 0.9, beta2: 0.999, epsilon: 1e-7, weight_decay: 1e-2, decoupled: true, step: 1 };

/// `len` elements between −1 and 1.
fn numbers<E: Element>(len: usize) -> AlignedVec<E> {
    let mut numbers = AlignedVec::zeroed(len);
    for (i, x) in numbers.iter_mut().enumerate() {
        *x = E::from_f32((i % 2003 * 1117 % 2003) as f32 * 1e-3 - 1.0);
    }
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busiest_thread_has_whole_blocks() {
        assert_eq!(images_of_a_thread(128, 2), 64);
        assert_eq!(images_of_a_thread(128, 3), 64);
        assert_eq!(images_of_a_thread(20, 2), 20);
    }

    #[test]
    fn operands_behind_a_relu_are_half_zeros() {
        let [dense, relu] = [Operands::Dense, Operands::Relu].map(|operands| operands.numbers::<bf16>(2003));
        assert_eq!(dense.iter().filter(|x| x.to_f32() == 0.0).count(), 1);
        assert_eq!(relu.iter().filter(|x| x.to_f32() == 0.0).count(), 1001);
        assert!(relu.iter().zip(&dense[..]).all(|(relu, dense)| relu.to_f32() == dense.to_f32().max(0.0)));
    }

    #[test]
    fn every_operation_runs_in_the_precisions_it_has() {
        let cpu = Cpu::detect().unwrap();
        let shape = BlockShape::new(4, 4, 16);
        let pool = Pool2dShape::new(shape, [2, 2], [2, 2]);
        let input = BlockShape::input(4, 4, 1);
        for (operation, in_f32, in_bf16) in [
            // First, while threads keep no buffer: it needs none.
            (IsolatedOperation::Conv(Conv2dShape::same(input, 16, [3, 3], 1)), 2, 0),
            (IsolatedOperation::Conv(Conv2dShape::same(shape, 16, [3, 3], 1)), 3, 3),
            (IsolatedOperation::MaxPool(pool), 2, 2),
            (IsolatedOperation::AveragePool(pool), 2, 2),
            (IsolatedOperation::Activation(Activation::Gelu, shape), 2, 2),
            (IsolatedOperation::Norm(shape), 2, 2),
            (IsolatedOperation::NormMaxPool(pool), 2, 2),
            (IsolatedOperation::Dropout(shape), 1, 1),
            (IsolatedOperation::Add(shape), 1, 1),
            (IsolatedOperation::Input(input), 1, 0),
            (IsolatedOperation::CrossEntropy(10), 1, 0),
            (IsolatedOperation::Sgd(1000), 1, 0),
            (IsolatedOperation::Adam(1000), 1, 0),
        ] {
            for (precision, count) in [(Precision::F32, in_f32), (Precision::Bf16, in_bf16)] {
                if cpu.check(precision).is_err() {
                    eprintln!("{precision} is not to be had on {}", cpu.isa());
                    continue;
                }
                let run = |mut pass: Pass| {
                    pass.run();
                    assert!(pass.cost.bytes >= pass.resident && pass.resident > 0, "{operation:?} {}", pass.name);
                };
                assert_eq!(
                    operation.passes(cpu, precision, Operands::Relu, 70, 2).map(run).count(),
                    count,
                    "{operation:?} {precision}"
                );
            }
        }
    }
}
