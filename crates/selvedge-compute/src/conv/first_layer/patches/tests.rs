//! The passes over 4×4 patches against the naive convolution in f64 of operands rounded to bf16.

use super::*;
use crate::Isa;
use crate::conv::first_layer::PooledBackward;
use crate::conv::first_layer::batch_norm::{self, PATCH_SUMS};
use crate::conv::reference::for_each_product;
use crate::conv::{Epilogue, NO_ARGMAX, Part, PooledOutput, Training, pack as panels};
use crate::dropout::{self, DropoutMask};
use crate::input::BlockImages;
use crate::layout::BLOCK;
use crate::simd::Element;
use crate::test_support::{Numbers, assert_close, wide};

/// Images of even and odd sizes, of the width of several vectors or of one window.
const SIZES: [[usize; 2]; 9] = [[28, 28], [6, 6], [7, 5], [2, 3], [5, 9], [3, 30], [4, 35], [2, 62], [8, 10]];
const VALID: [usize; 9] = [32, 5, 17, 32, 16, 1, 31, 32, 21];

const SCALE: f32 = 1.0 / 64.0;
const SHIFT: f32 = -1.5;

/// A layer with its operands, and its result before pooling in f64, `[image][output]`.
struct Case {
    cpu: Cpu,
    layer: Conv2dShape,
    valid: usize,
    images: Vec<u8>,
    patches: Vec<bf16>,
    weights: Vec<bf16>,
    bias: Vec<f32>,
    /// The pixels of each image, and its results.
    pixels: Vec<Vec<f64>>,
    results: Vec<Vec<f64>>,
}

/// Layers of one and several panels of channels.
fn cases() -> Vec<Case> {
    let Ok(cpu) = Cpu::with(Isa::Amx) else {
        eprintln!("WARNING: 4x4 patches were NOT TESTED: this machine lacks amx");
        return vec![];
    };
    let cases = SIZES.into_iter().zip([16, 16, 20, 40, 32, 16, 16, 10, 64]).zip(VALID);
    cases.map(|(([height, width], filters), valid)| Case::new(cpu, height, width, filters, valid)).collect()
}

impl Case {
    fn new(cpu: Cpu, height: usize, width: usize, filters: usize, valid: usize) -> Self {
        let layer = Conv2dShape::same(BlockShape::input(height, width, 1), filters, [3, 3], 1);
        let mut numbers = Numbers::new((height * width) as u64);
        let images: Vec<u8> = (0..valid * height * width).map(|_| (numbers.next_u32() >> 24) as u8).collect();
        let mut patches = vec![bf16::from_f32(7.0); shape(&layer).len()];
        let block = BlockImages { pixels: &images[..], valid, scale: SCALE, shift: SHIFT };
        fill(cpu, &layer, block, BLOCK, &mut patches);
        let logical: Vec<f32> = wide(&numbers.elements::<bf16>(9 * filters)).into_iter().map(|w| w as f32).collect();
        let mut in_panels = vec![0.0; layer.weights_len()];
        panels::to_panels(&layer, &logical, &mut in_panels);
        let mut weights = vec![bf16::ZERO; packed_len(&layer)];
        pack(cpu, &layer, &in_panels, &mut weights);
        let mut bias = vec![0.0; layer.output.channel_stride];
        bias[..filters].iter_mut().for_each(|bias| *bias = numbers.uniform(-1.0, 1.0));
        let pixel = |&byte: &u8| f64::from(bf16::from_f32(f32::from(byte) * SCALE + SHIFT).to_f32());
        let mut pixels: Vec<Vec<f64>> =
            images.chunks_exact(height * width).map(|image| image.iter().map(pixel).collect()).collect();
        pixels.resize(BLOCK, vec![0.0; height * width]);
        let results = pixels.iter().map(|pixels| {
            let mut results: Vec<f64> = (0..height * width * filters).map(|o| f64::from(bias[o % filters])).collect();
            for_each_product(&layer, |o, i, w| results[o] += pixels[i] * f64::from(logical[w]));
            results
        });
        let results = results.collect();
        Self { cpu, layer, valid, images, patches, weights, bias, pixels, results }
    }

