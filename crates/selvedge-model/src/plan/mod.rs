//! From a specification to a plan: which operations run in which order, on which shapes, and where in memory each
//! tensor lies.
//!
//! A plan is a list of operations ([`op`]) over values ([`value`]). A value is one tensor of one block of images, with its
//! gradient; every value, gradient and index lies at a fixed place ([`lifetimes`]).

mod lifetimes;
pub(crate) mod lower;
mod memory;
mod op;
pub(crate) mod phases;
mod value;

use std::ops::Range;

use selvedge_compute::conv::ConvPlan;

pub(crate) use op::{BatchNorm, Conv, ConvNorm, Dropout, FusedPool, Norm, NormPool, Op};
pub(crate) use value::{Value, ValueId};

/// What lowering makes of a specification.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub ops: Vec<Op>,
    /// The layers that each operation computes, by name.
    pub names: Vec<String>,
    pub values: Vec<Value>,
    pub norms: Vec<Norm>,
    pub input: ValueId,
    pub logits: ValueId,
    /// Bytes of one block's arena, where its tensors lie that are needed beyond a phase of the pass.
    pub arena_bytes: usize,
    /// Bytes of one worker's arena, where those tensors of its block lie that are needed within a phase alone. Their places begin
    /// where the block's arena ends.
    pub worker_bytes: usize,
    /// Where the loss writes its f32 gradient.
    pub loss_gradient: Range<usize>,
    /// Bytes of all packed weights.
    pub packed_bytes: usize,
}

impl Plan {
    /// The plans of the convolutions and dense layers.
    fn conv_plans(&self) -> impl Iterator<Item = &ConvPlan> {
        self.ops.iter().filter_map(|op| match op {
            Op::Conv(conv) => Some(&conv.plan),
            Op::ConvNorm(layer) => Some(&layer.plan),
            _ => None,
        })
    }

    /// The bytes that each thread keeps for the passes that need them ([`ConvPlan::scratch_bytes`]).
    pub(crate) fn scratch_bytes(&self) -> usize {
        self.conv_plans().map(ConvPlan::scratch_bytes).max().unwrap_or(0)
    }

    /// The layer next to the input, if that is stored as the 4x4 patches that it reads.
    pub(crate) fn patches(&self) -> Option<&ConvPlan> {
        self.conv_plans().next().filter(|plan| plan.reads_patches())
    }
}
