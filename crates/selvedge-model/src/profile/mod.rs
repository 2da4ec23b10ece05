//! Profiling a network: where a pass spends its time, the cost of each operation, and each operation alone.

pub(crate) mod isolated;
pub(crate) mod operations;