    /// The results of one image and channel at the four pixels of a window.
    fn window(&self, image: usize, window: usize, channel: usize) -> [f64; 4] {
        std::array::from_fn(|pixel| self.results[image][self.output_index(window, pixel, channel)])
    }

    /// The logical index of an output.
    fn output_index(&self, window: usize, pixel: usize, channel: usize) -> usize {
        let (output, width) = (&self.layer.output, pooled_shape(&self.layer, WINDOW).width);
        let (y, x) = (window / width * 2 + pixel / 2, window % width * 2 + pixel % 2);
        (y * output.width + x) * output.channels + channel
    }

    /// Calls `f` with window, image, channel and index of each element of the pooled output, without padding.
    fn for_each_pooled(&self, mut f: impl FnMut(usize, usize, usize, usize)) {
        let pooled = pooled_shape(&self.layer, WINDOW);
        for at in 0..pooled.len() {
            let (image, channel) = pooled.image_and_channel(at);
            if channel < pooled.channels {
                f(at / pooled.pixel(), image, channel, at);
            }
        }
    }

    fn run<Y: Element>(&self, images: usize, mask: Option<&DropoutMask>) -> (Vec<Y>, Vec<u16>) {
        let pooled = pooled_shape(&self.layer, WINDOW);
        let (mut y, mut indices) = (vec![Y::from_f32(7.0); pooled.len()], vec![77; pooled.len()]);
        let middle = pooled.height / 2;
        let (upper, lower) = y.split_at_mut(middle * pooled.row());
        let (upper_indices, lower_indices) = indices.split_at_mut(middle * pooled.row());
        for (rows, y, indices) in [(0..middle, upper, upper_indices), (middle..pooled.height, lower, lower_indices)] {
            let training = Some(Training { indices, dropout: mask });
            let output = PooledOutput { window: WINDOW, bias: Some(&self.bias), relu: true, y, training };
            forward(self.cpu, &self.layer, &self.patches, &self.weights, Part { rows, images }, output);
        }
        (y, indices)
    }
}

/// Panics unless patches of `valid` images hold the pixels of their windows. `pixel` gives a pixel of an image by its numbers.
fn assert_holds(layer: &Conv2dShape, valid: usize, patches: &[bf16], pixel: impl Fn(usize, usize) -> f64) {
    let (shape, input) = (shape(layer), layer.input);
    for (at, &got) in patches.iter().enumerate() {
        let ((image, element), patch) = (shape.image_and_channel(at), at / shape.pixel());
        let y = (2 * (patch / shape.width) + element / SIDE).wrapping_sub(1);
        let x = (2 * (patch % shape.width) + element % SIDE).wrapping_sub(1);
        let on_image = image < valid && y < input.height && x < input.width;
        let want = if on_image { pixel(image, y * input.width + x) } else { 0.0 };
        assert_eq!(f64::from(got.to_f32()), want, "{input:?}: element {element} of patch {patch} of image {image}");
    }
}

#[test]
fn patches_hold_the_pixels_of_their_windows() {
    for case in cases() {
        assert_holds(&case.layer, case.valid, &case.patches, |image, at| case.pixels[image][at]);
        assert_eq!(case.images.len(), case.valid * case.layer.input.height * case.layer.input.width);
    }
}

#[test]
fn patches_of_floats_hold_the_pixels_of_their_windows() {
    for ([height, width], valid) in SIZES.into_iter().zip(VALID) {
        let layer = Conv2dShape::same(BlockShape::input(height, width, 1), 16, [3, 3], 1);
        let pixels = Numbers::new((height * width) as u64).elements::<f32>(valid * height * width);
        let mut patches = vec![bf16::from_f32(7.0); shape(&layer).len()];
        let images = BlockImages { pixels: &pixels[..], valid, scale: SCALE, shift: SHIFT };
        fill_f32(&layer, images, BLOCK, &mut patches);
        assert_holds(&layer, valid, &patches, |image, at| {
            f64::from(bf16::from_f32(pixels[image * height * width + at] * SCALE + SHIFT).to_f32())
        });
    }
}

