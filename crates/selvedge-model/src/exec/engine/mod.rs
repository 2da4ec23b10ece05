//! [`Engine`]: a plan with all that its passes need: packed weights, the state of its normalisations, and memory.
//!
//! [`training`] and [`inference`] are the passes.

mod inference;
mod training;

pub(crate) use inference::Wanted;

use selvedge_compute::conv::PackChunk;
use selvedge_compute::{AlignedVec, Cpu};

use crate::exec::chunks::{self, Chunk};
use crate::exec::context::Context;
use crate::exec::conv;
use crate::exec::gradients::{Gradient, SumLayout, gradient_chunks};
use crate::exec::groups::Groups;
use crate::exec::memory::{Capacity, Memory};
use crate::exec::norm_state::NormStates;
use crate::exec::timing::{Account, Timing, timed};
use crate::params::Params;
use crate::params::entry::ParamEntry;
use crate::params::state::State;
use crate::plan::phases::{self, Phase};
use crate::plan::{Op, Plan};
use crate::spec::{InputSpec, ModelSpec};

/// A network that is ready to run.
pub(crate) struct Engine {
    shared: Shared,
    memory: Memory,
    /// Those of a training pass.
    phases: Vec<Phase>,
    /// How the packed weights and the gradients are partitioned over threads.
    packed_chunks: Vec<Chunk<(usize, PackChunk)>>,
    gradient_chunks: Vec<Chunk<Gradient>>,
    /// Where training passes account for their threads' time, if it is recorded.
    timing: Option<Timing>,
}

/// What the blocks of a pass read. It changes between phases alone.
struct Shared {
    cpu: Cpu,
    plan: Plan,
    input: InputSpec,
    classes: usize,
    /// The weights as passes read them, in bytes.
    packed: AlignedVec<u8>,
    norms: NormStates,
}

impl Shared {
    /// What the blocks of a batch read; `training` is the key of the pass' dropout masks.
    fn context<'a>(&'a self, params: &'a Params, groups: Groups, training: Option<u32>) -> Context<'a> {
        Context {
            cpu: self.cpu,
            plan: &self.plan,
            input: &self.input,
            classes: self.classes,
            params,
            packed: &self.packed,
            norms: &self.norms,
            chunks: groups.chunks_per_block(rayon::current_num_threads()),
            training,
        }
    }
}

impl Engine {
    /// An engine for a plan of this specification, with memory for passes of this capacity.
    pub(crate) fn new(cpu: Cpu, spec: &ModelSpec, plan: Plan, entries: &[ParamEntry], capacity: Capacity) -> Self {
        let sum_layout = SumLayout::new(&plan, entries);
        let gradient_chunks = gradient_chunks(&plan, entries, &sum_layout, capacity.threads);
        let memory = Memory::new(&plan, sum_layout, capacity);
        Self {
            phases: phases::training(&plan),
            packed_chunks: packed_chunks(&plan),
            gradient_chunks,
            shared: Shared {
                cpu,
                input: spec.input.clone(),
                classes: spec.classes,
                packed: AlignedVec::zeroed(plan.packed_bytes),
                norms: NormStates::new(&plan, Groups::of(memory.capacity()).blocks),
                plan,
            },
            memory,
            timing: None,
        }
    }

    pub(crate) fn cpu(&self) -> Cpu {
        self.shared.cpu
    }

    pub(crate) fn plan(&self) -> &Plan {
        &self.shared.plan
    }

    /// Images that a pass can take.
    pub(crate) fn capacity(&self) -> usize {
        self.memory.capacity()
    }

    /// Records the time of training passes from now on, from zero; or no longer.
    pub(crate) fn record_times(&mut self, on: bool) {
        self.timing = on.then(|| Timing::new(self.shared.plan.ops.len()));
    }

    /// The recorded time, if it is recorded.
    pub(crate) fn timing(&self) -> Option<&Timing> {
        self.timing.as_ref()
    }

    /// Packs the weights: brings them into the forms that passes read.
    pub(crate) fn pack(&mut self, state: &State) {
        let Shared { cpu, plan, packed, .. } = &mut self.shared;
        let (params, timing) = (&state.params, self.timing.as_ref());
        chunks::for_each(&self.packed_chunks, packed, &|chunk, to| {
            let (number, chunk) = &chunk.job;
            let Op::Conv(conv) = &plan.ops[*number] else { return };
            let panels = &params.values[params.entries[conv.weight].range.clone()];
            timed(timing, Account::Packing, || conv.plan.pack(*cpu, chunk, panels, to));
        });
    }
}

/// The chunks of the packed weights, each with the number of its operation, in the order of their places.
fn packed_chunks(plan: &Plan) -> Vec<Chunk<(usize, PackChunk)>> {
    let mut chunks = vec![];
    for (number, op) in plan.ops.iter().enumerate() {
        let Op::Conv(conv) = op else { continue };
        let numbered = |Chunk { range, job }| Chunk { range, job: (number, job) };
        chunks.extend(conv::packed_chunks(conv).map(numbered));
    }
    chunks
}
