//! The two ends of a network: images come in as bytes, and the loss takes what comes out.

use selvedge_compute::aligned::{view, view_mut};
use selvedge_compute::conv::first_layer::patches::{self, Images};
use selvedge_compute::input::{self, BlockImages};
use selvedge_compute::loss::{self, BlockLoss, BlockTargets, Logits, LossGradient};
use selvedge_compute::simd::Element;
use selvedge_compute::{BLOCK, sum};

use crate::exec::pass::{Batch, Loss, Targets};
use crate::exec::run::{Block, Context};
use crate::spec::InputSpec;

/// The images of a block as the first layer reads them.
pub(crate) fn fill_input(ctx: &Context<'_>, spec: &InputSpec, images: &[u8], block: &mut Block<'_>) {
    let value = &ctx.plan.values[ctx.plan.input];
    let image = spec.height * spec.width * spec.channels;
    let images = &images[block.first_image * image..][..block.valid * image];
    let (scale, shift) = (1.0 / (255.0 * spec.std), -spec.mean / spec.std);
    if let Some(layer) = ctx.plan.patches() {
        let ([], [target]) = block.arenas.split([], [&value.data]);
        let target = view_mut(target);
        // A prediction reads the images that are there.
        let read = if ctx.training.is_some() { BLOCK } else { block.valid };
        let images = Images { bytes: images, valid: block.valid, read, scale, shift };
        patches::fill(ctx.cpu, layer.shape(), images, target);
        return;
    }
    let ([], [target]) = block.arenas.split([], [&value.data]);
    let target = view_mut::<f32>(target);
    if value.shape.channel_stride == value.shape.channels {
        let images = BlockImages { pixels: images, valid: block.valid, scale, shift };
        input::fill_block(ctx.cpu, value.shape, images, target);
        return;
    }
    // The first layer is none that reads unpadded channels: pooling or a normalisation, say.
    target.fill(0.0);
    for (i, &byte) in images.iter().enumerate() {
        let (image_number, at) = (i / image, i % image);
        let (pixel, channel) = (at / spec.channels, at % spec.channels);
        let to = pixel * value.shape.pixel() + value.shape.channel(channel) + image_number * value.shape.plane();
        target[to] = f32::from(byte) * scale + shift;
    }
}

/// What the network says of a block.
pub(crate) fn logits<'a>(ctx: &Context<'_>, classes: usize, block: &'a Block<'_>) -> Logits<'a> {
    let value = &ctx.plan.values[ctx.plan.logits];
    Logits { values: view(block.arenas.at(&value.data)), classes, valid: block.valid }
}

/// The loss of a block, and its gradient where the backward pass begins.
pub(crate) fn step_loss<E: Element>(
    ctx: &Context<'_>,
    classes: usize,
    batch: Batch<'_>,
    loss: &Loss,
    block: &mut Block<'_>,
) -> BlockLoss {
    let value = &ctx.plan.values[ctx.plan.logits];
    let images = block.first_image..block.first_image + block.valid;
    let targets = match batch.targets {
        Targets::Labels(labels) => BlockTargets::Labels(&labels[images]),
        Targets::Soft(soft) => BlockTargets::Soft(&soft[images.start * classes..images.end * classes]),
    };
    let ([values], [dlogits, grad]) = block.arenas.split([&value.data], [&ctx.plan.loss_gradient, &value.grad]);
    let dlogits = view_mut::<f32>(dlogits);
    let logits = Logits { values: view(values), classes, valid: block.valid };
    let gradient = LossGradient { scale: 1.0 / batch.count as f32, dlogits: &mut *dlogits };
    let result = loss::cross_entropy(ctx.cpu, logits, targets, loss.label_smoothing, Some(gradient));
    sum::convert::<f32, E>(ctx.cpu, dlogits, view_mut(grad));
    result
}
