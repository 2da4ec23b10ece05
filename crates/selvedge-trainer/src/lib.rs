#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

pub mod averaging;
pub mod callbacks;
pub mod checkpoint;
mod checks;
mod class_order;
pub mod commands;
pub mod data;
pub mod download;
mod error;
pub mod evaluate;
mod finish;
mod gradients;
pub mod loader;
mod machine;
mod memory;
pub mod observer;
mod offline;
pub mod optimizer;
mod options;
mod panics;
pub mod predict;
mod preview;
pub mod profile;
pub mod recipe;
pub mod run_folder;
mod saver;
pub mod schedule;
mod search;
pub mod seeds;
mod setup;
mod state;
mod step;
mod summary;
mod time_left;
mod train;
mod trained;

pub use error::TrainError;
pub use panics::report_panics;
pub use setup::{Run, TrainOptions};
pub use summary::{HistoryLine, Summary};
pub use train::{Outcome, train};
