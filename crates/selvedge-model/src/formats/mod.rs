//! File formats of trained networks, a file each.
//!
//! A format turns a [`ModelSpec`](crate::ModelSpec) and the [`NamedArray`](crate::NamedArray)s of a snapshot
//! ([`Network::spec`](crate::Network::spec), [`Network::arrays`](crate::Network::arrays)) into the bytes of a file, which
//! [`file::write`] puts at its path whole or not at all. To add one, write its file here, with the method of
//! [`Network`](crate::Network) that saves it, and name it below; nothing else of this crate knows the formats. One that lives
//! outside this crate does the same through the public items: `examples/export_npy.rs` is such a one.

mod file;
mod safetensors;
