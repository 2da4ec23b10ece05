//! The two ends of a network: images come in, and the loss takes what comes out.

use selvedge_compute::aligned::{view, view_mut};
use selvedge_compute::conv::first_layer::patches;
use selvedge_compute::input::{self, BlockImages};
use selvedge_compute::loss::{self, BlockLoss, BlockTargets, Logits, LossGradient, TargetOptions};
use selvedge_compute::simd::Element;
use selvedge_compute::{BLOCK, BlockShape, sum};

use crate::exec::block::Block;
use crate::exec::context::Context;
use crate::exec::images::Images;
use crate::exec::pass::{Batch, Loss, Targets};
use crate::spec::InputSpec;

/// Writes the images of a block as the first layer reads them.
pub(crate) fn fill_input(ctx: &Context<'_>, images: Images<'_>, block: &mut Block<'_>) {
    let InputSpec { height, width, channels, mean, std } = *ctx.input;
    let (value, valid) = (&ctx.plan.values[ctx.plan.input], block.valid);
    let size = height * width * channels;
    let images = images.slice(block.first_image * size..(block.first_image + valid) * size);
    let brightest = match images {
        Images::Bytes(_) => 255.0,
        Images::Floats(_) => 1.0,
    };
    let (scale, shift) = (1.0 / (brightest * std), -mean / std);
    let ([], [target]) = block.arenas.split([], [&value.data]);
    if let Some(layer) = ctx.plan.patches() {
        // Inference reads no image beyond the valid ones.
        let read = if ctx.training.is_some() { BLOCK } else { valid };
        let target = view_mut(target);
        return match images {
            Images::Bytes(pixels) => {
                let images = BlockImages { pixels, valid, scale, shift };
                patches::fill(ctx.cpu, layer.shape(), images, read, target);
            }
            Images::Floats(pixels) => {
                patches::fill_f32(layer.shape(), BlockImages { pixels, valid, scale, shift }, read, target);
            }
        };
    }
    let (shape, target) = (&value.shape, view_mut::<f32>(target));
    let is_padded = shape.channel_stride != shape.channels;
    match images {
        Images::Bytes(images) if is_padded => {
            fill_padded(shape, images.iter().map(|&byte| f32::from(byte) * scale + shift), target);
        }
        Images::Floats(images) if is_padded => {
            fill_padded(shape, images.iter().map(|x| x * scale + shift), target);
        }
        Images::Bytes(pixels) => {
            input::fill_block(ctx.cpu, *shape, BlockImages { pixels, valid, scale, shift }, target);
        }
        Images::Floats(pixels) => {
            input::fill_block_f32(ctx.cpu, *shape, BlockImages { pixels, valid, scale, shift }, target);
        }
    }
}

/// Fills a block of padded channels with normalised numbers, for a first layer such as pooling or a normalisation.
fn fill_padded(shape: &BlockShape, numbers: impl Iterator<Item = f32>, target: &mut [f32]) {
    target.fill(0.0);
    let size = shape.height * shape.width * shape.channels;
    for (i, number) in numbers.enumerate() {
        let (image, at) = (i / size, i % size);
        let (pixel, channel) = (at / shape.channels, at % shape.channels);
        target[pixel * shape.pixel() + shape.channel(channel) + image * shape.plane()] = number;
    }
}

/// The logits of a block, after the forward pass.
pub(crate) fn logits<'a>(ctx: &Context<'_>, block: &'a Block<'_>) -> Logits<'a> {
    let value = &ctx.plan.values[ctx.plan.logits];
    Logits { values: view(block.arenas.at(&value.data)), classes: ctx.classes, valid: block.valid }
}

/// The loss of a block. Writes its gradient where the backward pass begins.
pub(crate) fn step_loss<E: Element>(
    ctx: &Context<'_>,
    batch: Batch<'_>,
    loss: &Loss,
    block: &mut Block<'_>,
) -> BlockLoss {
    let (value, classes) = (&ctx.plan.values[ctx.plan.logits], ctx.classes);
    let images = block.first_image..block.first_image + block.valid;
    let targets = match batch.targets {
        Targets::Labels(labels) => BlockTargets::Labels(&labels[images]),
        Targets::Soft(soft) => BlockTargets::Soft(&soft[images.start * classes..images.end * classes]),
    };
    let ([values], [dlogits, grad]) = block.arenas.split([&value.data], [&ctx.plan.loss_gradient, &value.grad]);
    let dlogits = view_mut::<f32>(dlogits);
    let logits = Logits { values: view(values), classes, valid: block.valid };
    let gradient = LossGradient { scale: batch.scale, dlogits: &mut *dlogits };
    let options = TargetOptions { smoothing: loss.label_smoothing, class_weights: loss.class_weights.as_deref() };
    let result = loss::cross_entropy(ctx.cpu, logits, targets, options, Some(gradient));
    sum::convert::<f32, E>(ctx.cpu, dlogits, view_mut(grad));
    result
}
