//! [`Context`]: what the passes of a block read beside the block's own memory.

use std::ops::Range;

use selvedge_compute::Cpu;
use selvedge_compute::dropout::DropoutMask;

use crate::exec::block::Block;
use crate::exec::norm_state::NormStates;
use crate::params::Params;
use crate::plan::{Dropout, Plan, ValueId};
use crate::spec::InputSpec;

/// What all blocks of a phase share, for reading.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    pub cpu: Cpu,
    pub plan: &'a Plan,
    pub input: &'a InputSpec,
    pub classes: usize,
    pub params: &'a Params,
    /// The weights as those passes read them that cannot read the parameters.
    pub packed: &'a [u8],
    pub norms: &'a NormStates,
    /// How many chunks large layers partition a block into, for threads that would have no block.
    pub chunks: usize,
    /// Whether this is a training pass, and the key of its dropout masks.
    pub training: Option<u32>,
}

impl<'a> Context<'a> {
    /// The values of a parameter.
    pub(crate) fn param(&self, index: usize) -> &'a [f32] {
        &self.params.values[self.params.entries[index].range.clone()]
    }

    /// The place of a value's content.
    pub(crate) fn data(&self, id: ValueId) -> &'a Range<usize> {
        &self.plan.values[id].data
    }

    /// The place of a value's gradient.
    pub(crate) fn grad(&self, id: ValueId) -> &'a Range<usize> {
        &self.plan.values[id].grad
    }

    /// The mask of a dropout layer in a training pass.
    pub(crate) fn mask(&self, dropout: Dropout, block: &Block<'_>) -> Option<DropoutMask> {
        let Dropout { rate, key } = dropout;
        // The multiplication spreads the operation's key, so that masks of neighbouring steps and operations are unrelated.
        let mask = |step: u32| DropoutMask {
            key: step ^ (key + 1).wrapping_mul(0x9e37_79b9),
            first_image: block.first_image as u64,
            rate,
        };
        self.training.map(mask)
    }
}
