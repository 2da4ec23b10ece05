//! Elementwise operations and pooling: what works on each block on its own, in either precision.

use rayon::prelude::*;
use selvedge_compute::activation::{self, Activation};
use selvedge_compute::cost::{self, Cost};
use selvedge_compute::dropout::{self, DropoutMask};
use selvedge_compute::pool::{self, Pool2dShape};
use selvedge_compute::simd::Element;
use selvedge_compute::{AlignedVec, BLOCK, BlockShape, Cpu, Precision, sum};

use super::{Make, Pass, numbers, vectors};

/// The tensors of one block: two that are read, one that is written, indices of max pooling, two sums for each channel.
pub(super) struct Tensors<'a, E> {
    pub(super) read: [&'a [E]; 2],
    pub(super) written: &'a mut [E],
    pub(super) indices: &'a mut [u16],
    pub(super) sums: &'a mut [f64],
}

/// A pass that runs `block` on each block on its own. A block reads at most two tensors of `read` elements and writes one of
/// `written`.
pub(super) fn by_block<E: Element>(
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
        let mut all_indices = AlignedVec::<u16>::zeroed(blocks * indices);
        let mut sums = AlignedVec::<f64>::zeroed(blocks * 2 * channels);
        let run = Box::new(move || {
            let read = a.par_chunks(read).zip(b.par_chunks(read));
            let written = y.par_chunks_mut(written).zip(all_indices.par_chunks_mut(indices));
            read.zip(written).zip(sums.par_chunks_mut(2 * channels)).for_each(|(((a, b), (y, indices)), sums)| {
                block(cpu, Tensors { read: [a, b], written: y, indices, sums });
            });
        });
        let (cost, resident) = (costs(batch), costs(of_thread).bytes);
        Pass { name, path: vectors(cpu), precision: Precision::F32, cost, resident, run }
    })
}

pub(super) fn activation<E: Element>(kind: Activation, shape: BlockShape) -> Vec<Make> {
    let (lens, channels) = ([shape.len(); 2], shape.channel_stride);
    let costs = move |images| cost::activation(kind, &shape, images, size_of::<E>());
    let forward = by_block::<E>(
        "forward",
        lens,
        channels,
        move |images| costs(images).forward,
        move |cpu, t| activation::forward(cpu, kind, t.read[0], t.written),
    );
    let backward = by_block::<E>(
        "backward",
        lens,
        channels,
        move |images| costs(images).backward,
        move |cpu, t| activation::backward(cpu, kind, t.read[0], t.read[1], t.written),
    );
    vec![forward, backward]
}

/// Forward alone: the backward pass is the same on the gradient.
pub(super) fn dropout<E: Element>(shape: BlockShape) -> Make {
    by_block::<E>(
        "forward",
        [shape.len(); 2],
        shape.channel_stride,
        move |images| cost::dropout(&shape, images, size_of::<E>()).forward,
        move |cpu, t| {
            let mask = DropoutMask { key: 1, first_image: 0, rate: 0.3 };
            dropout::apply(cpu, &shape, 0..shape.height, &mask, t.read[0], t.written);
        },
    )
}

/// Forward alone: the backward pass is the same where the branches of a residual block begin.
pub(super) fn add<E: Element>(shape: BlockShape) -> Make {
    by_block::<E>(
        "forward",
        [shape.len(); 2],
        shape.channel_stride,
        move |images| cost::add(&shape, images, size_of::<E>()).forward,
        |cpu, t| sum::add(cpu, t.read[0], t.read[1], t.written),
    )
}

pub(super) fn max_pool<E: Element>(shape: Pool2dShape) -> Vec<Make> {
    let (input, output) = (shape.input(), shape.output());
    let costs = move |images| cost::max_pool(&shape, images, size_of::<E>());
    let forward = by_block::<E>(
        "forward",
        [input.len(), output.len()],
        input.channel_stride,
        move |images| costs(images).forward,
        move |cpu, t| pool::max_forward(cpu, &shape, 0..output.height, t.read[0], t.written, Some(t.indices)),
    );
    let backward = by_block::<E>(
        "backward",
        [output.len(), input.len()],
        input.channel_stride,
        move |images| costs(images).backward,
        move |cpu, t| pool::max_backward(cpu, &shape, 0..input.height, t.read[0], t.indices, t.written),
    );
    vec![forward, backward]
}

pub(super) fn average_pool<E: Element>(shape: Pool2dShape) -> Vec<Make> {
    let (input, output) = (shape.input(), shape.output());
    let costs = move |images| cost::average_pool(&shape, images, size_of::<E>());
    let forward = by_block::<E>(
        "forward",
        [input.len(), output.len()],
        input.channel_stride,
        move |images| costs(images).forward,
        move |cpu, t| pool::average_forward(cpu, &shape, 0..output.height, t.read[0], t.written),
    );
    let backward = by_block::<E>(
        "backward",
        [output.len(), input.len()],
        input.channel_stride,
        move |images| costs(images).backward,
        move |cpu, t| pool::average_backward(cpu, &shape, 0..input.height, t.read[0], t.written),
    );
    vec![forward, backward]
}
