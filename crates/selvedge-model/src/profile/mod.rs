//! What a profile asks of a network: where a pass spends its time, what each operation costs, and each operation alone.

pub(crate) mod isolated;
pub(crate) mod operations;
