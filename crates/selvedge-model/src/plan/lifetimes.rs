//! Where the tensors of a block lie: [`Plan::place`].
//!
//! Each tensor has a lifetime, from its first use in a pass to its last: forward operation i runs at time i + 1, its backward pass at time
//! 2n + 1 − i, the loss between them, and gradients that are summed by panels at the end. Two share memory if
//! their lifetimes do not overlap ([`crate::plan::memory`]).
//!
//! A tensor that outlives a phase of the pass ([`crate::plan::phases`]) lies in the arena of its block. All others lie in the arena of
//! the worker that takes the block through the phase, where those of the next block find the memory in the cache. A network without
//! batch normalisation has one phase, and nearly all of its tensors lie there.

use selvedge_compute::aligned::ALIGNMENT;
use selvedge_compute::conv::first_layer::batch_norm::PATCH_SUMS;

use crate::plan::memory::{Need, layout};
use crate::plan::phases;
use crate::plan::{BatchNorm, Op, Plan, ValueId};

/// The times at which a tensor is needed, from the first to the last.
#[derive(Clone, Copy)]
struct Span {
    first: usize,
    last: usize,
}

impl Span {
    const NEVER: Span = Span { first: usize::MAX, last: 0 };

    fn include(&mut self, time: usize) {
        self.first = self.first.min(time);
        self.last = self.last.max(time);
    }

    fn need(&self, bytes: usize) -> Need {
        let used = self.first <= self.last;
        Need { bytes: if used { bytes } else { 0 }, first: self.first.min(self.last), last: self.last }
    }
}

impl Plan {
    /// Gives every value, gradient and index its place.
    pub(crate) fn place(&mut self) {
        let Spans { data, grads, extras } = self.spans();
        let mut needs = vec![];
        for (value, (data, grad)) in self.values.iter().zip(data.iter().zip(&grads)) {
            let len = value.shape.len();
            needs.extend([data.need(len * value.element), grad.need(len * value.grad_element)]);
        }
        needs.extend(extras.iter().map(|extra| extra.span.need(extra.bytes)));
        let beginnings = phases::beginnings(self);
        let phase = |time: usize| beginnings.iter().filter(|&&beginning| beginning <= time).count();
        let crosses = |need: &Need| phase(need.first) != phase(need.last);
        let those_that = |cross: bool| -> Vec<Need> {
            needs.iter().map(|need| if crosses(need) == cross { *need } else { need.nothing() }).collect()
        };
        let (mut places, arena_bytes) = layout(&those_that(true));
        // Arenas are counted off, also where nothing lies in them.
        let arena_bytes = arena_bytes.max(ALIGNMENT);
        let (worker_places, worker_bytes) = layout(&those_that(false));
        for ((place, worker_place), need) in places.iter_mut().zip(worker_places).zip(&needs) {
            if !crosses(need) {
                *place = arena_bytes + worker_place.start..arena_bytes + worker_place.end;
            }
        }
        let (of_values, of_extras) = places.split_at(2 * self.values.len());
        for (value, place) in self.values.iter_mut().zip(of_values.chunks_exact(2)) {
            (value.data, value.grad) = (place[0].clone(), place[1].clone());
        }
        for id in 0..self.values.len() {
            if let Some(root) = self.values[id].same_as {
                self.values[id].data = self.values[root].data.clone();
            }
        }
        for (extra, place) in extras.iter().zip(of_extras) {
            let place = place.clone();
            match (extra.kind, extra.op.map(|op| &mut self.ops[op])) {
                (ExtraKind::Indices, Some(Op::MaxPool { indices, .. } | Op::AvgMaxPool { indices, .. })) => {
                    *indices = place;
                }
                (ExtraKind::Indices, Some(Op::Conv(conv))) => {
                    conv.pool.as_mut().expect("a pool keeps indices").indices = place;
                }
                (ExtraKind::Partial, Some(Op::Norm(layer))) => layer.partial = place,
                (ExtraKind::Partial, Some(Op::ConvNorm(layer))) => layer.partial = place,
                (ExtraKind::Indices, Some(Op::Norm(BatchNorm { pool: Some(pool), .. }))) => pool.indices = place,
                (ExtraKind::Kept, Some(Op::Norm(BatchNorm { pool: Some(pool), .. }))) => pool.kept = place,
                (ExtraKind::Repacked(i), Some(Op::Conv(conv))) => {
                    conv.repacked[i] = place;
                }
                (ExtraKind::LossGradient, None) => self.loss_gradient = place,
                (kind, _) => unreachable!("{kind:?} belongs to another operation"),
            }
        }
        (self.arena_bytes, self.worker_bytes) = (arena_bytes, worker_bytes);
    }

