//! How the gradients of weights come together: as sums of groups of blocks, or by panel after the backward pass.
//!
//! See [`WeightGradient`] for which weights take which way.

use std::ops::Range;

use selvedge_compute::conv::{Accumulate, ConvPlan, WeightGradient, WeightSums};

use crate::exec::chunks::{self, Chunk};
use crate::params::entry::ParamEntry;
use crate::plan::{Op, Plan};

/// Where the gradients lie that each group of blocks sums on its own.
pub(crate) struct SumLayout {
    /// Each parameter's range in a group's sums; empty if it is not summed by group.
    pub ranges: Vec<Range<usize>>,
    /// How many numbers a group sums.
    pub len: usize,
    /// The ranges that a group's first block does not overwrite.
    cleared: Vec<Range<usize>>,
}

impl SumLayout {
    /// The layout for a plan and the parameters of its network.
    pub(crate) fn new(plan: &Plan, entries: &[ParamEntry]) -> Self {
        let mut layout = Self { ranges: vec![0..0; entries.len()], len: 0, cleared: vec![] };
        for op in &plan.ops {
            let (plan, weight, others) = match op {
                Op::Conv(conv) => (&conv.plan, conv.weight, [conv.bias, None]),
                Op::ConvNorm(layer) => (&layer.plan, layer.weight, [layer.bias, Some(plan.norms[layer.norm].shift)]),
                _ => continue,
            };
            let weight = (plan.weight_gradient() == WeightGradient::PerGroup).then_some(weight);
            for index in weight.into_iter().chain(others.into_iter().flatten()) {
                let range = layout.len..layout.len + entries[index].range.len();
                layout.len = range.end;
                if weight != Some(index) || !plan.overwrites_sums() {
                    layout.cleared.push(range.clone());
                }
                layout.ranges[index] = range;
            }
        }
        layout
    }

    /// Clears what the first block of a group does not overwrite.
    pub(crate) fn clear(&self, sums: &mut [f32]) {
        self.cleared.iter().for_each(|range| sums[range.clone()].fill(0.0));
    }
}

/// A group's sums of gradients.
pub(crate) struct GroupSums<'a> {
    pub sums: &'a mut [f32],
    /// [`SumLayout::ranges`].
    pub ranges: &'a [Range<usize>],
    /// Whether the gradients of weights are added to the sums, or overwrite them as those of the group's first block do.
    /// Gradients of bias and shift, and of weights next to the input ([`ConvPlan::overwrites_sums`]), are always added.
    pub accumulate: Accumulate,
}

impl<'a> GroupSums<'a> {
    /// The same sums, for a step of a block.
    pub(crate) fn reborrow(&mut self) -> GroupSums<'_> {
        GroupSums { sums: &mut *self.sums, ..*self }
    }

    /// The sums of a layer's weights, if they are summed by group, and of its bias.
    pub(crate) fn of(self, plan: &ConvPlan, weight: usize, bias: Option<usize>) -> WeightSums<'a> {
        let per_group = plan.weight_gradient() == WeightGradient::PerGroup;
        let weights = if per_group { self.ranges[weight].clone() } else { 0..0 };
        let of_bias = bias.map_or(0..0, |bias| self.ranges[bias].clone());
        let [weights, of_bias] =
            self.sums.get_disjoint_mut([weights, of_bias]).expect("the sums of different parameters do not overlap");
        WeightSums { weights: per_group.then_some(weights), bias: bias.map(|_| of_bias), accumulate: self.accumulate }
    }
}

/// How a part of the gradients is computed.
#[derive(Clone, Copy)]
pub(crate) enum Gradient {
    /// By adding the sums of the groups, which begin at `start` in each.
    Sums { start: usize },
    /// By panel: those of operation `op` from panel `first` on.
    Panels { op: usize, first: usize },
}

/// The gradients of all convolutions and dense layers in parts, in the order of their places.
pub(crate) fn gradient_chunks(
    plan: &Plan,
    entries: &[ParamEntry],
    sum_layout: &SumLayout,
    threads: usize,
) -> Vec<Chunk<Gradient>> {
    const LEN: usize = 4096;
    let mut chunks = vec![];
    // The gradients of frozen weights stay zero. Those that a batch norm is folded into are summed: its gamma's follows from them.
    let is_folded = |number| plan.ops.iter().any(|op| matches!(op, Op::ConvNorm(layer) if layer.weight == number));
    for (number, (entry, sums)) in entries.iter().zip(&sum_layout.ranges).enumerate() {
        if sums.is_empty() || entry.frozen && !is_folded(number) {
            continue;
        }
        let sums = |number: usize| Gradient::Sums { start: sums.start + number * LEN };
        chunks.extend(chunks::partition(entry.range.clone(), LEN, sums));
    }
    for (number, op) in plan.ops.iter().enumerate() {
        let Op::Conv(conv) = op else { continue };
        if conv.plan.weight_gradient() == WeightGradient::PerPanel {
            let panels = conv.plan.panels_per_chunk(threads);
            let first = |chunk: usize| Gradient::Panels { op: number, first: panels * chunk };
            let range = entries[conv.weight].range.clone();
            chunks.extend(chunks::partition(range, panels * conv.plan.shape().panel_len(), first));
        }
    }
    chunks.sort_by_key(|chunk| chunk.range.start);
    chunks
}
