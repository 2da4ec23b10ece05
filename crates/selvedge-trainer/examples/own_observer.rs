//! Trains the recipe `seed` for a few epochs, with an observer that prints a line per epoch and ends the run early when the
//! training accuracy is good enough.
//!
//! ```text
//! cargo run --release --package selvedge-trainer --example own_observer
//! ```
//!
//! The data set is the repository's `data/fashion-mnist`, or is downloaded into the user's data folder.
#![forbid(unsafe_code)]

use std::env;
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use selvedge_trainer::download::{Progress, default_data_dir};
use selvedge_trainer::observer::Observer;
use selvedge_trainer::recipe::{Override, RecipeSource};
use selvedge_trainer::run_folder::Destination;
use selvedge_trainer::{HistoryLine, Outcome, Run, TrainOptions, train};

/// Prints epochs, and asks the run to stop at a training accuracy.
struct UntilAccuracy {
    target: f64,
    stop: Arc<AtomicUsize>,
}

/// Downloads are reported by these methods; the defaults do nothing.
impl Progress for UntilAccuracy {
    fn note(&mut self, message: &str) {
        println!("note: {message}");
    }
}

impl Observer for UntilAccuracy {
    fn epoch_ends(&mut self, line: &HistoryLine, epochs: u64) {
        let (epoch, accuracy) = (line.epoch, line.train_accuracy);
        println!("{epoch} of {epochs}: loss {:.4}, accuracy {accuracy:.4}", line.train_loss);
        if accuracy >= self.target {
            self.stop.store(1, Ordering::Relaxed);
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let recipe = RecipeSource::find("seed")?.load(&[Override::parse("epochs=3")?])?;
    let folder = env::temp_dir().join(format!("selvedge-example-{}", std::process::id()));
    let run = Run::New { recipe: Box::new(recipe), destination: Destination::Folder(folder) };
    let threads = std::thread::available_parallelism()?.get();
    let options = TrainOptions::new(run, default_data_dir(), threads);
    let mut observer = UntilAccuracy { target: 0.95, stop: Arc::clone(&options.stop) };
    match train(&options, &mut observer)? {
        Outcome::Finished { folder, summary } => {
            println!("test accuracy {:.4}; the network is in {}", summary.test_accuracy, folder.display());
        }
        Outcome::Stopped { folder, .. } => {
            println!("stopped; `selvedge train --resume {}` continues", folder.display());
        }
    }
    Ok(())
}
