#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod array;
mod classes;
mod dataset;
mod element;
mod error;
mod gzip;
mod header;
mod locate;
mod read;
mod write;

pub use array::IdxArray;
pub use classes::{CLASSES_FILE, MAX_CLASSES, listed_class_names};
pub use dataset::{Dataset, Part, Split, class_names};
pub use element::IdxElement;
pub use error::{IdxError, Invalid, Offset, Problem};
pub use header::ElementType;
pub use locate::{broken_gz, locate, near_misses};
pub use read::{read, read_as, read_from};
pub use write::{Compression, to_bytes, write};