fn forward_matches_the_reference<Y: Element>() {
    for case in cases() {
        let (y, indices) = case.run::<Y>(case.valid, None);
        case.for_each_pooled(|window, image, channel, at| {
            if image >= case.valid {
                assert_eq!((y[at].to_f32(), indices[at]), (7.0, 77), "image {image} was not to be computed");
                return;
            }
            let values = case.window(image, window, channel);
            let largest = values.iter().copied().fold(f64::MIN, f64::max);
            assert_close(&format!("{:?}", case.layer), &[y[at]], &[largest.max(0.0)], 1e-5);
            let near = values.iter().filter(|&&value| (value - largest).abs() < 1e-4).count();
            if near == 1 && largest.abs() > 1e-4 {
                let argmax = values.iter().position(|&value| value == largest).unwrap() as u16;
                assert_eq!(indices[at], if largest > 0.0 { argmax } else { NO_ARGMAX });
            }
        });
    }
}

#[test]
fn f32_results_match_the_reference() {
    forward_matches_the_reference::<f32>();
}

#[test]
fn bf16_results_match_the_reference() {
    forward_matches_the_reference::<bf16>();
}

#[test]
fn dropout_in_the_pass_equals_dropout_after_it() {
    let mask = DropoutMask { key: 5, first_image: 64, rate: 0.25 };
    for case in cases() {
        let pooled = pooled_shape(&case.layer, WINDOW);
        let (plain, plain_indices) = case.run::<f32>(BLOCK, None);
        let mut want = plain.clone();
        dropout::apply_in_place(case.cpu, &pooled, 0..pooled.height, &mask, &mut want);
        let mut ones = vec![1.0f32; pooled.len()];
        dropout::apply_in_place(case.cpu, &pooled, 0..pooled.height, &mask, &mut ones);
        let (y, indices) = case.run::<f32>(BLOCK, Some(&mask));
        assert_eq!(y, want);
        for ((argmax, plain), kept) in indices.into_iter().zip(plain_indices).zip(ones) {
            assert_eq!(argmax, if kept > 0.0 { plain } else { NO_ARGMAX });
        }
    }
}

#[test]
fn the_gradient_matches_the_reference() {
    for case in cases() {
        let Case { layer, .. } = &case;
        let pooled = pooled_shape(layer, WINDOW);
        let mut numbers = Numbers::new(layer.input.width as u64);
        let dy = numbers.block::<bf16>(&pooled);
        let indices: Vec<u16> =
            (0..dy.len()).map(|_| [0, 1, 2, 3, NO_ARGMAX][numbers.next_u32() as usize % 5]).collect();
        let mut full = vec![vec![0.0; case.results[0].len()]; BLOCK];
        let mut want_bias = vec![0.5; layer.output.channel_stride];
        case.for_each_pooled(|window, image, channel, at| {
            if indices[at] != NO_ARGMAX {
                let dy = 0.75 * f64::from(dy[at].to_f32());
                full[image][case.output_index(window, indices[at].into(), channel)] = dy;
                want_bias[channel] += dy;
            }
        });
        let mut want = vec![0.0; 9 * layer.output.channels];
        for (pixels, dy) in case.pixels.iter().zip(&full) {
            for_each_product(layer, |o, i, w| want[w] += pixels[i] * dy[o]);
        }
        let (mut dweights, mut dbias) = (vec![0.0; layer.weights_len()], vec![0.5; want_bias.len()]);
        for bias in [None, Some(&mut dbias[..])] {
            let (x, dweights) = (&case.patches[..], &mut dweights[..]);
            let args = PooledBackward { x, dy: &dy, indices: &indices, scale: 0.75, dweights, dbias: bias };
            backward(case.cpu, layer, args);
        }
        let mut got = vec![0.0; want.len()];
        panels::from_panels(layer, &dweights, &mut got);
        // Both calls add to the gradient.
        let want: Vec<f64> = want.iter().map(|want| 2.0 * want).collect();
        assert_close(&format!("{layer:?}"), &got, &want, 2e-5);
        assert_close(&format!("the bias of {layer:?}"), &dbias, &want_bias, 2e-5);
    }
}

