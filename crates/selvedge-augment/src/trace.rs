//! What was drawn for a batch, for display.

use crate::operation::DrawnStep;

/// What was drawn for a batch, returned by [`Augmenter::fill_batch_traced`](crate::Augmenter::fill_batch_traced).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BatchTrace {
    /// For each image of the batch, the operations that were carried out on it, in order.
    pub steps: Vec<Vec<DrawnStep>>,
    /// The operations that mixed the batch, in order.
    pub mixes: Vec<DrawnMix>,
}

/// An operation that mixed a batch, with what it drew.
#[derive(Clone, Debug, PartialEq)]
pub struct DrawnMix {
    /// The operation, as recipes name it.
    pub op: &'static str,
    /// The drawn parameters, for a person to read.
    pub parameters: String,
    /// The share that each image keeps of its own pixels and label, from 0 to 1.
    pub own_share: f32,
    /// For each image of the batch, the position of its partner in the batch; an image may be its own partner.
    pub partners: Vec<u32>,
}
