//! [`GradientRules`]: what is done to the gradients of a step before the optimizer sees them.

use rayon::prelude::*;
use selvedge_compute::optim::CHUNK;
use selvedge_model::{ParamEntry, ParamKind, Params};

use crate::recipe::Recipe;

/// Clips the norm of all gradients, then centralises those of weights, as the recipe says.
#[derive(Debug)]
pub(crate) struct GradientRules {
    max_norm: Option<f64>,
    /// Whether each parameter is trained: the gradients of others do not count.
    trained: Vec<bool>,
    /// The sum of the squares of each parameter's gradient.
    squares: Vec<f64>,
    /// Memory for the gradient of each parameter that is centralised; empty for others.
    matrices: Vec<Vec<f32>>,
}

impl GradientRules {
    /// The rules of a recipe for these parameters.
    pub(crate) fn new(recipe: &Recipe, entries: &[ParamEntry], trained: impl Fn(&ParamEntry) -> bool) -> Self {
        let centralises = |entry: &ParamEntry| recipe.gradient_centralisation && entry.kind == ParamKind::Weight;
        let len = |entry: &ParamEntry| if centralises(entry) { entry.shape.iter().product() } else { 0 };
        Self {
            max_norm: recipe.gradient_clipping.map(|clipping| clipping.max_norm),
            trained: entries.iter().map(trained).collect(),
            squares: vec![0.0; entries.len()],
            matrices: entries.iter().map(|entry| vec![0.0; len(entry)]).collect(),
        }
    }

    /// Changes the gradients, on the current rayon pool.
    pub(crate) fn apply(&mut self, params: &mut Params) {
        if let Some(max_norm) = self.max_norm {
            self.clip(max_norm, params);
        }
        if self.matrices.iter().any(|matrix| !matrix.is_empty()) {
            self.centralise(params);
        }
    }

    /// As `torch.nn.utils.clip_grad_norm_`. Squares are added up parameter by parameter, so that the sum does not depend on the
    /// threads.
    fn clip(&mut self, max_norm: f64, Params { grads, entries, .. }: &mut Params) {
        let all = &grads[..];
        self.squares.par_iter_mut().zip(&*entries).zip(&self.trained).for_each(|((squares, entry), &trained)| {
            *squares = if trained { sum_of_squares(&all[entry.range.clone()]) } else { 0.0 };
        });
        let norm = self.squares.iter().sum::<f64>().sqrt();
        let factor = max_norm / (norm + 1e-6);
        if factor < 1.0 {
            let factor = factor as f32;
            grads.par_chunks_mut(CHUNK).for_each(|chunk| chunk.iter_mut().for_each(|g| *g *= factor));
        }
    }

    /// Subtracts from the gradient of each output's weights their mean (Yong et al., arXiv 2004.01461).
    fn centralise(&mut self, Params { grads, entries, .. }: &mut Params) {
        let mut rest = &mut grads[..];
        let mut parts = Vec::with_capacity(entries.len());
        for (entry, matrix) in entries.iter().zip(&mut self.matrices) {
            let (part, after) = rest.split_at_mut(entry.range.len());
            rest = after;
            if !matrix.is_empty() {
                parts.push((part, entry, matrix));
            }
        }
        parts.into_par_iter().for_each(|(part, entry, matrix)| {
            let [rows, columns] = entry.matrix_shape();
            entry.layout.unpack(part, matrix);
            for column in 0..columns {
                let sum: f64 = matrix[column..].iter().step_by(columns).map(|&g| f64::from(g)).sum();
                let mean = (sum / rows as f64) as f32;
                matrix[column..].iter_mut().step_by(columns).for_each(|g| *g -= mean);
            }
            entry.layout.pack(matrix, part);
        });
    }
}

