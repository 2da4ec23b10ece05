//! The closed form against a convolution followed by a batch norm in f64.

use super::*;
use crate::conv::direct::forward;
use crate::conv::reference::for_each_product;
use crate::conv::{Epilogue, pack};
use crate::layout::BlockShape;
use crate::norm;
use crate::test_support::{Numbers, assert_close, cpus, wide};

const EPSILON: f32 = 1e-3;

/// A layer and a batch of `images` images, `[image][pixel]`.
struct Case {
    layer: Conv2dShape,
    images: Vec<Vec<f32>>,
    weights: Vec<f32>,
    bias: Option<Vec<f32>>,
    gamma: Option<Vec<f32>>,
    beta: Vec<f32>,
}

/// A tensor of each image, `[image][output]`.
type Tensor = Vec<Vec<f64>>;

fn cases() -> Vec<Case> {
    let sizes = [(6, 6, 16, 64), (1, 1, 16, 40), (5, 3, 20, 33), (1, 70, 32, 5), (9, 2, 3, 31)];
    let case = |(number, (height, width, filters, images)): (usize, (usize, usize, usize, usize))| {
        let layer = Conv2dShape::same(BlockShape::input(height, width, 1), filters, [3, 3], 1);
        let mut numbers = Numbers::new(number as u64);
        let mut of_channels = |low, high| {
            let mut values = vec![0.0; layer.output.channel_stride];
            values[..filters].iter_mut().for_each(|value| *value = numbers.uniform(low, high));
            values
        };
        let (bias, gamma, beta) = (of_channels(-1.0, 1.0), of_channels(0.5, 2.0), of_channels(-1.0, 1.0));
        // Neighbouring pixels of an image are alike, and few are zero on average.
        let images = (0..images).map(|_| {
            let level = numbers.uniform(-1.0, 2.0);
            (0..height * width).map(|_| level + numbers.uniform(-0.5, 0.5)).collect()
        });
        let images = images.collect();
        let weights = numbers.elements(TAPS * filters);
        let (bias, gamma) = ((number % 2 == 0).then_some(bias), (number % 3 < 2).then_some(gamma));
        Case { layer, images, weights, bias, gamma, beta }
    };
    sizes.into_iter().enumerate().map(case).collect()
}

impl Case {
    fn panels(&self) -> Vec<f32> {
        let mut panels = vec![0.0; self.layer.weights_len()];
        pack::to_panels(&self.layer, &self.weights, &mut panels);
        panels
    }

    fn blocks(&self) -> Vec<Vec<f32>> {
        let block = |images: &[Vec<f32>]| {
            let mut block = vec![0.0; self.layer.input.len()];
            for (image, pixels) in images.iter().enumerate() {
                pixels.iter().enumerate().for_each(|(pixel, &value)| block[pixel * BLOCK + image] = value);
            }
            block
        };
        self.images.chunks(BLOCK).map(block).collect()
    }

    fn count(&self) -> usize {
        self.images.len() * self.layer.input.height * self.layer.input.width
    }

    fn patches(&self, cpu: Cpu) -> Patches {
        let mut sums = vec![];
        for block in self.blocks() {
            let mut part = [7.0; PATCH_SUMS];
            patch_sums(cpu, &self.layer, &block, &mut part);
            sums.extend(part);
        }
        Patches::of_batch(&sums, self.count())
    }

    /// The convolution's results.
    fn results(&self) -> Tensor {
        let (weights, filters) = (wide(&self.weights), self.layer.output.channels);
        let of_image = |pixels: &Vec<f32>| {
            let bias = |o: usize| self.bias.as_ref().map_or(0.0, |bias| f64::from(bias[o % filters]));
            let mut results: Vec<f64> = (0..pixels.len() * filters).map(bias).collect();
            for_each_product(&self.layer, |o, i, w| results[o] += f64::from(pixels[i]) * weights[w]);
            results
        };
        self.images.iter().map(of_image).collect()
    }

    /// Mean and sum of squared deviations of a channel.
    fn moments(&self, results: &Tensor, channel: usize) -> [f64; 2] {
        let of_channel =
            || results.iter().flat_map(|image| image[channel..].iter().step_by(self.layer.output.channels));
        let mean = of_channel().sum::<f64>() / self.count() as f64;
        [mean, of_channel().map(|value| (value - mean).powi(2)).sum()]
    }

    fn gamma(&self, channel: usize) -> f64 {
        self.gamma.as_ref().map_or(1.0, |gamma| f64::from(gamma[channel]))
    }
}

#[test]
fn sums_are_those_of_every_patch() {
    for cpu in cpus() {
        for case in cases() {
            let input = &case.layer.input;
            let block = &case.blocks()[0];
            let mut want = [0.0; PATCH_SUMS];
            for image in 0..BLOCK {
                for place in 0..input.height * input.width {
                    let pixel = |tap: usize| {
                        let y = (place / input.width + tap / 3).checked_sub(1).filter(|&y| y < input.height);
                        let x = (place % input.width + tap % 3).checked_sub(1).filter(|&x| x < input.width);
                        y.zip(x).map_or(0.0, |(y, x)| f64::from(block[input.offset(y, x) + image]))
                    };
                    for a in 0..TAPS {
                        want[a] += pixel(a);
                        (0..TAPS).for_each(|b| want[TAPS + a * TAPS + b] += pixel(a) * pixel(b));
                    }
                }
            }
            let mut got = [7.0; PATCH_SUMS];
            patch_sums(cpu, &case.layer, block, &mut got);
            for (got, want) in got.iter().zip(&want) {
                assert!((got - want).abs() <= 1e-6 * want.abs().max(10.0), "{:?}: {got}, not {want}", case.layer);
            }
        }
    }
}

