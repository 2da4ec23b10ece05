//! [`TrainedRun`]: a finished run, read back.

use std::path::Path;

use selvedge_compute::{BLOCK, Cpu, Precision, Threads};
use selvedge_model::{BuildOptions, Network};

use crate::download::Progress;
use crate::error::TrainError;
use crate::run_folder::{MODEL, SUMMARY};
use crate::summary::Summary;

/// The figures and the network of a finished run.
pub(crate) struct TrainedRun {
    pub(crate) summary: Summary,
    /// In the precision of the run, so that it finds the figures of the summary again.
    pub(crate) network: Network,
}

impl TrainedRun {
    /// Reads the run in `folder`; the network will use `threads` threads. Notes if this processor lacks the run's precision.
    ///
    /// # Errors
    /// [`TrainError`] if the folder holds no finished run, or its files do not fit each other.
    pub(crate) fn load(folder: &Path, threads: usize, progress: &mut dyn Progress) -> Result<Self, TrainError> {
        let summary = Summary::load(folder)?;
        let threads = Threads::new(threads)?;
        let mut network = Network::load(&folder.join(MODEL), threads.clone())?;
        let (named, classes) = (summary.class_names.len(), network.spec().classes);
        if named != classes {
            let problem = format!("it names {named} classes, the network has {classes}");
            return Err(TrainError::Summary { path: folder.join(SUMMARY), problem });
        }
        if summary.precision == Precision::Bf16.to_string() {
            match Cpu::detect()?.check(Precision::Bf16) {
                Ok(()) => network = in_bf16(&network, threads)?,
                Err(lacks) => {
                    progress
                        .note(&format!("the run was in bf16, this is in f32: figures may differ a little ({lacks})"));
                }
            }
        }
        Ok(Self { summary, network })
    }
}

/// The same network in bf16.
fn in_bf16(network: &Network, threads: Threads) -> Result<Network, TrainError> {
    // As many images at a time as `Network::load` takes.
    let max_batch = 2 * BLOCK * threads.count();
    let options = BuildOptions { seed: 0, max_batch, precision: Precision::Bf16, threads };
    let mut same = Network::build(network.spec(), &options)?;
    same.restore(&network.snapshot());
    Ok(same)
}