/// In f64 and in eight partial sums, which vectors add up side by side.
fn sum_of_squares(numbers: &[f32]) -> f64 {
    let mut sums = [0.0; 8];
    let (eights, rest) = numbers.as_chunks::<8>();
    for eight in eights {
        sums.iter_mut().zip(eight).for_each(|(sum, &x)| *sum += f64::from(x) * f64::from(x));
    }
    sums.iter().sum::<f64>() + rest.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use selvedge_compute::AlignedVec;
    use selvedge_model::ParamLayout;

    use super::*;
    use crate::recipe::{Override, RecipeSource};

    fn recipe(sets: &[&str]) -> Recipe {
        let overrides: Vec<Override> = sets.iter().map(|set| Override::parse(set).unwrap()).collect();
        RecipeSource::find("seed").unwrap().load(&overrides).unwrap().recipe
    }

    /// A weight of 5 inputs and 3 outputs, and a bias.
    fn params() -> Params {
        let entry = |name: &str, range: std::ops::Range<usize>, shape: &[usize], kind| ParamEntry {
            name: name.to_owned(),
            range,
            shape: shape.to_vec(),
            kind,
            frozen: false,
            layout: ParamLayout::Channels(shape.iter().product()),
        };
        let mut grads = [0.0; 32];
        (0..15).for_each(|i| grads[i] = (i * 7 % 11) as f32 / 2.0 - 2.0);
        (0..3).for_each(|i| grads[16 + i] = i as f32 - 0.5);
        Params {
            values: AlignedVec::zeroed(32),
            grads: AlignedVec::from_slice(&grads),
            entries: vec![
                entry("1.dense.weight", 0..16, &[5, 3], ParamKind::Weight),
                entry("1.dense.bias", 16..32, &[3], ParamKind::Bias),
            ],
        }
    }

    fn changed(sets: &[&str], trained: impl Fn(&ParamEntry) -> bool) -> Vec<f32> {
        let mut params = params();
        GradientRules::new(&recipe(sets), &params.entries, trained).apply(&mut params);
        params.grads.to_vec()
    }

    #[track_caller]
    fn assert_close(found: &[f32], expected: impl Iterator<Item = f64>) {
        let pairs: Vec<(f32, f64)> = found.iter().copied().zip(expected).collect();
        assert!(!pairs.is_empty() && pairs.iter().all(|(a, b)| (f64::from(*a) - b).abs() < 1e-6), "{pairs:?}");
    }

    /// ```python
    /// import torch
    /// w, b = torch.zeros(5, 3, requires_grad=True), torch.zeros(3, requires_grad=True)
    /// w.grad = ((torch.arange(15) * 7 % 11) / 2 - 2).reshape(5, 3); b.grad = torch.arange(3) - .5
    /// print(torch.nn.utils.clip_grad_norm_([w, b], 2.), w.grad.flatten().tolist(), b.grad.tolist())
    /// ```
    #[test]
    fn the_norm_of_all_gradients_is_clipped_as_in_pytorch() {
        let found = changed(&["gradient_clipping={max_norm=2.0}"], |_| true);
        let expected = [
            -0.574_366_45,
            0.430_774_84,
            -0.143_591_61,
            0.861_549_68,
            0.287_183_23,
            -0.287_183_23,
            0.717_958_09,
            0.143_591_61,
            -0.430_774_84,
            0.574_366_45,
            0.0,
            -0.574_366_45,
            0.430_774_84,
            -0.143_591_61,
            0.861_549_68,
            -0.143_591_61,
            0.143_591_61,
            0.430_774_84,
        ];
        assert_close(&found[..15], expected[..15].iter().copied());
        assert_close(&found[16..19], expected[15..].iter().copied());
        assert_eq!(changed(&["gradient_clipping={max_norm=100.0}"], |_| true), params().grads.to_vec());
    }

    #[test]
    fn parameters_that_are_not_trained_do_not_count() {
        let found = changed(&["gradient_clipping={max_norm=1.0}"], |entry| entry.kind == ParamKind::Bias);
        let norm = found[16..19].iter().map(|g| g * g).sum::<f32>().sqrt();
        assert!((norm - 1.0).abs() < 1e-5, "{norm}");
    }

    #[test]
    fn the_gradients_of_each_outputs_weights_lose_their_mean() {
        let before = params().grads;
        let found = changed(&["gradient_centralisation=true"], |_| true);
        let mean = |output: usize| (0..5).map(|input| f64::from(before[3 * input + output])).sum::<f64>() / 5.0;
        assert_close(&found[..15], (0..15).map(|i| f64::from(before[i]) - mean(i % 3)));
        assert_eq!(found[15..], before[15..], "padding and biases");
    }
}
