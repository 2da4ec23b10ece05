//! The two ends of a network: its input, made of bytes, and the loss. Both are f32 in either precision.

use rayon::prelude::*;
use selvedge_compute::input::{self, BlockImages};
use selvedge_compute::loss::{self, BlockTargets, Logits, LossGradient, TargetOptions};
use selvedge_compute::{AlignedVec, BLOCK, BlockShape, Precision, cost};

use super::{Make, Pass, numbers, vectors};

/// Bytes of pixels turned into normalised f32.
pub(super) fn network_input(shape: BlockShape) -> Make {
    Box::new(move |cpu, batch, of_thread| {
        let blocks = batch.div_ceil(BLOCK);
        let images: Vec<u8> = (0..blocks * shape.len()).map(|i| (i * 7919 % 256) as u8).collect();
        let mut to = AlignedVec::<f32>::zeroed(blocks * shape.len());
        let run = Box::new(move || {
            to.par_chunks_mut(shape.len()).zip(images.par_chunks(shape.len())).for_each(|(to, images)| {
                let images = BlockImages { pixels: images, valid: BLOCK, scale: 0.0125, shift: -0.75 };
                input::fill_block(cpu, shape, images, to);
            });
        });
        let (cost, resident) = (cost::input(&shape, batch), cost::input(&shape, of_thread).bytes);
        Pass { name: "forward", path: vectors(cpu), precision: Precision::F32, cost, resident, run }
    })
}

/// Softmax cross-entropy and its gradient.
pub(super) fn cross_entropy(classes: usize) -> Make {
    Box::new(move |cpu, batch, of_thread| {
        let stride = BlockShape::new(1, 1, classes).channel_stride;
        let blocks = batch.div_ceil(BLOCK);
        let values = numbers::<f32>(blocks * BLOCK * stride);
        let mut gradients = numbers::<f32>(values.len());
        // There are at most 256 classes.
        let labels: Vec<u8> = (0..BLOCK).map(|image| (image % classes) as u8).collect();
        let run = Box::new(move || {
            let blocks = values.par_chunks(BLOCK * stride).zip(gradients.par_chunks_mut(BLOCK * stride));
            blocks.for_each(|(values, gradient)| {
                let logits = Logits { values, classes, valid: BLOCK };
                let gradient = Some(LossGradient { scale: 1.0 / 64.0, dlogits: gradient });
                let options = TargetOptions { smoothing: 0.1, class_weights: None };
                loss::cross_entropy(cpu, logits, BlockTargets::Labels(&labels), options, gradient);
            });
        });
        let costs = |images| cost::cross_entropy(images, stride);
        let (cost, resident) = (costs(batch), costs(of_thread).bytes);
        Pass { name: "forward", path: vectors(cpu), precision: Precision::F32, cost, resident, run }
    })
}
