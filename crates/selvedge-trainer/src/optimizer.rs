//! [`Optimizer`]: one step of SGD, Adam or AdamW over all parameters of a network, as one parallel pass.

use rayon::prelude::*;
use selvedge_compute::optim::{AdamParams, PIECE, SgdParams, adam, sgd};
use selvedge_compute::{AlignedVec, Cpu};
use selvedge_model::{ParamEntry, ParamKind, Params};

use crate::recipe::OptimizerSpec;

/// The state of an optimizer: the number of steps taken and the moments, laid out as [`Params::values`].
#[derive(Clone, Debug)]
pub struct Optimizer {
    spec: OptimizerSpec,
    cpu: Cpu,
    steps: u64,
    first: AlignedVec<f32>,
    /// Empty for SGD.
    second: AlignedVec<f32>,
}

impl Optimizer {
    /// Before the first step on `parameters` elements.
    pub fn new(spec: OptimizerSpec, parameters: usize, cpu: Cpu) -> Self {
        let second = match spec {
            OptimizerSpec::Sgd { .. } => 0,
            OptimizerSpec::Adam { .. } | OptimizerSpec::AdamW { .. } => parameters,
        };
        Self { spec, cpu, steps: 0, first: AlignedVec::zeroed(parameters), second: AlignedVec::zeroed(second) }
    }

    /// Steps taken so far.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// First and second moments: momentum and nothing for SGD.
    pub fn moments(&self) -> (&[f32], &[f32]) {
        (&self.first, &self.second)
    }

    /// Goes back to a state that [`Optimizer::steps`] and [`Optimizer::moments`] told. False, and nothing changed, if
    /// the lengths are others.
    #[must_use]
    pub fn restore(&mut self, steps: u64, first: &[f32], second: &[f32]) -> bool {
        if first.len() != self.first.len() || second.len() != self.second.len() {
            return false;
        }
        self.steps = steps;
        self.first.copy_from_slice(first);
        self.second.copy_from_slice(second);
        true
    }

    /// Changes the values by the gradients, which are those of the mean loss, at this learning rate. The work is
    /// spread over the current rayon pool; each element's arithmetic is its own, so the bits do not depend on it.
    ///
    /// # Panics
    /// If the parameters are not as many as the optimizer was made for.
    pub fn step(&mut self, params: &mut Params, rate: f64) {
        let Params { values, grads, entries } = params;
        assert_eq!(values.len(), self.first.len(), "the optimizer was made for another number of parameters");
        self.steps += 1;
        let (spec, cpu, steps) = (&self.spec, self.cpu, self.steps);
        let pieces = values.par_chunks_mut(PIECE).zip(grads.par_chunks(PIECE)).zip(self.first.par_chunks_mut(PIECE));
        match *spec {
            OptimizerSpec::Sgd { momentum, nesterov, weight_decay, .. } => {
                pieces.enumerate().for_each(|(piece, ((values, grads), buffer))| {
                    for_each_part(entries, piece * PIECE, values.len(), |part, decayed| {
                        let params = SgdParams {
                            rate: rate as f32,
                            momentum: momentum as f32,
                            nesterov,
                            weight_decay: if decayed { weight_decay as f32 } else { 0.0 },
                        };
                        sgd(cpu, &mut values[part.clone()], &grads[part.clone()], &mut buffer[part], &params);
                    });
                });
            }
            OptimizerSpec::Adam { beta1, beta2, epsilon, weight_decay, .. }
            | OptimizerSpec::AdamW { beta1, beta2, epsilon, weight_decay, .. } => {
                let decoupled = matches!(spec, OptimizerSpec::AdamW { .. });
                let pieces = pieces.zip(self.second.par_chunks_mut(PIECE));
                pieces.enumerate().for_each(|(piece, (((values, grads), m), v))| {
                    for_each_part(entries, piece * PIECE, values.len(), |part, decayed| {
                        let params = AdamParams {
                            rate: rate as f32,
                            beta1: beta1 as f32,
                            beta2: beta2 as f32,
                            epsilon: epsilon as f32,
                            weight_decay: if decayed { weight_decay as f32 } else { 0.0 },
                            decoupled,
                            step: steps,
                        };
                        let (m, v) = (&mut m[part.clone()], &mut v[part.clone()]);
                        adam(cpu, &mut values[part.clone()], &grads[part], m, v, &params);
                    });
                });
            }
        }
    }
}

