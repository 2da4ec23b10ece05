//! [`TrainedRun`]: a finished run, read back.

use std::path::Path;

use selvedge_compute::Threads;
use selvedge_model::Network;

use crate::error::TrainError;
use crate::run_folder::{MODEL, SUMMARY};
use crate::summary::Summary;

/// The figures and the network of a finished run.
pub(crate) struct TrainedRun {
    pub(crate) summary: Summary,
    pub(crate) network: Network,
}

impl TrainedRun {
    /// Reads the run in `folder`; the network will use `threads` threads.
    ///
    /// # Errors
    /// [`TrainError`] if the folder holds no finished run, or its files do not fit each other.
    pub(crate) fn load(folder: &Path, threads: usize) -> Result<Self, TrainError> {
        let summary = Summary::load(folder)?;
        let network = Network::load(&folder.join(MODEL), Threads::new(threads)?)?;
        let (named, classes) = (summary.class_names.len(), network.spec().classes);
        if named != classes {
            let problem = format!("it names {named} classes, the network has {classes}");
            return Err(TrainError::Summary { path: folder.join(SUMMARY), problem });
        }
        Ok(Self { summary, network })
    }
}
