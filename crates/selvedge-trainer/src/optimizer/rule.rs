//! [`Rule`]: what one optimizer does, apart from the state that [`super::Optimizer`] keeps for it.

use std::fmt::Debug;
use std::ops::Range;

use selvedge_compute::Cpu;
use selvedge_compute::cost::Cost;
use selvedge_compute::optim::CHUNK;
use selvedge_model::{ParamEntry, Params};

use super::GroupOptions;
use super::newton_schulz::NewtonSchulz;
use crate::checks::Refusal;

/// An optimizer's keys in a recipe and its arithmetic.
pub(super) trait Rule: Debug + Sync {
    /// The value of `kind` in a recipe, and the name that `profile --op` takes.
    fn name(&self) -> &'static str;

    /// The peak learning rate, which the schedule scales.
    fn learning_rate(&self) -> f64;

    /// The weight decay of a parameter that decays.
    fn weight_decay(&self, entry: &ParamEntry) -> f64;

    /// Refuses values that make no sense. Keys are relative to the table `[optimizer]`.
    fn check(&self) -> Result<(), Refusal>;

    /// State tensors, each as large as the parameters: one or two, as many as a checkpoint can hold.
    fn moments(&self) -> usize;

    /// For each parameter that the rule orthogonalises, the memory for that; none for an elementwise rule.
    fn matrices(&self, _entries: &[ParamEntry], _groups: &[GroupOptions]) -> Vec<Option<NewtonSchulz>> {
        Vec::new()
    }

    /// What a step on these parameters costs.
    fn cost(&self, entries: &[ParamEntry]) -> Cost;

    /// Changes the values of all parameters, on the current rayon pool.
    fn update(&self, update: Update<'_>);
}

/// Everything that an update reads and writes.
pub(super) struct Update<'a> {
    pub(super) cpu: Cpu,
    /// The number of this step, counted from 1.
    pub(super) step: u64,
    /// The learning rate of this step.
    pub(super) rate: f64,
    pub(super) params: &'a mut Params,
    /// The options of each of `params.entries`.
    pub(super) groups: &'a [GroupOptions],
    /// First and second moment, laid out as the values; empty where the rule has none.
    pub(super) moments: [&'a mut [f32]; 2],
    /// What [`Rule::matrices`] made.
    pub(super) matrices: &'a mut [Option<NewtonSchulz>],
}

/// Consecutive elements of one parameter with their gradients and `M` moments.
pub(super) struct Chunk<'a, const M: usize> {
    pub(super) values: &'a mut [f32],
    pub(super) grads: &'a [f32],
    pub(super) moments: [&'a mut [f32]; M],
}

impl Update<'_> {
    /// Updates every element independently: calls `f` in parallel with chunks of one parameter, at most [`CHUNK`] elements
    /// long, and the parameter's options. A chunk's length is a multiple of 16.
    pub(super) fn elementwise<const M: usize>(self, f: impl Fn(Chunk<'_, M>, &GroupOptions) + Sync) {
        const { assert!(M <= 2, "a checkpoint holds two moments") };
        let Params { values, grads, entries } = self.params;
        let mut moments = self.moments.into_iter();
        let moments = std::array::from_fn(|_| moments.next().unwrap_or_default());
        Chunk { values, grads, moments }.for_each(0, entries, self.groups, &f);
    }
}

impl<'a, const M: usize> Chunk<'a, M> {
    /// Halves the chunk, which begins at element `start` of the arena, until its parts are small enough for a worker's
    /// L2, then calls `f` for the part of each parameter in it. It recurses instead of zipping parallel iterators because
    /// their number depends on `M`.
    pub(super) fn for_each<F>(self, start: usize, entries: &[ParamEntry], groups: &[GroupOptions], f: &F)
    where
        F: Fn(Chunk<'_, M>, &GroupOptions) + Sync,
    {
        let len = self.values.len();
        if len > CHUNK {
            let middle = len.div_ceil(CHUNK) / 2 * CHUNK;
            let (left, right) = self.split_at(middle);
            rayon::join(
                || left.for_each(start, entries, groups, f),
                || right.for_each(start + middle, entries, groups, f),
            );
            return;
        }
        let (mut rest, mut begin) = (self, start);
        let first = entries.partition_point(|entry| entry.range.end <= start);
        for (ParamEntry { range: Range { end, .. }, .. }, options) in entries[first..].iter().zip(&groups[first..]) {
            let end = (*end).min(start + len);
            let (chunk, tail) = rest.split_at(end - begin);
            if !chunk.values.is_empty() {
                f(chunk, options);
            }
            (rest, begin) = (tail, end);
            if begin == start + len {
                break;
            }
        }
    }

    pub(super) fn split_at(self, middle: usize) -> (Self, Self) {
        let (values, more_values) = self.values.split_at_mut(middle);
        let (grads, more_grads) = self.grads.split_at(middle);
        let mut more_moments: [&'a mut [f32]; M] = std::array::from_fn(|_| Default::default());
        let mut more = more_moments.iter_mut();
        let moments = self.moments.map(|moment| {
            let (left, right) = moment.split_at_mut(middle);
            if let Some(place) = more.next() {
                *place = right;
            }
            left
        });
        let right = Chunk { values: more_values, grads: more_grads, moments: more_moments };
        (Chunk { values, grads, moments }, right)
    }
}

/// The numbers of these parameters, without padding.
pub(super) fn count(entries: &[ParamEntry]) -> usize {
    entries.iter().map(|entry| entry.shape.iter().product::<usize>()).sum()
}

/// The cost of an elementwise step: operations, and numbers read and written, for each parameter.
pub(super) fn elementwise_cost(parameters: usize, flops: u64, numbers: u64) -> Cost {
    let parameters = parameters as u64;
    let flops = flops * parameters;
    Cost { flops, nominal_flops: flops, bytes: numbers * size_of::<f32>() as u64 * parameters }
}