    fn spans(&self) -> Spans {
        let n = self.ops.len();
        let (loss, end) = (n + 1, 2 * n + 2);
        let never = || vec![Span::NEVER; self.values.len()];
        let mut spans = Spans { data: never(), grads: never(), extras: vec![] };
        let root = |id: ValueId| self.values[id].same_as.unwrap_or(id);
        spans.data[self.input].include(0);
        spans.data[self.logits].include(loss);
        spans.grads[self.logits].include(loss);
        let bytes = self.values[self.logits].shape.len() * size_of::<f32>();
        let span = Span { first: loss, last: loss };
        spans.extras.push(Extra { op: None, kind: ExtraKind::LossGradient, bytes, span });
        for (i, op) in self.ops.iter().enumerate() {
            let (f, b) = (i + 1, 2 * n + 1 - i);
            let (x, y) = op.ends();
            let Spans { data, grads, extras } = &mut spans;
            [Some(x), Some(y), op.second_input()].into_iter().flatten().for_each(|id| data[root(id)].include(f));
            op.backward_reads().into_iter().flatten().for_each(|id| data[root(id)].include(b));
            op.gradients().into_iter().flatten().for_each(|id| grads[id].include(b));
            let mut keep =
                |kind, bytes, first, last| extras.push(Extra { op: Some(i), kind, bytes, span: Span { first, last } });
            match op {
                Op::Conv(conv) => {
                    let plan = &conv.plan;
                    if plan.keeps_operands() {
                        data[root(x)].include(end);
                        grads[conv.result()].include(end);
                    }
                    for (i, bytes) in plan.repacked_bytes().into_iter().enumerate().filter(|(_, bytes)| *bytes > 0) {
                        keep(ExtraKind::Repacked(i), bytes, b, end);
                    }
                    if conv.pool.is_some() {
                        keep(ExtraKind::Indices, plan.output().shape.len() * size_of::<u16>(), f, b);
                    }
                }
                // Written in the phase before.
                Op::ConvNorm(_) => keep(ExtraKind::Partial, PATCH_SUMS * size_of::<f64>(), f - 1, f),
                Op::MaxPool { shape, .. } => keep(ExtraKind::Indices, shape.output().len() * size_of::<u16>(), f, b),
                Op::AvgMaxPool { y, .. } => {
                    keep(ExtraKind::Indices, self.values[*y].shape.len() * size_of::<u16>(), f, b);
                }
                Op::Norm(BatchNorm { norm, pool, .. }) => {
                    if let Some(pool) = pool {
                        let len = pool.shape.output().len();
                        keep(ExtraKind::Indices, len * size_of::<u16>(), f, b);
                        keep(ExtraKind::Kept, len * self.values[x].element, f, b);
                    }
                    keep(ExtraKind::Partial, 2 * self.norms[*norm].shape.channel_stride * size_of::<f64>(), f, b);
                }
                _ => {}
            }
        }
        spans.grads[self.input] = Span::NEVER;
        spans
    }
}

/// When each value's content and gradient are needed, and what else is kept.
struct Spans {
    data: Vec<Span>,
    grads: Vec<Span>,
    extras: Vec<Extra>,
}

/// What an operation, or the loss, keeps beside values.
struct Extra {
    op: Option<usize>,
    kind: ExtraKind,
    bytes: usize,
    span: Span,
}

#[derive(Clone, Copy, Debug)]
enum ExtraKind {
    Indices,
    Kept,
    Partial,
    Repacked(usize),
    LossGradient,
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use super::*;
    use crate::plan::lower::lower;
    use crate::spec::ModelSpec;
    use crate::spec::inference::NetworkShape;
    use crate::spec::layer::LayerSpec;
    use crate::test_support::{RELU, classes, conv, grey, keras_classifier, norm};
    use selvedge_compute::Precision;

    fn plan(spec: &ModelSpec) -> Plan {
        lower(spec, &NetworkShape::infer(spec).unwrap(), Precision::F32)
    }

    #[test]
    fn without_a_normalisation_blocks_keep_what_panels_sum_alone() {
        let plan = plan(&keras_classifier());
        let kept = |op: &Op| match op {
            Op::Conv(conv) => conv.repacked.iter().map(Range::len).sum(),
            _ => 0,
        };
        let kept: usize = plan.ops.iter().map(kept).sum();
        assert!(
            kept > 0 && (kept..kept + kept / 8).contains(&plan.arena_bytes),
            "{} bytes, {kept} kept",
            plan.arena_bytes
        );
        assert!(plan.worker_bytes > 8 * plan.arena_bytes, "{} and {}", plan.worker_bytes, plan.arena_bytes);
    }

    #[test]
    fn blocks_keep_the_input_of_a_normalisation_and_the_gradient_of_its_output() {
        let layers = vec![conv(16, true), RELU, conv(16, false), norm(), LayerSpec::Flatten, classes()];
        let plan = plan(&grey(8, 8, layers));
        let of_norm = |op: &Op| match *op {
            Op::Norm(BatchNorm { x, y, .. }) => Some((x, y)),
            _ => None,
        };
        let (x, y) = plan.ops.iter().find_map(of_norm).unwrap();
        let (x, y) = (&plan.values[x], &plan.values[y]);
        let is_worker_s = |place: &Range<usize>| !place.is_empty() && place.start >= plan.arena_bytes;
        assert_eq!([&x.data, &y.grad].map(is_worker_s), [false, false], "all blocks wait for each other in between");
        assert!(is_worker_s(&x.grad), "the convolution reads it in the same phase");
        assert!(plan.values.iter().all(|value| value.data.end <= plan.arena_bytes + plan.worker_bytes));
    }
}