/// The cases whose image is covered by 2x2 windows.
fn covered() -> Vec<Case> {
    let mut cases = cases();
    cases.retain(|case| cover(&case.layer));
    cases
}

#[test]
fn without_pooling_every_pixel_matches_the_reference() {
    for case in covered() {
        let output = &case.layer.output;
        for relu in [false, true] {
            let mut y = vec![bf16::from_f32(7.0); output.len()];
            let middle = output.height / 4 * 2;
            let (upper, lower) = y.split_at_mut(middle * output.row());
            let epilogue = Epilogue { bias: Some(&case.bias), relu };
            for (rows, y) in [(0..middle, upper), (middle..output.height, lower)] {
                let part = Part { rows, images: case.valid };
                forward_unpooled(case.cpu, &case.layer, &case.patches, &case.weights, epilogue, part, y);
            }
            for (at, y) in y.iter().enumerate() {
                let ((image, channel), pixel) = (output.image_and_channel(at), at / output.pixel());
                let want = match case.results.get(image) {
                    _ if image >= case.valid => 7.0,
                    Some(results) if channel < output.channels => results[pixel * output.channels + channel],
                    _ => 0.0,
                };
                assert_close(&format!("{:?}", case.layer), &[*y], &[if relu { want.max(0.0) } else { want }], 1e-5);
            }
        }
    }
}

#[test]
fn without_pooling_the_gradient_matches_the_reference() {
    for case in covered() {
        let Case { layer, .. } = &case;
        let output = &layer.output;
        let mut numbers = Numbers::new(layer.input.width as u64);
        let dy = numbers.block::<bf16>(output);
        let y: Vec<bf16> =
            numbers.block::<bf16>(output).into_iter().map(|y| if y > bf16::ZERO { y } else { bf16::ZERO }).collect();
        for y in [None, Some(&y[..])] {
            let mut full = vec![vec![0.0; case.results[0].len()]; BLOCK];
            let mut want_bias = vec![0.5; output.channel_stride];
            for at in 0..output.len() {
                let (image, channel) = output.image_and_channel(at);
                if channel < output.channels && y.is_none_or(|y| y[at] > bf16::ZERO) {
                    let dy = f64::from(dy[at].to_f32());
                    full[image][at / output.pixel() * output.channels + channel] = dy;
                    want_bias[channel] += dy;
                }
            }
            let mut want = vec![0.25; 9 * output.channels];
            for (pixels, dy) in case.pixels.iter().zip(&full) {
                for_each_product(layer, |o, i, w| want[w] += pixels[i] * dy[o]);
            }
            let (mut dweights, mut dbias) = (vec![0.25; layer.weights_len()], vec![0.5; want_bias.len()]);
            backward_unpooled(case.cpu, layer, &case.patches, y, &dy, &mut dweights, &mut dbias);
            let mut got = vec![0.0; want.len()];
            panels::from_panels(layer, &dweights, &mut got);
            assert_close(&format!("{layer:?}"), &got, &want, 2e-5);
            assert_close(&format!("the bias of {layer:?}"), &dbias, &want_bias, 2e-5);
        }
    }
}

#[test]
fn sums_over_patches_are_those_of_the_pixels() {
    for case in covered() {
        let (layer, input) = (&case.layer, &case.layer.input);
        let mut block = vec![0.0; input.len()];
        for (image, pixels) in case.pixels.iter().enumerate() {
            pixels.iter().enumerate().for_each(|(pixel, &value)| block[pixel * BLOCK + image] = value as f32);
        }
        let (mut got, mut want) = ([7.0; PATCH_SUMS], [7.0; PATCH_SUMS]);
        patch_sums(case.cpu, layer, &case.patches, &mut got);
        batch_norm::patch_sums(case.cpu, layer, &block, &mut want);
        for (got, want) in got.iter().zip(&want) {
            assert!((got - want).abs() <= 1e-6 * want.abs().max(100.0), "{layer:?}: {got}, not {want}");
        }
    }
}
