//! Initial weights: Glorot-uniform, each tensor from a stream of its own.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Uniform};

use crate::params::snapshot::Snapshot;
use crate::spec::array::{ParamKind, ParamShape};
use crate::spec::inference::NetworkShape;

/// Part of the key, so that nothing else drawn from the same seed has these random numbers.
const PURPOSE: &[u8; 24] = b"selvedge initial weights";

/// The initial state of a network: weights uniform in ±√(6 / (fan in + fan out)) (Glorot and Bengio, 2010), biases and
/// betas 0, gammas 1, running means 0 and variances 1.
///
/// Tensor number i is drawn from stream i of ChaCha8 keyed by the seed, so it does not depend on the tensors before it.
pub(crate) fn initial(shape: &NetworkShape, seed: u64) -> Snapshot {
    let mut params = Vec::with_capacity(shape.param_count());
    for (index, param) in shape.params.iter().enumerate() {
        let count = param.array.len();
        match param.kind {
            ParamKind::Weight => params.extend(glorot_limits(param).sample_iter(stream(seed, index)).take(count)),
            ParamKind::Gamma => params.extend(std::iter::repeat_n(1.0, count)),
            ParamKind::Bias | ParamKind::Beta => params.extend(std::iter::repeat_n(0.0, count)),
        }
    }
    let mut buffers = Vec::with_capacity(shape.buffer_count());
    for statistic in &shape.buffers {
        let value = if statistic.name.ends_with("running_var") { 1.0 } else { 0.0 };
        buffers.extend(std::iter::repeat_n(value, statistic.len()));
    }
    Snapshot { params, buffers }
}

/// Keras' fans: the positions of a kernel count on both sides.
fn glorot_limits(param: &ParamShape) -> Uniform<f32> {
    let shape = &param.array.shape;
    let (taps, channels) = shape.split_at(shape.len() - 2);
    let fans = taps.iter().product::<usize>() * (channels[0] + channels[1]);
    let limit = (6.0 / fans as f64).sqrt() as f32;
    Uniform::new_inclusive(-limit, limit).expect("fans are at least 1, so the limit is finite")
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
    }
}