/// Calls `f` with each part of the piece `start..start + len` that lies in one parameter, relative to `start`, and with
/// whether weight decay applies to it.
fn for_each_part(entries: &[ParamEntry], start: usize, len: usize, mut f: impl FnMut(std::ops::Range<usize>, bool)) {
    let first = entries.partition_point(|entry| entry.range.end <= start);
    for entry in entries[first..].iter().take_while(|entry| entry.range.start < start + len) {
        let part = entry.range.start.max(start) - start..entry.range.end.min(start + len) - start;
        if !part.is_empty() {
            f(part, entry.kind == ParamKind::Weight);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A weight across the border of two pieces, then a bias.
    fn params() -> Params {
        let len = PIECE + 64;
        let value = |i: usize| (i % 7) as f32 - 3.0;
        let entry = |name: &str, range, kind| ParamEntry { name: name.to_owned(), range, shape: Vec::new(), kind };
        Params {
            values: AlignedVec::from_slice(&(0..len).map(value).collect::<Vec<_>>()),
            grads: AlignedVec::from_slice(&(0..len).map(|i| value(i + 2) / 4.0).collect::<Vec<_>>()),
            entries: vec![
                entry("weight", 0..PIECE + 32, ParamKind::Weight),
                entry("bias", PIECE + 32..len, ParamKind::Bias),
            ],
        }
    }

    fn close(found: f32, expected: f64) -> bool {
        (f64::from(found) - expected).abs() < 1e-5 * expected.abs().max(1.0)
    }

    #[test]
    fn sgd_follows_its_definition_and_decays_weights_only() {
        let mut params = params();
        let (before, grads) = (params.values.clone(), params.grads.clone());
        let spec = OptimizerSpec::Sgd { learning_rate: 0.1, momentum: 0.9, nesterov: true, weight_decay: 0.01 };
        let mut optimizer = Optimizer::new(spec, params.values.len(), Cpu::detect().unwrap());
        optimizer.step(&mut params, 0.1);
        optimizer.step(&mut params, 0.05);
        for i in 0..before.len() {
            let decay = if i < PIECE + 32 { 0.01 } else { 0.0 };
            let (mut w, mut b) = (f64::from(before[i]), 0.0);
            for rate in [0.1, 0.05] {
                let g = f64::from(grads[i]) + decay * w;
                b = 0.9 * b + g;
                w -= rate * (g + 0.9 * b);
            }
            assert!(close(params.values[i], w), "element {i}: {} for {w}", params.values[i]);
        }
    }

    #[test]
    fn adam_and_adamw_follow_their_definitions() {
        for decoupled in [false, true] {
            let mut params = params();
            let (before, grads) = (params.values.clone(), params.grads.clone());
            let (learning_rate, beta1, beta2, epsilon, weight_decay) = (0.1, 0.9, 0.999, 1e-7, 0.01);
            let spec = if decoupled {
                OptimizerSpec::AdamW { learning_rate, beta1, beta2, epsilon, weight_decay }
            } else {
                OptimizerSpec::Adam { learning_rate, beta1, beta2, epsilon, weight_decay }
            };
            let mut optimizer = Optimizer::new(spec, params.values.len(), Cpu::detect().unwrap());
            for _ in 0..3 {
                optimizer.step(&mut params, 0.1);
            }
            assert_eq!(optimizer.steps(), 3);
            for i in (0..before.len()).step_by(5) {
                let decay = if i < PIECE + 32 { 0.01 } else { 0.0 };
                let (mut w, mut m, mut v) = (f64::from(before[i]), 0.0, 0.0);
                for t in 1..=3 {
                    let g = f64::from(grads[i]) + if decoupled { 0.0 } else { decay * w };
                    m = 0.9 * m + 0.1 * g;
                    v = 0.999 * v + 0.001 * g * g;
                    let root = (v / (1.0 - 0.999f64.powi(t))).sqrt() + 1e-7;
                    w -= 0.1 * (m / (1.0 - 0.9f64.powi(t)) / root + if decoupled { decay * w } else { 0.0 });
                }
                assert!(close(params.values[i], w), "element {i}: {} for {w}", params.values[i]);
            }
        }
    }

    #[test]
    fn a_restored_optimizer_goes_on_with_the_same_bits() {
        let spec =
            OptimizerSpec::Adam { learning_rate: 0.1, beta1: 0.9, beta2: 0.999, epsilon: 1e-7, weight_decay: 0.0 };
        let mut params = params();
        let cpu = Cpu::detect().unwrap();
        let mut optimizer = Optimizer::new(spec, params.values.len(), cpu);
        optimizer.step(&mut params, 0.1);
        let mut again = Optimizer::new(spec, params.values.len(), cpu);
        let (first, second) = optimizer.moments();
        assert!(!again.restore(1, &first[1..], second));
        assert!(again.restore(optimizer.steps(), first, second));
        let mut copy = params.clone();
        optimizer.step(&mut params, 0.1);
        again.step(&mut copy, 0.1);
        assert_eq!(params.values[..], copy.values[..]);
    }
}
