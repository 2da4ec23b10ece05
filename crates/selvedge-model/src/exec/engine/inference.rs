//! The pass that evaluates or predicts: every block through all operations, without a phase.

use selvedge_compute::loss::{self, BlockTargets, TargetOptions};
use selvedge_compute::simd::Element;

use crate::exec::ends::{fill_input, logits};
use crate::exec::engine::Engine;
use crate::exec::groups::Groups;
use crate::exec::images::Images;
use crate::exec::operation::forward;
use crate::exec::pass::BatchMetrics;
use crate::params::state::State;

/// What is wanted of images.
pub(crate) enum Wanted<'a> {
    /// Their loss and how many are correct, given their labels.
    Metrics(&'a [u8]),
    /// The probabilities of their classes, `[images][classes]`.
    Probabilities(&'a mut [f32]),
    /// The logits of their classes, `[images][classes]`.
    Logits(&'a mut [f32]),
}

impl<'a> Wanted<'a> {
    /// What is wanted of each block.
    fn of_blocks(self, groups: Groups, classes: usize) -> Vec<Wanted<'a>> {
        let sizes = (0..groups.blocks).map(|block| groups.images_of(block).len());
        match self {
            Self::Metrics(mut labels) => {
                let mut next = |images| labels.split_off(..images).expect("each image has a label");
                sizes.map(|images| Wanted::Metrics(next(images))).collect()
            }
            Self::Probabilities(rows) => rows_of_blocks(rows, sizes, classes).map(Wanted::Probabilities).collect(),
            Self::Logits(rows) => rows_of_blocks(rows, sizes, classes).map(Wanted::Logits).collect(),
        }
    }
}

/// The rows of each block, given the blocks' numbers of images.
fn rows_of_blocks(
    mut rows: &mut [f32],
    sizes: impl Iterator<Item = usize>,
    classes: usize,
) -> impl Iterator<Item = &mut [f32]> {
    sizes.map(move |images| rows.split_off_mut(..images * classes).expect("each image has a row"))
}

impl Engine {
    /// Inference on `count` images, at most [`Engine::capacity`]. The metrics are zero where rows are wanted.
    pub(crate) fn infer<E: Element>(
        &mut self,
        state: &State,
        images: Images<'_>,
        count: usize,
        wanted: Wanted<'_>,
    ) -> BatchMetrics {
        let Self { shared, memory, .. } = self;
        shared.norms.use_running(shared.cpu, &shared.plan, state);
        let groups = Groups::of(count);
        let ctx = shared.context(&state.params, groups, None);
        let has_metrics = matches!(wanted, Wanted::Metrics(_));
        memory.for_each_block(groups, wanted.of_blocks(groups, ctx.classes), |block, block_loss, wanted| {
            fill_input(&ctx, images, block);
            for op in &ctx.plan.ops {
                forward::<E>(&ctx, op, block);
            }
            let logits = logits(&ctx, block);
            match wanted {
                Wanted::Metrics(labels) => {
                    let targets = BlockTargets::Labels(labels);
                    *block_loss = loss::cross_entropy(ctx.cpu, logits, targets, TargetOptions::default(), None);
                }
                Wanted::Probabilities(rows) => loss::softmax(ctx.cpu, logits, rows),
                Wanted::Logits(rows) => logits.copy_rows(rows),
            }
        });
        if has_metrics { memory.metrics(groups) } else { BatchMetrics::default() }
    }
}
