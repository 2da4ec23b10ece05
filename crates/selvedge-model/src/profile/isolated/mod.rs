//! [`IsolatedOperation`]: the operations of networks one at a time, each on tensors of its own, with its cost, for a profile to
//! run over and over.
//!
//! They are in this crate because it has every kernel compiled already.

mod blocks;
mod conv;
mod ends;
mod norm;

use selvedge_compute::activation::Activation;
use selvedge_compute::conv::Conv2dShape;
use selvedge_compute::cost::Cost;
use selvedge_compute::pool::Pool2dShape;
use selvedge_compute::simd::Element;
use selvedge_compute::{AlignedVec, BLOCK, BlockShape, Cpu, Precision, bf16};

/// An operation that can be measured alone, with its shape.
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
    /// The same with max pooling after it, in the same pass, over windows that do not overlap.
    NormMaxPool(Pool2dShape),
    /// Dropout.
    Dropout(BlockShape),
    /// The sum of two tensors.
    Add(BlockShape),
    /// Bytes of pixels turned into the network's input.
    Input(BlockShape),
    /// Softmax cross-entropy with its gradient, over this many classes.
    CrossEntropy(usize),
}

/// The numbers that convolutions and dense layers multiply the weights by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Operands {
    /// Numbers between −1 and 1, as after a normalisation.
    #[default]
    Dense,
    /// The same with zeros for those below zero, as after a ReLU and in the gradient that it passes on. Matrix units are up to
    /// a fifth faster on them.
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
    /// `forward`, `backward`, `backward_data` or `backward_weights`.
    pub name: &'static str,
    /// Instruction set and algorithm, such as `amx tiles`.
    pub path: String,
    /// The type of its products.
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

/// Makes a pass from the instruction set, the images of the batch, and the images of the busiest thread.
type Make = Box<dyn FnOnce(Cpu, usize, usize) -> Pass>;

impl IsolatedOperation {
    /// The operation's passes over a batch of images on that many threads; none if the operation does not exist in this
    /// precision. The tensors of a pass are made when the iterator comes to it.
    ///
    /// The batch is partitioned into blocks of 32 images, as in a network; a last block that is not full takes as long as a
    /// full one, as in a network.
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
    /// If there is no image or no thread, or, when a pass is made, if the precision is bf16 and `cpu` does not prove AMX.
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
        self.makers(precision, operands).into_iter().map(move |make| make(cpu, images, of_thread))
    }

    fn makers(self, precision: Precision, operands: Operands) -> Vec<Make> {
        match (self, precision) {
            (Self::Conv(shape), Precision::F32) => conv::passes(shape, operands, precision),
            (Self::Conv(shape), Precision::Bf16) if is_padded(&shape.input) => conv::passes(shape, operands, precision),
            (Self::Input(shape), Precision::F32) => vec![ends::network_input(shape)],
            (Self::CrossEntropy(classes), Precision::F32) => vec![ends::cross_entropy(classes)],
            (_, Precision::F32) => self.on_blocks::<f32>(),
            (_, Precision::Bf16) => self.on_blocks::<bf16>(),
        }
    }

    /// The passes that exist in either precision.
    fn on_blocks<E: Element>(self) -> Vec<Make> {
        match self {
            Self::Activation(kind, shape) => blocks::activation::<E>(kind, shape),
            Self::MaxPool(shape) => blocks::max_pool::<E>(shape),
            Self::AveragePool(shape) => blocks::average_pool::<E>(shape),
            Self::Norm(shape) => norm::alone::<E>(shape),
            Self::NormMaxPool(shape) => norm::pooled::<E>(shape),
            Self::Dropout(shape) => vec![blocks::dropout::<E>(shape)],
            Self::Add(shape) => vec![blocks::add::<E>(shape)],
            Self::Conv(_) | Self::Input(_) | Self::CrossEntropy(_) => vec![],
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

/// The path of vector code; with AMX it is that of AVX-512.
fn vectors(cpu: Cpu) -> String {
    format!("{} vectors", cpu.isa().vectors())
}

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
    fn operands_after_a_relu_are_half_zeros() {
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
