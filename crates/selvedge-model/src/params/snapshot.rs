//! [`Snapshot`]: everything a network has learnt, independent of the layout of the kernels.

/// Everything a network has learnt, as plain arrays in logical order: weights are `[kernel height, kernel width, in,
/// out]` or `[in, out]`, without padding, tensor after tensor.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// The trained parameters, in the order of [`Params::entries`](crate::Params::entries).
    pub params: Vec<f32>,
    /// The running statistics of the batch norms: mean, then variance, layer after layer.
    pub buffers: Vec<f32>,
}
