//! Initial weights: those that [`Init`] names, each tensor from a stream of its own.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Normal, Uniform};

use crate::params::snapshot::Snapshot;
use crate::spec::array::ParamKind;
use crate::spec::inference::NetworkShape;
use crate::spec::init::Init;

/// Part of the key, so that nothing else drawn from the same seed has these random numbers.
const PURPOSE: &[u8; 24] = b"selvedge initial weights";

/// The initial state of a network: weights as their layers' [`Init`] says, biases and betas 0, gammas 1, running means 0 and
/// variances 1.
///
/// Tensor number i is drawn from stream i of ChaCha8 keyed by the seed, so it does not depend on the tensors before it.
pub(crate) fn initial(shape: &NetworkShape, seed: u64) -> Snapshot {
    let mut params = Vec::with_capacity(shape.param_count());
    for (index, param) in shape.params.iter().enumerate() {
        let count = param.array.len();
        match (param.init, param.kind) {
            (Some(init), _) => params.extend(weights(init, &param.array.shape, stream(seed, index))),
            (None, ParamKind::Gamma) => params.extend(std::iter::repeat_n(1.0, count)),
            (None, _) => params.extend(std::iter::repeat_n(0.0, count)),
        }
    }
    let mut buffers = Vec::with_capacity(shape.buffer_count());
    for statistic in &shape.buffers {
        let value = if statistic.name.ends_with("running_var") { 1.0 } else { 0.0 };
        buffers.extend(std::iter::repeat_n(value, statistic.len()));
    }
    Snapshot { params, buffers }
}

/// Weights of this logical shape, `[kernel height, kernel width, in, out]` or `[in, out]`.
fn weights(init: Init, shape: &[usize], random: ChaCha8Rng) -> Vec<f32> {
    let (kernel, channels) = shape.split_at(shape.len() - 2);
    let taps: usize = kernel.iter().product();
    let [fan_in, fan_out] = [taps * channels[0], taps * channels[1]];
    let count = fan_in * channels[1];
    match init {
        Init::GlorotUniform => uniform(6.0 / (fan_in + fan_out) as f64).sample_iter(random).take(count).collect(),
        Init::HeNormal => {
            let deviation = (2.0 / fan_in as f64).sqrt() as f32;
            let normal = Normal::new(0.0, deviation).expect("the fan in is at least 1, so the deviation is finite");
            normal.sample_iter(random).take(count).collect()
        }
        Init::FanInUniform | Init::Whitening => uniform(1.0 / fan_in as f64).sample_iter(random).take(count).collect(),
        Init::Dirac => {
            let mut weights = weights(Init::FanInUniform, shape, random);
            pass_on(&mut weights, shape);
            weights
        }
        Init::Zeros => vec![0.0; count],
    }
}

/// Uniform in ± the square root of `square`.
fn uniform(square: f64) -> Uniform<f32> {
    let limit = square.sqrt() as f32;
    Uniform::new_inclusive(-limit, limit).expect("fans are at least 1, so the limit is finite")
}

/// Makes the first outputs of a convolution pass on the input of the same number. The centre of an even kernel is the pixel right
/// of and below the middle, as in PyTorch's `dirac_`.
fn pass_on(weights: &mut [f32], shape: &[usize]) {
    let [height, width, inputs, outputs] = *shape else { unreachable!("a dense layer has no kernel: {shape:?}") };
    let centre = height / 2 * width + width / 2;
    for (row, weights) in weights.chunks_exact_mut(outputs).enumerate() {
        let (tap, input) = (row / inputs, row % inputs);
        for (output, weight) in weights.iter_mut().enumerate().take(inputs) {
            *weight = if tap == centre && output == input { 1.0 } else { 0.0 };
        }
    }
}

