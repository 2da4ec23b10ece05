//! What was drawn for a batch, to be shown to a person.

use crate::DrawnStep;

/// What [`Augmenter::fill_batch_traced`](crate::Augmenter::fill_batch_traced) did to a batch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BatchTrace {
    /// For each image of the batch, the operations that were carried out on it, in their order; those
    /// that were not drawn are left out.
    pub steps: Vec<Vec<DrawnStep>>,
    /// The operations that mixed the batch, in their order.
    pub mixes: Vec<DrawnMix>,
}

/// An operation that mixed a batch, with what it drew.
#[derive(Clone, Debug, PartialEq)]
pub struct DrawnMix {
    /// The operation, as recipes name it.
    pub op: &'static str,
    /// The drawn parameters, to be read by a person.
    pub parameters: String,
    /// The share of each image, and of its label, that stays its own, from 0 to 1.
    pub own_share: f32,
    /// For each image of the batch, the position in the batch of the one it was mixed with; an image
    /// may be its own partner.
    pub partners: Vec<u32>,
}