#[test]
fn moments_are_those_of_the_results() {
    for cpu in cpus() {
        for case in cases() {
            let (results, stride) = (case.results(), case.layer.output.channel_stride);
            let (mut mean, mut square) = (vec![7.0; stride], vec![7.0; stride]);
            let patches = case.patches(cpu);
            patches.moments(&case.panels(), case.bias.as_deref(), &mut mean, &mut square);
            assert_eq!(patches.count(), case.count());
            for channel in 0..case.layer.output.channels {
                let [want_mean, want_square] = case.moments(&results, channel);
                assert!((mean[channel] - want_mean).abs() < 1e-5, "{} is not {want_mean}", mean[channel]);
                let allowed = 1e-4 * want_square.max(1e-2 * case.count() as f64);
                assert!((square[channel] - want_square).abs() < allowed, "{} is not {want_square}", square[channel]);
            }
            assert!(square[case.layer.output.channels..].iter().all(|&square| square == 0.0));
        }
    }
}

/// Everything that a training pass computes, through the functions that it calls.
#[test]
fn results_and_gradients_are_those_of_one_after_the_other() {
    for cpu in cpus() {
        for case in cases() {
            let (layer, output) = (&case.layer, &case.layer.output);
            let (filters, stride) = (output.channels, output.channel_stride);
            let (panels, patches) = (case.panels(), case.patches(cpu));
            let (mut mean, mut square) = (vec![0.0; stride], vec![0.0; stride]);
            patches.moments(&panels, case.bias.as_deref(), &mut mean, &mut square);
            let zeros = || vec![0.0f32; stride];
            let [mut rstd, mut factor, mut offset, mut folded_bias] = [(); 4].map(|()| zeros());
            norm::rstd(patches.count(), &square, EPSILON, &mut rstd);
            let mean: Vec<f32> = mean.iter().map(|&mean| mean as f32).collect();
            let (gamma, beta) = (case.gamma.as_deref(), Some(&case.beta[..]));
            norm::affine(&mean, &rstd, gamma, beta, &mut factor, &mut offset);
            let mut folded = vec![7.0; panels.len()];
            fold(&panels, case.bias.as_deref(), &factor, &offset, &mut folded, &mut folded_bias);
            let blocks = case.blocks();
            let y: Vec<Vec<f32>> = blocks
                .iter()
                .map(|x| {
                    let mut y = vec![0.0; output.len()];
                    let epilogue = Epilogue { bias: Some(&folded_bias), relu: false };
                    forward(cpu, layer, x, &folded, epilogue, 0..output.height, &mut y);
                    y
                })
                .collect();

            let results = case.results();
            let mut numbers = Numbers::new(9);
            let gradient: Tensor = results.iter().map(|image| wide(&numbers.elements::<f32>(image.len()))).collect();
            let (mut dweights, mut dbeta) = (vec![0.0; panels.len()], vec![0.0; stride]);
            let (mut want_dweights, mut want_dgamma) = (vec![0.0; TAPS * filters], vec![0.0; filters]);
            let count = case.count() as f64;
            let mut dx = vec![vec![0.0; results[0].len()]; results.len()];
            for channel in 0..filters {
                let [mean, square] = case.moments(&results, channel);
                let rstd = 1.0 / (square / count + f64::from(EPSILON)).sqrt();
                let normalised = |image: usize, o: usize| (results[image][o] - mean) * rstd;
                let (mut sum, mut sum_normalised) = (0.0, 0.0);
                for (image, gradient) in gradient.iter().enumerate() {
                    for o in (channel..gradient.len()).step_by(filters) {
                        sum += gradient[o];
                        sum_normalised += gradient[o] * normalised(image, o);
                        let want = normalised(image, o) * case.gamma(channel) + f64::from(case.beta[channel]);
                        let place =
                            o / filters * output.pixel() + output.channel(channel) + image % BLOCK * output.plane();
                        assert_close(&format!("{layer:?}"), &[y[image / BLOCK][place]], &[want], 2e-4);
                    }
                }
                for (image, gradient) in gradient.iter().enumerate() {
                    for o in (channel..gradient.len()).step_by(filters) {
                        let centred = gradient[o] - sum / count - normalised(image, o) * sum_normalised / count;
                        dx[image][o] = case.gamma(channel) * rstd * centred;
                    }
                }
                (dbeta[channel], want_dgamma[channel]) = (sum as f32, sum_normalised);
            }
            for (image, pixels) in case.images.iter().enumerate() {
                for_each_product(layer, |o, i, w| {
                    want_dweights[w] += f64::from(pixels[i]) * dx[image][o];
                    dweights[weight_index(w % filters, w / filters)] += pixels[i] * gradient[image][o] as f32;
                });
            }
            let normalisation =
                Normalisation { mean: &mean, rstd: &rstd, factor: &factor, offset: &offset, activation: None };
            let mut dgamma = vec![7.0; stride];
            patches.gradients(&panels, &normalisation, &mut dweights, &dbeta, Some(&mut dgamma));
            let mut got = vec![0.0; want_dweights.len()];
            pack::from_panels(layer, &dweights, &mut got);
            assert_close(&format!("weights of {layer:?}"), &got, &want_dweights, 2e-3);
            assert_close(&format!("gamma of {layer:?}"), &dgamma[..filters], &want_dgamma, 2e-3);
        }
    }
}