fn stream(seed: u64, index: usize) -> ChaCha8Rng {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..].copy_from_slice(PURPOSE);
    let mut random = ChaCha8Rng::from_seed(key);
    random.set_stream(index as u64);
    random
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::{keras_classifier, resnet9};

    /// The numbers of each tensor.
    fn tensors(shape: &NetworkShape, seed: u64) -> Vec<Vec<f32>> {
        let Snapshot { params, .. } = initial(shape, seed);
        let mut rest = params.as_slice();
        let split = shape.param_arrays().map(|array| {
            let (head, tail) = rest.split_at(array.len());
            rest = tail;
            head.to_vec()
        });
        split.collect()
    }

    #[test]
    fn weights_fill_glorots_range_evenly() {
        let shape = NetworkShape::infer(&keras_classifier()).unwrap();
        let tensors = tensors(&shape, 7);
        // [3, 3, 16, 32] and [576, 350], with fans as Keras counts them.
        for (index, fans) in [(2, 9 * (16 + 32)), (6, 576 + 350)] {
            let (weights, limit) = (&tensors[index], (6.0 / fans as f64).sqrt());
            let (mut sum, mut squares, mut largest) = (0.0, 0.0, 0.0f64);
            for &w in weights {
                let w = f64::from(w);
                (sum, squares, largest) = (sum + w, squares + w * w, largest.max(w.abs()));
            }
            let count = weights.len() as f64;
            let variance = squares / count;
            // The mean has a standard error of limit / √(3n), the variance one of limit² · √(4 / 45n).
            assert!((sum / count).abs() < 5.0 * limit / (3.0 * count).sqrt(), "mean {}", sum / count);
            assert!((variance - limit * limit / 3.0).abs() < 5.0 * limit * limit * (4.0 / 45.0 / count).sqrt());
            assert!(largest <= limit * 1.000_001 && largest > 0.99 * limit, "{largest} of {limit}");
        }
    }

    /// The numbers of a weight of [3, 3, 16, 32], whose fan in is 144.
    fn drawn(init: Init, seed: u64) -> Vec<f32> {
        weights(init, &[3, 3, 16, 32], stream(seed, 2))
    }

    #[test]
    fn he_normal_has_the_moments_of_its_distribution() {
        let weights: Vec<f64> =
            drawn(Init::HeNormal, 7).into_iter().map(|w| f64::from(w) * (144.0f64 / 2.0).sqrt()).collect();
        let moment = |power: i32| weights.iter().map(|w| w.powi(power)).sum::<f64>() / weights.len() as f64;
        let error = (weights.len() as f64).sqrt().recip();
        // Moments of the standard normal distribution, with five standard errors: of x 1, of x² √2, of x³ √15, of x⁴ √96.
        for (power, expected, spread) in [(1, 0.0, 1.0), (2, 1.0, 2.0f64), (3, 0.0, 15.0), (4, 3.0, 96.0)] {
            let found = moment(power);
            assert!((found - expected).abs() < 5.0 * spread.sqrt() * error, "moment {power} is {found}");
        }
        // Not truncated at two deviations.
        assert!(weights.iter().any(|w| w.abs() > 3.0));
    }

    #[test]
    fn fan_in_uniform_fills_its_range_evenly() {
        let limit = 1.0 / 12.0;
        for init in [Init::FanInUniform, Init::Whitening] {
            let weights: Vec<f64> = drawn(init, 7).into_iter().map(f64::from).collect();
            let count = weights.len() as f64;
            let (mean, variance) =
                (weights.iter().sum::<f64>() / count, weights.iter().map(|w| w * w).sum::<f64>() / count);
            let largest = weights.iter().fold(0.0f64, |largest, w| largest.max(w.abs()));
            assert!(mean.abs() < 5.0 * limit / (3.0 * count).sqrt(), "{mean}");
            assert!((variance - limit * limit / 3.0).abs() < 5.0 * limit * limit * (4.0 / 45.0 / count).sqrt());
            assert!(largest <= limit * 1.000_001 && largest > 0.99 * limit, "{largest}");
        }
    }

    /// ```python
    /// import torch
    /// for shape in [(5, 3, 3, 3), (2, 3, 2, 4)]:  # out, in, height, width
    ///     weight = torch.full(shape, 0.5)
    ///     torch.nn.init.dirac_(weight[:shape[1]])
    ///     logical = weight.permute(2, 3, 1, 0)
    ///     print([i for i, v in enumerate(logical.flatten().tolist()) if v == 1], int((logical == 0.5).sum()))
    /// # [60, 66, 72] 54
    /// # [36, 39] 0
    /// ```
    #[test]
    fn dirac_is_that_of_pytorch() {
        for (shape, ones, drawn) in [([3, 3, 3, 5], &[60, 66, 72][..], 54), ([2, 4, 3, 2], &[36, 39], 0)] {
            let found = weights(Init::Dirac, &shape, stream(7, 0));
            let at_one: Vec<usize> = (0..found.len()).filter(|&i| found[i] == 1.0).collect();
            assert_eq!(at_one, ones);
            assert_eq!(found.iter().filter(|&&w| w != 0.0 && w != 1.0).count(), drawn);
            // The others are those of the uniform draw.
            let uniform = weights(Init::FanInUniform, &shape, stream(7, 0));
            let others = |weights: &[f32]| -> Vec<f32> {
                weights.chunks(shape[3]).flat_map(|outputs| outputs.iter().skip(shape[2]).copied()).collect()
            };
            assert_eq!(others(&found), others(&uniform));
        }
    }

    #[test]
    fn zeros_are_zero() {
        assert!(drawn(Init::Zeros, 7).iter().all(|&weight| weight == 0.0));
    }

    #[test]
    fn everything_else_begins_as_the_identity() {
        let shape = NetworkShape::infer(&resnet9()).unwrap();
        for (param, values) in shape.params.iter().zip(tensors(&shape, 7)) {
            match param.kind {
                ParamKind::Weight => assert!(values.iter().any(|&value| value != 0.0)),
                ParamKind::Gamma => assert!(values.iter().all(|&value| value == 1.0)),
                ParamKind::Bias | ParamKind::Beta => assert!(values.iter().all(|&value| value == 0.0)),
            }
        }
        let buffers = initial(&shape, 7).buffers;
        assert_eq!(buffers[..64], [0.0; 64]);
        assert_eq!(buffers[64..128], [1.0; 64]);
    }

    #[test]
    fn seeds_and_tensors_draw_apart() {
        let shape = NetworkShape::infer(&keras_classifier()).unwrap();
        assert_eq!(initial(&shape, 1), initial(&shape, 1));
        assert_ne!(initial(&shape, 1), initial(&shape, 2));
        let tensors = tensors(&shape, 1);
        // Both scaled to ±1, or equal draws would look different.
        let scaled = |index: usize, fans: f32| tensors[index][0] / (6.0 / fans).sqrt();
        assert!((scaled(0, 9.0 * 17.0) - scaled(2, 9.0 * 48.0)).abs() > 1e-4);
    }

    /// A version that draws other weights from a seed must say so: runs are repeated from their seed.
    #[test]
    fn draws_are_those_of_earlier_versions() {
        let shape = NetworkShape::infer(&keras_classifier()).unwrap();
        let bits: Vec<u32> = initial(&shape, 1).params[..4].iter().map(|w| w.to_bits()).collect();
        assert_eq!(bits, [3_190_935_308, 3_168_244_888, 3_183_240_838, 1_031_129_156]);
        let first = |init| drawn(init, 1).iter().take(3).map(|w| w.to_bits()).collect::<Vec<_>>();
        assert_eq!(first(Init::HeNormal), [3_193_930_009, 3_178_990_534, 1_043_014_979]);
        assert_eq!(first(Init::FanInUniform), [3_159_281_552, 3_180_978_398, 1_007_571_552]);
        // The first 16 outputs of the first tap are zero, the others drawn.
        let dirac: Vec<u32> = drawn(Init::Dirac, 1)[15..18].iter().map(|w| w.to_bits()).collect();
        assert_eq!(dirac, [0, 1_025_423_390, 1_033_553_387]);
    }
}
