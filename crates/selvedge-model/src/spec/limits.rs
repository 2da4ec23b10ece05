//! The limits of a network. Larger sizes are refused before memory is allocated, because a spec may come from a file that
//! someone else made.

/// The most numbers that all parameters together may have with padding: 1 GiB of f32.
pub(crate) const MAX_PARAMETERS: usize = 1 << 28;

/// The most numbers that all tensors of one image together may have with padding: 256 MiB of f32.
pub(crate) const MAX_ACTIVATIONS: usize = 1 << 26;

/// How deep residual blocks may be nested.
pub(crate) const MAX_DEPTH: usize = 16;

/// The most numbers that a patch may have whose eigenvectors are computed: a matrix of this many rows takes seconds, and the time
/// grows with the cube.
pub(crate) const MAX_WHITENED: usize = 256;
